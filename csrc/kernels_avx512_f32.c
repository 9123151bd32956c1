/* float32 for x86-64 with AVX-512F. */
#include "target_avx512.h"
#if FRNN_X86
#define FRNN_AVX512
#define REAL_BITS 32
#define KERNELS frnn_kernels_avx512_f32
#include "kernels.h"
#endif

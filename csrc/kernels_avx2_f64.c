/* float64 for x86-64 with AVX2 and FMA. */
#include "target_avx2.h"
#if FRNN_X86
#define FRNN_AVX2
#define REAL_BITS 64
#define KERNELS frnn_kernels_avx2_f64
#include "kernels.h"
#endif

/* float64 for x86-64 with AVX-512's registers and masks, but vectors of 32 bytes: for layers that fill no wider ones.
 */
#include "target_avx512.h"
#if FRNN_X86
#define FRNN_AVX512
#define VECTOR_BYTES 32
#define REAL_BITS 64
#define KERNELS frnn_kernels_narrow_f64
#include "kernels.h"
#endif

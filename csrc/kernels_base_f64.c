/* float64 for the baseline of the machine that this is compiled for: SSE2 on x86-64, NEON on 64-bit ARM. */
#define REAL_BITS 64
#define KERNELS frnn_kernels_base_f64
#include "kernels.h"

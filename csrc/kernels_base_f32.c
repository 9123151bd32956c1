/* float32 for the baseline of the machine that this is compiled for: SSE2 on x86-64, NEON on 64-bit ARM. */
#define REAL_BITS 32
#define KERNELS frnn_kernels_base_f32
#include "kernels.h"

/* From here to the end of kernels.h, functions are compiled for AVX512. */
#include "system.h"
#if FRNN_X86
#if defined(__clang__)
#define FRNN_CLANG_TARGET
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx2,fma")
#endif
#endif

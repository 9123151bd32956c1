/* The system headers of all files, so that they come before a file turns its instruction set on: a libc function
 * inlined under a wider one could run where it must not. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) || defined(_M_X64)
#define FRNN_X86 1
#include <immintrin.h>
#else
#define FRNN_X86 0
#endif

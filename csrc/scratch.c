/* Working memory for calls. Calls of the same size follow each other, and fresh memory is slow: the system clears it
 * page by page when it is first touched, for large layers a fifth of a call. So the last block given back is kept for
 * the next call, up to a limit; large blocks ask for large pages, for walks down their columns, and since small pages
 * that share sets of the second-level cache by chance make a layer of 256 units up to a third slower. */
#define _GNU_SOURCE
#include "scratch.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define MOST_KEPT ((size_t)128 << 20)
#define LARGE_PAGE ((size_t)2 << 20)
#define HEADER 64 /* before the block, which stays at the start of a cache line */

static _Atomic(void *) kept; /* the header of a block that nobody uses, or NULL */

static size_t size_of(const void *header) { return *(const size_t *)header; }

void *frnn_scratch_take(size_t bytes) {
    if (bytes > SIZE_MAX - HEADER - LARGE_PAGE) return NULL;
    bytes += HEADER;
    void *header = atomic_exchange(&kept, NULL);
    if (header && size_of(header) >= bytes) return (char *)header + HEADER;
    free(header);
    const int large = bytes >= LARGE_PAGE / 2;
    if (large) bytes = (bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    if (posix_memalign(&header, large ? LARGE_PAGE : 64, bytes)) return NULL;
#if defined(MADV_HUGEPAGE)
    if (large) madvise(header, bytes, MADV_HUGEPAGE);
#endif
    *(size_t *)header = bytes;
    return (char *)header + HEADER;
}

void frnn_scratch_give(void *memory) {
    void *header = (char *)memory - HEADER;
    if (size_of(header) > MOST_KEPT)
        free(header);
    else
        free(atomic_exchange(&kept, header));
}

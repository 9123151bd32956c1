/* The lookup of rows by token ids, and its gradient. Both are bound by memory: plain loops do. */
#include "fastrnn.h"
#include "ids.h"

#include <string.h>

int64_t frnn_find_bad_id(const void *ids, int32_t id_bytes, int64_t n, int64_t rows) {
    /* First whether there is any, without a branch an id: one is bad if its sign bit, or that of what is left between
     * it and the last row, is set. */
    if (id_bytes == 4) {
        const uint32_t *id = ids, last = (uint32_t)(rows <= INT32_MAX ? rows - 1 : INT32_MAX);
        uint32_t signs = 0;
        for (int64_t k = 0; k < n; k++) signs |= id[k] | (last - id[k]);
        if (!(signs >> 31)) return -1;
    } else {
        const uint64_t *id = ids, last = (uint64_t)(rows - 1);
        uint64_t signs = 0;
        for (int64_t k = 0; k < n; k++) signs |= id[k] | (last - id[k]);
        if (!(signs >> 63)) return -1;
    }
    for (int64_t k = 0;; k++)
        if ((uint64_t)id_at(ids, id_bytes, k) >= (uint64_t)rows) return k;
}

int64_t frnn_gather(const void *table, int64_t rows, int64_t row_bytes, const void *ids, int32_t id_bytes, int64_t n,
                    void *out) {
    for (int64_t k = 0; k < n; k++) {
        const int64_t id = id_at(ids, id_bytes, k);
        if (id < 0 || id >= rows) return k;
        /* a constant length spares the call for the usual row of 16 floats */
        if (row_bytes == 64)
            memcpy((char *)out + k * 64, (const char *)table + id * 64, 64);
        else
            memcpy((char *)out + k * row_bytes, (const char *)table + id * row_bytes, (size_t)row_bytes);
    }
    return -1;
}

#define SCATTER_ADD(REAL)                                                                                              \
    for (int64_t k = 0; k < n; k++) {                                                                                  \
        const int64_t id = id_at(ids, id_bytes, k);                                                                    \
        if (id < 0 || id >= rows) return k;                                                                            \
        REAL *restrict to = (REAL *)out + id * D;                                                                      \
        const REAL *restrict from = (const REAL *)dy + k * D;                                                          \
        for (int64_t d = 0; d < D; d++) to[d] += from[d];                                                              \
    }

int64_t frnn_scatter_add(const void *dy, int32_t real_bits, int64_t D, const void *ids, int32_t id_bytes, int64_t n,
                         void *out, int64_t rows) {
    memset(out, 0, (size_t)(rows * D) * (real_bits / 8));
    if (real_bits == 32) {
        SCATTER_ADD(float)
    } else {
        SCATTER_ADD(double)
    }
    return -1;
}

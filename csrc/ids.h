/* Token ids of either width. */
#ifndef FRNN_IDS_H
#define FRNN_IDS_H

#include <stdint.h>

static inline int64_t id_at(const void *ids, int32_t id_bytes, int64_t n) {
    return id_bytes == 4 ? ((const int32_t *)ids)[n] : ((const int64_t *)ids)[n];
}

#endif

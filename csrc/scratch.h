/* Working memory for calls. */
#ifndef FRNN_SCRATCH_H
#define FRNN_SCRATCH_H

#include <stddef.h>

/* Memory of at least so many bytes, at the start of a cache line, or NULL; what is in it is undefined. */
void *frnn_scratch_take(size_t bytes);
void frnn_scratch_give(void *memory);

#endif

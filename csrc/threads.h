/* A fork-join over tasks on a small pool of threads of the library's own. */
#ifndef FRNN_THREADS_H
#define FRNN_THREADS_H

#include <stdint.h>

/* Runs task(context, 0 .. tasks-1), each exactly once, on any thread, and returns when all are done. Denormals are
 * flushed to zero within a task. Tasks must not depend on each other. */
void frnn_parallel(int64_t tasks, void (*task)(void *context, int64_t index), void *context);

#endif

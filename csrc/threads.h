/* Fork-joins on a small pool of threads of the library's own. */
#ifndef FRNN_THREADS_H
#define FRNN_THREADS_H

#include <stdatomic.h>
#include <stdint.h>

/* Runs work(context, member, members) for member 0 .. members-1 at once, each on a thread of its own, the caller's
 * included, and returns when all are done. `members` is at most `most` and at most the number of threads; it may be
 * one. Denormals are flushed to zero meanwhile. */
void frnn_team(int64_t most, void (*work)(void *context, int64_t member, int64_t members), void *context);

/* Runs task(context, 0 .. tasks-1), each exactly once, on any of at most `most` threads. Tasks must not depend on each
 * other, but on the first: nobody begins one before somebody has begun that. */
void frnn_parallel(int64_t most, int64_t tasks, void (*task)(void *context, int64_t index), void *context);

/* Where the members of a team wait for each other: how often each of them has come here, all zero to begin with. Every
 * count has a line of cache of its own, which one member writes and the others read. */
typedef struct {
    _Alignas(64) atomic_uint rounds;
} frnn_flag;

void frnn_meet(frnn_flag *flags, int64_t member, int64_t members);

/* Lets a moment pass for one who has looked for something so many times. */
void frnn_pause(int spins);

#endif

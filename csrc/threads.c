/* The thread pool.
 *
 * Not OpenMP: libgomp's threads do not survive fork, and a second runtime beside OpenBLAS' and TensorFlow's fights
 * them for the cores. Workers spin a moment for the next call, since in a training loop it comes within a fraction
 * of a millisecond and waking a sleeper takes nearly as long as a small call, and then sleep. Calls from several
 * threads at once: the first takes the pool, the others work alone.
 */
#define _GNU_SOURCE
#include "threads.h"

#include "fastrnn.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#define RELAX() _mm_pause()
typedef unsigned int fp_state;
static fp_state flush_denormals(void) {
    const fp_state before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* FTZ and DAZ */
    return before;
}
static void restore_denormals(fp_state before) { _mm_setcsr(before); }
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
typedef uint64_t fp_state;
static fp_state flush_denormals(void) {
    fp_state before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
    return before;
}
static void restore_denormals(fp_state before) { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
#else
#define RELAX() ((void)0)
typedef int fp_state;
static fp_state flush_denormals(void) { return 0; }
static void restore_denormals(fp_state before) { (void)before; }
#endif

#define MAX_WORKERS 255
#define SPIN_NANOSECONDS 500000
#define EAGER_SPINS 200
#define BARRIER_SPINS 4000

typedef struct {
    void (*work)(void *, int64_t, int64_t);
    void *context;
    int64_t members;
    uint64_t number;   /* of the job: a worker takes part in each once */
    atomic_int joined; /* how many have begun */
} job;

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the thread whose call has the pool */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for sleeping on `wake` */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static atomic_int wanted = 1;  /* threads per call, the caller's included */
static int started;            /* workers that exist; changed under `busy` */
static atomic_uint generation; /* counts the jobs: a worker compares it with the last it saw */
static atomic_int asleep;      /* workers that want to be woken */
static atomic_int open_to;     /* the last worker that may still join the current job; 0: none */
static atomic_int inside;      /* workers that may be touching it */
static job current;

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void join(job *j, int64_t member) {
    const fp_state before = flush_denormals();
    atomic_fetch_add(&j->joined, 1);
    j->work(j->context, member, j->members);
    restore_denormals(before);
}

static unsigned wait_for_job(unsigned seen) {
    const int64_t give_up = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int k = 0; k < 64; k++) {
            if (atomic_load(&generation) != seen) return atomic_load(&generation);
            RELAX();
        }
    } while (nanoseconds() < give_up);
    /* Whoever starts a job counts it before looking for sleepers, so one of the two sees the other. */
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&asleep, 1);
    while (atomic_load(&generation) == seen) pthread_cond_wait(&wake, &lock);
    atomic_fetch_sub(&asleep, 1);
    pthread_mutex_unlock(&lock);
    return atomic_load(&generation);
}

/* Worker k is always member k, the caller member 0: what a member had in its caches from one job is there for the
 * next. */
static void *worker(void *index) {
    const int member = (int)(intptr_t)index;
    unsigned seen = 0;
    uint64_t done = 0;
    for (;;) {
        seen = wait_for_job(seen);
        /* The caller closes the job before it waits for `inside` to fall to zero, and a worker enters `inside` before
         * it looks whether the job is open: so who finds it open is waited for. */
        atomic_fetch_add(&inside, 1);
        if (member <= atomic_load(&open_to) && current.number != done) {
            done = current.number;
            join(&current, member);
        }
        atomic_fetch_sub(&inside, 1);
    }
    return NULL;
}

/* A child of fork has none of the workers, and whatever the locks were doing is over. */
static void after_fork_in_child(void) {
    pthread_mutex_init(&busy, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    started = 0;
    atomic_store(&asleep, 0);
    atomic_store(&open_to, 0);
    atomic_store(&inside, 0);
}
static void register_fork_handler(void) { pthread_atfork(NULL, NULL, after_fork_in_child); }

static void start_workers(int count) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    /* signals are for the program's own threads */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < count) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)(intptr_t)(started + 1)))
            break; /* fewer threads: the same results, later */
        pthread_detach(thread);
        started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* `all`: everybody must take part; else who comes when the caller is done comes too late. */
static void fork_join(int64_t most, int all, void (*work)(void *, int64_t, int64_t), void *context) {
    int64_t helpers = atomic_load(&wanted) - 1;
    if (helpers > most - 1) helpers = most - 1;
    if (helpers <= 0 || pthread_mutex_trylock(&busy)) {
        job alone = {work, context, 1, 0, 0};
        join(&alone, 0);
        return;
    }
    if (started < helpers) start_workers((int)helpers);
    if (started < helpers) helpers = started;
    current.work = work;
    current.context = context;
    current.members = helpers + 1;
    current.number++;
    atomic_store(&current.joined, 0);
    atomic_store(&open_to, (int)helpers);
    atomic_fetch_add(&generation, 1);
    if (atomic_load(&asleep)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
    }
    join(&current, 0);
    while (all && atomic_load(&current.joined) < current.members) RELAX();
    atomic_store(&open_to, 0);
    while (atomic_load(&inside)) RELAX();
    pthread_mutex_unlock(&busy);
}

void frnn_team(int64_t most, void (*work)(void *context, int64_t member, int64_t members), void *context) {
    fork_join(most, 1, work, context);
}

/* Tasks in as many shares as threads may come. A member begins with its own share, the same from call to call, so that
 * its caches still hold what a task before left there (backward reads what forward kept), and then helps the others. */
typedef struct {
    void (*task)(void *, int64_t);
    void *context;
    int64_t tasks, shares;
    struct {
        _Alignas(64) atomic_llong next; /* the share's next task that nobody has taken */
    } of[MAX_WORKERS + 1];
} task_list;

static int64_t share_begin(const task_list *list, int64_t share) { return list->tasks * share / list->shares; }

static void work_off(void *context, int64_t member, int64_t members) {
    task_list *list = context;
    (void)members;
    for (int64_t k = 0; k < list->shares; k++) {
        const int64_t share = (member + k) % list->shares, end = share_begin(list, share + 1);
        for (int64_t index; (index = atomic_fetch_add(&list->of[share].next, 1)) < end;)
            list->task(list->context, index);
    }
}

void frnn_parallel(int64_t most, int64_t tasks, void (*task)(void *context, int64_t index), void *context) {
    const int64_t threads = frnn_get_threads();
    most = tasks < most ? tasks : most;
    task_list list;
    list.task = task, list.context = context, list.tasks = tasks, list.shares = most < threads ? most : threads;
    for (int64_t share = 0; share < list.shares; share++) atomic_init(&list.of[share].next, share_begin(&list, share));
    fork_join(most, 0, work_off, &list);
}

/* To pause may take 140 cycles, which is half of a meeting; but who comes late may share the core. With more threads
 * than cores, the others may be waiting for this one's. */
void frnn_pause(int spins) {
    if (spins > BARRIER_SPINS)
        sched_yield();
    else if (spins > EAGER_SPINS)
        RELAX();
}

void frnn_meet(frnn_flag *flags, int64_t member, int64_t members) {
    const unsigned round = atomic_load_explicit(&flags[member].rounds, memory_order_relaxed) + 1;
    atomic_store_explicit(&flags[member].rounds, round, memory_order_release);
    for (int64_t k = 0; k < members; k++)
        for (int spins = 0; (int)(atomic_load_explicit(&flags[k].rounds, memory_order_acquire) - round) < 0; spins++)
            frnn_pause(spins);
}

void frnn_set_threads(int32_t threads) {
    atomic_store(&wanted, threads < 1 ? 1 : threads > MAX_WORKERS + 1 ? MAX_WORKERS + 1 : threads);
}
int32_t frnn_get_threads(void) { return atomic_load(&wanted); }

/* Which instruction set runs, and the public functions. Adding one: two stubs and a row in `sets`. */
#include "fastrnn.h"
#include "table.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

extern const frnn_kernels frnn_kernels_base_f32, frnn_kernels_base_f64;
static int always(void) { return 1; }

#if defined(__x86_64__)
extern const frnn_kernels frnn_kernels_avx2_f32, frnn_kernels_avx2_f64;
extern const frnn_kernels frnn_kernels_avx512_f32, frnn_kernels_avx512_f64;
extern const frnn_kernels frnn_kernels_narrow_f32, frnn_kernels_narrow_f64;
/* __builtin_cpu_supports asks the operating system's support too */
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
}
#define BASE_NAME "sse2"
#elif defined(__aarch64__)
#define BASE_NAME "neon"
#else
#define BASE_NAME "generic"
#endif

static const struct {
    const char *name;
    int (*supported)(void);
    const frnn_kernels *f32, *f64;
    const frnn_kernels *small_f32, *small_f64; /* for layers of at most 8 (float) or 4 (double) units */
} sets[] = {
    {BASE_NAME, always, &frnn_kernels_base_f32, &frnn_kernels_base_f64, &frnn_kernels_base_f32, &frnn_kernels_base_f64},
#if defined(__x86_64__)
    {"avx2", has_avx2, &frnn_kernels_avx2_f32, &frnn_kernels_avx2_f64, &frnn_kernels_avx2_f32, &frnn_kernels_avx2_f64},
    {"avx512", has_avx512, &frnn_kernels_avx512_f32, &frnn_kernels_avx512_f64, &frnn_kernels_narrow_f32,
     &frnn_kernels_narrow_f64},
#endif
};
enum { SETS = sizeof sets / sizeof sets[0] };

static atomic_int chosen = -1;

int32_t frnn_wide_is_halved = 0;
#if defined(__x86_64__)
/* Of those with AVX-512 only Zen 4, of AMD's family 19h. Looked up once: on virtual machines it takes microseconds. */
__attribute__((constructor)) static void look_at_processor(void) {
    unsigned a = 0, b, c, d;
    __get_cpuid(1, &a, &b, &c, &d);
    frnn_wide_is_halved = (a >> 8 & 0xf) + (a >> 20 & 0xff) == 0x19;
}
#endif

const char *frnn_isa_name(int32_t index) { return index >= 0 && index < SETS ? sets[index].name : NULL; }
int frnn_isa_supported(int32_t index) { return index >= 0 && index < SETS && sets[index].supported(); }
void frnn_isa_choose(int32_t index) { atomic_store(&chosen, index); }

int32_t frnn_isa_chosen(void) {
    int index = atomic_load(&chosen);
    if (index < 0) {
        for (index = SETS - 1; !sets[index].supported(); index--) {
        }
        atomic_store(&chosen, index);
    }
    return index;
}

static const frnn_kernels *kernels(int32_t real_bits, int64_t units) {
    const int index = frnn_isa_chosen(), small = units * real_bits <= 256;
    if (real_bits == 32) return small ? sets[index].small_f32 : sets[index].f32;
    return small ? sets[index].small_f64 : sets[index].f64;
}

int64_t frnn_reserve_size(const frnn_call *call) { return kernels(call->real_bits, call->H)->reserve_size(call); }
int frnn_forward(const frnn_call *call) { return kernels(call->real_bits, call->H)->forward(call); }
int frnn_backward(const frnn_call *call) { return kernels(call->real_bits, call->H)->backward(call); }
void frnn_elementwise(int32_t function, int32_t real_bits, int64_t n, const void *x, void *y) {
    kernels(real_bits, n)->elementwise(function, n, x, y);
}
double frnn_peak(int32_t real_bits, int64_t tasks, int64_t steps) {
    return kernels(real_bits, INT32_MAX)->peak(tasks, steps);
}
void frnn_optimize(const frnn_update *update) { kernels(update->real_bits, update->n)->optimize(update); }
void frnn_head_run(frnn_head *head) { kernels(head->real_bits, head->C)->head(head); }

static const frnn_kernels *stream_kernels(const frnn_stream *stream) {
    return stream->real_bits == 32 ? sets[stream->isa].f32 : sets[stream->isa].f64;
}
int64_t frnn_stage_size(const frnn_stream *stream, int64_t stage) {
    return stream_kernels(stream)->stage_size(stream->stage + stage);
}
void frnn_stream_pack(const frnn_stream *stream) {
    for (int64_t k = 0; k < stream->stages; k++) stream_kernels(stream)->stage_pack(stream->stage + k);
}
int64_t frnn_stream_step(const frnn_stream *stream, const void *x) {
    if (stream->table) {
        const int64_t bad = frnn_find_bad_id(x, 8, stream->B, stream->V);
        if (bad >= 0) return bad;
    }
    stream_kernels(stream)->stream_step(stream, x);
    return -1;
}

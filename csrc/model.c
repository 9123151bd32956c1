/* Steps of a whole model, many in one call: batches, dropout masks, layers forward, the end, layers back, the
 * optimizer. Where Python calls one after another, small models take a tenth longer. */
#include "fastrnn.h"
#include "ids.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* NumPy's, as its numpy/random/bitgen.h has it. */
typedef struct {
    void *state;
    uint64_t (*next_uint64)(void *state);
    uint32_t (*next_uint32)(void *state);
    double (*next_double)(void *state);
    uint64_t (*next_raw)(void *state);
} bit_generator;

/* Generator.random(dtype="float32") gives 24 bits of such a number, divided by 2^24, and at least `rate` of them, as a
 * float too, keeps an entry. Looked up, since a branch would be missed as often as entries are dropped. */
#define DRAW(REAL)                                                                                                     \
    const REAL entry[2] = {0, (REAL)drop->kept};                                                                       \
    for (int64_t k = 0; k < drop->n; k++)                                                                              \
        ((REAL *)drop->mask)[k] = entry[generator->next_uint32(generator->state) >> 8 >= least];
static void mask_draw(const frnn_drop *drop, int32_t real_bits) {
    const bit_generator *generator = drop->generator;
    if (!generator) {
        memset(drop->mask, 0, (size_t)(drop->n * real_bits / 8));
        return;
    }
    const uint32_t least = (uint32_t)ceilf((float)drop->rate * 0x1p24f);
    if (real_bits == 32) {
        DRAW(float)
    } else {
        DRAW(double)
    }
}
#undef DRAW

/* The entries of n samples from `first` on. */
static const void *batch_of(const frnn_samples *samples, const int64_t *order, int64_t first, int64_t n) {
    const char *from = samples->entries;
    char *to = samples->room;
    if (!to) return from ? from + first * samples->stride : NULL;
    for (int64_t k = first; k < first + n; k++, to += samples->bytes)
        memcpy(to, from + (order ? order[k] : k) * samples->stride, (size_t)samples->bytes);
    return samples->room;
}

static void mask_padding(uint8_t *mask, const void *ids, int32_t id_bytes, int64_t n) {
    for (int64_t k = 0; k < n; k++) mask[k] = id_at(ids, id_bytes, k) != 0;
}

static void multiply(const void *x, const void *factors, int64_t n, int32_t real_bits) {
    for (int64_t k = 0; factors && k < n; k++)
        if (real_bits == 32)
            ((float *)x)[k] *= ((const float *)factors)[k];
        else
            ((double *)x)[k] *= ((const double *)factors)[k];
}

/* 1: done; 0: a token id is outside the table, and nothing was; -1: memory ran out. */
static int step(frnn_model *m, int64_t first, double rate) {
    frnn_call *inputs = m->layer[0];
    frnn_head *head = m->head;
    const int32_t bits = head->real_bits;
    const int64_t n = head->n, tokens = n * inputs->T;
    const int32_t id_bytes = m->V ? (int32_t)(m->x.bytes / inputs->T) : 0;
    const void *x = batch_of(&m->x, m->order, first, n);
    int64_t bad = -1;
    if (!m->V)
        inputs->x = x;
    else if (m->table)
        bad = frnn_gather(m->table, m->V, inputs->I * bits / 8, x, id_bytes, tokens, (void *)inputs->x);
    else
        inputs->ids = x, inputs->id_bytes = id_bytes, bad = frnn_find_bad_id(x, id_bytes, tokens, m->V);
    if (bad >= 0) return 0;
    if (m->mask) mask_padding(m->mask, x, id_bytes, tokens);
    head->y = batch_of(&m->y, m->order, first, n);
    head->weights = batch_of(&m->weights, m->order, first, n);
    for (int64_t k = 0; k < m->drops; k++) mask_draw(&m->drop[k], bits);

    for (int64_t k = 0; k < m->layers; k++) {
        const frnn_call *layer = m->layer[k];
        multiply(layer->x, m->factors[k], tokens * layer->I, bits);
        if (frnn_forward(layer)) return -1;
    }
    multiply(head->x, m->factors[m->layers], n * head->I, bits);
    frnn_head_run(head);
    if (head->dW) {
        multiply(head->dx, m->factors[m->layers], n * head->I, bits);
        for (int64_t k = m->layers - 1; k >= 0; k--) {
            const frnn_call *layer = m->layer[k];
            if (frnn_backward(layer)) return -1;
            multiply(layer->dx, m->factors[k], tokens * layer->I, bits);
        }
        if (m->table) frnn_scatter_add(inputs->dx, bits, inputs->I, x, id_bytes, tokens, m->dtable, m->V);
    }
    if (m->update) {
        m->update->rate = rate;
        frnn_optimize(m->update);
    }
    m->done++;
    m->total += head->loss * (double)n;
    m->correct += head->correct;
    return 1;
}

int frnn_steps(frnn_model *model, int64_t first, int64_t steps, const double *rates) {
    int result = 1;
    for (int64_t k = 0; k < steps && result == 1; k++) result = step(model, first + k * model->head->n, rates[k]);
    return result < 0 ? -1 : 0;
}

/* What each (instruction set, type) offers to dispatch.c. */
#ifndef FRNN_TABLE_H
#define FRNN_TABLE_H

#include "fastrnn.h"

typedef struct {
    int (*forward)(const frnn_call *call);
    int (*backward)(const frnn_call *call);
    int64_t (*reserve_size)(const frnn_call *call);
    void (*elementwise)(int32_t function, int64_t n, const void *x, void *y);
    double (*peak)(int64_t tasks, int64_t steps);
    void (*head)(frnn_head *head);
    void (*optimize)(const frnn_update *update);
    int64_t (*stage_size)(const frnn_stage *stage);
    void (*stage_pack)(const frnn_stage *stage);
    void (*stream_step)(const frnn_stream *stream, const void *x);
} frnn_kernels;

#endif

/* What the two ways of computing attention share: the float one (attention.c) for every processor and dtype, and the one
 * in bfloat16 products (attention_bf16.c) for processors that have them. */
#ifndef VENEER_ATTENTION_H
#define VENEER_ATTENTION_H

#include <stdlib.h>

#include "common.h"
#include "pairs.h"

#define BLOCK 32 /* query rows computed at a time */

static inline int padded(int length) { return (length + BLOCK - 1) / BLOCK * BLOCK; }

typedef struct {
    int dtype, heads, kv_heads, dim;
    float scale;
    const void *queries, *keys, *values;
    const int32_t *lengths;
    const int64_t *starts;
    int documents, shared; /* shared: tokens of document 0 that all others see, or 0 */
} Problem;

/* One document as one head sees it: `before` shared keys, then its own. */
typedef struct {
    int64_t start;
    int length, before, width; /* width: all its keys, padded */
    int head, kv_head;
} Task;

static inline Task task_of(const Problem *p, int number) {
    const int document = number / p->heads, head = number % p->heads;
    const int before = document > 0 ? p->shared : 0;
    const Task task = {p->starts[document], p->lengths[document], before, padded(before + p->lengths[document]),
                       head, head / (p->heads / p->kv_heads)};
    return task;
}

/* Keys that a block of queries from row `first` may see at most. */
static inline int seen_by(const Task *task, int first) {
    const int seen = padded(task->before + first + BLOCK);
    return seen < task->width ? seen : task->width;
}

/* What backward reads and where it writes. `own` and `shared` are the key and value gradients by query head, float32:
 * own[2][tokens][heads][dim], shared[documents][2][p->shared][heads][dim]. */
typedef struct {
    const void *output, *grad;
    const float *lse;
    void *grad_q;
    float *own, *shared;
    int64_t tokens;
} Gradients;

/* Rows of dK (part 0) or dV (part 1) to their places: the shared ones first. */
static inline void scatter(const Problem *p, const Task *task, int document, int part, const float *rows, Gradients *g) {
    const int64_t stride = (int64_t)p->heads * p->dim;
    float *shared = g->shared + ((int64_t)document * 2 + part) * p->shared * stride + task->head * p->dim;
    float *own = g->own + (part * g->tokens + task->start) * stride + task->head * p->dim;
    for (int t = 0; t < task->before; t++)
        memcpy(shared + t * stride, rows + (int64_t)t * p->dim, (size_t)p->dim * 4);
    rows += (int64_t)task->before * p->dim;
    for (int t = 0; t < task->length; t++)
        memcpy(own + t * stride, rows + (int64_t)t * p->dim, (size_t)p->dim * 4);
}

#if BF16_PRODUCTS
/* Bytes of working memory for a task whose keys are `width` at most. */
size_t veneer_attention_bf16_bytes(int64_t width, int dim);
void veneer_attention_bf16_forward(const Problem *p, const Task *task, void *output, float *lse, void *work);
void veneer_attention_bf16_backward(const Problem *p, const Task *task, int document, Gradients *g, void *work);
#endif

#endif

/* What the ways of computing attention share: of whole documents, the float one (attention.c) for every processor and
 * dtype and the one in bfloat16 products (attention_bf16.c) for processors that have them; and that of single rows
 * (attention.c, step.c). */
#ifndef VENEER_ATTENTION_H
#define VENEER_ATTENTION_H

#include <math.h>
#include <stdlib.h>

#include "amx.h"
#include "common.h"

#define BLOCK 32 /* query rows computed at a time */

static inline int padded(int length) { return (length + BLOCK - 1) / BLOCK * BLOCK; }

typedef struct {
    int dtype, heads, kv_heads, dim;
    float scale;
    const void *queries, *keys, *values;
    const int32_t *lengths;
    const int64_t *starts;
    int documents, shared; /* shared: tokens of document 0 that all others see, or 0 */
    int window;            /* keys that a query sees at most, its own among them; 0: all before it */
    float cap;             /* scores become cap · tanh(score / cap); 0: they stay */
    const float *sinks;    /* a score without a value for each head, [heads], or NULL */
    int products;          /* the kind of bfloat16 products, where the library can */
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

/* The first of the keys that a query with `place` keys before it sees. */
static inline int oldest_of(const Problem *p, int place) {
    return p->window && place >= p->window ? place - p->window + 1 : 0;
}

/* Where the keys begin that a block of queries from row `first` sees, at a multiple of BLOCK. */
static inline int first_seen(const Problem *p, const Task *task, int first) {
    return oldest_of(p, task->before + first) / BLOCK * BLOCK;
}

/* tanh(x) to 3 units in the last place: by a polynomial in x² where |x| < 0.64, which was fitted at Chebyshev's nodes
 * with an error of 3e-8, else from exp(2 x). */
static inline float fast_tanh(float x) {
    const float z = x * x;
    float p = -6.001808022e-3f;
    p = p * z + 2.093143095e-2f;
    p = p * z - 5.383701859e-2f;
    p = p * z + 1.333267902e-1f;
    p = p * z - 3.333332807e-1f;
    const float small = x + x * z * p, large = 1.0f - 2.0f / (fast_exp(2.0f * x) + 1.0f);
    return z < 0.4096f ? small : large;
}

/* If scores are capped: cap · tanh(scale · score / cap) in place, for columns [from, to) of the block's scores. */
static inline void cap_scores(const Problem *p, float *scores, int width, int from, int to) {
    if (p->cap <= 0.0f) return;
    const float inner = p->scale / p->cap, outer = p->cap;
    for (int i = 0; i < BLOCK; i++) {
        float *row = scores + (int64_t)i * width;
#pragma omp simd
        for (int j = from; j < to; j++) row[j] = outer * fast_tanh(row[j] * inner);
    }
}

/* By what scores are still to be multiplied after cap_scores. */
static inline float scale_left(const Problem *p) { return p->cap > 0.0f ? 1.0f : p->scale; }

/* Weights of the keys from scores [length], in place: softmax(cap(scores)) with a sink, which takes its share. There
 * may be no cap (0) and no sink (NULL). */
static inline void softmax(float *scores, int64_t length, float cap, const float *sink) {
    float largest = sink ? *sink : -INFINITY;
    if (cap > 0.0f)
        for (int64_t t = 0; t < length; t++) scores[t] = cap * tanhf(scores[t] / cap);
#pragma omp simd reduction(max : largest)
    for (int64_t t = 0; t < length; t++) largest = scores[t] > largest ? scores[t] : largest;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < length; t++) {
        scores[t] = fast_exp(scores[t] - largest);
        sum += scores[t];
    }
    if (sink) sum += fast_exp(*sink - largest);
    const float inverse = 1.0f / sum;
    for (int64_t t = 0; t < length; t++) scores[t] *= inverse;
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

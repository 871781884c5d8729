/* Causal attention within the documents of a packed sequence, forward and backward.
 *
 * Queries [tokens, heads, dim], keys and values [tokens, kv_heads, dim], documents end to end. Documents that begin
 * alike may share their beginning: then document 0 is that beginning, and every other one sees it before its own
 * tokens.
 *
 * One task is one query head of one document. A block of BLOCK query rows holds its scores against all earlier keys at
 * once (BLOCK × length floats, in the L2 cache up to some thousand tokens), so the softmax is the plain one, computed
 * in float32; forward keeps only the log of each row's sum. Backward forms the probabilities again from it (Dao, 2023,
 * arXiv:2307.08691):
 *
 *     P = exp(s·QKᵀ − lse),  dV = Pᵀ dO,  dP = dO Vᵀ,  dS = s · P ∘ (dP − rowsum(dO ∘ O)),  dQ = dS K,  dK = dSᵀ Q
 *
 * With a window a block meets only the keys that one of its rows sees. Capped scores t = c · tanh(s·QKᵀ / c) take the
 * place of s·QKᵀ, and dS has the factor 1 − (t/c)². A sink is one more term of a row's sum, and nothing else: its
 * gradient follows from lse, O and dO outside of here.
 *
 * Every sum has a fixed order, independent of the number of threads: the key gradients of the query heads that share a
 * key head, and of the documents that share their beginning, are written apart and added in order.
 */
#include <math.h>
#include <stdlib.h>

#include "attention.h"

static int64_t widest(const Problem *p) {
    int64_t width = 0;
    for (int number = 0; number < p->documents; number++) {
        const int64_t own = task_of(p, number * p->heads).width;
        width = own > width ? own : width;
    }
    return width;
}

/* Rows [start, start + length) of one head as floats [padded][dim], zeros after them. */
static void gather(const void *tensor, const Problem *p, int heads, int head, int64_t start, int length, int rows,
                   float *out) {
    for (int t = 0; t < length; t++)
        load_row(tensor, p->dtype, ((start + t) * heads + head) * p->dim, p->dim, out + (int64_t)t * p->dim);
    memset(out + (int64_t)length * p->dim, 0, (size_t)(rows - length) * p->dim * 4);
}

/* All keys or values that a task sees, [width][dim]. */
static void gather_context(const void *tensor, const Problem *p, const Task *task, float *out) {
    gather(tensor, p, p->kv_heads, task->kv_head, 0, task->before, task->before, out);
    gather(tensor, p, p->kv_heads, task->kv_head, task->start, task->length, task->width - task->before,
           out + (int64_t)task->before * p->dim);
}

static void transpose(const float *in, int rows, int columns, float *out) {
    for (int r0 = 0; r0 < rows; r0 += 16)
        for (int c = 0; c < columns; c++)
            for (int r = r0; r < r0 + 16; r++) out[(int64_t)c * rows + r] = in[(int64_t)r * columns + c];
}

/* Columns [from, visible) of scores[BLOCK][width] to exp(scale · scores − shift), 0 where row i does not see the key:
 * it has `first` + i keys before it. Rows after `rows` become 0. */
static void exponentiate(const Problem *p, float *scores, int width, int first, int rows, int from, int visible,
                         float scale, const float *shift) {
    for (int i = 0; i < BLOCK; i++) {
        float *row = scores + (int64_t)i * width;
        const int seen = i < rows ? first + i + 1 : from, oldest = i < rows ? oldest_of(p, first + i) : from;
        const float minus = i < rows ? shift[i] : 0.0f;
        for (int j = from; j < oldest; j++) row[j] = 0.0f;
#pragma omp simd
        for (int j = oldest; j < seen; j++) row[j] = fast_exp(row[j] * scale - minus);
        for (int j = seen; j < visible; j++) row[j] = 0.0f;
    }
}

static void forward_task(const Problem *p, const Task *task, void *output, float *lse, float *work) {
    const int dim = p->dim, width = task->width;
    float *keys = work, *keys_t = keys + (int64_t)width * dim, *values = keys_t + (int64_t)width * dim;
    float *block = values + (int64_t)width * dim, *mixed = block + BLOCK * dim, *scores = mixed + BLOCK * dim;
    gather_context(p->keys, p, task, keys);
    transpose(keys, width, dim, keys_t);
    gather_context(p->values, p, task, values);
    for (int first = 0; first < task->length; first += BLOCK) {
        const int rows = task->length - first < BLOCK ? task->length - first : BLOCK;
        const int visible = seen_by(task, first), diagonal = task->before + first, from = first_seen(p, task, first);
        const float scale = scale_left(p);
        float shift[BLOCK];
        gather(p->queries, p, p->heads, task->head, task->start + first, rows, BLOCK, block);
        matmul(BLOCK, visible - from, dim, block, dim, 1, keys_t + from, width, scores + from, width, 0);
        cap_scores(p, scores, width, from, visible);
        for (int i = 0; i < rows; i++) {
            float largest = -INFINITY;
            const float *row = scores + (int64_t)i * width;
#pragma omp simd reduction(max : largest)
            for (int j = oldest_of(p, diagonal + i); j <= diagonal + i; j++) largest = row[j] > largest ? row[j] : largest;
            shift[i] = largest * scale;
            if (p->sinks && p->sinks[task->head] > shift[i]) shift[i] = p->sinks[task->head];
        }
        exponentiate(p, scores, width, diagonal, rows, from, visible, scale, shift);
        matmul(BLOCK, dim, visible - from, scores + from, width, 1, values + (int64_t)from * dim, dim, mixed, dim, 0);
        for (int i = 0; i < rows; i++) {
            float sum = 0.0f, *row = mixed + i * dim;
            const float *weights = scores + (int64_t)i * width;
#pragma omp simd reduction(+ : sum)
            for (int j = from; j <= diagonal + i; j++) sum += weights[j];
            if (p->sinks) sum += fast_exp(p->sinks[task->head] - shift[i]);
            const float inverse = 1.0f / sum;
            for (int d = 0; d < dim; d++) row[d] *= inverse;
            const int64_t place = (task->start + first + i) * p->heads + task->head;
            store_row(output, p->dtype, place * dim, dim, row);
            lse[place] = shift[i] + logf(sum);
        }
    }
}

/* dP − delta times the slope of the cap, 1 − (t/c)², from capped scores t; delta has done its work then and becomes 0.
   */
static void uncap_gradients(const Problem *p, const float *capped, float *dprobs, int width, int from, int visible,
                            int rows, float *delta) {
    const float inverse = 1.0f / p->cap;
    for (int i = 0; i < rows; i++) {
        const float *scores = capped + (int64_t)i * width;
        float *row = dprobs + (int64_t)i * width;
#pragma omp simd
        for (int j = from; j < visible; j++) {
            const float share = scores[j] * inverse;
            row[j] = (row[j] - delta[i]) * (1.0f - share * share);
        }
        delta[i] = 0.0f;
    }
}

static void backward_task(const Problem *p, const Task *task, int document, Gradients *g, float *work) {
    const int dim = p->dim, width = task->width;
    const int64_t plane = (int64_t)width * dim;
    float *keys = work, *keys_t = keys + plane, *values_t = keys_t + plane;
    float *dk = values_t + plane, *dv = dk + plane;
    float *queries = dv + plane, *dout = queries + BLOCK * dim, *out = dout + BLOCK * dim, *dq = out + BLOCK * dim;
    float *probs = dq + BLOCK * dim, *dprobs = probs + (int64_t)BLOCK * width;
    gather_context(p->values, p, task, keys);
    transpose(keys, width, dim, values_t);
    gather_context(p->keys, p, task, keys);
    transpose(keys, width, dim, keys_t);
    memset(dk, 0, (size_t)plane * 8); /* dk and dv */
    for (int first = 0; first < task->length; first += BLOCK) {
        const int rows = task->length - first < BLOCK ? task->length - first : BLOCK;
        const int visible = seen_by(task, first), from = first_seen(p, task, first);
        const int64_t start = task->start + first, ahead = (int64_t)from * dim;
        float shift[BLOCK], delta[BLOCK];
        gather(p->queries, p, p->heads, task->head, start, rows, BLOCK, queries);
        gather(g->grad, p, p->heads, task->head, start, rows, BLOCK, dout);
        gather(g->output, p, p->heads, task->head, start, rows, BLOCK, out);
        for (int i = 0; i < rows; i++) {
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int d = 0; d < dim; d++) sum += dout[i * dim + d] * out[i * dim + d];
            delta[i] = sum;
            shift[i] = g->lse[(start + i) * p->heads + task->head];
        }
        matmul(BLOCK, visible - from, dim, queries, dim, 1, keys_t + from, width, probs + from, width, 0);
        matmul(BLOCK, visible - from, dim, dout, dim, 1, values_t + from, width, dprobs + from, width, 0);
        cap_scores(p, probs, width, from, visible);
        if (p->cap > 0.0f) uncap_gradients(p, probs, dprobs, width, from, visible, rows, delta);
        exponentiate(p, probs, width, task->before + first, rows, from, visible, scale_left(p), shift);
        matmul(visible - from, dim, BLOCK, probs + from, 1, width, dout, dim, dv + ahead, dim, 1);
        for (int i = 0; i < rows; i++) {
            float *row = dprobs + (int64_t)i * width;
            const float *weights = probs + (int64_t)i * width;
#pragma omp simd
            for (int j = from; j < visible; j++) row[j] = weights[j] * (row[j] - delta[i]) * p->scale;
        }
        for (int i = rows; i < BLOCK; i++) memset(dprobs + (int64_t)i * width + from, 0, (size_t)(visible - from) * 4);
        matmul(BLOCK, dim, visible - from, dprobs + from, width, 1, keys + ahead, dim, dq, dim, 0);
        matmul(visible - from, dim, BLOCK, dprobs + from, 1, width, queries, dim, dk + ahead, dim, 1);
        for (int i = 0; i < rows; i++)
            store_row(g->grad_q, p->dtype, ((start + i) * p->heads + task->head) * dim, dim, dq + i * dim);
    }
    scatter(p, task, document, 0, dk, g);
    scatter(p, task, document, 1, dv, g);
}

/* dK (part 0) or dV (part 1) of one token: the sum over the heads of a group, and for a shared token over documents. */
static void reduce(const Problem *p, const Gradients *g, int64_t token, int part, void *total, float *sum) {
    const int dim = p->dim, group = p->heads / p->kv_heads;
    const int64_t stride = (int64_t)p->heads * dim;
    for (int h = 0; h < p->kv_heads; h++) {
        memset(sum, 0, (size_t)dim * 4);
        const float *own = g->own + (part * g->tokens + token) * stride + (int64_t)h * group * dim;
        for (int i = 0; i < group; i++)
            for (int d = 0; d < dim; d++) sum[d] += own[i * dim + d];
        for (int document = 1; document < p->documents && token < p->shared; document++) {
            const float *shared = g->shared + (((int64_t)document * 2 + part) * p->shared + token) * stride;
            shared += (int64_t)h * group * dim;
            for (int i = 0; i < group; i++)
                for (int d = 0; d < dim; d++) sum[d] += shared[i * dim + d];
        }
        store_row(total, p->dtype, (token * p->kv_heads + h) * dim, dim, sum);
    }
}

/* Whether this problem is computed in bfloat16 products. */
static int in_bf16(const Problem *p) { return BF16_PRODUCTS && p->products != PRODUCTS_FLOATS && p->dtype == BFLOAT16 && p->dim % 32 == 0; }

/* Working memory of one thread; forward needs no more than backward. NULL if memory ran out. */
static void *working_memory(const Problem *p) {
    const int64_t width = widest(p);
    size_t bytes = (size_t)(5 * width * p->dim + 4 * BLOCK * p->dim + 2 * BLOCK * width) * 4;
#if BF16_PRODUCTS
    if (in_bf16(p)) bytes = veneer_attention_bf16_bytes(width, p->dim);
#endif
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

/* What multiplies this problem. */
static int products_of(const Problem *p) { return in_bf16(p) ? p->products : PRODUCTS_FLOATS; }

static void forward(const Problem *p, int number, void *output, float *lse, void *work) {
    const Task task = task_of(p, number);
#if BF16_PRODUCTS
    if (in_bf16(p)) {
        veneer_attention_bf16_forward(p, &task, output, lse, work);
        return;
    }
#endif
    forward_task(p, &task, output, lse, work);
}

static void backward(const Problem *p, int number, Gradients *g, void *work) {
    const Task task = task_of(p, number);
#if BF16_PRODUCTS
    if (in_bf16(p)) {
        veneer_attention_bf16_backward(p, &task, number / p->heads, g, work);
        return;
    }
#endif
    backward_task(p, &task, number / p->heads, g, work);
}

/* output like queries, lse float32 [tokens, heads]; see Problem for window, cap and sinks. Returns 0, or 1 where memory
 * ran out. */
int veneer_attention_forward(int dtype, const void *queries, const void *keys, const void *values,
                             const int32_t *lengths, const int64_t *starts, int documents, int shared, int heads,
                             int kv_heads, int dim, float scale, int window, float cap, const float *sinks, int products,
                             void *output, float *lse, int threads) {
    const Problem p = {dtype, heads, kv_heads, dim, scale, queries, keys, values, lengths, starts, documents, shared,
                       window, cap, sinks, products};
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        void *work = working_memory(&p);
        veneer_products_begin(products_of(&p));
        if (work == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int number = 0; number < documents * heads; number++)
            if (work != NULL) forward(&p, number, output, lse, work);
        veneer_products_end(products_of(&p));
        free(work);
    }
    return failed;
}

/* grad_q like queries; grad_k, grad_v like keys; scratch float32 [2, tokens, heads, dim] and behind it
 * [documents, 2, shared, heads, dim]. */
int veneer_attention_backward(int dtype, const void *queries, const void *keys, const void *values,
                              const int32_t *lengths, const int64_t *starts, int documents, int shared, int heads,
                              int kv_heads, int dim, float scale, int window, float cap, const float *sinks, int products,
                              const void *output, const float *lse, const void *grad, void *grad_q, void *grad_k,
                              void *grad_v, float *scratch, int threads) {
    const Problem p = {dtype, heads, kv_heads, dim, scale, queries, keys, values, lengths, starts, documents, shared,
                       window, cap, sinks, products};
    const int64_t tokens = starts[documents - 1] + lengths[documents - 1];
    Gradients g = {output, grad, lse, grad_q, scratch, scratch + 2 * tokens * heads * dim, tokens};
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        void *work = working_memory(&p);
        veneer_products_begin(products_of(&p));
        if (work == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int number = 0; number < documents * heads; number++)
            if (work != NULL) backward(&p, number, &g, work);
        veneer_products_end(products_of(&p));
#pragma omp for schedule(static)
        for (int64_t token = 0; token < tokens; token++) {
            if (work == NULL) continue;
            reduce(&p, &g, token, 0, grad_k, work);
            reduce(&p, &g, token, 1, grad_v, work);
        }
        free(work);
    }
    return failed;
}

/* One new token a row against its line of the cache: queries [rows, heads, dim], keys and values
 * [rows, kv_heads, capacity, dim], of which the first seen[row] are looked at. A key is read once for all the query
 * heads that share it, since reading the cache is what this costs. */
int veneer_attention_step(int dtype, const void *queries, const void *keys, const void *values, const int64_t *seen,
                          int rows, int heads, int kv_heads, int64_t capacity, int dim, float scale, void *output,
                          int threads) {
    const int group = heads / kv_heads;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *work = malloc((size_t)(group * (capacity + 2 * dim) + dim) * 4);
        if (work == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int task = 0; task < rows * kv_heads; task++) {
            if (work == NULL) continue;
            const int row = task / kv_heads, kv = task % kv_heads;
            const int64_t line = ((int64_t)row * kv_heads + kv) * capacity * dim, length = seen[row];
            float *scores = work, *asked = scores + group * capacity, *mixed = asked + group * dim;
            float *cached = mixed + group * dim;
            for (int g = 0; g < group; g++)
                load_row(queries, dtype, ((int64_t)row * heads + kv * group + g) * dim, dim, asked + g * dim);
            for (int64_t t = 0; t < length; t++) {
                load_row(keys, dtype, line + t * dim, dim, cached);
                for (int g = 0; g < group; g++) {
                    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                    for (int d = 0; d < dim; d++) sum += asked[g * dim + d] * cached[d];
                    scores[g * capacity + t] = sum * scale;
                }
            }
            for (int g = 0; g < group; g++) softmax(scores + g * capacity, length, 0.0f, NULL);
            memset(mixed, 0, (size_t)group * dim * 4);
            for (int64_t t = 0; t < length; t++) {
                load_row(values, dtype, line + t * dim, dim, cached);
                for (int g = 0; g < group; g++) {
                    const float weight = scores[g * capacity + t];
#pragma omp simd
                    for (int d = 0; d < dim; d++) mixed[g * dim + d] += weight * cached[d];
                }
            }
            for (int g = 0; g < group; g++)
                store_row(output, dtype, ((int64_t)row * heads + kv * group + g) * dim, dim, mixed + g * dim);
        }
        free(work);
    }
    return failed;
}

/* Causal attention within the documents of a packed sequence, forward and backward.
 *
 * Queries [tokens, heads, dim], keys and values [tokens, kv_heads, dim], documents end to end. One task is one query
 * head of one document. A block of BLOCK query rows holds its scores against all earlier keys at once (BLOCK × length
 * floats, in the L2 cache up to some thousand tokens), so the softmax is the plain one, computed in float32; forward
 * keeps only the log of each row's sum. Backward forms the probabilities again from it (Dao, 2023, arXiv:2307.08691):
 *
 *     P = exp(s·QKᵀ − lse),  dV = Pᵀ dO,  dP = dO Vᵀ,  dS = s · P ∘ (dP − rowsum(dO ∘ O)),  dQ = dS K,  dK = dSᵀ Q
 *
 * Every sum has a fixed order, whatever the number of threads: the key gradients of the query heads that share a key
 * head are written apart and added in order of the heads.
 */
#include <math.h>
#include <stdlib.h>

#include "common.h"

#define BLOCK 32

static inline int padded(int length) { return (length + BLOCK - 1) / BLOCK * BLOCK; }

typedef struct {
    int dtype, heads, kv_heads, dim;
    float scale;
    const void *queries, *keys, *values;
} Problem;

/* Rows [start, start + length) of one head as floats [padded][dim], zeros behind. */
static void gather(const void *tensor, const Problem *p, int heads, int head, int64_t start, int length, int rows,
                   float *out) {
    for (int t = 0; t < length; t++)
        load_row(tensor, p->dtype, ((start + t) * heads + head) * p->dim, p->dim, out + (int64_t)t * p->dim);
    memset(out + (int64_t)length * p->dim, 0, (size_t)(rows - length) * p->dim * 4);
}

static void transpose(const float *in, int rows, int columns, float *out) {
    for (int r0 = 0; r0 < rows; r0 += 16)
        for (int c = 0; c < columns; c++)
            for (int r = r0; r < r0 + 16; r++) out[(int64_t)c * rows + r] = in[(int64_t)r * columns + c];
}

/* scores[BLOCK][width] to exp(scale · scores − shift), 0 behind the diagonal; rows behind `rows` become 0. */
static void exponentiate(float *scores, int width, int first, int rows, int visible, float scale, const float *shift) {
    for (int i = 0; i < BLOCK; i++) {
        float *row = scores + (int64_t)i * width;
        const int seen = i < rows ? first + i + 1 : 0;
        const float minus = i < rows ? shift[i] : 0.0f;
#pragma omp simd
        for (int j = 0; j < seen; j++) row[j] = fast_exp(row[j] * scale - minus);
        for (int j = seen; j < visible; j++) row[j] = 0.0f;
    }
}

static void forward_head(const Problem *p, int64_t start, int length, int head, void *output, float *lse, float *work) {
    const int dim = p->dim, width = padded(length), group = p->heads / p->kv_heads;
    float *keys = work, *keys_t = keys + (int64_t)width * dim, *values = keys_t + (int64_t)width * dim;
    float *block = values + (int64_t)width * dim, *mixed = block + BLOCK * dim, *scores = mixed + BLOCK * dim;
    gather(p->keys, p, p->kv_heads, head / group, start, length, width, keys);
    transpose(keys, width, dim, keys_t);
    gather(p->values, p, p->kv_heads, head / group, start, length, width, values);
    for (int first = 0; first < length; first += BLOCK) {
        const int rows = length - first < BLOCK ? length - first : BLOCK, visible = first + BLOCK;
        float shift[BLOCK];
        gather(p->queries, p, p->heads, head, start + first, rows, BLOCK, block);
        matmul(BLOCK, visible, dim, block, dim, 1, keys_t, width, scores, width, 0);
        for (int i = 0; i < rows; i++) {
            float largest = -INFINITY;
            const float *row = scores + (int64_t)i * width;
#pragma omp simd reduction(max : largest)
            for (int j = 0; j <= first + i; j++) largest = row[j] > largest ? row[j] : largest;
            shift[i] = largest * p->scale;
        }
        exponentiate(scores, width, first, rows, visible, p->scale, shift);
        matmul(BLOCK, dim, visible, scores, width, 1, values, dim, mixed, dim, 0);
        for (int i = 0; i < rows; i++) {
            float sum = 0.0f, *row = mixed + i * dim;
            const float *weights = scores + (int64_t)i * width;
#pragma omp simd reduction(+ : sum)
            for (int j = 0; j <= first + i; j++) sum += weights[j];
            const float inverse = 1.0f / sum;
            for (int d = 0; d < dim; d++) row[d] *= inverse;
            const int64_t place = (start + first + i) * p->heads + head;
            store_row(output, p->dtype, place * dim, dim, row);
            lse[place] = shift[i] + logf(sum);
        }
    }
}

static void backward_head(const Problem *p, int64_t start, int length, int head, const void *output, const float *lse,
                          const void *grad, void *grad_q, float *grad_k, float *grad_v, float *work) {
    const int dim = p->dim, width = padded(length), group = p->heads / p->kv_heads;
    const int64_t plane = (int64_t)width * dim;
    float *keys = work, *keys_t = keys + plane, *values_t = keys_t + plane;
    float *dk = values_t + plane, *dv = dk + plane;
    float *queries = dv + plane, *dout = queries + BLOCK * dim, *out = dout + BLOCK * dim, *dq = out + BLOCK * dim;
    float *probs = dq + BLOCK * dim, *dprobs = probs + (int64_t)BLOCK * width;
    gather(p->values, p, p->kv_heads, head / group, start, length, width, keys);
    transpose(keys, width, dim, values_t);
    gather(p->keys, p, p->kv_heads, head / group, start, length, width, keys);
    transpose(keys, width, dim, keys_t);
    memset(dk, 0, (size_t)plane * 8); /* dk and dv */
    for (int first = 0; first < length; first += BLOCK) {
        const int rows = length - first < BLOCK ? length - first : BLOCK, visible = first + BLOCK;
        float shift[BLOCK], delta[BLOCK];
        gather(p->queries, p, p->heads, head, start + first, rows, BLOCK, queries);
        gather(grad, p, p->heads, head, start + first, rows, BLOCK, dout);
        gather(output, p, p->heads, head, start + first, rows, BLOCK, out);
        for (int i = 0; i < rows; i++) {
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int d = 0; d < dim; d++) sum += dout[i * dim + d] * out[i * dim + d];
            delta[i] = sum;
            shift[i] = lse[(start + first + i) * p->heads + head];
        }
        matmul(BLOCK, visible, dim, queries, dim, 1, keys_t, width, probs, width, 0);
        exponentiate(probs, width, first, rows, visible, p->scale, shift);
        matmul(BLOCK, visible, dim, dout, dim, 1, values_t, width, dprobs, width, 0);
        matmul(visible, dim, BLOCK, probs, 1, width, dout, dim, dv, dim, 1);
        for (int i = 0; i < rows; i++) {
            float *row = dprobs + (int64_t)i * width;
            const float *weights = probs + (int64_t)i * width;
#pragma omp simd
            for (int j = 0; j < visible; j++) row[j] = weights[j] * (row[j] - delta[i]) * p->scale;
        }
        memset(dprobs + (int64_t)rows * width, 0, (size_t)(BLOCK - rows) * width * 4);
        matmul(BLOCK, dim, visible, dprobs, width, 1, keys, dim, dq, dim, 0);
        matmul(visible, dim, BLOCK, dprobs, 1, width, queries, dim, dk, dim, 1);
        for (int i = 0; i < rows; i++)
            store_row(grad_q, p->dtype, ((start + first + i) * p->heads + head) * dim, dim, dq + i * dim);
    }
    for (int t = 0; t < length; t++) {
        const int64_t place = ((start + t) * p->heads + head) * dim;
        memcpy(grad_k + place, dk + (int64_t)t * dim, (size_t)dim * 4);
        memcpy(grad_v + place, dv + (int64_t)t * dim, (size_t)dim * 4);
    }
}

static int longest_of(const int32_t *lengths, int documents) {
    int longest = 0;
    for (int b = 0; b < documents; b++) longest = lengths[b] > longest ? lengths[b] : longest;
    return longest;
}

/* output like queries, lse float32 [tokens, heads]; returns 0, or 1 where memory ran out. */
int veneer_attention_forward(int dtype, const void *queries, const void *keys, const void *values,
                             const int32_t *lengths, const int64_t *starts, int documents, int heads, int kv_heads,
                             int dim, float scale, void *output, float *lse, int threads) {
    const Problem p = {dtype, heads, kv_heads, dim, scale, queries, keys, values};
    const int64_t width = padded(longest_of(lengths, documents));
    const size_t floats = (size_t)(3 * width * dim + 2 * BLOCK * dim + BLOCK * width);
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *work = malloc(floats * 4);
        if (work == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int task = 0; task < documents * heads; task++)
            if (work != NULL)
                forward_head(&p, starts[task / heads], lengths[task / heads], task % heads, output, lse, work);
        free(work);
    }
    return failed;
}

/* grad_q like queries; grad_k, grad_v like keys; scratch float32 [2, tokens, heads, dim]. */
int veneer_attention_backward(int dtype, const void *queries, const void *keys, const void *values,
                              const int32_t *lengths, const int64_t *starts, int documents, int heads, int kv_heads,
                              int dim, float scale, const void *output, const float *lse, const void *grad,
                              void *grad_q, void *grad_k, void *grad_v, float *scratch, int threads) {
    const Problem p = {dtype, heads, kv_heads, dim, scale, queries, keys, values};
    const int64_t width = padded(longest_of(lengths, documents));
    const int64_t tokens = starts[documents - 1] + lengths[documents - 1];
    const size_t floats = (size_t)(5 * width * dim + 4 * BLOCK * dim + 2 * BLOCK * width);
    float *each_k = scratch, *each_v = scratch + tokens * heads * dim;
    const int group = heads / kv_heads;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *work = malloc(floats * 4);
        if (work == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int task = 0; task < documents * heads; task++)
            if (work != NULL)
                backward_head(&p, starts[task / heads], lengths[task / heads], task % heads, output, lse, grad, grad_q,
                              each_k, each_v, work);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++) {
            if (work == NULL) continue;
            for (int part = 0; part < 2; part++) {
                const float *each = (part ? each_v : each_k) + t * heads * dim;
                void *total = part ? grad_v : grad_k;
                for (int h = 0; h < kv_heads; h++) {
                    const float *first = each + (int64_t)h * group * dim;
                    for (int d = 0; d < dim; d++) {
                        float sum = first[d];
                        for (int g = 1; g < group; g++) sum += first[g * dim + d];
                        work[d] = sum;
                    }
                    store_row(total, dtype, (t * kv_heads + h) * dim, dim, work);
                }
            }
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
            for (int g = 0; g < group; g++) {
                float *weights = scores + g * capacity, largest = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : largest)
                for (int64_t t = 0; t < length; t++) largest = weights[t] > largest ? weights[t] : largest;
#pragma omp simd reduction(+ : sum)
                for (int64_t t = 0; t < length; t++) {
                    weights[t] = fast_exp(weights[t] - largest);
                    sum += weights[t];
                }
                const float inverse = 1.0f / sum;
                for (int64_t t = 0; t < length; t++) weights[t] *= inverse;
            }
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

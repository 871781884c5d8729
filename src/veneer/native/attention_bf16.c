/* Attention in bfloat16 products with float32 sums: of pairs (AVX-512 BF16), twice as fast as float32 ones, or of AMX's
 tiles. *
 * The mathematics and the blocks are those of attention.c; probabilities and score gradients are rounded to bfloat16
 * before they are multiplied, as the GPU kernels for this dtype do. One kind of product is needed,
 * C[M][N] (+)= A[M][K] · B[K][N], on pairs: an instruction multiplies two neighbours in K and adds both. So A is plain
 * rows of bfloat16, taken two at a time as a 32-bit word, and B has two rows interleaved to such words, [K/2][N]:
 *
 *     S = Q·Kᵀ, dP = dO·Vᵀ       B: keys or values transposed as words
 *     O = P·V,  dQ = dS·K        B: two rows of values or keys interleaved
 *     dVᵀ = dOᵀ·P, dKᵀ = Qᵀ·dS   A: transposed, B: two rows of P or dS interleaved; summed over blocks of queries
 *
 * All lengths are padded to multiples of 32, with zeros.
 */
#include <math.h>

#include "attention.h"

#if BF16_PRODUCTS

#define TILE 8 /* rows of A times two vectors of B: 16 sums in registers, as many as hide the latency */

static void in_pairs(int rows, int columns, int pairs, const uint32_t *a, int64_t a_row, const uint32_t *b, int64_t b_row,
                    float *c, int64_t c_row, int add) {
    for (int n = 0; n < columns; n += 32) {
        for (int m = 0; m < rows; m += TILE) {
            __m512 left[TILE], right[TILE];
            const uint32_t *from = a + m * a_row;
            float *to = c + m * c_row + n;
            for (int i = 0; i < TILE; i++) {
                left[i] = add ? _mm512_loadu_ps(to + i * c_row) : _mm512_setzero_ps();
                right[i] = add ? _mm512_loadu_ps(to + i * c_row + 16) : _mm512_setzero_ps();
            }
            for (int k = 0; k < pairs; k++) {
                const __m512bh b0 = as_pairs(_mm512_loadu_si512(b + k * b_row + n));
                const __m512bh b1 = as_pairs(_mm512_loadu_si512(b + k * b_row + n + 16));
#pragma GCC unroll 8
                for (int i = 0; i < TILE; i++) {
                    const __m512bh pair = as_pairs(_mm512_set1_epi32((int)from[i * a_row + k]));
                    left[i] = _mm512_dpbf16_ps(left[i], pair, b0);
                    right[i] = _mm512_dpbf16_ps(right[i], pair, b1);
                }
            }
            for (int i = 0; i < TILE; i++) {
                _mm512_storeu_ps(to + i * c_row, left[i]);
                _mm512_storeu_ps(to + i * c_row + 16, right[i]);
            }
        }
    }
}

#if HAS_TILES
IN_TILES static void in_tiles(int rows, int columns, int pairs, const uint32_t *a, int64_t a_row, const uint32_t *b,
                              int64_t b_row, float *c, int64_t c_row, int add) {
    for (int n = 0; n < columns; n += BLOCK_SIDE) {
        for (int m = 0; m < rows; m += BLOCK_SIDE) {
            float *to = c + m * c_row + n;
            if (add)
                load_block(to, c_row);
            else
                clear_block();
            for (int k = 0; k < pairs; k += TILE_SIDE) {
                const uint32_t *right = b + k * b_row + n;
                add_to_block(a + m * a_row + k, a_row, right, right + TILE_SIDE, b_row);
            }
            store_block(to, c_row);
        }
    }
}
#endif

/* C[rows][columns] (+)= A · B over `pairs` words; rows and columns are multiples of 32, pairs of 16; strides in words.
   */
static void product(const Problem *p, int rows, int columns, int pairs, const uint32_t *a, int64_t a_row,
                    const uint32_t *b, int64_t b_row, float *c, int64_t c_row, int add) {
#if HAS_TILES
    if (p->products == PRODUCTS_TILES) {
        in_tiles(rows, columns, pairs, a, a_row, b, b_row, c, c_row, add);
        return;
    }
#endif
    (void)p;
    in_pairs(rows, columns, pairs, a, a_row, b, b_row, c, c_row, add);
}

/* out[c][r] = in[r][c] for words; rows and columns are multiples of 16. */
static void transpose(const uint32_t *in, int64_t in_row, int rows, int columns, uint32_t *out, int64_t out_row) {
    for (int r0 = 0; r0 < rows; r0 += 16) {
        for (int c0 = 0; c0 < columns; c0 += 16) {
            __m512i x[16];
            for (int i = 0; i < 16; i++) x[i] = _mm512_loadu_si512(in + (r0 + i) * in_row + c0);
            transpose_words(x);
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + (c0 + i) * out_row + r0, x[i]);
        }
    }
}

/* Words of two neighbouring rows, [rows / 2][dim], from rows of bfloat16. */
static void interleave(const uint16_t *in, int64_t in_row, int rows, int dim, uint32_t *out) {
    for (int r = 0; r < rows; r += 2)
        for (int d = 0; d < dim; d += 16) {
            const __m512i upper = _mm512_slli_epi32(widen(in + (r + 1) * in_row + d), 16);
            _mm512_storeu_si512(out + (int64_t)(r / 2) * dim + d, _mm512_or_si512(widen(in + r * in_row + d), upper));
        }
}

static inline __m512i join(__m256i lower, __m256i upper) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(lower), _mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
}

static inline __m512 exponential(const float *scores, float scale, float shift, __mmask16 mask) {
    const __m512 shifted = _mm512_fmsub_ps(_mm512_loadu_ps(scores), _mm512_set1_ps(scale), _mm512_set1_ps(shift));
    return _mm512_maskz_mov_ps(mask, exponentials(shifted));
}

/* The lanes of columns [j, j + 16) below `end`. */
static inline uint32_t lanes_until(int j, int end) {
    return end >= j + 16 ? 0xffffu : end <= j ? 0u : (1u << (end - j)) - 1u;
}

/* The lanes of columns [j, j + 16) that a row sees: those of [oldest, seen). */
static inline __mmask16 lanes(int j, int oldest, int seen) {
    return (__mmask16)(lanes_until(j, seen) & ~lanes_until(j, oldest));
}

/* Rows of one head as bfloat16 [total][dim]: `before` from token 0 on, `length` from `start` on, zeros after them. */
static void gather(const void *tensor, const Problem *p, int heads, int head, int before, int64_t start, int length,
                   int total, uint16_t *out) {
    const uint16_t *in = (const uint16_t *)tensor + (int64_t)head * p->dim;
    const int64_t stride = (int64_t)heads * p->dim;
    const size_t bytes = (size_t)p->dim * 2;
    for (int t = 0; t < before; t++) memcpy(out + (int64_t)t * p->dim, in + t * stride, bytes);
    out += (int64_t)before * p->dim;
    for (int t = 0; t < length; t++) memcpy(out + (int64_t)t * p->dim, in + (start + t) * stride, bytes);
    memset(out + (int64_t)length * p->dim, 0, (size_t)(total - before - length) * bytes);
}

static void gather_context(const void *tensor, const Problem *p, const Task *task, uint16_t *out) {
    gather(tensor, p, p->kv_heads, task->kv_head, task->before, task->start, task->length, task->width, out);
}

static void gather_block(const void *tensor, const Problem *p, const Task *task, int first, int rows, uint16_t *out) {
    gather(tensor, p, p->heads, task->head, 0, task->start + first, rows, BLOCK, out);
}

/* Hands out pieces of the working memory, each on its own cache line. */
static void *take(char **work, size_t bytes) {
    char *piece = *work;
    *work += (bytes + 63) / 64 * 64;
    return piece;
}

/* The larger one, backward: four planes of words [width][dim / 2] or rows, two of floats [width][dim] and one to turn
 * them, then the block's scores, their rounded forms and its rows. */
size_t veneer_attention_bf16_bytes(int64_t width, int dim) {
    const size_t plane = (size_t)width * (size_t)dim * 2, block = (size_t)BLOCK * (size_t)dim * 2;
    return 4 * plane + 3 * 2 * plane + 2 * BLOCK * (size_t)width * 4 + 3 * BLOCK * (size_t)width * 2 + 7 * block + 4096;
}

void veneer_attention_bf16_forward(const Problem *p, const Task *task, void *output, float *lse, void *memory) {
    const int dim = p->dim, width = task->width, words = dim / 2;
    char *work = memory;
    uint16_t *rows_of = take(&work, (size_t)width * dim * 2), *block = take(&work, BLOCK * dim * 2);
    uint32_t *keys_t = take(&work, (size_t)width * dim * 2), *values = take(&work, (size_t)width * dim * 2);
    float *scores = take(&work, (size_t)BLOCK * width * 4), *mixed = take(&work, BLOCK * dim * 4);
    uint16_t *probs = take(&work, (size_t)BLOCK * width * 2);
    gather_context(p->keys, p, task, rows_of);
    transpose((const uint32_t *)rows_of, words, width, words, keys_t, width);
    gather_context(p->values, p, task, rows_of);
    interleave(rows_of, dim, width, dim, values);
    for (int first = 0; first < task->length; first += BLOCK) {
        const int rows = task->length - first < BLOCK ? task->length - first : BLOCK;
        const int visible = seen_by(task, first), from = first_seen(p, task, first);
        const float scale = scale_left(p);
        gather_block(p->queries, p, task, first, rows, block);
        product(p, BLOCK, visible - from, words, (const uint32_t *)block, words, keys_t + from, width, scores + from, width,
                0);
        cap_scores(p, scores, width, from, visible);
        float inverse[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            const float *row = scores + (int64_t)i * width;
            uint16_t *out = probs + (int64_t)i * width;
            const int seen = i < rows ? task->before + first + i + 1 : 0;
            const int oldest = oldest_of(p, task->before + first + i);
            __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
            for (int j = from; j < seen; j += 16)
                largest = _mm512_mask_max_ps(largest, lanes(j, oldest, seen), largest, _mm512_loadu_ps(row + j));
            float shift = _mm512_reduce_max_ps(largest) * scale;
            if (p->sinks && p->sinks[task->head] > shift) shift = p->sinks[task->head];
            for (int j = from; j < visible; j += 16) {
                const __m512 weights =
                    j < seen ? exponential(row + j, scale, shift, lanes(j, oldest, seen)) : _mm512_setzero_ps();
                sum = _mm512_add_ps(sum, weights);
                _mm256_storeu_si256((__m256i *)(out + j), narrow(weights));
            }
            float total = _mm512_reduce_add_ps(sum);
            if (p->sinks) total += fast_exp(p->sinks[task->head] - shift);
            inverse[i] = 1.0f / total;
            if (i < rows) lse[(task->start + first + i) * p->heads + task->head] = shift + logf(total);
        }
        product(p, BLOCK, dim, (visible - from) / 2, (const uint32_t *)probs + from / 2, width / 2,
                values + (int64_t)from / 2 * dim, dim, mixed, dim, 0);
        for (int i = 0; i < rows; i++) {
            uint16_t *out = (uint16_t *)output + ((task->start + first + i) * p->heads + task->head) * dim;
            for (int d = 0; d < dim; d += 16)
                _mm256_storeu_si256(
                    (__m256i *)(out + d),
                    narrow(_mm512_mul_ps(_mm512_loadu_ps(mixed + i * dim + d), _mm512_set1_ps(inverse[i]))));
        }
    }
}

/* Rows i and i + 1 of P = exp(s·S − lse) and dS = s · P ∘ (dP − delta), rounded: interleaved, and dS as rows too. Row i
 * has `before` keys before it. Capped scores are scaled already, and dS then has the slope of the cap as a factor. */
static void two_rows(const Problem *p, int i, int width, int before, int from, int visible, const float *scores,
                     const float *dprobs, const float *shift, const float *delta, uint32_t *probs_b, uint32_t *ds_b,
                     uint16_t *ds) {
    const float scale = scale_left(p);
    for (int j = from; j < visible; j += 16) {
        __m256i prob[2], slope[2];
        for (int r = 0; r < 2; r++) {
            const int64_t place = (int64_t)(i + r) * width + j;
            /* A row after the document has seen = 0 and an infinite shift: its lanes are masked away. */
            const __mmask16 mask =
                shift[i + r] == INFINITY ? 0 : lanes(j, oldest_of(p, before + r), before + r + 1);
            const __m512 weights = mask ? exponential(scores + place, scale, shift[i + r], mask) : _mm512_setzero_ps();
            __m512 centred = _mm512_sub_ps(_mm512_loadu_ps(dprobs + place), _mm512_set1_ps(delta[i + r]));
            if (p->cap > 0.0f) {
                const __m512 share = _mm512_mul_ps(_mm512_loadu_ps(scores + place), _mm512_set1_ps(1.0f / p->cap));
                centred = _mm512_mul_ps(centred, _mm512_fnmadd_ps(share, share, _mm512_set1_ps(1.0f)));
            }
            prob[r] = narrow(weights);
            slope[r] = narrow(_mm512_maskz_mul_ps(mask, _mm512_mul_ps(weights, centred), _mm512_set1_ps(p->scale)));
            _mm256_storeu_si256((__m256i *)(ds + place), slope[r]);
        }
        _mm512_storeu_si512(probs_b + (int64_t)(i / 2) * width + j, join(prob[0], prob[1]));
        _mm512_storeu_si512(ds_b + (int64_t)(i / 2) * width + j, join(slope[0], slope[1]));
    }
}

void veneer_attention_bf16_backward(const Problem *p, const Task *task, int document, Gradients *g, void *memory) {
    const int dim = p->dim, width = task->width, words = dim / 2;
    const size_t plane = (size_t)width * dim * 2, rows_bytes = BLOCK * (size_t)dim * 2;
    char *work = memory;
    uint16_t *rows_of = take(&work, plane), *queries = take(&work, rows_bytes), *dout = take(&work, rows_bytes);
    uint32_t *keys_t = take(&work, plane), *values_t = take(&work, plane), *keys = take(&work, plane);
    uint32_t *queries_t = take(&work, rows_bytes), *dout_t = take(&work, rows_bytes), *pairs = take(&work, rows_bytes);
    float *dk_t = take(&work, 2 * plane), *dv_t = take(&work, 2 * plane), *turned = take(&work, 2 * plane);
    float *scores = take(&work, (size_t)BLOCK * width * 4), *dprobs = take(&work, (size_t)BLOCK * width * 4);
    uint32_t *probs_b = take(&work, (size_t)BLOCK * width * 2), *ds_b = take(&work, (size_t)BLOCK * width * 2);
    uint16_t *ds = take(&work, (size_t)BLOCK * width * 2);
    float *dq = take(&work, 2 * rows_bytes);
    gather_context(p->values, p, task, rows_of);
    transpose((const uint32_t *)rows_of, words, width, words, values_t, width);
    gather_context(p->keys, p, task, rows_of);
    transpose((const uint32_t *)rows_of, words, width, words, keys_t, width);
    interleave(rows_of, dim, width, dim, keys);
    memset(dk_t, 0, 2 * plane);
    memset(dv_t, 0, 2 * plane);
    for (int first = 0; first < task->length; first += BLOCK) {
        const int rows = task->length - first < BLOCK ? task->length - first : BLOCK;
        const int visible = seen_by(task, first), from = first_seen(p, task, first);
        float shift[BLOCK], delta[BLOCK];
        gather_block(p->queries, p, task, first, rows, queries);
        gather_block(g->grad, p, task, first, rows, dout);
        for (int i = 0; i < BLOCK; i++) {
            shift[i] = INFINITY;
            delta[i] = 0.0f;
            if (i >= rows) continue;
            const int64_t place = (task->start + first + i) * p->heads + task->head;
            const uint16_t *out = (const uint16_t *)g->output + place * dim, *grad = dout + i * dim;
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int d = 0; d < dim; d++) sum += from_bf16(grad[d]) * from_bf16(out[d]);
            delta[i] = sum;
            shift[i] = g->lse[place];
        }
        product(p, BLOCK, visible - from, words, (const uint32_t *)queries, words, keys_t + from, width, scores + from, width,
                0);
        product(p, BLOCK, visible - from, words, (const uint32_t *)dout, words, values_t + from, width, dprobs + from, width,
                0);
        cap_scores(p, scores, width, from, visible);
        for (int i = 0; i < BLOCK; i += 2)
            two_rows(p, i, width, task->before + first + i, from, visible, scores, dprobs, shift, delta, probs_b, ds_b, ds);
        product(p, BLOCK, dim, (visible - from) / 2, (const uint32_t *)ds + from / 2, width / 2,
                keys + (int64_t)from / 2 * dim, dim, dq, dim, 0);
        for (int i = 0; i < rows; i++)
            store_row(g->grad_q, BFLOAT16, ((task->start + first + i) * p->heads + task->head) * dim, dim, dq + i * dim);
        interleave(dout, dim, BLOCK, dim, pairs);
        transpose(pairs, dim, BLOCK / 2, dim, dout_t, BLOCK / 2);
        product(p, dim, visible - from, BLOCK / 2, dout_t, BLOCK / 2, probs_b + from, width, dv_t + from, width, 1);
        interleave(queries, dim, BLOCK, dim, pairs);
        transpose(pairs, dim, BLOCK / 2, dim, queries_t, BLOCK / 2);
        product(p, dim, visible - from, BLOCK / 2, queries_t, BLOCK / 2, ds_b + from, width, dk_t + from, width, 1);
    }
    transpose((const uint32_t *)dk_t, width, dim, width, (uint32_t *)turned, dim);
    scatter(p, task, document, 0, turned, g);
    transpose((const uint32_t *)dv_t, width, dim, width, (uint32_t *)turned, dim);
    scatter(p, task, document, 1, turned, g);
}
#else
typedef int nothing_here; /* an empty file is not C */
#endif

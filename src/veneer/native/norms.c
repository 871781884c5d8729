/* RMS norm of rows, of what two rows add up to where that is asked for, and its gradient: one read and one write each.
 *
 * A bfloat16 norm is rounded before it meets the weight, as in the reference models; so is a sum of two rows.
 */
#include <math.h>

#include "common.h"
#include "pairs.h"

/* sum = x + more; sum may be x. */
static void add_pairs(const uint16_t *x, const uint16_t *more, int dim, uint16_t *sum) {
    int i = 0;
#if BF16_PRODUCTS
    for (; i + 16 <= dim; i += 16) put(sum + i, _mm512_add_ps(floats(x + i), floats(more + i)));
#endif
    for (; i < dim; i++) sum[i] = to_bf16(from_bf16(x[i]) + from_bf16(more[i]));
}

static void add_floats(const float *x, const float *more, int dim, float *sum) {
#pragma omp simd
    for (int i = 0; i < dim; i++) sum[i] = x[i] + more[i];
}

/* Σ x². */
static float squares_of_pairs(const uint16_t *x, int dim) {
    float sum = 0.0f;
    int i = 0;
#if BF16_PRODUCTS
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (; i + 32 <= dim; i += 32) {
        const __m512 first = floats(x + i), second = floats(x + i + 16);
        even = _mm512_fmadd_ps(first, first, even);
        odd = _mm512_fmadd_ps(second, second, odd);
    }
    sum = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
#endif
#pragma omp simd reduction(+ : sum)
    for (int k = i; k < dim; k++) sum += from_bf16(x[k]) * from_bf16(x[k]);
    return sum;
}

static float squares_of_floats(const float *x, int dim) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < dim; i++) sum += x[i] * x[i];
    return sum;
}

/* y = round(x · rstd) · w. */
static void scale_pairs(const uint16_t *x, const float *weight, float rstd, int dim, uint16_t *y) {
    int i = 0;
#if BF16_PRODUCTS
    const __m512 r = _mm512_set1_ps(rstd);
    for (; i + 16 <= dim; i += 16) {
        const __m256i rounded = narrow(_mm512_mul_ps(floats(x + i), r));
        put(y + i, _mm512_mul_ps(floats_of(rounded), _mm512_loadu_ps(weight + i)));
    }
#endif
#pragma omp simd
    for (int k = i; k < dim; k++) y[k] = to_bf16(round_bf16(from_bf16(x[k]) * rstd) * weight[k]);
}

static void scale_floats(const float *x, const float *weight, float rstd, int dim, float *y) {
#pragma omp simd
    for (int i = 0; i < dim; i++) y[i] = x[i] * rstd * weight[i];
}

/* y = round(x · rstd) · w, rstd[row] = 1/√(mean(x²) + eps); x, y [rows, dim] of `dtype`, weight float32 [dim]. Where
 * `delta` is not NULL, `sum` gets x + delta, and that is what is normalised. */
int veneer_rms_norm_forward(int dtype, const void *x, const void *delta, const float *weight, float eps, int64_t rows, int dim,
                            void *sum, void *y, float *rstd, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = row * dim;
        if (dtype == BFLOAT16) {
            const uint16_t *in = (const uint16_t *)x + at;
            if (delta) add_pairs(in, (const uint16_t *)delta + at, dim, (uint16_t *)sum + at), in = (uint16_t *)sum + at;
            rstd[row] = 1.0f / sqrtf(squares_of_pairs(in, dim) / (float)dim + eps);
            scale_pairs(in, weight, rstd[row], dim, (uint16_t *)y + at);
        } else {
            const float *in = (const float *)x + at;
            if (delta) add_floats(in, (const float *)delta + at, dim, (float *)sum + at), in = (float *)sum + at;
            rstd[row] = 1.0f / sqrtf(squares_of_floats(in, dim) / (float)dim + eps);
            scale_floats(in, weight, rstd[row], dim, (float *)y + at);
        }
    }
    return 0;
}

/* Σ dy · w · x. */
static float inner_of_pairs(const uint16_t *x, const uint16_t *dy, const float *weight, int dim) {
    float sum = 0.0f;
    int i = 0;
#if BF16_PRODUCTS
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (; i + 32 <= dim; i += 32) {
        const __m512 first = _mm512_mul_ps(floats(dy + i), _mm512_loadu_ps(weight + i));
        const __m512 second = _mm512_mul_ps(floats(dy + i + 16), _mm512_loadu_ps(weight + i + 16));
        even = _mm512_fmadd_ps(first, floats(x + i), even);
        odd = _mm512_fmadd_ps(second, floats(x + i + 16), odd);
    }
    sum = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
#endif
#pragma omp simd reduction(+ : sum)
    for (int k = i; k < dim; k++) sum += from_bf16(dy[k]) * weight[k] * from_bf16(x[k]);
    return sum;
}

static float inner_of_floats(const float *x, const float *dy, const float *weight, int dim) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < dim; i++) sum += dy[i] * weight[i] * x[i];
    return sum;
}

/* dx = rstd · (dy · w − x · mean). */
static void gradient_of_pairs(const uint16_t *x, const uint16_t *dy, const float *weight, float rstd, float mean, int dim,
                              uint16_t *dx) {
    int i = 0;
#if BF16_PRODUCTS
    const __m512 r = _mm512_set1_ps(rstd), m = _mm512_set1_ps(mean);
    for (; i + 16 <= dim; i += 16) {
        const __m512 g = _mm512_mul_ps(floats(dy + i), _mm512_loadu_ps(weight + i));
        put(dx + i, _mm512_mul_ps(_mm512_fnmadd_ps(floats(x + i), m, g), r));
    }
#endif
#pragma omp simd
    for (int k = i; k < dim; k++) dx[k] = to_bf16(rstd * (from_bf16(dy[k]) * weight[k] - from_bf16(x[k]) * mean));
}

static void gradient_of_floats(const float *x, const float *dy, const float *weight, float rstd, float mean, int dim,
                               float *dx) {
#pragma omp simd
    for (int i = 0; i < dim; i++) dx[i] = rstd * (dy[i] * weight[i] - x[i] * mean);
}

/* With n = x·rstd and g = dy·w: dx = rstd · (g − n · mean(g·n)), plus `onto` where that is not NULL, which is the
 * gradient that reaches x past the norm. It is added to what was rounded, as autograd would. */
int veneer_rms_norm_backward(int dtype, const void *x, const float *weight, const float *rstd, const void *dy,
                             const void *onto, int64_t rows, int dim, void *dx, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = row * dim;
        const float share = rstd[row] * rstd[row] / (float)dim;
        if (dtype == BFLOAT16) {
            const uint16_t *in = (const uint16_t *)x + at, *grad = (const uint16_t *)dy + at;
            const float mean = inner_of_pairs(in, grad, weight, dim) * share;
            uint16_t *out = (uint16_t *)dx + at;
            gradient_of_pairs(in, grad, weight, rstd[row], mean, dim, out);
            if (onto) add_pairs(out, (const uint16_t *)onto + at, dim, out);
        } else {
            const float *in = (const float *)x + at, *grad = (const float *)dy + at;
            const float mean = inner_of_floats(in, grad, weight, dim) * share;
            float *out = (float *)dx + at;
            gradient_of_floats(in, grad, weight, rstd[row], mean, dim, out);
            if (onto) add_floats(out, (const float *)onto + at, dim, out);
        }
    }
    return 0;
}

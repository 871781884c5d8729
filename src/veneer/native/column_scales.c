/* Rows whose columns are multiplied by a factor each, as DoRA does with a product, and the gradients: one read and one
 * write each. Factors and their gradients are float32; what a row becomes is rounded once.
 */
#include "common.h"
#include "pairs.h"

#define ROWS 64 /* rows whose gradients of a factor are summed first; constant, so that no sum depends on the threads */

static void scale_pairs(const uint16_t *x, const float *scales, int dim, uint16_t *y) {
    int i = 0;
#if BF16_PRODUCTS
    for (; i + 16 <= dim; i += 16) put(y + i, _mm512_mul_ps(floats(x + i), _mm512_loadu_ps(scales + i)));
#endif
#pragma omp simd
    for (int k = i; k < dim; k++) y[k] = to_bf16(from_bf16(x[k]) * scales[k]);
}

static void scale_floats(const float *x, const float *scales, int dim, float *y) {
#pragma omp simd
    for (int i = 0; i < dim; i++) y[i] = x[i] * scales[i];
}

/* sums += dy · x. */
static void add_pairs(const uint16_t *x, const uint16_t *dy, int dim, float *sums) {
#pragma omp simd
    for (int i = 0; i < dim; i++) sums[i] += from_bf16(dy[i]) * from_bf16(x[i]);
}

static void add_floats(const float *x, const float *dy, int dim, float *sums) {
#pragma omp simd
    for (int i = 0; i < dim; i++) sums[i] += dy[i] * x[i];
}

static void scale_row(int dtype, const void *x, int64_t at, const float *scales, int dim, void *y) {
    if (dtype == BFLOAT16) scale_pairs((const uint16_t *)x + at, scales, dim, (uint16_t *)y + at);
    else scale_floats((const float *)x + at, scales, dim, (float *)y + at);
}

/* y = x · scales; x, y [rows, dim] of `dtype`, scales float32 [dim]. */
int veneer_scale_columns_forward(int dtype, const void *x, const float *scales, int64_t rows, int dim, void *y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) scale_row(dtype, x, row * dim, scales, dim, y);
    return 0;
}

/* dx = dy · scales, and d_scales [dim] = Σ dy · x over the rows. `sums` has room for `dim` floats of every ROWS rows.
   */
int veneer_scale_columns_backward(int dtype, const void *x, const float *scales, const void *dy, int64_t rows, int dim, void *dx,
                                  float *sums, float *d_scales, int threads) {
    const int64_t blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            float *own = sums + block * dim;
            memset(own, 0, (size_t)dim * 4);
            const int64_t end = (block + 1) * ROWS < rows ? (block + 1) * ROWS : rows;
            for (int64_t row = block * ROWS; row < end; row++) {
                const int64_t at = row * dim;
                scale_row(dtype, dy, at, scales, dim, dx);
                if (dtype == BFLOAT16) add_pairs((const uint16_t *)x + at, (const uint16_t *)dy + at, dim, own);
                else add_floats((const float *)x + at, (const float *)dy + at, dim, own);
            }
        }
#pragma omp for schedule(static)
        for (int i = 0; i < dim; i++) {
            float sum = 0.0f;
            for (int64_t block = 0; block < blocks; block++) sum += sums[block * dim + i];
            d_scales[i] = sum;
        }
    }
    return 0;
}

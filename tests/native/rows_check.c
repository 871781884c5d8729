/* What test_stored.py runs under emulation: the products of rows.c and frozen.c with every format, and the norms of
 * row_norms.c, against double precision; weights that are widened together, against those that are widened one by one; and
 * rows alone against rows in a batch. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "rows.h"
int veneer_rows_product(const Matrix *m, int products, const float *x, int rows, const float *bias, float *y, int threads);
int veneer_frozen_product(const Matrix *w, const Matrix *w2, const float *x, const float *x2, const float *bias,
                          float scale, int by_outputs, int64_t rows, float *y, int threads);
int veneer_row_norms(const Matrix *w, const float *a, const float *b, int rank, float scale, float *norms, int threads);
static uint64_t state = 88172645463325252ull;
static uint32_t next(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return (uint32_t)(state >> 32); }
static float normal(void) { float s = 0; for (int i = 0; i < 6; i++) s += (float)(next() & 0xffff) / 65536.0f - 0.5f; return s; }
static double larger(double a, double b) { return a > b ? a : b; }
/* The largest error of both products of training, of the sum of the terms. */
static double training_products(const Matrix *m, const float *w, const float *x, int rows, int *differing) {
    const int c = m->columns, d = (int)m->depth, most = c > d ? c : d;
    float *y = malloc(4 * (size_t)(rows * most)), *one = malloc(4 * (size_t)most);
    double worst = 0;
    for (int by_outputs = 0; by_outputs < 2; by_outputs++) {
        const int depth = by_outputs ? d : c, columns = by_outputs ? c : d;
        veneer_frozen_product(m, NULL, x, NULL, NULL, 1.0f, by_outputs, rows, y, 1);
        for (int r = 0; r < rows; r++) {
            veneer_frozen_product(m, NULL, x + r * depth, NULL, NULL, 1.0f, by_outputs, 1, one, 1);
            *differing += memcmp(one, y + r * columns, 4 * (size_t)columns) != 0;
            for (int i = 0; i < columns; i++) {
                double sum = 0, terms = 0;
                for (int k = 0; k < depth; k++) {
                    const double t = (double)(by_outputs ? w[i * d + k] : w[k * d + i]) * x[r * depth + k];
                    sum += t, terms += fabs(t);
                }
                worst = larger(worst, fabs(y[r * columns + i] - sum) / (terms + 1e-30));
            }
        }
    }
    free(y), free(one);
    return worst;
}
/* The largest error of the norms of rows under an update of rank 3, of the norm. */
static double updated_norms(const Matrix *m, const float *w) {
    const int c = m->columns, d = (int)m->depth;
    float *a = malloc(4 * 3 * (size_t)d), *b = malloc(4 * 3 * (size_t)c), *norms = malloc(4 * (size_t)c);
    for (int i = 0; i < 3 * d; i++) a[i] = normal();
    for (int i = 0; i < 3 * c; i++) b[i] = normal();
    veneer_row_norms(m, a, b, 3, 0.5f, norms, 1);
    double worst = 0;
    for (int i = 0; i < c; i++) {
        double squares = 0;
        for (int k = 0; k < d; k++) {
            double own = w[i * d + k];
            for (int r = 0; r < 3; r++) own += 0.5 * (double)b[3 * i + r] * a[r * d + k];
            squares += own * own;
        }
        worst = larger(worst, fabs(norms[i] - sqrt(squares)) / (sqrt(squares) + 1e-30));
    }
    free(a), free(b), free(norms);
    return worst;
}
int main(void) {
    static const int shapes[][2] = {{1, 32}, {7, 96}, {33, 64}, {48, 576}, {21, 1536}, {16, 1088}};
    float values[16];
    for (int i = 0; i < 16; i++) values[i] = normal();
    double worst = 0;
    int differing = 0, unequal = 0, checked = 0;
    for (int format = 0; format <= WEIGHT_Q8_0; format++)
        for (unsigned n = 0; n < sizeof shapes / sizeof *shapes; n++) {
            const int c = shapes[n][0], d = shapes[n][1];
            uint8_t *codes = aligned_alloc(64, (size_t)c * d * 4 + 8192);
            for (int i = 0; i < c * d * 4; i++) codes[i] = (uint8_t)next();
            float *scales = malloc(4 * (size_t)(c * d));
            for (int i = 0; i < c * d; i++) scales[i] = fabsf(normal()) + 0.01f;
            for (int i = 0; i < c * d; i++) {
                if (format == WEIGHT_FLOAT32) ((float *)codes)[i] = normal();
                if (format == WEIGHT_BFLOAT16) ((uint16_t *)codes)[i] = to_bf16(normal());
                if (format == WEIGHT_FLOAT16) ((uint16_t *)codes)[i] = (uint16_t)(next() & 0xbbff);
            }
            const int bytes = format == WEIGHT_Q8_0 ? 34 : format == WEIGHT_Q4_1 ? 20 : 18;
            if (format >= WEIGHT_Q4_0)
                for (int i = 0; i < c * d / 32; i++)
                    for (int h = 0; h < (format == WEIGHT_Q4_1 ? 2 : 1); h++) {
                        const uint16_t half = (uint16_t)(next() & 0xbbff);
                        memcpy(codes + i * bytes + 2 * h, &half, 2);
                    }
            const Matrix m = {.format = format, .block = 64, .nested = 1, .columns = c, .depth = d, .codes = codes,
                              .values = values, .scales = scales};
            float *w = malloc(4 * (size_t)(c * d)), *x = malloc(4 * (size_t)(40 * d)), *y = malloc(4 * 40 * (size_t)c),
                  *one = malloc(4 * (size_t)c);
            for (int i = 0; i < 40 * d; i++) x[i] = normal();
            for (int i = 0; i < c; i++) {
                veneer_rows_widen(&m, i, 0, d, w + i * d);
                for (int k = 0; k < d; k++) {
                    float alone;
                    veneer_rows_widen(&m, i, k, 1, &alone);
                    unequal += alone != w[i * d + k]; /* zeros of either sign are equal */
                }
            }
            worst = larger(worst, training_products(&m, w, x, 7, &differing));
            worst = larger(worst, updated_norms(&m, w));
            veneer_rows_product(&m, PRODUCTS_FLOATS, x, 40, NULL, y, 1);
            for (int r = 0; r < 40; r++) {
                veneer_rows_product(&m, PRODUCTS_FLOATS, x + r * d, 1, NULL, one, 1);
                differing += memcmp(one, y + r * c, 4 * (size_t)c) != 0;
                for (int i = 0; i < c; i++) {
                    double sum = 0, terms = 0;
                    for (int k = 0; k < d; k++) {
                        const double t = (double)w[i * d + k] * x[r * d + k];
                        sum += t, terms += fabs(t);
                    }
                    worst = larger(worst, fabs(y[r * c + i] - sum) / (terms + 1e-30));
                    checked++;
                }
            }
        }
    printf("%d products, largest error %.2g of the terms, %d weights unequal, %d rows differ in a batch\n", checked, worst,
           unequal, differing);
    return unequal || differing || checked == 0 || !(worst < 1e-6);
}

/* What test_stored.py runs under emulation: the products of rows.c with every format, against double precision; weights that
 * are widened together, against those that are widened one by one; and rows alone against rows in a batch. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "rows.h"
int veneer_rows_product(const Matrix *m, int products, const float *x, int rows, const float *bias, float *y, int threads);
static uint64_t state = 88172645463325252ull;
static uint32_t next(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return (uint32_t)(state >> 32); }
static float normal(void) { float s = 0; for (int i = 0; i < 6; i++) s += (float)(next() & 0xffff) / 65536.0f - 0.5f; return s; }
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
                    const double off = fabs(y[r * c + i] - sum) / (terms + 1e-30);
                    worst = off > worst ? off : worst;
                    checked++;
                }
            }
        }
    printf("%d products, largest error %.2g of the terms, %d weights unequal, %d rows differ in a batch\n", checked, worst,
           unequal, differing);
    return unequal || differing || checked == 0 || !(worst < 1e-6);
}

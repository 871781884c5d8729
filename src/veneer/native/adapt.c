/* Low-rank updates of few rows. A row's sums have one order, whatever rows and adapters are beside it: those over the
 * inputs have the lanes of rows.c, and those over the rank go up one by one, from what the base has made.
 */
#include "adapt.h"

typedef uint16_t half_vec __attribute__((vector_size(VL * 2), aligned(2), may_alias));
typedef uint32_t word_vec __attribute__((vector_size(VL * 4)));

void veneer_adapt_down(const Factor *factor, int64_t depth, const float *x, int rows, float *down, int64_t stride,
                       float *scratch) {
    const Matrix a = {.format = factor->format, .columns = factor->rank, .depth = depth, .codes = factor->down};
    for (int first = 0; first < factor->rank; first += UNIT) {
        const int rest = factor->rank - first;
        veneer_rows_unit(&a, x, rows, first, rest < UNIT ? rest : UNIT, 0, 1.0f, down, stride, scratch);
    }
    for (int row = 0; row < rows; row++)
        for (int r = 0; r < factor->rank; r++) down[row * stride + r] *= factor->scale;
}

#define DEFINE_UP(name, number, loaded, one)                                                                          \
    static void name(const Factor *f, int64_t width, const float *down, int first, int count, float *y) {             \
        int c = first;                                                                                                \
        for (; c + VL <= first + count; c += VL) {                                                                    \
            vec sum = *(const vec *)(y + c);                                                                          \
            const number *up = (const number *)f->up + c;                                                             \
            for (int r = 0; r < f->rank; r++, up += width) sum += down[r] * (loaded);                                 \
            if (f->bias) sum += *(const vec *)(f->bias + c);                                                          \
            *(vec *)(y + c) = sum;                                                                                    \
        }                                                                                                             \
        for (; c < first + count; c++) {                                                                              \
            float sum = y[c];                                                                                         \
            const number *up = (const number *)f->up + c;                                                             \
            for (int r = 0; r < f->rank; r++, up += width) sum += down[r] * (one);                                    \
            y[c] = f->bias ? sum + f->bias[c] : sum;                                                                  \
        }                                                                                                             \
    }
DEFINE_UP(up_float32, float, *(const vec *)up, *up)
DEFINE_UP(up_bfloat16, uint16_t, (vec)(__builtin_convertvector(*(const half_vec *)up, word_vec) << 16), from_bf16(*up))

void veneer_adapt_up(const Factor *factor, int64_t width, const float *down, int64_t stride, int rows, int first,
                     int count, float *y, int64_t y_stride) {
    for (int row = 0; row < rows; row++) {
        const float *own = down + row * stride;
        float *to = y + row * y_stride;
        if (factor->format == WEIGHT_BFLOAT16)
            up_bfloat16(factor, width, own, first, count, to);
        else
            up_float32(factor, width, own, first, count, to);
    }
}

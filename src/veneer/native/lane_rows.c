/* Rows of x as lanes (lane_rows.h). */
#include "lane_rows.h"

#if BF16_PRODUCTS

void veneer_lane_rows_lay_out(const Matrix *m, const float *x, int64_t stride, int rows, uint32_t *out, uint32_t *scratch) {
    const int64_t words = row_words(m->depth);
    for (int row = 0; row < rows; row++) veneer_words_prepare(m, x + row * stride, scratch + row * words);
    for (int64_t k = 0; k < words; k += LINE) {
        __m512i lines[LANE_ROWS];
        for (int row = 0; row < LANE_ROWS; row++)
            lines[row] = row < rows ? _mm512_loadu_si512(scratch + row * words + k) : _mm512_setzero_si512();
        transpose_words(lines);
        for (int i = 0; i < LINE; i++) _mm512_storeu_si512(out + (k + i) * LANE_ROWS, lines[i]);
    }
}

/* Sixteen sums of a row into y. */
INLINE void hand_row(__m512i line, __mmask16 mask, int add, float scale, float *y) {
    __m512 sum = _mm512_castsi512_ps(line);
    if (add) sum = _mm512_fmadd_ps(_mm512_set1_ps(scale), sum, _mm512_maskz_loadu_ps(mask, y));
    _mm512_mask_storeu_ps(y, mask, sum);
}

void veneer_lane_rows_hand_over(const float *found, int apart, int count, int rows, int add, float scale, float *y,
                                int64_t stride) {
    for (int first = 0; first < rows; first += LANE_ROWS, y += LANE_ROWS * stride)
        for (int c = 0; c < count; c += LANE_COLUMNS) {
            const __mmask16 mask = lanes_below(count - c);
            const float *from = found + c * apart + first;
            __m512i lines[LANE_COLUMNS];
#pragma GCC unroll 16
            for (int i = 0; i < LANE_COLUMNS; i++) lines[i] = _mm512_loadu_si512(from + i * apart);
            transpose_words(lines);
            if (first + LANE_ROWS <= rows) {
#pragma GCC unroll 16
                for (int i = 0; i < LANE_ROWS; i++) hand_row(lines[i], mask, add, scale, y + i * stride + c);
            } else {
                for (int i = 0; first + i < rows; i++) hand_row(lines[i], mask, add, scale, y + i * stride + c);
            }
        }
}

#endif

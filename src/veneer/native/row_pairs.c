/* Products of next tokens' rows in bfloat16 with float32 sums, where the processor multiplies pairs of bfloat16 faster
 * than floats: x and W are rounded to bfloat16, W once from a code times its scale, as for prompts and in training.
 *
 * The order of a sum is that of rows.c, with pairs instead of numbers: lane l sums the pairs l, l + VL, l + 2 VL, … of
 * a row in their order after widening, and the lanes are added in halves. Few rows are multiplied while their weights
 * are still in registers, more of them after the columns of a unit are widened. Both take every sum in one order, so
 * that a row's bits do not depend on the other rows. It is not the order of prompts.c, where rows are lanes: one row
 * would leave fifteen lanes of sixteen idle.
 */
#include "row_pairs.h"

#include "sums.h"
#include "words.h"

#if BF16_PRODUCTS

#define MOST_FEW 8     /* rows that are multiplied while weights are in registers, */
#define MOST_COLUMNS 4 /* and columns that are widened together for them */
#define MOST_SUMS (PAIR_ROWS * PAIR_COLUMNS)

/* A row of x and y for each of `rows`. */
typedef struct {
    const uint32_t *x;
    float *y;
    int64_t words, stride; /* from one row of x, and of y, to the next */
    int rows, add;
    float scale;
} Rows;

INLINE lanes pairs_fused(lanes sum, __m512i a, __m512i b) {
    return (lanes)_mm512_dpbf16_ps((__m512)sum, as_pairs(a), as_pairs(b));
}

/* `columns` columns from `column` on with their scales, of `rows` rows, both known at compile time, as is `halves`
 * (see rows.c). */
INLINE void few_rows(const Matrix *m, int format, int halves, const float *scales, const Rows *r, int rows, int columns,
                     int column) {
    const int64_t each = scale_room(m->depth, 1);
    lanes sums[MOST_SUMS];
    for (int i = 0; i < rows * columns; i++) sums[i] = (lanes){0};
    for (int64_t k = 0; k < m->depth; k += CHUNK, scales += SCALES) {
        __m512i w[MOST_COLUMNS][WORDS];
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            const int64_t place = (int64_t)(column + c) * m->depth + k;
            fetch_weights(format, behind(m, format), place, CHUNK);
            words_of(m, format, scales + c * each, halves, place, column + c, w[c]);
        }
#pragma GCC unroll 2
        for (int v = 0; v < WORDS; v++)
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) {
                const __m512i x = _mm512_loadu_si512(r->x + i * r->words + k / 2 + v * VL);
#pragma GCC unroll 4
                for (int c = 0; c < columns; c++)
                    sums[i * columns + c] = pairs_fused(sums[i * columns + c], w[c][v], x);
            }
    }
    hand_over(sums, rows, columns, r->add, r->scale, r->y + column, r->stride);
}

/* All of `count` columns from `first` on. Sums of all rows by the columns of a turn stay in registers. */
INLINE void few_columns(const Matrix *m, int format, int halves, const float *scales, const Rows *r, int rows, int first,
                        int count) {
    const int64_t each = scale_room(m->depth, 1);
    const int columns = rows <= 4 ? 4 : 2;
    int c = 0;
    for (; c + columns <= count; c += columns)
        few_rows(m, format, halves, scales + c * each, r, rows, columns, first + c);
    for (; c < count; c++) few_rows(m, format, halves, scales + c * each, r, rows, 1, first + c);
}

INLINE void few_of(const Matrix *m, int format, int halves, const float *scales, const Rows *r, int first, int count) {
    switch (r->rows) {
        case 1: few_columns(m, format, halves, scales, r, 1, first, count); break;
        case 2: few_columns(m, format, halves, scales, r, 2, first, count); break;
        case 3: few_columns(m, format, halves, scales, r, 3, first, count); break;
        case 4: few_columns(m, format, halves, scales, r, 4, first, count); break;
        case 5: few_columns(m, format, halves, scales, r, 5, first, count); break;
        case 6: few_columns(m, format, halves, scales, r, 6, first, count); break;
        case 7: few_columns(m, format, halves, scales, r, 7, first, count); break;
        case 8: few_columns(m, format, halves, scales, r, 8, first, count); break;
    }
}

#define DEFINE_FEW(name, format, halves)                                                              \
    static void name(const Matrix *m, const float *scales, const Rows *r, int first, int count) {     \
        few_of(m, format, halves, scales, r, first, count);                                           \
    }
DEFINE_FEW(few_float32, WEIGHT_FLOAT32, 0)
DEFINE_FEW(few_bfloat16, WEIGHT_BFLOAT16, 0)
DEFINE_FEW(few_float16, WEIGHT_FLOAT16, 0)
DEFINE_FEW(few_int8, WEIGHT_INT8, 0)
DEFINE_FEW(few_4bit, WEIGHT_4BIT, 0)
DEFINE_FEW(few_q4_0, WEIGHT_Q4_0, 0)
DEFINE_FEW(few_q4_1, WEIGHT_Q4_1, 0)
DEFINE_FEW(few_q8_0, WEIGHT_Q8_0, 0)
DEFINE_FEW(few_4bit_halves, WEIGHT_4BIT, 1)

/* What is read later on: `each` bytes at every step of a tile. */
typedef struct {
    const char *from;
    int64_t each;
} Ahead;

/* Rows from `row` on by columns that are widened, both counts known at compile time. */
INLINE void tile(const Rows *r, int row, int rows, const uint32_t *w, int columns, float *y, Ahead *ahead) {
    lanes sums[MOST_SUMS];
#pragma GCC unroll 24
    for (int i = 0; i < rows * columns; i++) sums[i] = (lanes){0};
    const uint32_t *x = r->x + row * r->words;
    const char *later = ahead->from;
    for (int64_t k = 0; k < r->words; k += VL) {
        __m512i right[PAIR_COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) right[c] = _mm512_loadu_si512(w + c * r->words + k);
        __builtin_prefetch(later, 0, 2);
        __builtin_prefetch(later + ahead->each / 2, 0, 2);
        later += ahead->each;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const __m512i left = _mm512_loadu_si512(x + i * r->words + k);
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) sums[i * columns + c] = pairs_fused(sums[i * columns + c], right[c], left);
        }
    }
    ahead->from = later;
    hand_over(sums, rows, columns, r->add, r->scale, y + row * r->stride, r->stride);
}

#define TILES(height)                                                                                        \
    static void tiles_##height(const Rows *r, int row, const uint32_t *w, int count, float *y, Ahead *ahead) { \
        int c = 0;                                                                                            \
        for (; c + PAIR_COLUMNS <= count; c += PAIR_COLUMNS)                                                  \
            tile(r, row, height, w + c * r->words, PAIR_COLUMNS, y + c, ahead);                               \
        for (; c < count; c++) tile(r, row, height, w + c * r->words, 1, y + c, ahead);                       \
    }
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)

/* Rows in heights of at most PAIR_ROWS, all of about the same, with the columns of a unit. */
static void many_rows(const Matrix *m, const float *scales, const Rows *r, int first, int count, uint32_t *scratch) {
    static void (*const tiles[])(const Rows *, int, const uint32_t *, int, float *, Ahead *) = {
        NULL, tiles_1, tiles_2, tiles_3, tiles_4, tiles_5, tiles_6};
    const int heights = (r->rows + PAIR_ROWS - 1) / PAIR_ROWS;
    const int64_t bytes = stored_bytes(m->format, whole_chunks(count * m->depth));
    const int64_t steps = heights * r->words / VL * ((count + PAIR_COLUMNS - 1) / PAIR_COLUMNS);
    Ahead ahead = {(const char *)m->codes + stored_bytes(m->format, whole_chunks(first * m->depth)) + bytes, bytes / steps};
    veneer_words_widen(m, scales, first, count, r->words, scratch);
    for (int i = 0; i < heights; i++) {
        const int row = i * r->rows / heights, stop = (i + 1) * r->rows / heights;
        tiles[stop - row](r, row, scratch, count, r->y + first, &ahead);
    }
}

void veneer_row_pairs_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                           int64_t stride, uint32_t *scratch) {
    static void (*const few[])(const Matrix *, const float *, const Rows *, int, int) = {
        few_float32, few_bfloat16, few_float16, few_int8, few_4bit, few_q4_0, few_q4_1, few_q8_0, few_4bit_halves};
    const Rows r = {x, y, row_words(m->depth), stride, rows, add, scale};
    float *scales = (float *)(scratch + UNIT * r.words);
    /* Neighbouring columns have neighbouring scales, which are read much faster all at once than column by column. */
    veneer_words_scales(m, first, count, scales);
    if (rows <= MOST_FEW && m->depth % CHUNK == 0)
        few[kind_of(m)](m, scales, &r, first, count);
    else
        many_rows(m, scales, &r, first, count, scratch);
}
#endif

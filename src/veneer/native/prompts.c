/* Products of prompts' rows in pairs of bfloat16 with float32 sums.
 *
 * Prompts have many rows, and what is computed of them is in the model's dtype, as in training: x and W are rounded to
 * bfloat16, sums are float32. The rows of x are lanes, arranged once an operation, and the weights of a column are
 * used in their stored order, two neighbours at a time, so that W is never transposed. Each sum goes along the depth
 * in one order independent of the number of rows.
 */
#include "prompts.h"

#if BF16_PRODUCTS

#define COLUMNS 6 /* columns of a tile of pairs */
#define STRIPS 4  /* sixteens of rows in a tile */
#define BLOCK (STRIPS * LANE_ROWS)

/* Words from one widened column to the next: one line more, so that columns do not share the cache's sets. */
static inline int64_t apart(int64_t depth) { return row_words(depth) + LINE; }

int64_t veneer_prompt_scratch(int64_t depth) {
    return PROMPT_UNIT * (apart(depth) + BLOCK) + scale_room(depth, PROMPT_UNIT);
}

/* Where a block of x, `strips` sixteens of rows, meets the widened columns of a unit: found[column][BLOCK]. */
typedef struct {
    const uint32_t *columns, *rows;
    int64_t apart, words;
    float *found;
} Meeting;

/* Six columns from `column` on with `strips` sixteens of rows; their number is known at compile time. */
INLINE void tile(const Meeting *t, int column, int strips) {
    __m512 sums[COLUMNS][STRIPS];
    for (int i = 0; i < COLUMNS; i++)
        for (int j = 0; j < strips; j++) sums[i][j] = _mm512_setzero_ps();
    const uint32_t *w = t->columns + column * t->apart, *x = t->rows;
    for (int64_t k = 0; k < t->words; k++, x += LANE_ROWS) {
        __m512bh right[STRIPS];
#pragma GCC unroll 4
        for (int j = 0; j < strips; j++) right[j] = as_pairs(_mm512_loadu_si512(x + j * LANE_ROWS * t->words));
#pragma GCC unroll 6
        for (int i = 0; i < COLUMNS; i++) {
            const __m512bh left = as_pairs(_mm512_set1_epi32((int)w[i * t->apart + k]));
#pragma GCC unroll 4
            for (int j = 0; j < strips; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < COLUMNS; i++)
        for (int j = 0; j < strips; j++) _mm512_storeu_ps(t->found + (column + i) * BLOCK + j * LANE_ROWS, sums[i][j]);
}

/* Columns beyond `count` are computed too, of whatever is there, up to a whole tile; nobody reads them. */
static void meet(const Meeting *t, int count, int strips) {
    for (int c = 0; c < count; c += COLUMNS) switch (strips) {
            case 1: tile(t, c, 1); break;
            case 2: tile(t, c, 2); break;
            case 3: tile(t, c, 3); break;
            default: tile(t, c, 4);
        }
}

void veneer_prompt_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                        int64_t stride, uint32_t *scratch) {
    float *found = (float *)(scratch + PROMPT_UNIT * apart(m->depth)), *scales = found + PROMPT_UNIT * BLOCK;
    Meeting t = {scratch, x, apart(m->depth), row_words(m->depth), found};
    veneer_words_scales(m, first, count, scales);
    veneer_words_widen(m, scales, first, count, t.apart, scratch);
    for (int row = 0; row < rows; row += BLOCK, t.rows += BLOCK * t.words) {
        const int left = rows - row < BLOCK ? rows - row : BLOCK;
        meet(&t, count, (left + LANE_ROWS - 1) / LANE_ROWS);
        veneer_lane_rows_hand_over(found, BLOCK, count, left, add, scale, y + row * stride + first, stride);
    }
}

#endif

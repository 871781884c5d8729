/* Rows of x as lanes: sixteen of them side by side, word by word, and what is found of them on its way into y. */
#ifndef VENEER_LANE_ROWS_H
#define VENEER_LANE_ROWS_H

#include "words.h"

#define LANE_ROWS 16    /* rows that stand together, */
#define LANE_COLUMNS 16 /* and columns whose sums are turned together */
#define LINE 16         /* words in a line of the cache */

/* Words that all rows take. */
static inline int64_t lane_words(int64_t rows, int64_t depth) {
    return (rows + LANE_ROWS - 1) / LANE_ROWS * LANE_ROWS * row_words(depth);
}

/* Up to LANE_ROWS rows of x, one every `stride` floats, as [row_words(depth)][LANE_ROWS] in the order of the weight's
 * words. `scratch` has as many words. */
void veneer_lane_rows_lay_out(const Matrix *m, const float *x, int64_t stride, int rows, uint32_t *out, uint32_t *scratch);

/* Sums of `count` columns, [columns][apart] lanes, into y for `rows` <= `apart` rows, one every `stride` floats. `add`:
 * y += scale · sum instead. Whole LANE_COLUMNS are read. */
void veneer_lane_rows_hand_over(const float *found, int apart, int count, int rows, int add, float scale, float *y,
                                int64_t stride);

#endif

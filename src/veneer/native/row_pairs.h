/* Products of next tokens' rows with a weight as it is stored, in bfloat16 with float32 sums. */
#ifndef VENEER_ROW_PAIRS_H
#define VENEER_ROW_PAIRS_H

#include "words.h"

#define PAIR_ROWS 6    /* rows that meet */
#define PAIR_COLUMNS 4 /* some columns in registers, where rows are many */

/* Words of a thread's working memory: the columns of a unit. */
static inline int64_t row_pairs_scratch(int64_t depth) { return UNIT * row_words(depth) + scale_room(depth, UNIT); }

/* As veneer_rows_unit, of x [rows][row_words(depth)] that is prepared. */
void veneer_row_pairs_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                           int64_t stride, uint32_t *scratch);

#endif

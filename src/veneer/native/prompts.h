/* Products of prompts' rows with a weight as it is stored, in pairs of bfloat16 with float32 sums. */
#ifndef VENEER_PROMPTS_H
#define VENEER_PROMPTS_H

#include "lane_rows.h"

#define PROMPT_UNIT 96 /* columns that a thread takes at a time: whole tiles */

/* Words (of 32 bits) of a thread's working memory. */
int64_t veneer_prompt_scratch(int64_t depth);

/* y[row][column] = x Wᵀ for `count` <= PROMPT_UNIT columns from `first` on and all rows of x, which are arranged as
 * lanes; a row of y every `stride` floats. `add`: y += scale · x Wᵀ instead. A row's bits do not depend on the other
 * rows. */
void veneer_prompt_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                        int64_t stride, uint32_t *scratch);

#endif

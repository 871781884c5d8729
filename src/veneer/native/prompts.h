/* Products of prompts' rows with a weight as it is stored, in bfloat16 with float32 sums. */
#ifndef VENEER_PROMPTS_H
#define VENEER_PROMPTS_H

#include "rows.h"

#define PROMPT_PANEL 16 /* rows of x that stand together */
#define PROMPT_UNIT 96  /* columns that a thread takes at a time: whole tiles of 6 and of 32 */

/* Pairs of numbers that a row of x, and of W, is filled up to. */
static inline int64_t prompt_pairs(int64_t depth) { return (depth + 31) / 32 * 16; }

/* Words (of 32 bits) of all panels of x, and of a thread's working memory. */
static inline int64_t prompt_panels(int64_t rows, int64_t depth) {
    return (rows + PROMPT_PANEL - 1) / PROMPT_PANEL * PROMPT_PANEL * prompt_pairs(depth);
}
int64_t veneer_prompt_scratch(int64_t depth);

/* A panel of x from up to PROMPT_PANEL rows, a row every `stride` floats, as [pairs][PROMPT_PANEL] words in the order of
 * the weight's widened columns (rows.h). */
void veneer_prompt_lay_out(int order, int64_t depth, const float *x, int64_t stride, int rows, uint32_t *panel,
                           uint32_t *scratch);

/* y[row][column] = x Wᵀ for `count` <= PROMPT_UNIT columns from `first` on and all rows of the panels; a row of y every
 * `stride` floats. `add`: y += scale · x Wᵀ instead. A row's bits do not depend on the rows beside it. */
void veneer_prompt_unit(const Matrix *m, int products, const uint32_t *panels, int rows, int first, int count, int add,
                        float scale, float *y, int64_t stride, uint32_t *scratch);

#endif

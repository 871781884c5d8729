/* Products of a step's rows with a weight as it is stored, in AMX's tiles: bfloat16 with float32 sums. */
#ifndef VENEER_TILES_H
#define VENEER_TILES_H

#include "amx.h"
#include "lane_rows.h"

/* Words (of 32 bits) of a thread's working memory; LANE_ROWS rows have room in it, while they are arranged. */
int64_t veneer_tiles_scratch(int64_t depth);

/* As veneer_rows_unit, of x that is arranged as lanes. */
void veneer_tiles_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                       int64_t stride, uint32_t *scratch);

#endif

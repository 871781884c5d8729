/* Low-rank updates in AMX's tiles (adapt_tiles.c), of factors that are stored for them. */
#ifndef VENEER_ADAPT_TILES_H
#define VENEER_ADAPT_TILES_H

#include "adapt.h"
#include "tiles.h"

#if HAS_TILES
/* Rows of x in bfloat16, as tiles read them, [rows][depth / 2] words. */
void veneer_adapt_round(const float *x, int64_t depth, int64_t apart, int rows, uint32_t *out);

/* As veneer_adapt_down, of one layer and such rows. What A makes of a row is in the row of `down` as two bfloat16 for
 * each rank. */
void veneer_adapt_down_tiles(const Factor *factor, int64_t depth, const uint32_t *x, int rows, float *down, int64_t stride,
                             const void *next, Shapes *shapes);

/* As veneer_adapt_up, of such rows. */
void veneer_adapt_up_tiles(const Factor *factor, int64_t width, const float *down, int64_t stride, int rows, int first,
                           int count, float *y, int64_t y_stride, Piece next, Shapes *shapes);
#endif

#endif

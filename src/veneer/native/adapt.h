/* Updates of many adapters in one step: the rows of each meet its own factors alone. */
#ifndef VENEER_ADAPT_H
#define VENEER_ADAPT_H

#include "rows.h"

/* A format of factors in bfloat16 in addition to WEIGHT_BFLOAT16: for tiles (adapt_tiles.c). A is in pairs of inputs
 * then, [in / 2][rank][2]. The rank and the columns are multiples of 16, the inputs of 32. */
#define FACTOR_TILES 16

/* The update of one layer by one adapter, which makes gain · (y + scale · (x Aᵀ) Bᵀ) + bias of the layer's own output
 * y. What factors.py calls FactorStruct. */
typedef struct {
    const void *down, *up; /* A [rank][in]; Bᵀ float32 [rank][out], bfloat16 [⌈rank / 2⌉][out][2], zeros after an odd rank;
                              NULL: the adapter leaves the layer as it is */
    const float *bias, *gain; /* [out] or NULL */
    int32_t format;        /* WEIGHT_FLOAT32, WEIGHT_BFLOAT16 or FACTOR_TILES, of both */
    int32_t rank;
    float scale;
} Factor;

/* Neighbouring rows under one adapter; a factor for every layer of the program. What factors.py calls SegmentStruct. */
typedef struct {
    int32_t start, stop;
    const Factor *factors;
} Segment;

#define ADAPTED_ROWS 16 /* most rows that meet A at a time: those of a tile */

/* Floats of a thread's working memory. */
int64_t veneer_adapt_scratch(int64_t depth);

/* Part of a matrix: rows of memory that begin `stride` bytes from each other. */
typedef struct {
    const char *at;
    int64_t stride;
} Piece;

/* Rows of the tiles that a thread has while it multiplies factors; 0: it has those of the base. */
typedef struct {
    int rows;
} Shapes;

/* What A of `count` layers with one input makes of `rows` rows of x [depth], at most ADAPTED_ROWS, `apart` floats from
 * one to the next: down[row][rank] = scale · x Aᵀ, the ranks of one layer after those of another, a row of `down` every
 * `stride` floats. Only `veneer_adapt_up` reads it (in tiles it has two bfloat16 for each rank). Meanwhile `next` is
 * fetched, the A that the thread reads next, or NULL. */
void veneer_adapt_down(const Factor *factors, int count, int64_t depth, const float *x, int64_t apart, int rows, float *down,
                       int64_t stride, float *scratch, const void *next, Shapes *shapes);

/* y[row][column] = gain · (y[row][column] + down · Bᵀ) + bias for `count` columns from `first` on; `width` is the
 * number of all columns. Meanwhile `next` is fetched, as many columns of the Bᵀ that the thread reads next; its address
 * may be NULL. */
void veneer_adapt_up(const Factor *factor, int64_t width, const float *down, int64_t stride, int rows, int first,
                     int count, float *y, int64_t y_stride, Piece next, Shapes *shapes);

/* What a thread does after its last factor of an operation. */
void veneer_adapt_end(Shapes *shapes);

#endif

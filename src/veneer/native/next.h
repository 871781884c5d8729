/* Products of a step's rows: by floats (rows.c), by pairs of bfloat16 (row_pairs.c), or in tiles of them (tiles.c). */
#ifndef VENEER_NEXT_H
#define VENEER_NEXT_H

#include "amx.h"
#include "rows.h"

/* The parts that rows fall into, one or a thread's own: where there are many rows, each part meets all columns
   separately. */
int veneer_next_parts(int products, int rows, int threads);

/* Rows of x are prepared for the products in pieces: how many there are, how many floats all of them take, and one of
 * them, from rows whose starts are `stride` floats apart. */
int veneer_next_pieces(const Matrix *m, int products, int rows);
int64_t veneer_next_room(const Matrix *m, int products, int rows);
void veneer_next_prepare(const Matrix *m, int products, const float *x, int64_t stride, int rows, int piece, float *out,
                         float *scratch);

/* Floats of a thread's working memory. */
int64_t veneer_next_scratch(int64_t depth, int products);

/* As veneer_rows_unit, of x that is prepared. */
void veneer_next_unit(const Matrix *m, int products, const float *x, int rows, int first, int count, int add, float scale,
                      float *y, int64_t stride, float *scratch);

#endif

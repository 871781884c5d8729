/* Products of few rows with a weight as it is stored: what decoding asks for at every step. */
#ifndef VENEER_ROWS_H
#define VENEER_ROWS_H

#include "common.h"

enum {
    WEIGHT_FLOAT32,
    WEIGHT_BFLOAT16,
    WEIGHT_FLOAT16,
    WEIGHT_INT8,
    WEIGHT_4BIT,
    WEIGHT_Q4_0, /* GGUF's own formats, block after block as in its files (blocks.h) */
    WEIGHT_Q4_1,
    WEIGHT_Q8_0,
};

/* A weight [columns][depth], row after row. What stored.py calls MatrixStruct. */
typedef struct {
    int32_t format;
    int32_t block;              /* 4 bits: weights of the flattened tensor that share a scale, a power of two from 32 on */
    int32_t nested;             /* 4 bits: scales that share a factor, a power of two, where they are themselves in 8 bits */
    int32_t columns;
    int64_t depth;
    const void *codes;
    const float *values;        /* 4 bits: what the sixteen codes mean */
    const float *scales;        /* int8: [columns]; 4 bits: [blocks], or NULL where they are nested: */
    const uint8_t *scale_codes; /* scale = scale_values[code] · scale_factors[block / nested] + scale_offset */
    const float *scale_values, *scale_factors;
    float scale_offset;
} Matrix;

#define CHUNK 64      /* weights that are widened at a time; a row of x is padded with zeros to whole chunks */
#define UNIT 48       /* columns that a thread takes at a time */

static inline int64_t whole_chunks(int64_t depth) { return (depth + CHUNK - 1) / CHUNK * CHUNK; }

/* The order in which widened weights stand within a chunk. PAIRED: as two to a byte fall apart, which differs by
 * instruction set. */
enum { NATURAL, PAIRED };
int veneer_rows_order(const Matrix *m);

/* A row of x [depth] in that order, zeros up to whole chunks. */
void veneer_rows_prepare(int order, int64_t depth, const float *x, float *out);

/* The weights [first, first + count) of a column, as floats in their own order. */
void veneer_rows_widen(const Matrix *m, int column, int64_t first, int64_t count, float *out);

/* Rows of x, each `stride` floats after the last, are prepared for the products in pieces: how many there are, how many
 * floats all of them take, and one of them. Few rows are prepared one by one, more of them in panels (panels.h). */
int veneer_rows_pieces(int order, int64_t depth, int rows);
int64_t veneer_rows_room(int order, int64_t depth, int rows);
void veneer_rows_prepare_piece(int order, int64_t depth, const float *x, int64_t stride, int rows, int piece, float *out);

/* y[row][column] = x · Wᵀ for `count` <= UNIT columns from `first` on; x prepared, a row of y every `stride` floats.
 * `add`: y += scale · x Wᵀ instead. Each sum has one order, independent of the number of rows. */
void veneer_rows_unit(const Matrix *m, const float *x, int rows, int first, int count, int add, float scale, float *y,
                      int64_t stride, float *scratch);

/* The same for rows of whole chunks, however many there are, that stand `apart` floats from one to the next. Weights in
 * 4 bits take scale_room of `scratch`. Meanwhile what is at `ahead` is fetched, as many bytes as the columns have;
 * NULL: what follows them. */
void veneer_rows_few(const Matrix *m, const float *x, int64_t apart, int rows, int first, int count, int add, float scale,
                     float *y, int64_t stride, float *scratch, const void *ahead);

#endif

/* Low-rank updates in AMX's tiles, where rank, inputs and columns are made of whole ones (adapt.h: FACTOR_TILES).
 *
 * x is rounded to bfloat16, as where it meets the base (tiles.c). What A makes of it is kept as two numbers in
 * bfloat16, what it is rounded to and what that leaves out, so that B meets it as exactly as in float32, to 2^-17. Sums
 * are float32.
 *
 * Rows of x and y are rows of tiles here, as many as there are: a tile's time grows with them, and y is added to where
 * it stands. Each row's sums go along the inputs in one order, independent of the other rows.
 */
#include "adapt_tiles.h"

#if HAS_TILES
#define ROWS ADAPTED_ROWS /* most rows of a tile */
#define RANKS 16          /* ranks of a tile */
#define COLUMNS 16        /* columns of a tile */
#define PIECE 32          /* inputs of a tile */

/* 0, 1: sums, or a part of y. 2: x. 3: A. 4, 5: what A made. 6: Bᵀ. */
IN_TILES static void shape(Shapes *shapes, int rows) {
    if (shapes->rows == rows) return;
    TileShapes s = {.palette = 1};
    for (int i = 0; i < 7; i++) s.row_bytes[i] = 64, s.rows[i] = (uint8_t)rows;
    s.rows[3] = PIECE / 2;
    s.row_bytes[4] = s.row_bytes[5] = RANKS * 2;
    s.rows[6] = RANKS / 2;
    _tile_loadconfig(&s);
    shapes->rows = rows;
}

void veneer_adapt_round(const float *x, int64_t depth, int64_t apart, int rows, uint32_t *out) {
    for (int row = 0; row < rows; row++, x += apart, out += depth / 2)
        for (int64_t k = 0; k < depth; k += PIECE)
            _mm512_storeu_si512(out + k / 2,
                                (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + k + 16), _mm512_loadu_ps(x + k)));
}

/* Sixteen sums, times the scale, into what they are rounded to and what that leaves out. */
static void split(const float *even, const float *odd, float scale, uint16_t *out) {
    const __m512 sum = _mm512_mul_ps(_mm512_add_ps(_mm512_loadu_ps(even), _mm512_loadu_ps(odd)), _mm512_set1_ps(scale));
    _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh(sum));
    const __m512 rest = _mm512_sub_ps(sum, (__m512)bf16_lanes(out));
    _mm256_storeu_si256((__m256i *)(out + RANKS), (__m256i)_mm512_cvtneps_pbh(rest));
}

/* Sixteen ranks from `rank` on of up to sixteen rows. Even and odd pieces have sums of their own: a tile waits for the
 * one before that has its sum. */
IN_TILES static void down_block(const Factor *f, int64_t depth, const uint32_t *x, int rows, int rank, const char *next,
                                float *down, int64_t stride) {
    const char *a = (const char *)f->down + rank * 4;
    const int64_t line = f->rank * 4, bytes = PIECE / 2 * line; /* of memory from one pair of inputs to the next */
    float sums[2][ROWS * RANKS];
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t k = 0; k < depth; k += PIECE, a += bytes, next += next ? bytes : 0) {
        for (int i = 0; next && i < PIECE / 2; i++) __builtin_prefetch(next + rank * 4 + i * line, 0, 2);
        _tile_loadd(2, x + k / 2, depth * 2);
        _tile_loadd(3, a, line);
        if (k / PIECE % 2)
            _tile_dpbf16ps(1, 2, 3);
        else
            _tile_dpbf16ps(0, 2, 3);
    }
    _tile_stored(0, sums[0], RANKS * 4);
    _tile_stored(1, sums[1], RANKS * 4);
    for (int row = 0; row < rows; row++)
        split(sums[0] + row * RANKS, sums[1] + row * RANKS, f->scale, (uint16_t *)(down + row * stride + rank));
}

void veneer_adapt_down_tiles(const Factor *factor, int64_t depth, const uint32_t *x, int rows, float *down, int64_t stride,
                             const void *next, Shapes *shapes) {
    shape(shapes, rows);
    for (int rank = 0; rank < factor->rank; rank += RANKS)
        down_block(factor, depth, x, rows, rank, next, down, stride);
}

/* Sixteen columns of y gain what sixteen ranks add to them. */
#define ADD_RANKS(tile, up, line, y, stride)  \
    do {                                      \
        _tile_loadd(tile, y, (stride) * 4);   \
        _tile_loadd(6, up, line);             \
        _tile_dpbf16ps(tile, 4, 6);           \
        _tile_dpbf16ps(tile, 5, 6);           \
        _tile_stored(tile, y, (stride) * 4);  \
    } while (0)

/* Sixteen ranks from `rank` on of as many rows as tiles have. */
IN_TILES static void up_block(const Factor *f, int64_t width, const float *down, int64_t stride, int rank, int first, int count,
                              float *y, int64_t y_stride, Piece next) {
    const char *up = (const char *)f->up + (rank / 2 * width + first) * 4;
    _tile_loadd(4, down + rank, stride * 4);
    _tile_loadd(5, down + rank + RANKS / 2, stride * 4);
    for (int c = 0; c < count; c += 2 * COLUMNS) {
        for (int i = 0; next.at && i < RANKS / 2; i++) {
            const char *from = next.at + (rank / 2 + i) * next.stride + c * 4;
            __builtin_prefetch(from, 0, 2);
            __builtin_prefetch(from + 64, 0, 2);
        }
        ADD_RANKS(0, up + c * 4, width * 4, y + c, y_stride);
        if (c + COLUMNS < count) ADD_RANKS(1, up + (c + COLUMNS) * 4, width * 4, y + c + COLUMNS, y_stride);
    }
}

void veneer_adapt_up_tiles(const Factor *factor, int64_t width, const float *down, int64_t stride, int rows, int first,
                           int count, float *y, int64_t y_stride, Piece next, Shapes *shapes) {
    for (int row = 0; row < rows; row += ROWS) {
        shape(shapes, rows - row < ROWS ? rows - row : ROWS);
        float *to = y + row * y_stride + first;
        for (int rank = 0; rank < factor->rank; rank += RANKS)
            up_block(factor, width, down + row * stride, stride, rank, first, count, to, y_stride, row ? (Piece){0} : next);
    }
    for (int row = 0; factor->gain && row < rows; row++)
        for (int c = first; c < first + count; c++)
            y[row * y_stride + c] = __builtin_fmaf(y[row * y_stride + c], factor->gain[c], factor->bias ? factor->bias[c] : 0.0f);
    for (int row = 0; !factor->gain && factor->bias && row < rows; row++)
        for (int c = first; c < first + count; c++) y[row * y_stride + c] += factor->bias[c];
}

#endif

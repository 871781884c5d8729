/* C = s · Σ_t narrow[t]ᵀ wide[t], from bfloat16 to float32: the gradients of LoRA's factors.
 *
 * An instruction of AVX-512 BF16 multiplies two neighbouring rows t and adds both to a float32 sum. Sixteen columns of
 * two rows of `wide` are a vector of pairs, made as they are read; a pair of `narrow` is one word, sixteen columns of
 * it a vector of sums each. Sixteen such vectors of either are a tile of AMX, those of `narrow` turned. Threads share
 * the columns of `wide`, and each goes through all rows in order, so that their number changes no bit.
 */
#include <stdlib.h>

#include "amx.h"
#include "common.h"

#if BF16_PRODUCTS

#define RANK 16   /* columns of `narrow` at a time: as many vectors of sums stay in registers */
#define BLOCK 128 /* rows at a time; they stay in the second-level cache for all columns */
#define AHEAD 64  /* columns further on that are fetched meanwhile: two lines of the cache */
#define STEP 32   /* rows of a tile */
#define TILE_WORDS (STEP / 2 * 16)

typedef struct {
    const uint16_t *narrow, *wide; /* [rows][rank], [rows][width] */
    int64_t rows;
    int rank, width, products;
} Outer;

/* Sixteen columns of rows `row` and `row` + 1; zeros beyond the last row and column. */
static inline __m512i two_rows(const uint16_t *rows, int width, int64_t row, int64_t end, int column) {
    const __mmask16 mask = lanes_below(width - column);
    const uint16_t *in = rows + row * width + column;
    return pairs_of(in, mask, in + width, row + 1 < end ? mask : 0);
}

/* sums [RANK][16] += the rows from `first` to `end`, for sixteen columns of `wide`; `words` [pairs][RANK]. */
static void add_block(const Outer *o, int64_t first, int64_t end, int column, const uint32_t *words, float *sums,
                      int64_t sums_row) {
    __m512 sum[RANK];
    for (int r = 0; r < RANK; r++) sum[r] = _mm512_loadu_ps(sums + r * sums_row);
    for (int64_t row = first; row < end; row += 2, words += RANK) {
        __builtin_prefetch(o->wide + row * o->width + column + AHEAD);
        __builtin_prefetch(o->wide + (row + 1) * o->width + column + AHEAD);
        const __m512bh right = as_pairs(two_rows(o->wide, o->width, row, end, column));
#pragma GCC unroll 16
        for (int r = 0; r < RANK; r++)
            sum[r] = _mm512_dpbf16_ps(sum[r], as_pairs(_mm512_set1_epi32((int)words[r])), right);
    }
    for (int r = 0; r < RANK; r++) _mm512_storeu_ps(sums + r * sums_row, sum[r]);
}

#if HAS_TILES
/* The same for 32 columns, of which sums has room for `count`, in tiles; `words` [steps][RANK][STEP / 2]. */
IN_TILES static void add_block_in_tiles(const Outer *o, int64_t first, int64_t end, int column, int count,
                                        const uint32_t *words, float *sums, int64_t sums_row) {
    uint32_t pairs[2][BLOCK / STEP * TILE_WORDS];
    const int64_t steps = (end - first + STEP - 1) / STEP;
    for (int64_t line = 0; line < steps * STEP / 2; line++)
        for (int half = 0; half < 2; half++) {
            const int64_t row = first + 2 * line;
            __builtin_prefetch(o->wide + (row + half) * o->width + column + AHEAD);
            const int at = column + 16 * half;
            const __m512i both = row < end && at < o->width ? two_rows(o->wide, o->width, row, end, at) : _mm512_setzero_si512();
            _mm512_storeu_si512(pairs[half] + line * 16, both);
        }
    _tile_loadd(0, sums, sums_row * 4);
    if (count > 16) _tile_loadd(1, sums + 16, sums_row * 4);
    for (int64_t step = 0; step < steps; step++) {
        _tile_loadd(2, words + step * RANK * STEP / 2, STEP * 2);
        _tile_loadd(3, pairs[0] + step * TILE_WORDS, 64);
        _tile_dpbf16ps(0, 2, 3);
        _tile_loadd(4, pairs[1] + step * TILE_WORDS, 64);
        _tile_dpbf16ps(1, 2, 4);
    }
    _tile_stored(0, sums, sums_row * 4);
    if (count > 16) _tile_stored(1, sums + 16, sums_row * 4);
}

/* Words [BLOCK / 2][RANK] as tiles of `narrow` turned, [BLOCK / STEP][RANK][STEP / 2]. */
static void turn(uint32_t *words) {
    for (int step = 0; step < BLOCK / STEP; step++, words += RANK * STEP / 2) {
        __m512i lines[16];
        for (int i = 0; i < 16; i++) lines[i] = _mm512_loadu_si512(words + i * RANK);
        transpose_words(lines);
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(words + i * 16, lines[i]);
    }
}
#endif

/* All rows for the columns from `begin` to `stop` (multiples of 16) and RANK columns of `narrow` from `rank` on. */
static void columns(const Outer *o, int rank, int begin, int stop, float *sums, int64_t sums_row) {
    uint32_t words[BLOCK / 2 * RANK];
    for (int64_t first = 0; first < o->rows; first += BLOCK) {
        const int64_t end = first + BLOCK < o->rows ? first + BLOCK : o->rows;
        for (int64_t row = first; row < end; row += 2)
            _mm512_storeu_si512(words + (row - first) / 2 * RANK, two_rows(o->narrow, o->rank, row, end, rank));
#if HAS_TILES
        if (o->products == PRODUCTS_TILES) {
            memset(words + (end - first + 1) / 2 * RANK, 0, (size_t)(BLOCK / 2 - (end - first + 1) / 2) * RANK * 4);
            turn(words);
            for (int column = begin; column < stop; column += 32)
                add_block_in_tiles(o, first, end, column, stop - column, words, sums + column, sums_row);
            continue;
        }
#endif
        for (int column = begin; column < stop; column += 16)
            add_block(o, first, end, column, words, sums + column, sums_row);
    }
}
#endif

/* out = scale · Σ_t narrow[t]ᵀ wide[t], float32: [rank, width], or [width, rank] where `turned`. narrow [rows, rank]
 * and wide [rows, width] are bfloat16. `products` is the kind of product: pairs or tiles. Returns 0, or 1 if memory ran
 * out. */
int veneer_outer(const uint16_t *narrow, const uint16_t *wide, float scale, int64_t rows, int rank, int width, int turned,
                 int products, float *out, int threads) {
#if BF16_PRODUCTS
    const Outer o = {narrow, wide, rows, rank, width, products};
    const int strips = (width + 15) / 16, ranks = (rank + RANK - 1) / RANK * RANK;
    const int64_t sums_row = (int64_t)strips * 16;
    float *sums = calloc((size_t)(ranks * sums_row), sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        const int begin = (int)((int64_t)strips * part / threads) * 16;
        const int stop = (int)((int64_t)strips * (part + 1) / threads) * 16;
        veneer_products_begin(products);
        for (int r = 0; r < rank; r += RANK) columns(&o, r, begin, stop, sums + r * sums_row, sums_row);
        for (int r = 0; r < rank; r++)
            for (int column = begin; column < stop && column < width; column++)
                out[turned ? (int64_t)column * rank + r : (int64_t)r * width + column] = scale * sums[r * sums_row + column];
        veneer_products_end(products);
    }
    free(sums);
    return 0;
#else
    (void)narrow, (void)wide, (void)scale, (void)rows, (void)rank, (void)width, (void)turned, (void)products;
    (void)out, (void)threads;
    return 1;
#endif
}

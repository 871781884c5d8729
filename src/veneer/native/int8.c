/* y = x · Wᵀ in 8 bits, with the quantising of x before and the scaling of the sums after it in the same pass.
 *
 * A row of x has one scale (its largest magnitude / 127), a row of W another; the sums of their products are exact in
 * int32, so neither blocks nor threads change a bit. AVX-512 VNNI multiplies unsigned by signed bytes, four to a lane:
 * x is held with 128 added, and the sums start from what that adds to them, 128 · Σ w, with the sign turned.
 */
#include <stdlib.h>

#include "common.h"

#if defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 8)
#define COMPILED 1
#include <immintrin.h>

#define LANES 16
#define ROWS 8        /* of a tile; ROWS · STRIPS sums stay in registers (24 of them did not) */
#define STRIPS 2      /* of a tile, LANES rows of W each */
#define BLOCK_ROWS 64 /* rows of x that are quantised at a time and stay in the second-level cache */
#define VNNI __attribute__((target("avx512vnni")))

typedef struct {
    int dtype;
    const int8_t *codes;    /* [strips][depth / 4][LANES][4] */
    const float *scales;    /* [strips · LANES] */
    const int32_t *offsets; /* [strips · LANES] */
    int depth, columns;
    void *y;
} Product;

static inline __m512 load_lanes(int dtype, const void *x, int64_t place, __mmask16 mask) {
    if (dtype == FLOAT32) return _mm512_maskz_loadu_ps(mask, (const float *)x + place);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)x + place));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline void store_lanes(int dtype, void *y, int64_t place, __mmask16 mask, __m512 value) {
    if (dtype == FLOAT32) {
        _mm512_mask_storeu_ps((float *)y + place, mask, value);
        return;
    }
    /* to_bf16 of common.h, lane by lane. */
    const __m512i bits = _mm512_castps_si512(value), upper = _mm512_srli_epi32(bits, 16);
    const __m512i even = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i stored = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
    _mm512_mask_cvtepi32_storeu_epi16((uint16_t *)y + place, mask, stored);
}

static inline __mmask16 lanes_below(int count) { return (__mmask16)(count >= LANES ? 0xffff : (1 << count) - 1); }

/* Codes + 128 of LANES elements from `place` on, those beyond `count` zero. */
static inline __m128i quantise_lanes(int dtype, const void *x, int64_t place, int count, __m512 inverse) {
    const __m512 scaled = _mm512_mul_ps(load_lanes(dtype, x, place, lanes_below(count)), inverse);
    return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(128)));
}

/* Codes + 128 of one row of x (to nearest even), and its scale. The largest magnitude is found among the bits, where a
 * NaN is above all: it becomes the scale, and with that every result of the row. */
static inline float quantise_row(int dtype, const void *x, int64_t row, int width, int depth, uint8_t *codes) {
    const int64_t start = row * width;
    __m512i most = _mm512_setzero_si512();
    int i = 0;
    if (dtype == BFLOAT16) {
        /* Twice as many at a time, halves of a lane being compared as they are stored. */
        const __m512i magnitude = _mm512_set1_epi16(0x7fff);
        for (; i + 2 * LANES <= width; i += 2 * LANES) {
            const __m512i bits = _mm512_loadu_si512((const uint16_t *)x + start + i);
            most = _mm512_max_epu16(most, _mm512_and_si512(bits, magnitude));
        }
        most = _mm512_slli_epi32(_mm512_max_epu16(most, _mm512_srli_epi32(most, 16)), 16);
    }
    for (; i < width; i += LANES) {
        const __m512i bits = _mm512_castps_si512(load_lanes(dtype, x, start + i, lanes_below(width - i)));
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    const float largest = bits_float(_mm512_reduce_max_epu32(most));
    const __m512 inverse = _mm512_set1_ps(largest >= 0x1p-100f ? 127.0f / largest : 0.0f);
    for (i = 0; i + LANES <= width; i += LANES)
        _mm_storeu_si128((void *)(codes + i), quantise_lanes(dtype, x, start + i, LANES, inverse));
    if (i < depth)
        _mm_mask_storeu_epi8(codes + i, lanes_below(depth - i), quantise_lanes(dtype, x, start + i, width - i, inverse));
    return largest / 127.0f;
}

/* ROWS rows of codes against `count` strips of W, to `rows` rows of y. */
VNNI __attribute__((always_inline)) static inline void tile(const Product *p, const uint8_t *x,
                                                            const float *row_scales, int strip, int count,
                                                            int64_t first, int rows) {
    const int64_t size = (int64_t)p->depth * LANES;
    const int8_t *w = p->codes + strip * size;
    __m512i sum[ROWS][STRIPS];
    for (int j = 0; j < count; j++)
        for (int i = 0; i < ROWS; i++) sum[i][j] = _mm512_loadu_si512(p->offsets + (strip + j) * LANES);
    for (int k = 0; k < p->depth; k += 4) {
        __m512i right[STRIPS];
        for (int j = 0; j < count; j++) right[j] = _mm512_loadu_si512(w + j * size + (int64_t)k * LANES);
        for (int i = 0; i < ROWS; i++) {
            int32_t four;
            memcpy(&four, x + (int64_t)i * p->depth + k, 4);
            for (int j = 0; j < count; j++)
                sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], _mm512_set1_epi32(four), right[j]);
        }
    }
    for (int j = 0; j < count; j++) {
        const int column = (strip + j) * LANES;
        const __mmask16 mask = lanes_below(p->columns - column);
        const __m512 scales = _mm512_loadu_ps(p->scales + column);
        for (int i = 0; i < ROWS; i++) {
            /* Not a loop to `rows`: an array that is indexed by a variable could not stay in registers. */
            if (i >= rows) continue;
            const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i][j]), _mm512_set1_ps(row_scales[i]));
            store_lanes(p->dtype, p->y, (first + i) * p->columns + column, mask, _mm512_mul_ps(value, scales));
        }
    }
}

#define DEFINE_STRIPS(name, count)                                                                                \
    VNNI static void name(const Product *p, const uint8_t *x, const float *row_scales, int strip, int64_t first, \
                          int rows) {                                                                             \
        for (int i = 0; i < rows; i += ROWS)                                                                      \
            tile(p, x + (int64_t)i * p->depth, row_scales + i, strip, count, first + i,                          \
                 rows - i < ROWS ? rows - i : ROWS);                                                              \
    }
DEFINE_STRIPS(wide_strips, STRIPS)
DEFINE_STRIPS(narrow_strip, 1)

#else
#define COMPILED 0
#endif

/* Whether the product is in this library. The processor must have AVX-512 VNNI besides. */
int veneer_int8_compiled(int threads) { return (void)threads, COMPILED; }

/* y [rows, columns] = quantised x [rows, width] · Wᵀ; x and y of `dtype`. W is packed: codes int8
 * [strips][depth / 4][16][4], depth the width in whole fours, zeros beyond its own rows and columns; scales float32 and
 * offsets int32 (−128 · Σ of a row's codes) are [strips · 16]. Returns 0, or 1 where memory ran out. */
int veneer_int8_product(int dtype, const void *x, const int8_t *codes, const float *scales, const int32_t *offsets,
                        int64_t rows, int width, int columns, void *y, int threads) {
#if COMPILED
    const Product p = {dtype, codes, scales, offsets, (width + 3) / 4 * 4, columns, y};
    const int strips = (columns + LANES - 1) / LANES;
    const int64_t most = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, blocks = (most + threads - 1) / threads * threads;
    const int block = (int)((rows + blocks - 1) / blocks + ROWS - 1) / ROWS * ROWS;
    /* Few rows (the next token of some answers): the threads share the columns instead. */
    const int parts = most < threads ? threads : 1;
    const int64_t tasks = (rows + block - 1) / block * parts;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        uint8_t *own = calloc((size_t)block, (size_t)p.depth);
        if (!own) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            if (!own) continue;
            const int64_t first = task / parts * block;
            const int count = rows - first < block ? (int)(rows - first) : block;
            float row_scales[BLOCK_ROWS];
            for (int i = 0; i < count; i++)
                row_scales[i] = quantise_row(dtype, x, first + i, width, p.depth, own + (int64_t)i * p.depth);
            const int part = (int)(task % parts), end = (part + 1) * strips / parts;
            int strip = part * strips / parts;
            for (; strip + STRIPS <= end; strip += STRIPS) wide_strips(&p, own, row_scales, strip, first, count);
            for (; strip < end; strip++) narrow_strip(&p, own, row_scales, strip, first, count);
        }
        free(own);
    }
    return failed;
#else
    (void)dtype, (void)x, (void)codes, (void)scales, (void)offsets, (void)rows, (void)width, (void)columns, (void)y;
    (void)threads;
    return 1;
#endif
}

/* y = x · Wᵀ in 8 bits, with the quantising of x before and the scaling of the sums after it in the same pass.
 *
 * A row of W has one scale, a row of x one for every GROUP of its columns: each the largest magnitude / 127. The sums
 * of a group are exact in int32 and are summed in float32, always in the same order, so that neither blocks nor
 * threads change a bit. AVX-512 VNNI multiplies unsigned by signed bytes, four to a lane: x is held with 128 added, and
 * the sums of a group start from what that adds to them, 128 · Σ w, with the sign turned.
 */
#include <stdlib.h>

#include "common.h"

#define GROUP 128 /* columns of x that share a scale, a multiple of 4; 255 · 127 · GROUP fits an int32 by far */

#if defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 8)
#define COMPILED 1
#include <immintrin.h>

#define LANES 16
#define ROWS 8        /* of a tile; its ROWS · STRIPS sums of a group stay in registers */
#define STRIPS 3      /* of a tile, LANES rows of W each */
#define BLOCK_ROWS 64 /* rows of x that are quantised at a time and stay in the second-level cache */
#define VNNI __attribute__((target("avx512vnni")))

typedef struct {
    int dtype;
    const int8_t *codes;    /* [strips][depth / 4][LANES][4] */
    const float *scales;    /* [strips · LANES] */
    const int32_t *offsets; /* [groups][strips · LANES] */
    int depth, groups, columns, strips;
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
    const __m512i half = _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i stored = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
    _mm512_mask_cvtepi32_storeu_epi16((uint16_t *)y + place, mask, stored);
}

/* Codes + 128 of `width` elements of x from `place` on (to nearest even), 128 up to `depth`; returns their scale. The
 * largest magnitude is found among the bits, where a NaN is above all: it becomes the scale and is seen in the result.
 * */
static inline float quantise(int dtype, const void *x, int64_t place, int width, int depth, uint8_t *codes) {
    __m512 values[GROUP / LANES];
    __m512i most = _mm512_setzero_si512();
    for (int v = 0; v < GROUP / LANES; v++) {
        values[v] = load_lanes(dtype, x, place + v * LANES, lanes_below(width > v * LANES ? width - v * LANES : 0));
        const __m512i bits = _mm512_castps_si512(values[v]);
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    const float largest = bits_float(_mm512_reduce_max_epu32(most));
    const __m512 inverse = _mm512_set1_ps(largest >= 0x1p-100f ? 127.0f / largest : 0.0f);
    for (int v = 0; v < GROUP / LANES; v++) {
        const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(values[v], inverse));
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(code, _mm512_set1_epi32(128)));
        _mm_mask_storeu_epi8(codes + v * LANES, lanes_below(depth > v * LANES ? depth - v * LANES : 0), bytes);
    }
    return largest / 127.0f;
}

/* sums += Σ over fours of bytes, x unsigned and w signed. Not the intrinsic, because GCC (12) takes it for an
 * expression that is partly redundant and keeps every sum a second time, in memory: that cost a third of the rate. */
VNNI static inline __m512i add_fours(__m512i sums, __m512i x, __m512i w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(w));
    return sums;
}

/* ROWS rows of codes against `count` strips of W, in one group of columns; `sums` [ROWS][STRIPS][LANES] gain them. */
VNNI __attribute__((always_inline)) static inline void tile(const Product *p, const uint8_t *x,
                                                            const float *row_scales, int group, int strip, int count,
                                                            float *sums) {
    const int64_t size = (int64_t)p->depth * LANES;
    const int start = group * GROUP, end = start + GROUP < p->depth ? start + GROUP : p->depth;
    const int8_t *w = p->codes + strip * size;
    const int32_t *offsets = p->offsets + ((int64_t)group * p->strips + strip) * LANES;
    __m512i part[ROWS][STRIPS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < count; j++) part[i][j] = _mm512_loadu_si512(offsets + j * LANES);
    for (int k = start; k < end; k += 4) {
        __m512i right[STRIPS];
        for (int j = 0; j < count; j++) right[j] = _mm512_loadu_si512(w + j * size + (int64_t)k * LANES);
        for (int i = 0; i < ROWS; i++) {
            int32_t four;
            memcpy(&four, x + (int64_t)i * p->depth + k, 4);
            for (int j = 0; j < count; j++)
                part[i][j] = add_fours(part[i][j], _mm512_set1_epi32(four), right[j]);
        }
    }
    for (int i = 0; i < ROWS; i++) {
        const __m512 scale = _mm512_set1_ps(row_scales[i]);
        for (int j = 0; j < count; j++) {
            float *sum = sums + (i * STRIPS + j) * LANES;
            const __m512 before = group ? _mm512_load_ps(sum) : _mm512_setzero_ps();
            _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(part[i][j]), scale, before));
        }
    }
}

/* All rows of a block against `count` strips. Groups go outside: what a group's tiles read of x and W, and their sums,
 * stay in the first-level cache. */
#define DEFINE_STRIPS(name, count)                                                                                     \
    VNNI static void name(const Product *p, const uint8_t *x, const float *scales, int strip, int rows, float *sums) { \
        for (int group = 0; group < p->groups; group++)                                                                \
            for (int i = 0; i < rows; i += ROWS)                                                                       \
                tile(p, x + (int64_t)i * p->depth, scales + group * BLOCK_ROWS + i, group, strip, count,               \
                     sums + i * STRIPS * LANES);                                                                       \
    }
DEFINE_STRIPS(wide_strips, STRIPS)
DEFINE_STRIPS(narrow_strip, 1)

/* The sums of `count` strips, scaled and rounded, to `rows` rows of y from `first` on. */
static void finish(const Product *p, int strip, int count, int64_t first, int rows, const float *sums) {
    for (int j = 0; j < count; j++) {
        const int column = (strip + j) * LANES;
        const __mmask16 mask = lanes_below(p->columns - column);
        const __m512 scales = _mm512_loadu_ps(p->scales + column);
        for (int i = 0; i < rows; i++)
            store_lanes(p->dtype, p->y, (first + i) * p->columns + column, mask,
                        _mm512_mul_ps(_mm512_load_ps(sums + (i * STRIPS + j) * LANES), scales));
    }
}

/* Task `part` of `parts` over `rows` rows of x from `first` on: quantise them, then a share of the columns. */
static void block(const Product *p, const void *x, int64_t first, int rows, int width, int part, int parts,
                  uint8_t *codes, float *row_scales, float *sums) {
    for (int i = 0; i < rows; i++)
        for (int group = 0; group < p->groups; group++) {
            const int start = group * GROUP;
            const int many = width - start < GROUP ? width - start : GROUP;
            const int deep = p->depth - start < GROUP ? p->depth - start : GROUP;
            row_scales[group * BLOCK_ROWS + i] =
                quantise(p->dtype, x, (first + i) * width + start, many, deep, codes + (int64_t)i * p->depth + start);
        }
    const int end = (part + 1) * p->strips / parts;
    int strip = part * p->strips / parts;
    for (; strip + STRIPS <= end; strip += STRIPS) {
        wide_strips(p, codes, row_scales, strip, rows, sums);
        finish(p, strip, STRIPS, first, rows, sums);
    }
    for (; strip < end; strip++) {
        narrow_strip(p, codes, row_scales, strip, rows, sums);
        finish(p, strip, 1, first, rows, sums);
    }
}

#else
#define COMPILED 0
#endif

/* Whether the product is in this library. The processor must have AVX-512 VNNI besides. */
int veneer_int8_compiled(int threads) { return (void)threads, COMPILED; }

/* y [rows, columns] = quantised x [rows, width] · Wᵀ; x and y of `dtype`. W is packed: codes int8
 * [strips][depth / 4][16][4], depth the width in whole fours, zeros beyond its own rows and columns; scales float32
 * [strips · 16]; offsets int32 [groups][strips · 16], −128 · Σ of a row's codes in a group of GROUP columns.
 * Returns 0, or 1 if memory ran out. */
int veneer_int8_product(int dtype, const void *x, const int8_t *codes, const float *scales, const int32_t *offsets,
                        int64_t rows, int width, int columns, void *y, int threads) {
#if COMPILED
    const int depth = (width + 3) / 4 * 4, groups = (width + GROUP - 1) / GROUP;
    const Product p = {dtype, codes, scales, offsets, depth, groups, columns, (columns + LANES - 1) / LANES, y};
    const int64_t fewest = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, blocks = (fewest + threads - 1) / threads * threads;
    const int height = (int)((rows + blocks - 1) / blocks + ROWS - 1) / ROWS * ROWS;
    /* Few rows (the next token of some answers): the threads share the columns instead. */
    const int parts = fewest < threads ? threads : 1;
    const int64_t tasks = (rows + height - 1) / height * parts;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        uint8_t *own = calloc((size_t)height, (size_t)depth);
        float *row_scales = calloc((size_t)groups * BLOCK_ROWS, sizeof(float));
        float *sums = aligned_alloc(64, sizeof(float) * BLOCK_ROWS * STRIPS * LANES);
        if (!own || !row_scales || !sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            if (!own || !row_scales || !sums) continue;
            const int64_t first = task / parts * height;
            const int count = rows - first < height ? (int)(rows - first) : height;
            block(&p, x, first, count, width, (int)(task % parts), parts, own, row_scales, sums);
        }
        free(own);
        free(row_scales);
        free(sums);
    }
    return failed;
#else
    (void)dtype, (void)x, (void)codes, (void)scales, (void)offsets, (void)rows, (void)width, (void)columns, (void)y;
    (void)threads;
    return 1;
#endif
}

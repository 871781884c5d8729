/* Stored weights, and rows of x, as words of two numbers in bfloat16: each weight is rounded once, from its code times
 * its scale.
 *
 * The words of a chunk are stored as its codes fall apart, which differs by format; those of x are stored as the
 * weight's.
 */
#ifndef VENEER_WORDS_H
#define VENEER_WORDS_H

#include "pairs.h"
#include "widen.h"

#define CHUNK_WORDS (CHUNK / 2)

/* Words of a row, or of a column: up to whole chunks. */
static inline int64_t row_words(int64_t depth) { return whole_chunks(depth) / 2; }

/* A row of x [depth] as words, in the order of the weight's own; zeros up to whole chunks. */
void veneer_words_prepare(const Matrix *m, const float *x, uint32_t *out);

/* The scales of `count` columns (scale_room), of weights in 4 bits alone. */
void veneer_words_scales(const Matrix *m, int first, int count, float *out);

/* `count` columns from `first` on, with their scales, as words; zeros beyond the depth. A column every `apart` words.
   */
void veneer_words_widen(const Matrix *m, const float *scales, int first, int count, int64_t apart, uint32_t *out);

/* Their chunk number `chunk` alone, a column every CHUNK_WORDS. What stands from `ahead` on, as many bytes as the
 * chunks take, is fetched meanwhile. */
void veneer_words_chunk(const Matrix *m, const float *scales, int first, int count, int64_t chunk, const char *ahead,
                        uint32_t *out);

#if BF16_PRODUCTS
#define WORDS 2  /* vectors of words in a chunk */
#define HALVES 8 /* the place of 4 bits whose halves of a chunk have scales of their own */

/* The place of a weight among functions for each format. */
static inline int kind_of(const Matrix *m) { return m->format == WEIGHT_4BIT && m->block < CHUNK ? HALVES : m->format; }

/* Sixteen numbers rounded, twice: a permutation of words reads five bits of an index, whatever the fifth is. */
INLINE __m512i rounded_table(__m512 values) { return (__m512i)_mm512_cvtne2ps_pbh(values, values); }

/* A chunk of 4-bit codes: sixteen words of four codes each, whose codes fall apart by shifts. */
INLINE void words_of_codes(const Matrix *m, const float *scales, int halves, int64_t place, __m512i w[WORDS]) {
    const __m512 values = _mm512_loadu_ps(m->values);
    const __m256i codes = _mm256_loadu_si256((const __m256i *)((const uint8_t *)m->codes + (uint64_t)place / 2));
    const __m512i both = _mm512_broadcast_i64x4(codes), table = rounded_table(values * _mm512_set1_ps(scales[0]));
    const __m512i right = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i low = _mm512_srlv_epi16(both, right);
    const __m512i high = _mm512_srlv_epi16(both, _mm512_add_epi16(right, _mm512_set1_epi16(8)));
    w[0] = _mm512_permutexvar_epi16(low, table);
    w[1] = _mm512_permutexvar_epi16(high, table);
    if (halves) {
        const __m512i other = rounded_table(values * _mm512_set1_ps(scales[1]));
        w[0] = _mm512_mask_permutexvar_epi16(w[0], 0xff00ff00u, low, other);
        w[1] = _mm512_mask_permutexvar_epi16(w[1], 0xff00ff00u, high, other);
    }
}

/* A block of GGUF's 4-bit codes: eight words of four codes each. */
INLINE __m512i words_of_block(int format, const uint8_t *block) {
    const __m512i right = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(_mm_set1_epi16(4), _mm_setzero_si128())),
                                             _mm256_set_m128i(_mm_set1_epi16(12), _mm_set1_epi16(8)), 1);
    const __m128i codes = _mm_loadu_si128((const __m128i *)(block + block_head(format)));
    return _mm512_permutexvar_epi16(_mm512_srlv_epi16(_mm512_broadcast_i32x4(codes), right),
                                    rounded_table((__m512)block_table(format, block)));
}

/* A chunk of a column as words. */
INLINE void words_of(const Matrix *m, int format, const float *scales, int halves, int64_t place, int column,
                     __m512i w[WORDS]) {
    if (format == WEIGHT_4BIT) {
        words_of_codes(m, scales, halves, place, w);
    } else if (format == WEIGHT_Q4_0 || format == WEIGHT_Q4_1) {
        for (int i = 0; i < WORDS; i++) w[i] = words_of_block(format, block_at(m, format, place + i * GGUF_BLOCK));
    } else if (format == WEIGHT_BFLOAT16) {
        for (int i = 0; i < WORDS; i++) w[i] = _mm512_loadu_si512((const uint16_t *)m->codes + place + i * 32);
    } else {
        const Table table = TABLE_OF(m);
        for (int i = 0; i < WORDS; i++) {
            vec half[HALF];
            widen_half(m, format, &table, scales, halves, place, column, i, half);
            w[i] = (__m512i)_mm512_cvtne2ps_pbh((__m512)half[1], (__m512)half[0]);
        }
    }
}
#endif

#endif

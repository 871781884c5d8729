/* GGUF's blocks of 32 neighbouring weights of a row, as its files hold them.
 *
 * A block begins with a float16 scale d. Q8_0 has 32 signed bytes q after it, and a weight is q d. Q4_0 and Q4_1 end
 * with sixteen bytes: their lower halves are the codes q of the first sixteen weights, the upper ones those of the
 * others. A weight is (q - 8) d in Q4_0; Q4_1 has a second float16, m, and a weight is q d + m. In float32 all products
 * are exact, so that a weight is rounded once at most, whether or not product and sum are fused.
 */
#ifndef VENEER_BLOCKS_H
#define VENEER_BLOCKS_H

#include "lanes.h"
#include "rows.h"

#define GGUF_BLOCK 32

INLINE int is_blocks(int format) { return format >= WEIGHT_Q4_0; }

/* Bytes of a block, and those of them that are numbers for all of it. */
INLINE int64_t block_bytes(int format) { return format == WEIGHT_Q8_0 ? 34 : format == WEIGHT_Q4_1 ? 20 : 18; }
INLINE int block_head(int format) { return format == WEIGHT_Q4_1 ? 4 : 2; }

INLINE const uint8_t *block_at(const Matrix *m, int format, int64_t place) {
    return (const uint8_t *)m->codes + (uint64_t)place / GGUF_BLOCK * block_bytes(format);
}

INLINE uint16_t half_at(const uint8_t *in) {
    uint16_t stored;
    memcpy(&stored, in, 2);
    return stored;
}

/* A float16 in all lanes. */
INLINE lanes half_lanes(const uint8_t *in) {
#if VL == 16
    return (lanes)_mm512_cvtph_ps(_mm256_set1_epi16((short)half_at(in)));
#elif VL == 8 && defined(__F16C__)
    return (lanes)_mm256_cvtph_ps(_mm_set1_epi16((short)half_at(in)));
#elif defined(__aarch64__)
    return (lanes)vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half_at(in))));
#else
    return spread(from_f16(half_at(in)));
#endif
}

/* The halves of VL bytes, the lower ones or the upper ones, as numbers. */
INLINE lanes low_codes(const uint8_t *in) {
#if VL == 8 && defined(__AVX2__)
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)in));
    return (lanes)_mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
#else
    lanes out;
    for (int i = 0; i < VL; i++) out[i] = (float)(in[i] & 15);
    return out;
#endif
}

INLINE lanes high_codes(const uint8_t *in) {
#if VL == 8 && defined(__AVX2__)
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)in));
    return (lanes)_mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
#else
    lanes out;
    for (int i = 0; i < VL; i++) out[i] = (float)(in[i] >> 4);
    return out;
#endif
}

#if VL == 16
/* What the sixteen codes of a block mean: one register, in which a permutation that reads four bits of an index looks
   up. */
INLINE lanes block_table(int format, const uint8_t *block) {
    const lanes in_order = (lanes)_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const lanes centred = (lanes)_mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const lanes scale = half_lanes(block);
    return format == WEIGHT_Q4_1 ? fused(half_lanes(block + 2), in_order, scale) : centred * scale;
}
#endif

/* The 32 weights of a block of 4-bit codes. */
INLINE void widen_4bit_block(int format, const uint8_t *block, vec *w) {
    const uint8_t *codes = block + block_head(format);
#if VL == 16
    const __m512 table = (__m512)block_table(format, block);
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    w[0] = (vec)_mm512_permutexvar_ps(bytes, table);
    w[1] = (vec)_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
#else
    const lanes scale = half_lanes(block), low = format == WEIGHT_Q4_1 ? half_lanes(block + 2) : scale * -8.0f;
    for (int v = 0; v < 16 / VL; v++) {
        w[v] = (vec)fused(low, low_codes(codes + v * VL), scale);
        w[16 / VL + v] = (vec)fused(low, high_codes(codes + v * VL), scale);
    }
#endif
}

/* The 32 weights of a block. */
INLINE void widen_block(int format, const uint8_t *block, vec *w) {
    if (format != WEIGHT_Q8_0) {
        widen_4bit_block(format, block, w);
        return;
    }
    const lanes scale = half_lanes(block);
    for (int v = 0; v < GGUF_BLOCK / VL; v++)
        w[v] = (vec)(int8_lanes((const int8_t *)block + 2 + v * VL) * scale);
}

/* One weight, by its place in the flattened tensor. */
static inline float block_element(const Matrix *m, int64_t place) {
    const uint8_t *block = block_at(m, m->format, place), *codes = block + block_head(m->format);
    const int i = (int)(place % GGUF_BLOCK);
    const float scale = from_f16(half_at(block));
    if (m->format == WEIGHT_Q8_0) return (float)(int8_t)codes[i] * scale;
    const float code = (float)(i < 16 ? codes[i] & 15 : codes[i - 16] >> 4);
    return m->format == WEIGHT_Q4_1 ? __builtin_fmaf(code, scale, from_f16(half_at(block + 2))) : (code - 8.0f) * scale;
}

#endif

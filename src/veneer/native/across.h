/* Stored weights widened to float32 across columns: a vector holds what VL neighbouring columns have at one place of
 * their depth, and is to the bit what widen.h makes of each weight.
 *
 * Bytes are turned before they are widened: sixteen of a column are four words, and the four words of VL columns become
 * four vectors of words, column by lane, by eight shuffles. From turned words each place of a chunk can then be taken
 * by itself, by a shift.
 */
#ifndef VENEER_ACROSS_H
#define VENEER_ACROSS_H

#include "widen.h"

#if VL == 16 || (VL == 8 && defined(__AVX2__))
#define HAS_TURNED 1

#if VL == 16
typedef __m512i words;
#define WORDS(name) _mm512_##name
#else
typedef __m256i words;
#define WORDS(name) _mm256_##name
#endif

/* Sixteens of bytes that a chunk of a column has, without the numbers that blocks begin with. */
INLINE int sixteens_of(int format) {
    switch (format) {
        case WEIGHT_FLOAT32: return 16;
        case WEIGHT_BFLOAT16:
        case WEIGHT_FLOAT16: return 8;
        case WEIGHT_INT8:
        case WEIGHT_Q8_0: return 4;
        default: return 2;
    }
}

INLINE __m128i sixteen(const uint8_t *in) { return _mm_loadu_si128((const __m128i *)in); }

#if VL == 8
/* Four by four bytes within every 128 bits, turned. */
INLINE __m256i turn_bytes(__m256i bytes) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order));
}
#endif

/* Word d of the sixteen bytes at `offset` of every column to out + d · apart. With eight lanes, paired codes are turned
 * so that word b has byte b of all four words: column by column of the first, then of the second … */
INLINE void turn(const uint8_t *const *columns, int64_t offset, int paired, uint32_t *out, int64_t apart) {
    words part[4], found[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
#if VL == 16
        part[i] = _mm512_castsi128_si512(sixteen(columns[i] + offset));
        part[i] = _mm512_inserti32x4(part[i], sixteen(columns[4 + i] + offset), 1);
        part[i] = _mm512_inserti32x4(part[i], sixteen(columns[8 + i] + offset), 2);
        part[i] = _mm512_inserti32x4(part[i], sixteen(columns[12 + i] + offset), 3);
#else
        part[i] = _mm256_castsi128_si256(sixteen(columns[i] + offset));
        part[i] = _mm256_inserti128_si256(part[i], sixteen(columns[4 + i] + offset), 1);
        if (paired) part[i] = turn_bytes(part[i]);
#endif
    }
    const words low = WORDS(unpacklo_epi32)(part[0], part[1]), high = WORDS(unpackhi_epi32)(part[0], part[1]);
    const words low2 = WORDS(unpacklo_epi32)(part[2], part[3]), high2 = WORDS(unpackhi_epi32)(part[2], part[3]);
    found[0] = WORDS(unpacklo_epi64)(low, low2);
    found[1] = WORDS(unpackhi_epi64)(low, low2);
    found[2] = WORDS(unpacklo_epi64)(high, high2);
    found[3] = WORDS(unpackhi_epi64)(high, high2);
#pragma GCC unroll 4
    for (int d = 0; d < 4; d++) {
#if VL == 8
        if (paired) found[d] = turn_bytes(found[d]);
#endif
        memcpy(out + d * apart, &found[d], sizeof(words));
    }
    (void)paired;
}

/* The float16 at `offset` of every column. */
INLINE void halves_at(const uint8_t *const *columns, int64_t offset, float *out) {
    uint16_t found[VL];
    for (int c = 0; c < VL; c++) found[c] = half_at(columns[c] + offset);
    *(vec *)out = (vec)f16_lanes(found);
}

/* The scales of 4-bit weights at depth k of every column, as scale_at has them. */
INLINE lanes scales_at(const Matrix *m, const int *numbers, int64_t k) {
    const Matrix own = *m; /* else it is read again for each column */
    const int shift = __builtin_ctz((unsigned)own.block);
    float found[VL], factors[VL];
    if (own.scales) {
        for (int c = 0; c < VL; c++) found[c] = own.scales[(numbers[c] * own.depth + k) >> shift];
        return (lanes) * (const vec *)found;
    }
    const int nested = __builtin_ctz((unsigned)own.nested);
    for (int c = 0; c < VL; c++) {
        const int64_t block = (numbers[c] * own.depth + k) >> shift;
        found[c] = own.scale_values[own.scale_codes[block]];
        factors[c] = own.scale_factors[block >> nested];
    }
    lanes scales = (lanes) * (const vec *)found;
    scales *= (lanes) * (const vec *)factors;
    __asm__("" : "+x"(scales)); /* as in rounded(): not fused with the sum */
    return scales + spread(own.scale_offset);
}

/* Two scales a chunk, of the first and the second 32 weights, and for Q4_1 two of what is added; `wide` floats apart.
   */
INLINE void scales_across(const Matrix *m, int format, const uint8_t *const *columns, const int *numbers, int64_t k,
                          float *out, int wide) {
    if (format == WEIGHT_4BIT) {
        const lanes first = scales_at(m, numbers, k);
        *(vec *)out = (vec)first;
        *(vec *)(out + wide) = (vec)(m->block < CHUNK ? scales_at(m, numbers, k + CHUNK / 2) : first);
    }
    for (int half = 0; half < 2; half++, out += wide) {
        const int64_t block = (k / GGUF_BLOCK + half) * block_bytes(format);
        if (format == WEIGHT_INT8)
            for (int c = 0; c < VL; c++) out[c] = m->scales[numbers[c]];
        if (is_blocks(format)) halves_at(columns, block, out);
        if (format == WEIGHT_Q4_1) halves_at(columns, block + 2, out + 2 * wide);
        if (format == WEIGHT_Q4_0)
            for (int c = 0; c < VL; c++) out[2 * wide + c] = -8.0f * out[c];
    }
}

/* A chunk at depth k of VL columns with these numbers, whose stored weights begin at `columns`: its words turned, each
 * `apart` words after the last, and its scales, `wide` floats apart. */
INLINE void turn_chunk(const Matrix *m, int format, const uint8_t *const *columns, const int *numbers, int64_t k,
                       uint32_t *turned, int64_t apart, float *scales, int wide) {
    if (format == WEIGHT_4BIT || format == WEIGHT_INT8 || is_blocks(format))
        scales_across(m, format, columns, numbers, k, scales, wide);
#pragma GCC unroll 4
    for (int i = 0; i < sixteens_of(format); i++) {
        const int each = sixteens_of(format) * GGUF_BLOCK / CHUNK; /* sixteens of a GGUF block */
        const int64_t block = (k / GGUF_BLOCK + i / each) * block_bytes(format) + block_head(format) + i % each * 16;
        const int64_t offset = is_blocks(format) ? block : stored_bytes(format, k) + 16 * i;
        turn(columns, offset, format == WEIGHT_4BIT, turned + 4 * i * apart, apart);
    }
}

INLINE words words_at(const uint32_t *in) {
    words found;
    memcpy(&found, in, sizeof found);
    return found;
}

/* Byte `b` of every word with its sign, as a number. */
INLINE lanes signed_byte(words w, int b) {
    const words up = (words)((word_vec)w << (uint32_t)(24 - 8 * b));
    return (lanes)WORDS(cvtepi32_ps)(WORDS(srai_epi32)(up, 24));
}

/* The float16 in the lower half of every word. */
INLINE lanes halves(words w) {
#if VL == 16
    return (lanes)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(w));
#else
    const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(w, _mm256_set1_epi32(0xffff)), _mm256_setzero_si256());
    return (lanes)_mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#endif
}

/* The places of a lane in a chunk of paired codes, VECTORS vectors each `wide` floats. */
INLINE void paired_lane(const Matrix *m, const Table *table, const uint32_t *turned, int64_t apart, const float *scales,
                        int wide, int lane, float *out) {
#if VL == 16
    /* Vector v has eight bytes of a column, two words: code l / 2 of the first in an even lane l, of the second in an
     * odd one. */
    const __m512 all = _mm512_loadu_ps(m->values);
    const __m512i right = _mm512_set1_epi32(lane / 4 * 8 + (lane / 2 % 2 ? 0 : 4));
    (void)table;
    vec w[VECTORS]; /* all are made before the first is stored, which might change what is loaded */
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
        const __m512i codes = _mm512_srlv_epi32(words_at(turned + (2 * v + lane % 2) * apart), right);
        const lanes scale = (lanes) * (const vec *)(scales + v / HALF * wide);
        /* A permutation reads four bits of an index and no more. */
        w[v] = (vec)((lanes)_mm512_permutexvar_ps(codes, all) * scale);
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) *(vec *)(out + v * wide) = w[v];
#else
    /* Lane l has the bytes 16 (l / 4) + l % 4 + 4 d of a chunk, d = 0 … 3: upper codes at step d, lower ones at 4 + d.
       */
    const __m256i bytes = words_at(turned + (4 * (lane / 4) + lane % 4) * apart), mask = _mm256_set1_epi8(15);
    const __m256 scale = _mm256_loadu_ps(scales + lane / 4 * wide);
    vec w[8];
    (void)m;
    look_up(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask), scale, w);
    look_up(table, _mm256_and_si256(bytes, mask), scale, w + 4);
#pragma GCC unroll 8
    for (int step = 0; step < 8; step++) *(vec *)(out + step * wide) = w[step];
#endif
}

/* Vector `step` of a lane in a chunk of any other format. */
INLINE lanes lane_at(int format, const uint32_t *turned, int64_t apart, const float *scales, int wide, int lane, int step) {
    const int place = step * VL + lane, half = place / 32;
    const lanes scale = format >= WEIGHT_INT8 ? (lanes) * (const vec *)(scales + half * wide) : spread(1.0f);
    switch (format) {
        case WEIGHT_FLOAT32: return (lanes)words_at(turned + place * apart);
        case WEIGHT_BFLOAT16:
            return (lanes)(((word_vec)words_at(turned + place / 2 * apart) << (uint32_t)(16 - 16 * (lane % 2))) & 0xffff0000u);
        case WEIGHT_FLOAT16:
            return halves((words)((word_vec)words_at(turned + place / 2 * apart) >> (uint32_t)(16 * (lane % 2))));
        case WEIGHT_INT8: return signed_byte(words_at(turned + place / 4 * apart), lane % 4) * scale * STEP;
        case WEIGHT_Q8_0: return signed_byte(words_at(turned + place / 4 * apart), lane % 4) * scale;
        default: {
            const int byte = place % 16, shift = 8 * (byte % 4) + place % 32 / 16 * 4;
            const word_vec codes = (word_vec)words_at(turned + (4 * half + byte / 4) * apart) >> (uint32_t)shift & 15u;
            return fused((lanes) * (const vec *)(scales + (2 + half) * wide), (lanes)WORDS(cvtepi32_ps)((words)codes), scale);
        }
    }
}

/* The places of a lane in a chunk, VECTORS vectors each `wide` floats. */
INLINE void lane_of_chunk(const Matrix *m, int format, const Table *table, const uint32_t *turned, int64_t apart,
                          const float *scales, int wide, int lane, float *out) {
    if (format == WEIGHT_4BIT) {
        paired_lane(m, table, turned, apart, scales, wide, lane, out);
        return;
    }
#pragma GCC unroll 8
    for (int step = 0; step < VECTORS; step++)
        *(vec *)(out + step * wide) = (vec)lane_at(format, turned, apart, scales, wide, lane, step);
}
#else
#define HAS_TURNED 0
#endif

#endif

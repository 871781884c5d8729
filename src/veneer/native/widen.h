/* Stored weights widened to float32, a chunk at a time, in registers: a code times its scale, rounded as when the whole
 * weight is decoded. */
#ifndef VENEER_WIDEN_H
#define VENEER_WIDEN_H

#include "blocks.h"
#include "lanes.h"
#include "rows.h"

#define VECTORS (CHUNK / VL)
#define HALF (VECTORS / 2)
#define STEP 7.874015718698502e-3f /* 1 / 127, as quant/rowwise.py has it */

/* A product that is not fused with the sum it goes into. */
INLINE float rounded(float value) {
#if defined(__x86_64__)
    __asm__("" : "+x"(value));
#elif defined(__aarch64__)
    __asm__("" : "+w"(value));
#else
    volatile float kept = value;
    value = kept;
#endif
    return value;
}

INLINE float scale_at(const Matrix *m, int64_t place) {
    const int64_t block = place >> __builtin_ctz((unsigned)m->block);
    if (m->scales) return m->scales[block];
    const float factor = m->scale_factors[block >> __builtin_ctz((unsigned)m->nested)];
    return rounded(m->scale_values[m->scale_codes[block]] * factor) + m->scale_offset;
}

#define SCALES 2 /* of a chunk in 4 bits: those of its first and of its second 32 weights */

#if defined(__AVX2__)
#define AT_ONCE 8
/* The nested scales of eight neighbouring blocks from `block` on, each twice. */
INLINE void read_eight(const Matrix *m, int64_t block, float out[SCALES * AT_ONCE]) {
    const int shift = __builtin_ctz((unsigned)m->nested);
    const int64_t first = block >> shift, last = (block + AT_ONCE - 1) >> shift;
    __m256 factors = _mm256_set1_ps(m->scale_factors[first]);
    if (first != last) {
        const __m256i from_first = _mm256_add_epi32(_mm256_set1_epi32((int)(block - (first << shift))),
                                                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        factors = _mm256_i32gather_ps(m->scale_factors + first, _mm256_srl_epi32(from_first, _mm_cvtsi32_si128(shift)), 4);
    }
    const uint8_t *c = m->scale_codes + block;
    const float *v = m->scale_values; /* looked up one by one: Zen 4 takes twice as long to gather them */
    __m256 scales = _mm256_setr_ps(v[c[0]], v[c[1]], v[c[2]], v[c[3]], v[c[4]], v[c[5]], v[c[6]], v[c[7]]);
    scales = _mm256_mul_ps(scales, factors);
    __asm__("" : "+x"(scales)); /* as in rounded() */
    scales = _mm256_add_ps(scales, _mm256_set1_ps(m->scale_offset));
    _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(scales, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)));
    _mm256_storeu_ps(out + AT_ONCE, _mm256_permutevar8x32_ps(scales, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7)));
}
#endif

/* The scales of `chunks` chunks in 4 bits from `place` on, [chunks][SCALES]. They are read before the chunks are
 * widened, since looking one up branches, and nothing is ordered across a branch. */
INLINE void read_scales(const Matrix *m, int64_t place, int64_t chunks, float *out) {
    const Matrix own = *m; /* what is written may not change it */
    int64_t i = 0;
#if defined(__AVX2__)
    if (own.scales == NULL && own.block == CHUNK)
        for (; i + AT_ONCE <= chunks; i += AT_ONCE) read_eight(&own, place / CHUNK + i, out + SCALES * i);
#endif
    for (; i < chunks; i++) {
        const float first = scale_at(&own, place + i * CHUNK);
        out[SCALES * i] = first;
        out[SCALES * i + 1] = own.block < CHUNK ? scale_at(&own, place + i * CHUNK + CHUNK / SCALES) : first;
    }
}

/* Floats of the scales of `count` columns, [count][chunks][SCALES]. */
static inline int64_t scale_room(int64_t depth, int count) { return whole_chunks(depth) / CHUNK * SCALES * count; }

/* One weight, by its place in the flattened tensor. */
static inline float element(const Matrix *m, int64_t place, int column) {
    switch (m->format) {
        case WEIGHT_FLOAT32: return ((const float *)m->codes)[place];
        case WEIGHT_BFLOAT16: return from_bf16(((const uint16_t *)m->codes)[place]);
        case WEIGHT_FLOAT16: return from_f16(((const uint16_t *)m->codes)[place]);
        case WEIGHT_INT8: return rounded((float)((const int8_t *)m->codes)[place] * m->scales[column]) * STEP;
        case WEIGHT_4BIT: {
            const uint8_t byte = ((const uint8_t *)m->codes)[place / 2];
            return m->values[place % 2 ? byte & 15 : byte >> 4] * scale_at(m, place);
        }
        default: return block_element(m, place);
    }
}

/* Bytes of `count` stored weights, a whole number of blocks. */
INLINE int64_t stored_bytes(int format, int64_t count) {
    switch (format) {
        case WEIGHT_FLOAT32: return 4 * count;
        case WEIGHT_BFLOAT16:
        case WEIGHT_FLOAT16: return 2 * count;
        case WEIGHT_INT8: return count;
        case WEIGHT_4BIT: return count / 2;
        default: return count / GGUF_BLOCK * block_bytes(format);
    }
}

#define AHEAD 8192 /* bytes by which stored weights are fetched before their turn, */
#define NEAR 4096  /* and those of 4 bits */

/* What is fetched while the weights of a matrix are read: what stands some thousand bytes behind them. */
INLINE const char *behind(const Matrix *m, int format) {
    const int near = format == WEIGHT_4BIT || format == WEIGHT_Q4_0 || format == WEIGHT_Q4_1;
    return (const char *)m->codes + (near ? NEAR : AHEAD);
}

/* The lines that `count` weights at `place` have, from `from` on. Columns that are read side by side are streams too
 * short for a processor's own prefetching. Weights of 8 bits and more go to the second-level cache: a first one waits
 * for too few lines at once. Those of 4 bits are widened more slowly than they come. */
INLINE void fetch_weights(int format, const char *from, int64_t place, int64_t count) {
    from += stored_bytes(format, place);
    for (int64_t byte = 0; byte < stored_bytes(format, count); byte += 64)
        if (format == WEIGHT_4BIT || format == WEIGHT_Q4_0 || format == WEIGHT_Q4_1)
            __builtin_prefetch(from + byte);
        else
            __builtin_prefetch(from + byte, 0, 2);
}

#if VL == 16
#define HAS_PAIRED 1
/* Eight bytes at a time, by a load that repeats them: an even lane takes a code of the first four bytes, an odd lane
 * one of the last four, each by a shift of its own. The sixteen values, times the scale, are one register, and a
 * permutation looks all up; it reads four bits of an index and no more. (A conversion, which gives each byte a lane,
 * shares its unit with the permutations.) */
INLINE vec widen_sixteen(const uint8_t *codes, __m512 table) {
    const __m512i right = _mm512_setr_epi32(4, 4, 0, 0, 12, 12, 8, 8, 20, 20, 16, 16, 28, 28, 24, 24);
    int64_t bytes;
    memcpy(&bytes, codes, sizeof bytes);
    return (vec)_mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi64(bytes), right), table);
}

INLINE void in_natural_order(vec w[VECTORS]) {
    const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    for (int v = 0; v < VECTORS; v++) w[v] = (vec)_mm512_permutexvar_ps(order, (__m512)w[v]);
}

INLINE void widen_4bit(const Matrix *m, float scale, int64_t place, int half, vec w[HALF]) {
    const __m512 table = _mm512_mul_ps(_mm512_loadu_ps(m->values), _mm512_set1_ps(scale));
    const uint8_t *codes = (const uint8_t *)m->codes + place / 2 + 16 * half;
    for (int v = 0; v < HALF; v++) w[v] = widen_sixteen(codes + 8 * v, table);
}
#elif VL == 8
#define HAS_PAIRED 1
/* The first half holds the codes of bytes' upper halves, the second half those of their neighbours: four of either from
 * the chunk's first 32 weights and four from its last. */
INLINE void in_natural_order(vec w[VECTORS]) {
    for (int v = 0; v < HALF; v++) {
        const __m256 even = (__m256)w[v], odd = (__m256)w[HALF + v];
        const __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
        w[v] = (vec)_mm256_permute2f128_ps(low, high, 0x20);
        w[HALF + v] = (vec)_mm256_permute2f128_ps(low, high, 0x31);
    }
}

/* The four bytes of a value are looked up apart, 32 codes at a time, and put together by interleaving: 12 instructions,
 * where looking up floats (which eight values of a register allow) would take 20. */
typedef struct {
    __m256i plane[4];
} Planes;

/* Byte b of each of the sixteen values, in both halves of plane b. */
INLINE Planes planes_of(const float *values) {
    Planes found;
    for (int b = 0; b < 4; b++) {
        uint8_t bytes[16];
        for (int i = 0; i < 16; i++) bytes[i] = (uint8_t)(float_bits(values[i]) >> 8 * b);
        found.plane[b] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
    }
    return found;
}

INLINE void look_up(const Planes *planes, __m256i codes, __m256 scale, vec w[4]) {
    const __m256i b0 = _mm256_shuffle_epi8(planes->plane[0], codes), b1 = _mm256_shuffle_epi8(planes->plane[1], codes);
    const __m256i b2 = _mm256_shuffle_epi8(planes->plane[2], codes), b3 = _mm256_shuffle_epi8(planes->plane[3], codes);
    const __m256i low = _mm256_unpacklo_epi8(b0, b1), low2 = _mm256_unpacklo_epi8(b2, b3);
    const __m256i high = _mm256_unpackhi_epi8(b0, b1), high2 = _mm256_unpackhi_epi8(b2, b3);
    w[0] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(low, low2)), scale);
    w[1] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(low, low2)), scale);
    w[2] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(high, high2)), scale);
    w[3] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(high, high2)), scale);
}

INLINE void widen_paired(const Matrix *m, const Planes *planes, const float *scales, int64_t place, int half, vec w[HALF]) {
    /* A half of the register holds 32 neighbours, which always share a scale. */
    const __m256 scale = _mm256_set_m128(_mm_set1_ps(scales[1]), _mm_set1_ps(scales[0]));
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)((const uint8_t *)m->codes + place / 2));
    const __m256i mask = _mm256_set1_epi8(15);
    look_up(planes, _mm256_and_si256(half ? bytes : _mm256_srli_epi16(bytes, 4), mask), scale, w);
}
#else
#define HAS_PAIRED 0
INLINE void in_natural_order(vec w[VECTORS]) { (void)w; }
#endif

#if VL == 8
typedef Planes Table;
#define TABLE_OF(m) ((m)->format == WEIGHT_4BIT ? planes_of((m)->values) : (Planes){0})
#define WIDEN_4BIT(m, table, scales, halves, place, half, w) widen_paired(m, table, scales, place, half, w)
#else
typedef int Table;
#define TABLE_OF(m) ((void)(m), 0)
#if HAS_PAIRED
/* One scale of both halves is also one product with the table. */
#define WIDEN_4BIT(m, table, scales, halves, place, half, w) \
    ((void)(table), widen_4bit(m, (scales)[(halves) ? (half) : 0], place, half, w))
#else
#define WIDEN_4BIT(m, table, scales, halves, place, half, w) \
    ((void)(table), (void)(scales), widen_each(m, (place) + CHUNK / 2 * (half), w))
INLINE void widen_each(const Matrix *m, int64_t place, vec w[HALF]) {
    float values[CHUNK / 2];
    for (int k = 0; k < CHUNK / 2; k++) values[k] = element(m, place + k, 0);
    memcpy(w, values, sizeof values);
}
#endif
#endif

/* The first or the second half of a chunk's vectors, in their order after widening. The chunk begins at `place` in the
 * flattened tensor; `scales`: of 4 bits, those of the chunk, and `halves`, whether they may differ. */
INLINE void widen_half(const Matrix *m, int format, const Table *table, const float *scales, int halves, int64_t place,
                       int column, int half, vec w[HALF]) {
    (void)halves; /* eight lanes and fewer have the scales of each half at hand anyway */
    if (format == WEIGHT_4BIT) {
        WIDEN_4BIT(m, table, scales, halves, place, half, w);
        return;
    }
    if (is_blocks(format)) {
        widen_block(format, block_at(m, format, place) + half * block_bytes(format), w);
        return;
    }
    for (int v = 0; v < HALF; v++) {
        const int64_t at = place + (half * HALF + v) * VL;
        if (format == WEIGHT_FLOAT32) {
            w[v] = *(const vec *)((const float *)m->codes + at);
        } else if (format == WEIGHT_BFLOAT16) {
            w[v] = (vec)bf16_lanes((const uint16_t *)m->codes + at);
        } else if (format == WEIGHT_FLOAT16) {
            w[v] = f16_lanes((const uint16_t *)m->codes + at);
        } else {
            w[v] = int8_lanes((const int8_t *)m->codes + at) * m->scales[column] * STEP;
        }
    }
}

/* A chunk of a column. */
INLINE void widen_chunk(const Matrix *m, int format, const Table *table, int64_t place, int column, vec w[VECTORS]) {
    float scales[SCALES];
    if (format == WEIGHT_4BIT) read_scales(m, place, 1, scales);
    for (int half = 0; half < 2; half++) widen_half(m, format, table, scales, 1, place, column, half, w + half * HALF);
}

#endif

/* Decode 4-bit block-quantised weights: value = code · scale in float32, rounded once. */
#include "common.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define SPAN 4096 /* weights decoded at a time; a multiple of every block */

/* Scales as they are stored: float32 (`plain`), or themselves in 8 bits, `nested` of them to a factor. */
typedef struct {
    const float *plain;
    const uint8_t *codes;
    const float *table, *factors;
    float offset;
    int nested;
} Scales;

static inline float scale_of(const Scales *s, int64_t block) {
    if (s->plain != NULL) return s->plain[block];
    /* Rounded before the sum, as the format's other readers do; volatile keeps the compiler from fusing the two. */
    volatile float product = s->table[s->codes[block]] * s->factors[block / s->nested];
    return product + s->offset;
}

/* `count` weights of one block, from whole bytes, of which the last may be half used. */
static void decode_plain(int dtype, const uint8_t *codes, const float *values, float scale, int count, void *out) {
    for (int i = 0; i < count; i++) {
        const float value = values[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * scale;
        if (dtype == BFLOAT16)
            ((uint16_t *)out)[i] = to_bf16(value);
        else
            ((float *)out)[i] = value;
    }
}

#if defined(__AVX512F__)
/* The same for a multiple of 16 weights: the sixteen values are one register, and a permutation looks all up. */
static void decode(int dtype, const uint8_t *codes, const float *values, float scale, int count, void *out) {
    const __m512 table = _mm512_loadu_ps(values), factor = _mm512_set1_ps(scale);
    const __m512i shifts = _mm512_set1_epi64(4); /* the even weight is in a byte's upper half */
    const __m512i one = _mm512_set1_epi32(1), half = _mm512_set1_epi32(0x7fff), quiet = _mm512_set1_epi32(0x400000);
    int i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)(codes + i / 2));
        const __m512i twice = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, bytes));
        const __m512 found = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srlv_epi32(twice, shifts), table), factor);
        if (dtype == BFLOAT16) {
            const __m512i bits = _mm512_castps_si512(found);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
            const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(half, odd));
            const __mmask16 nan = _mm512_cmp_ps_mask(found, found, _CMP_UNORD_Q);
            const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, quiet);
            _mm256_storeu_si256((__m256i *)((uint16_t *)out + i), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
        } else {
            _mm512_storeu_ps((float *)out + i, found);
        }
    }
    const int width = dtype == BFLOAT16 ? 2 : 4;
    decode_plain(dtype, codes + i / 2, values, scale, count - i, (char *)out + (int64_t)i * width);
}
#else
#define decode decode_plain
#endif

/* codes: two to a byte, the first in the upper half; values float32 [16]; out [n] of `dtype`; one scale for `block`
 * weights of the flattened tensor, block even and a divisor of SPAN. Scales: `plain` float32, or, where it is NULL,
 * table[scale_codes] · factors[block / nested] + offset. */
int veneer_dequantize_4bit(int dtype, const uint8_t *codes, const float *values, const float *plain,
                           const uint8_t *scale_codes, const float *table, const float *factors, const float *offset,
                           int nested, int64_t n, int block, void *out, int threads) {
    const Scales scales = {plain, scale_codes, table, factors, plain == NULL ? *offset : 0.0f, nested};
    const int width = dtype == BFLOAT16 ? 2 : 4;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < n; start += SPAN) {
        const int64_t end = n - start < SPAN ? n : start + SPAN;
        for (int64_t first = start; first < end; first += block) {
            const int count = end - first < block ? (int)(end - first) : block;
            decode(dtype, codes + first / 2, values, scale_of(&scales, first / block), count, (char *)out + first * width);
        }
    }
    return 0;
}

/* Sixteen numbers at a time, where the processor has AVX-512 BF16 (BF16_PRODUCTS is set): pairs of bfloat16 as 32-bit
 * words, which it multiplies, and floats, which it rounds. A compiler makes eight instructions of to_bf16, here it is
 * one. */
#ifndef VENEER_PAIRS_H
#define VENEER_PAIRS_H

#include <stdint.h>

#if defined(__AVX512BF16__)
#define BF16_PRODUCTS 1
#include <immintrin.h>

#include "turn.h"

static inline __m512bh as_pairs(__m512i words) { return (__m512bh)words; }

static inline __m512i widen(const uint16_t *in) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)in));
}

static inline __m256i narrow(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

static inline __m512 floats_of(__m256i pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(pairs), 16));
}

static inline __m512 floats(const uint16_t *in) { return floats_of(_mm256_loadu_si256((const __m256i *)in)); }

/* Zeros where the mask is not set. */
static inline __m512 floats_below(const uint16_t *in, __mmask16 mask) {
    return floats_of(_mm256_maskz_loadu_epi16(mask, in));
}

static inline void put(uint16_t *out, __m512 values) { _mm256_storeu_si256((__m256i *)out, narrow(values)); }

/* fast_exp of common.h. A NaN passes through, being the second operand of both clamps. */
static inline __m512 exponentials(__m512 x) {
    const __m512 v = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504088896341f)), 8);
    const __m512 first = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), v);
    const __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), first);
    __m512 p = _mm512_set1_ps(1.0f / 5040.0f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* Sixteen numbers of two rows as pairs, those of the first row below; zeros where a row's mask is not set. */
static inline __m512i pairs_of(const uint16_t *first, __mmask16 first_mask, const uint16_t *second,
                               __mmask16 second_mask) {
    const __m512i lower = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_mask, first));
    const __m512i upper = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second_mask, second));
    return _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16));
}
#else
#define BF16_PRODUCTS 0
#endif

#endif

/* Vectors that are passed by value, and a sum with a product whose rounding no compiler decides. */
#ifndef VENEER_LANES_H
#define VENEER_LANES_H

#include "common.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE __attribute__((always_inline)) static inline

typedef float lanes __attribute__((vector_size(VL * 4))); /* a vec that is passed by value */
typedef uint16_t half_vec __attribute__((vector_size(VL * 2), aligned(2), may_alias));
typedef uint32_t word_vec __attribute__((vector_size(VL * 4)));

/* sum + a · b, rounded once: written out, because a compiler that is free to fuse the two does so in one place and not
 * in another, and sums would differ. */
INLINE lanes fused(lanes sum, lanes a, lanes b) {
#if VL == 16
    return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif VL == 8 && defined(__FMA__)
    return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__aarch64__)
    return (lanes)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#else
    for (int i = 0; i < VL; i++) sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
    return sum;
#endif
}

/* VL numbers in bfloat16. */
INLINE lanes bf16_lanes(const uint16_t *in) {
#if VL == 16 /* by hand: compilers make several instructions of it */
    return (lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)in)), 16);
#elif VL == 8 && defined(__AVX2__)
    return (lanes)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)in)), 16);
#else
    return (lanes)(__builtin_convertvector(*(const half_vec *)in, word_vec) << 16);
#endif
}

static inline float from_f16(uint16_t stored) {
    const uint32_t sign = (uint32_t)(stored & 0x8000) << 16, rest = stored & 0x7fff;
    if (rest >= 0x7c00) return bits_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    /* The exponent is put right by a product, which also makes the small numbers (those without one) normal. */
    return bits_float(sign | float_bits(bits_float(rest << 13) * 0x1p112f));
}

/* VL numbers in float16. */
INLINE lanes f16_lanes(const uint16_t *in) {
#if VL == 16
    return (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)in));
#elif VL == 8 && defined(__F16C__)
    return (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)in));
#elif defined(__aarch64__)
    return (lanes)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in)));
#else
    lanes out;
    for (int i = 0; i < VL; i++) out[i] = from_f16(in[i]);
    return out;
#endif
}

/* VL signed bytes as numbers. */
INLINE lanes int8_lanes(const int8_t *in) {
#if VL == 16
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)in)));
#elif VL == 8 && defined(__AVX2__)
    return (lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)in)));
#else
    lanes out;
    for (int i = 0; i < VL; i++) out[i] = in[i];
    return out;
#endif
}

/* The lanes of a sum, added in halves. */
INLINE float total(lanes sum) {
#if VL == 16 || (VL == 8 && defined(__AVX2__))
#if VL == 16
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)sum), _mm512_extractf32x8_ps((__m512)sum, 1));
#else
    const __m256 eight = (__m256)sum;
#endif
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float parts[VL];
    memcpy(parts, &sum, sizeof parts);
    for (int width = VL / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
#endif
}

/* The totals of `count` <= 16 sums, each with its lanes added in halves as by `total`. Turning sums while they are
 * added takes a third of the instructions; `count` is known at compile time. */
INLINE void totals(const lanes *sums, int count, float *out) {
#if VL == 16
    __m512 fours[4]; /* four sums each, of four lanes */
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        const int first = 4 * g < count ? 4 * g : 0;
        __m512 s[4], pairs[2];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) s[i] = (__m512)sums[first + i < count ? first + i : 0];
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++)
            pairs[i] = _mm512_add_ps(_mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0x44),
                                     _mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0xee));
        fours[g] = _mm512_add_ps(_mm512_shuffle_f32x4(pairs[0], pairs[1], 0x88),
                                 _mm512_shuffle_f32x4(pairs[0], pairs[1], 0xdd));
    }
    __m512 twos[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m512d a = _mm512_castps_pd(fours[2 * i]), b = _mm512_castps_pd(fours[2 * i + 1]);
        twos[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    const __m512 found = _mm512_add_ps(_mm512_shuffle_ps(twos[0], twos[1], 0x88), _mm512_shuffle_ps(twos[0], twos[1], 0xdd));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_ps(out, _mm512_permutexvar_ps(order, found));
#elif VL == 8 && defined(__AVX2__)
    for (int first = 0; first < count; first += 8) {
        __m256 fours[4], twos[2];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) { /* sum i beside sum i + 4 */
            const int at = first + i < count ? first + i : first, other = first + i + 4 < count ? first + i + 4 : first;
            const __m256 a = (__m256)sums[at], b = (__m256)sums[other];
            fours[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const __m256d a = _mm256_castps_pd(fours[2 * i]), b = _mm256_castps_pd(fours[2 * i + 1]);
            twos[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
        }
        _mm256_storeu_ps(out + first, _mm256_add_ps(_mm256_shuffle_ps(twos[0], twos[1], 0x88),
                                                    _mm256_shuffle_ps(twos[0], twos[1], 0xdd)));
    }
#else
    for (int i = 0; i < count; i++) out[i] = total(sums[i]);
#endif
}

/* A vector that is loaded once and stays in its register. A compiler else loads it again for each product that it is
 * in, and a processor makes no more than two loads of this size a cycle, as many as products. */
INLINE lanes once(lanes x) {
#if VL == 16
    __asm__ volatile("" : "+v"(x));
#endif
    return x;
}

/* One number in all lanes. */
INLINE lanes spread(float value) {
#if VL == 16
    return (lanes)_mm512_set1_ps(value);
#elif VL == 8
    return (lanes)_mm256_set1_ps(value);
#else
    return (lanes){value, value, value, value};
#endif
}

/* Each lane, but at least `low` and at most `high`; a NaN stays. */
INLINE lanes between(lanes x, float low, float high) {
#if VL == 16
    return (lanes)_mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), (__m512)x));
#elif VL == 8
    return (lanes)_mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), (__m256)x));
#else
    for (int i = 0; i < VL; i++) x[i] = x[i] < low ? low : x[i] > high ? high : x[i];
    return x;
#endif
}

/* The larger one of each lane; of a NaN and a number it may be either. */
INLINE lanes larger(lanes a, lanes b) {
#if VL == 16
    return (lanes)_mm512_max_ps((__m512)a, (__m512)b);
#elif VL == 8
    return (lanes)_mm256_max_ps((__m256)a, (__m256)b);
#else
    for (int i = 0; i < VL; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
#endif
}

/* fast_exp of common.h, by lanes: a compiler left alone with its branches makes other sums of it in each place. */
INLINE lanes exponentials_of(lanes x) {
    const lanes v = between(x, -87.0f, 88.0f), shifted = fused(spread(12582912.0f), v, spread(1.44269504088896341f));
    const lanes n = shifted - spread(12582912.0f);
    const lanes r = fused(fused(v, n, spread(-0.693359375f)), n, spread(2.12194440e-4f));
    lanes p = spread(1.0f / 5040.0f);
    p = fused(spread(1.0f / 720.0f), p, r);
    p = fused(spread(1.0f / 120.0f), p, r);
    p = fused(spread(1.0f / 24.0f), p, r);
    p = fused(spread(1.0f / 6.0f), p, r);
    p = fused(spread(0.5f), p, r);
    p = fused(spread(1.0f), p, r);
    p = fused(spread(1.0f), p, r);
    return p * (lanes)(((word_vec)shifted + 127u) << 23);
}

#endif

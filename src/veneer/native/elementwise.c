/* The passes between the matrix products, one read and one write each: SwiGLU and rotary positions (norms: norms.c).
 *
 * Rounding follows the reference models where that costs nothing: a bfloat16 SwiGLU is rounded after the activation.
 */
#include <math.h>
#include <stdlib.h>

#include "lanes.h"
#include "pairs.h"

#define CHUNK 1024

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/* silu(g) · u, and its gradients: d_u = silu(g) · d and d_g = d · u · σ(g) · (1 + g · (1 − σ(g))), of `count` elements
 * in bfloat16. */
static void gated(const uint16_t *g, const uint16_t *u, int count, uint16_t *h) {
#pragma omp simd
    for (int i = 0; i < count; i++) {
        const float x = from_bf16(g[i]);
        h[i] = to_bf16(round_bf16(x * sigmoid(x)) * from_bf16(u[i]));
    }
}

static void gated_gradients(const uint16_t *g, const uint16_t *u, const uint16_t *d, int count, uint16_t *d_g,
                            uint16_t *d_u) {
#pragma omp simd
    for (int i = 0; i < count; i++) {
        const float x = from_bf16(g[i]), grad = from_bf16(d[i]), s = sigmoid(x);
        d_u[i] = to_bf16(x * s * grad);
        d_g[i] = to_bf16(grad * from_bf16(u[i]) * s * (1.0f + x * (1.0f - s)));
    }
}

/* A compiler that vectorises `sigmoid` multiplies every x by what it becomes far below zero too, 6e-39, which takes a
 * processor 150 cycles: it is not a normal float. */
static inline lanes sigmoid_lanes(lanes x) { return spread(1.0f) / (spread(1.0f) + exponentials_of(-x)); }

static inline void gated_lanes(const float *g, const float *u, float *h) {
    const lanes x = (lanes) * (const vec *)g;
    *(vec *)h = (vec)(x * sigmoid_lanes(x) * (lanes) * (const vec *)u);
}

static inline void gated_gradient_lanes(const float *g, const float *u, const float *d, float *d_g, float *d_u) {
    const lanes x = (lanes) * (const vec *)g, grad = (lanes) * (const vec *)d, s = sigmoid_lanes(x);
    *(vec *)d_u = (vec)(x * s * grad);
    *(vec *)d_g = (vec)(grad * (lanes) * (const vec *)u * s * (spread(1.0f) + x * (spread(1.0f) - s)));
}

/* The same of floats. What is left after whole vectors is computed in one too. */
static void gated_floats(const float *g, const float *u, int count, float *h) {
    int i = 0;
    for (; i + VL <= count; i += VL) gated_lanes(g + i, u + i, h + i);
    if (i == count) return;
    float rest[3][VL] = {{0}};
    const size_t bytes = (size_t)(count - i) * 4;
    memcpy(rest[0], g + i, bytes), memcpy(rest[1], u + i, bytes);
    gated_lanes(rest[0], rest[1], rest[2]);
    memcpy(h + i, rest[2], bytes);
}

static void gated_float_gradients(const float *g, const float *u, const float *d, int count, float *d_g, float *d_u) {
    int i = 0;
    for (; i + VL <= count; i += VL) gated_gradient_lanes(g + i, u + i, d + i, d_g + i, d_u + i);
    if (i == count) return;
    float rest[5][VL] = {{0}};
    const size_t bytes = (size_t)(count - i) * 4;
    memcpy(rest[0], g + i, bytes), memcpy(rest[1], u + i, bytes), memcpy(rest[2], d + i, bytes);
    gated_gradient_lanes(rest[0], rest[1], rest[2], rest[3], rest[4]);
    memcpy(d_g + i, rest[3], bytes), memcpy(d_u + i, rest[4], bytes);
}

#if BF16_PRODUCTS
/* Those of bfloat16 in whole vectors. */
static inline __m512 sigmoids(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exponentials(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

static void gated_vectors(const uint16_t *g, const uint16_t *u, int count, uint16_t *h) {
    int i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m512 x = floats(g + i);
        const __m256i rounded = narrow(_mm512_mul_ps(x, sigmoids(x)));
        put(h + i, _mm512_mul_ps(floats_of(rounded), floats(u + i)));
    }
    gated(g + i, u + i, count - i, h + i);
}

static void gated_gradient_vectors(const uint16_t *g, const uint16_t *u, const uint16_t *d, int count, uint16_t *d_g,
                                   uint16_t *d_u) {
    const __m512 one = _mm512_set1_ps(1.0f);
    int i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m512 x = floats(g + i), grad = floats(d + i), s = sigmoids(x);
        put(d_u + i, _mm512_mul_ps(_mm512_mul_ps(x, s), grad));
        const __m512 slope = _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one);
        put(d_g + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(grad, floats(u + i)), s), slope));
    }
    gated_gradients(g + i, u + i, d + i, count - i, d_g + i, d_u + i);
}
#else
#define gated_vectors gated
#define gated_gradient_vectors gated_gradients
#endif

/* h = silu(gate) · up over n elements. */
int veneer_swiglu_forward(int dtype, const void *gate, const void *up, int64_t n, void *h, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < n; start += CHUNK) {
        const int count = n - start < CHUNK ? (int)(n - start) : CHUNK;
        if (dtype == BFLOAT16) {
            gated_vectors((const uint16_t *)gate + start, (const uint16_t *)up + start, count, (uint16_t *)h + start);
        } else {
            gated_floats((const float *)gate + start, (const float *)up + start, count, (float *)h + start);
        }
    }
    return 0;
}

/* Its gradients: d_gate and d_up from dh. */
int veneer_swiglu_backward(int dtype, const void *gate, const void *up, const void *dh, int64_t n, void *d_gate,
                           void *d_up, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < n; start += CHUNK) {
        const int count = n - start < CHUNK ? (int)(n - start) : CHUNK;
        if (dtype == BFLOAT16) {
            gated_gradient_vectors((const uint16_t *)gate + start, (const uint16_t *)up + start,
                                   (const uint16_t *)dh + start, count, (uint16_t *)d_gate + start,
                                   (uint16_t *)d_up + start);
        } else {
            gated_float_gradients((const float *)gate + start, (const float *)up + start, (const float *)dh + start, count,
                                  (float *)d_gate + start, (float *)d_up + start);
        }
    }
    return 0;
}

/* A head in bfloat16. */
static void turn_pairs(const uint16_t *in, const float *c, const float *s, float sign, int half, uint16_t *out) {
    int i = 0;
#if BF16_PRODUCTS
    for (; i + 16 <= half; i += 16) {
        const __m512 a = floats(in + i), b = floats(in + i + half), cosine = _mm512_loadu_ps(c + i);
        const __m512 turn = _mm512_mul_ps(_mm512_set1_ps(sign), _mm512_loadu_ps(s + i));
        put(out + i, _mm512_fnmadd_ps(b, turn, _mm512_mul_ps(a, cosine)));
        put(out + i + half, _mm512_fmadd_ps(a, turn, _mm512_mul_ps(b, cosine)));
    }
#endif
#pragma omp simd
    for (int k = i; k < half; k++) {
        const float a = from_bf16(in[k]), b = from_bf16(in[k + half]), turn = sign * s[k];
        out[k] = to_bf16(a * c[k] - b * turn);
        out[k + half] = to_bf16(b * c[k] + a * turn);
    }
}

/* Turn the pairs (x[i], x[i + dim/2]) of every head by the token's angles; cosine, sine float32 [tokens, dim/2];
 * `sign` -1 turns back, which is the gradient. */
int veneer_rotate(int dtype, const void *x, const float *cosine, const float *sine, float sign, int64_t tokens,
                  int heads, int dim, void *y, int threads) {
    const int half = dim / 2;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) {
        const float *c = cosine + t * half, *s = sine + t * half;
        for (int h = 0; h < heads; h++) {
            const int64_t place = (t * heads + h) * dim;
            if (dtype == BFLOAT16) {
                turn_pairs((const uint16_t *)x + place, c, s, sign, half, (uint16_t *)y + place);
            } else {
                const float *in = (const float *)x + place;
                float *out = (float *)y + place;
#pragma omp simd
                for (int i = 0; i < half; i++) {
                    const float a = in[i], b = in[i + half], turn = sign * s[i];
                    out[i] = a * c[i] - b * turn;
                    out[i + half] = b * c[i] + a * turn;
                }
            }
        }
    }
    return 0;
}

/* What every kernel file shares: bfloat16 in and out, a fast exponential, and the tile of a small matrix product.
 *
 * Plain C with GCC/Clang vector types, compiled once per instruction set; VL floats make one vector register. All
 * arithmetic is float32; bfloat16 is only how tensors are stored, rounded to nearest even, once per result.
 */
#ifndef VENEER_COMMON_H
#define VENEER_COMMON_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#define MR 8 /* rows of a tile */
#define NV 2 /* vectors in a row of a tile: MR * NV accumulators stay in registers */
#elif defined(__AVX__)
#define VL 8
#define MR 4
#define NV 2
#else
#define VL 4
#define MR 8
#define NV 2
#endif

typedef float vec __attribute__((vector_size(VL * 4), aligned(4), may_alias));

/* The mask of the first `count` of sixteen lanes. */
static inline uint16_t lanes_below(int count) { return (uint16_t)(count >= 16 ? 0xffff : (1 << count) - 1); }

/* Floats up to whole lines of the cache. */
static inline int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

enum { FLOAT32 = 0, BFLOAT16 = 1 };

/* What multiplies bfloat16, with float32 sums. What functions.py calls KernelProducts. For steps (next.h): */
enum {
    PRODUCTS_FLOATS, /* rows.c, for next tokens and prompts alike */
    PRODUCTS_PAIRS,  /* AVX-512 BF16: row_pairs.c for next tokens, prompts.c for prompts */
    PRODUCTS_TILES,  /* AMX: tiles.c, for next tokens and prompts alike */
};

static inline float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float from_bf16(uint16_t stored) { return bits_float((uint32_t)stored << 16); }

/* Round to nearest even; a NaN keeps its upper bits and stays a NaN. */
static inline uint16_t to_bf16(float value) {
    const uint32_t bits = float_bits(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

static inline float round_bf16(float value) { return from_bf16(to_bf16(value)); }

/* n floats from a tensor of `dtype`, starting at element `offset`. */
static inline void load_row(const void *tensor, int dtype, int64_t offset, int n, float *out) {
    if (dtype == BFLOAT16) {
        const uint16_t *in = (const uint16_t *)tensor + offset;
        for (int i = 0; i < n; i++) out[i] = from_bf16(in[i]);
    } else {
        memcpy(out, (const float *)tensor + offset, (size_t)n * 4);
    }
}

static inline void store_row(void *tensor, int dtype, int64_t offset, int n, const float *in) {
    if (dtype == BFLOAT16) {
        uint16_t *out = (uint16_t *)tensor + offset;
        for (int i = 0; i < n; i++) out[i] = to_bf16(in[i]);
    } else {
        memcpy((float *)tensor + offset, in, (size_t)n * 4);
    }
}

/* exp(x) to 2 units in the last place for x in [-87, 88]; below, the smallest normal number times about 1.
 * exp(x) = 2^n · exp(r) with n the nearest integer of x / ln 2; exp(r) by its Taylor polynomial, |r| <= 0.35.
 * NaN passes through: both clamps compare false for it. */
static inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 · 2^23: the fraction falls off */
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const uint32_t exponent = (float_bits(shifted) + 127u) << 23;
    return p * bits_float(exponent);
}

/* One tile: C[MR][count · VL] (+)= A[MR][depth] · B[depth][count · VL], A with any strides, B and C row-major. */
#define DEFINE_TILE(name, count)                                                                                   \
    static inline void name(int depth, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t b_row, \
                            float *c, int64_t c_row, int add) {                                                    \
        vec sum[MR][count];                                                                                        \
        for (int i = 0; i < MR; i++)                                                                               \
            for (int j = 0; j < count; j++)                                                                        \
                sum[i][j] = add ? *(const vec *)(c + i * c_row + j * VL) : (vec){0};                               \
        for (int k = 0; k < depth; k++) {                                                                          \
            vec right[count];                                                                                      \
            for (int j = 0; j < count; j++) right[j] = *(const vec *)(b + k * b_row + j * VL);                     \
            for (int i = 0; i < MR; i++) {                                                                         \
                const float left = a[i * a_row + k * a_col];                                                       \
                for (int j = 0; j < count; j++) sum[i][j] += left * right[j];                                      \
            }                                                                                                      \
        }                                                                                                          \
        for (int i = 0; i < MR; i++)                                                                               \
            for (int j = 0; j < count; j++) *(vec *)(c + i * c_row + j * VL) = sum[i][j];                          \
    }

DEFINE_TILE(tile_wide, NV)
DEFINE_TILE(tile_narrow, 1)

/* C[rows][columns] (+)= A · B; rows a multiple of MR, columns of VL. */
static inline void matmul(int rows, int columns, int depth, const float *a, int64_t a_row, int64_t a_col,
                          const float *b, int64_t b_row, float *c, int64_t c_row, int add) {
    int n = 0;
    for (; n + NV * VL <= columns; n += NV * VL)
        for (int m = 0; m < rows; m += MR)
            tile_wide(depth, a + m * a_row, a_row, a_col, b + n, b_row, c + m * c_row + n, c_row, add);
    for (; n < columns; n += VL)
        for (int m = 0; m < rows; m += MR)
            tile_narrow(depth, a + m * a_row, a_row, a_col, b + n, b_row, c + m * c_row + n, c_row, add);
}

#endif

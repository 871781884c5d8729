/* Decode 4-bit block-quantised weights: value = code · scale in float32, rounded once. */
#include "common.h"

#define SPAN 4096 /* weights decoded at a time: 16 KB of float32, in the first-level cache */

/* codes: two to a byte, the first in the upper half; pairs float32 [256, 2], the two values of every byte; scales
 * float32, one for `block` weights of the flattened tensor; out [n] of `dtype`. block divides SPAN. */
void veneer_dequantize_4bit(int dtype, const uint8_t *codes, const float *pairs, const float *scales, int64_t n,
                            int block, void *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < n; start += SPAN) {
        float values[SPAN];
        const int count = n - start < SPAN ? (int)(n - start) : SPAN;
        for (int i = 0; i < (count + 1) / 2; i++) memcpy(values + 2 * i, pairs + 2 * codes[start / 2 + i], 8);
        for (int first = 0; first < count; first += block) {
            const float scale = scales[(start + first) / block];
            const int width = count - first < block ? count - first : block;
            float *part = values + first;
            if (dtype == BFLOAT16) {
                uint16_t *target = (uint16_t *)out + start + first;
#pragma omp simd
                for (int i = 0; i < width; i++) target[i] = to_bf16(part[i] * scale);
            } else {
                float *target = (float *)out + start + first;
#pragma omp simd
                for (int i = 0; i < width; i++) target[i] = part[i] * scale;
            }
        }
    }
}

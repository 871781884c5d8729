/* A step of AdamW over moments in 8 bits, by blocks of BLOCK elements: decode, update, encode in one pass.
 *
 * Every block is read and written once; between, its moments are float32 on the stack. A code is the nearest of a map's
 * 256 values, found by the upper bits of the float and one comparison (quant/dynamic.py has the same in torch).
 */
#include <math.h>

#include "common.h"

#define BLOCK 256
#define ABSMAX_FLOOR 1e-38f

/* A map: values [256]; below [65536], by a float's upper half, how many thresholds lie left of it; thresholds [256]. */
typedef struct {
    const float *values;
    const uint8_t *below;
    const float *thresholds;
} Map;

static inline void encode(const float *x, int count, float largest, const Map *map, uint8_t *codes) {
    const float scale = largest < ABSMAX_FLOOR ? ABSMAX_FLOOR : largest;
    for (int i = 0; i < count; i++) {
        const float value = x[i] / scale;
        /* The sign bit turned over: the bins begin with the negative numbers, as integers do. */
        const uint8_t below = map->below[(float_bits(value) >> 16) ^ 0x8000u];
        codes[i] = (uint8_t)(below + (value > map->thresholds[below]));
    }
}

/* weights, grads [n]; codes [n] and absmax [ceil(n / BLOCK)] of mean and mean square. The step:
 * weights = shrink · weights - rate · mean / (√square · root + epsilon), rate and root with the bias corrections;
 * new is 1 - beta, which float32 cannot subtract: of 1 - 0.999f the fifth digit is wrong. */
int veneer_adamw8bit(float *weights, const float *grads, uint8_t *mean_codes, float *mean_absmax,
                     uint8_t *square_codes, float *square_absmax, const float *mean_values, const uint8_t *mean_below,
                     const float *mean_thresholds, const float *square_values, const uint8_t *square_below,
                     const float *square_thresholds, int64_t n, float beta1, float new1, float beta2, float new2,
                     float shrink, float rate, float root, float epsilon, int threads) {
    const Map means = {mean_values, mean_below, mean_thresholds};
    const Map squares = {square_values, square_below, square_thresholds};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int count = n - start < BLOCK ? (int)(n - start) : BLOCK;
        const float mean_scale = mean_absmax[start / BLOCK], square_scale = square_absmax[start / BLOCK];
        const float *g = grads + start;
        float *w = weights + start;
        float mean[BLOCK], square[BLOCK];
        for (int i = 0; i < count; i++) {
            mean[i] = means.values[mean_codes[start + i]];
            square[i] = squares.values[square_codes[start + i]];
        }
        float largest_mean = 0.0f, largest_square = 0.0f;
#pragma omp simd reduction(max : largest_mean, largest_square)
        for (int i = 0; i < count; i++) {
            mean[i] = mean[i] * mean_scale * beta1 + new1 * g[i];
            square[i] = square[i] * square_scale * beta2 + new2 * g[i] * g[i];
            w[i] = w[i] * shrink - rate * (mean[i] / (sqrtf(square[i]) * root + epsilon));
            const float magnitude = fabsf(mean[i]);
            largest_mean = magnitude > largest_mean ? magnitude : largest_mean;
            largest_square = square[i] > largest_square ? square[i] : largest_square;
        }
        mean_absmax[start / BLOCK] = largest_mean;
        square_absmax[start / BLOCK] = largest_square;
        encode(mean, count, largest_mean, &means, mean_codes + start);
        encode(square, count, largest_square, &squares, square_codes + start);
    }
    return 0;
}

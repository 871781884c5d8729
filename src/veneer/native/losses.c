/* Cross-entropy over rows of scores, and its gradient in their place: three passes over a row that stays in the cache,
 * instead of a float32 copy of all scores and ten passes over it. */
#include <math.h>

#include "common.h"
#include "pairs.h"

#if defined(__x86_64__) && defined(__GLIBC__)
/* glibc 2.29 gave exp and log new versions that leave errno alone and compute the same. With the old names the
 * libraries load on glibc 2.27 and later, as torch does, and the wheel is named so. */
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
#endif

#define CHUNK 1024 /* terms summed in float32; their sums are added in float64 */

typedef struct {
    float largest;
    double others; /* Σ exp(s − largest) without the target */
} Row;

/* `count` floats of the row from `place`; a bfloat16 row is widened into `buffer`. */
static inline const float *part_of(int dtype, const void *scores, int64_t place, int count, float *buffer) {
    if (dtype == FLOAT32) return (const float *)scores + place;
    load_row(scores, dtype, place, count, buffer);
    return buffer;
}

#if BF16_PRODUCTS
static float largest_of(const uint16_t *scores, int64_t count) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) most = _mm512_max_ps(floats(scores + i), most);
    float largest = _mm512_reduce_max_ps(most);
    for (; i < count; i++) largest = from_bf16(scores[i]) > largest ? from_bf16(scores[i]) : largest;
    return largest;
}

/* Σ exp(s − largest), summed in float32 over at most CHUNK terms. */
static double sum_of(const uint16_t *scores, int64_t count, float largest) {
    const __m512 shift = _mm512_set1_ps(largest);
    double total = 0.0;
    for (int64_t first = 0; first < count; first += CHUNK) {
        const int64_t end = count - first < CHUNK ? count : first + CHUNK;
        __m512 sums = _mm512_setzero_ps();
        int64_t i = first;
        for (; i + 16 <= end; i += 16)
            sums = _mm512_add_ps(sums, exponentials(_mm512_sub_ps(floats(scores + i), shift)));
        float sum = _mm512_reduce_add_ps(sums);
        for (; i < end; i++) sum += fast_exp(from_bf16(scores[i]) - largest);
        total += (double)sum;
    }
    return total;
}

static Row sum_vectors(const uint16_t *scores, int64_t vocab, int64_t target) {
    const float largest = largest_of(scores, vocab);
    const double before = sum_of(scores, target, largest);
    return (Row){largest, before + sum_of(scores + target + 1, vocab - target - 1, largest)};
}

static void write_vectors(uint16_t *scores, int64_t vocab, float largest, float inverse) {
    const __m512 shift = _mm512_set1_ps(largest), factor = _mm512_set1_ps(inverse);
    int64_t i = 0;
    for (; i + 16 <= vocab; i += 16)
        put(scores + i, _mm512_mul_ps(exponentials(_mm512_sub_ps(floats(scores + i), shift)), factor));
    for (; i < vocab; i++) scores[i] = to_bf16(fast_exp(from_bf16(scores[i]) - largest) * inverse);
}
#endif

static Row sum_row(int dtype, const void *scores, int64_t place, int64_t vocab, int64_t target) {
#if BF16_PRODUCTS
    if (dtype == BFLOAT16) return sum_vectors((const uint16_t *)scores + place, vocab, target);
#endif
    float buffer[CHUNK];
    Row row = {-INFINITY, 0.0};
    for (int64_t first = 0; first < vocab; first += CHUNK) {
        const int count = vocab - first < CHUNK ? (int)(vocab - first) : CHUNK;
        const float *values = part_of(dtype, scores, place + first, count, buffer);
        float largest = row.largest;
#pragma omp simd reduction(max : largest)
        for (int i = 0; i < count; i++) largest = values[i] > largest ? values[i] : largest;
        row.largest = largest;
    }
    for (int64_t first = 0; first < vocab; first += CHUNK) {
        const int count = vocab - first < CHUNK ? (int)(vocab - first) : CHUNK;
        const float *values = part_of(dtype, scores, place + first, count, buffer);
        const int skip = target >= first && target < first + count ? (int)(target - first) : count;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < skip; i++) sum += fast_exp(values[i] - row.largest);
#pragma omp simd reduction(+ : sum)
        for (int i = skip + 1; i < count; i++) sum += fast_exp(values[i] - row.largest);
        row.others += (double)sum;
    }
    return row;
}

static void write_gradient(int dtype, void *scores, int64_t place, int64_t vocab, float largest, float inverse) {
#if BF16_PRODUCTS
    if (dtype == BFLOAT16) {
        write_vectors((uint16_t *)scores + place, vocab, largest, inverse);
        return;
    }
#endif
    float buffer[CHUNK];
    for (int64_t first = 0; first < vocab; first += CHUNK) {
        const int count = vocab - first < CHUNK ? (int)(vocab - first) : CHUNK;
        const float *values = part_of(dtype, scores, place + first, count, buffer);
        if (dtype == BFLOAT16) {
            uint16_t *out = (uint16_t *)scores + place + first;
#pragma omp simd
            for (int i = 0; i < count; i++) out[i] = to_bf16(fast_exp(values[i] - largest) * inverse);
        } else {
            float *out = (float *)scores + place + first;
#pragma omp simd
            for (int i = 0; i < count; i++) out[i] = fast_exp(out[i] - largest) * inverse;
        }
    }
}

/* scores [rows, vocab] of `dtype`, targets [rows]; losses float32 [rows] = log Σ exp(s) − s[target]. With `gradient`
 * the scores become d(sum of losses)/d(scores), the target's as −others/total: see losses/scores.py. */
int veneer_cross_entropy(int dtype, void *scores, const int64_t *targets, int64_t rows, int64_t vocab, int gradient,
                         float *losses, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const int64_t place = r * vocab;
        const Row row = sum_row(dtype, scores, place, vocab, targets[r]);
        float lead;
        load_row(scores, dtype, place + targets[r], 1, &lead);
        lead -= row.largest;
        const double own = exp((double)lead), total = row.others + own;
        /* Where the target leads, log1p keeps what is left of the loss; where it trails, log(total) is accurate. */
        losses[r] = (float)(own > row.others ? log1p(row.others / own) : log(total) - (double)lead);
        if (!gradient) continue;
        write_gradient(dtype, scores, place, vocab, row.largest, (float)(1.0 / total));
        const float at_target = (float)(-row.others / total);
        store_row(scores, dtype, place + targets[r], 1, &at_target);
    }
    return 0;
}

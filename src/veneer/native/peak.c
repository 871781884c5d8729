/* The most multiplications and additions that the processor does in a second: a loop over registers alone, of the
 * instruction that the products of a dtype are made of. What `veneer doctor` compares the kernels' rates with. */
#include "common.h"
#include "pairs.h"

#define SUMS 12 /* sums that go on side by side, more than the latency of an instruction times its number in a cycle */

/* Returns the operations done by all threads (a multiplication and an addition are two), and into `kept` what came out, so
 * that a compiler leaves nothing out. In bfloat16 where the library has such products, else in float32. */
int64_t veneer_peak(int dtype, int64_t rounds, float *kept, int threads) {
    int64_t done = 0;
    float total = 0.0f;
#pragma omp parallel num_threads(threads) reduction(+ : done, total)
    {
        vec sums[SUMS];
        for (int i = 0; i < SUMS; i++) sums[i] = (vec){0} + (float)i;
#if BF16_PRODUCTS
        if (dtype == BFLOAT16) {
            const __m512bh ones = as_pairs(_mm512_set1_epi32(0x3f803f80)), small = as_pairs(_mm512_set1_epi32(0x2e002e00));
            for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
                for (int i = 0; i < SUMS; i++) sums[i] = (vec)_mm512_dpbf16_ps((__m512)sums[i], ones, small);
            done += rounds * SUMS * VL * 4;
        } else
#endif
        {
            const vec factor = (vec){0} + 0.999f, small = (vec){0} + 1e-3f;
            for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
                for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * factor + small;
            done += rounds * SUMS * VL * 2;
        }
        for (int i = 0; i < SUMS; i++)
            for (int lane = 0; lane < VL; lane++) total += sums[i][lane];
    }
    (void)dtype;
    *kept = total;
    return done;
}

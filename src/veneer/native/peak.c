/* The most multiplications and additions that the processor does in a second: a loop over registers alone, of the
 * instruction that the products of a dtype are made of. What `veneer doctor` compares the kernels' rates with. */
#include "amx.h"
#include "common.h"

#define SUMS 12 /* sums that go on side by side, more than the latency of an instruction times its number in a cycle */

static int64_t in_vectors(int products, int64_t rounds, float *total) {
    int64_t operations;
    vec sums[SUMS];
    for (int i = 0; i < SUMS; i++) sums[i] = (vec){0} + (float)i;
#if BF16_PRODUCTS
    if (products == PRODUCTS_PAIRS) {
        const __m512bh ones = as_pairs(_mm512_set1_epi32(0x3f803f80)), small = as_pairs(_mm512_set1_epi32(0x2e002e00));
        for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
            for (int i = 0; i < SUMS; i++) sums[i] = (vec)_mm512_dpbf16_ps((__m512)sums[i], ones, small);
        operations = rounds * SUMS * VL * 4;
    } else
#endif
    {
        const vec factor = (vec){0} + 0.999f, small = (vec){0} + 1e-3f;
        for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
            for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * factor + small;
        operations = rounds * SUMS * VL * 2;
    }
    for (int i = 0; i < SUMS; i++)
        for (int lane = 0; lane < VL; lane++) *total += sums[i][lane];
    (void)products;
    return operations;
}

#if HAS_TILES
#define SLOWER 10 /* times as long as a round of vectors */
#define TILE_NUMBERS (16 * 32)

/* Tiles of numbers that differ, since the processor slows down where many bits change. */
IN_TILES static int64_t in_tiles(int64_t rounds, float *total) {
    uint16_t numbers[4][TILE_NUMBERS];
    float sums[256];
    for (int i = 0; i < 4 * TILE_NUMBERS; i++) numbers[i / TILE_NUMBERS][i % TILE_NUMBERS] = (uint16_t)(0x3000 + i * 37 % 128);
    veneer_tiles_begin();
    _tile_loadd(4, numbers[0], 64);
    _tile_loadd(5, numbers[1], 64);
    _tile_loadd(6, numbers[2], 64);
    _tile_loadd(7, numbers[3], 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t round = 0; round < rounds / SLOWER; round++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    veneer_tiles_end();
    *total += sums[0];
    return rounds / SLOWER * 4 * 16 * TILE_NUMBERS * 2;
}
#endif

/* Returns the operations done by all threads (a multiplication and an addition are two), and into `kept` what came out,
 * so that a compiler leaves nothing out. `products` is the kind of product, where the library has it, else it is
 * floats. */
int64_t veneer_peak(int products, int64_t rounds, float *kept, int threads) {
    int64_t done = 0;
    float total = 0.0f;
#pragma omp parallel num_threads(threads) reduction(+ : done, total)
    {
#if HAS_TILES
        if (products == PRODUCTS_TILES)
            done += in_tiles(rounds, &total);
        else
            done += in_vectors(products, rounds, &total);
#else
        done += in_vectors(products, rounds, &total);
#endif
    }
    *kept = total;
    return done;
}

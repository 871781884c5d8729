/* y = x · W + s · x₂ · W₂ + b (+ y) in bfloat16 with float32 sums: what the ways of computing it share, the one in
 * pairs (products.c) and the one in AMX's tiles (product_tiles.c). */
#ifndef VENEER_PRODUCT_H
#define VENEER_PRODUCT_H

#include "amx.h"

#if BF16_PRODUCTS
typedef struct {
    const uint16_t *x; /* [rows][2 · pairs] */
    const uint16_t *w;
    int pairs;
} Factor;

typedef struct {
    Factor base, update; /* update.pairs 0: none */
    const float *bias;   /* [columns] or NULL */
    float scale;
    int by_outputs, add; /* how W stands; whether the rounded product is added to what is in y */
    int64_t rows;
    int columns;
    uint16_t *y;
} Product;
#endif

#if HAS_TILES
/* Returns 0, or 1 if memory ran out. */
int veneer_product_in_tiles(const Product *product, int threads);
#endif

#endif

/* AMX: tiles of sixteen rows by 64 bytes, of which an instruction multiplies two and adds to the floats of a third. */
#ifndef VENEER_AMX_H
#define VENEER_AMX_H

#include "pairs.h"

#if BF16_PRODUCTS && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

/* What a thread does before its first product, and after its last, by the kind of product (common.h: PRODUCTS_...). */
void veneer_products_begin(int products);
void veneer_products_end(int products);

#if HAS_TILES
/* What a function needs that uses tiles: the rest of the library runs without them. */
#define IN_TILES __attribute__((target("amx-tile,amx-bf16")))
#define INLINE_IN_TILES IN_TILES __attribute__((always_inline)) static inline

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) TileShapes;

/* Whether the system gives this process tiles (Linux: arch_prctl with ARCH_REQ_XCOMP_PERM). */
int veneer_tiles_allowed(void);

/* What a thread does before its first product in tiles, all of which have sixteen rows of 64 bytes; and after its last.
   */
void veneer_tiles_begin(void);
void veneer_tiles_end(void);

#define TILE_SIDE 16  /* rows of a tile, and floats or words of each */
#define BLOCK_SIDE 32 /* rows and columns of a block of sums, which are in tiles 0 to 3 */

INLINE_IN_TILES void clear_block(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Sums from memory, a row every `stride` floats. */
INLINE_IN_TILES void load_block(const float *sums, int64_t stride) {
    _tile_loadd(0, sums, stride * 4);
    _tile_loadd(1, sums + TILE_SIDE, stride * 4);
    _tile_loadd(2, sums + TILE_SIDE * stride, stride * 4);
    _tile_loadd(3, sums + TILE_SIDE * stride + TILE_SIDE, stride * 4);
}

INLINE_IN_TILES void store_block(float *sums, int64_t stride) {
    _tile_stored(0, sums, stride * 4);
    _tile_stored(1, sums + TILE_SIDE, stride * 4);
    _tile_stored(2, sums + TILE_SIDE * stride, stride * 4);
    _tile_stored(3, sums + TILE_SIDE * stride + TILE_SIDE, stride * 4);
}

/* The block += 32 rows by 16 words of A, a row every `stride` words, times 16 rows by 32 words of B, of which `second`
 * has the latter half. Loads stand between products, so that they overlap. */
INLINE_IN_TILES void add_to_block(const uint32_t *a, int64_t stride, const uint32_t *b, const uint32_t *second,
                                  int64_t b_stride) {
    _tile_loadd(6, b, b_stride * 4);
    _tile_loadd(4, a, stride * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, second, b_stride * 4);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + TILE_SIDE * stride, stride * 4);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}
#endif

#endif

/* Products of a step's rows with a weight as it is stored, in AMX's tiles: bfloat16 with float32 sums. */
#ifndef VENEER_TILES_H
#define VENEER_TILES_H

#include "lane_rows.h"

#if BF16_PRODUCTS && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

#if HAS_TILES
#define IN_TILES __attribute__((target("amx-tile,amx-bf16")))

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) TileShapes;
#endif

/* Whether the system gives this process tiles (Linux: arch_prctl with ARCH_REQ_XCOMP_PERM). */
int veneer_tiles_allowed(void);

/* What a thread does before its first unit, and after its last. */
void veneer_tiles_begin(void);
void veneer_tiles_end(void);

/* Words (of 32 bits) of a thread's working memory; LANE_ROWS rows have room in it, while they are laid out. */
int64_t veneer_tiles_scratch(int64_t depth);

/* As veneer_rows_unit, of x that is laid out as lanes. */
void veneer_tiles_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                       int64_t stride, uint32_t *scratch);

#endif

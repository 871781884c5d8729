/* AMX: tiles of sixteen rows by 64 bytes, of which an instruction multiplies two and adds to the floats of a third. */
#ifndef VENEER_AMX_H
#define VENEER_AMX_H

#include "pairs.h"

#if BF16_PRODUCTS && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

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

/* What a thread does before its first product in tiles, all of which have sixteen rows of 64 bytes; and after its last. */
void veneer_tiles_begin(void);
void veneer_tiles_end(void);
#endif

#endif

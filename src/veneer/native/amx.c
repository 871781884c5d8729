/* The permission to use AMX's tiles, and their shapes. */
#include "amx.h"

#include "common.h"

#if HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>

int veneer_tiles_allowed(void) {
    const int request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

IN_TILES void veneer_tiles_begin(void) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = 16;
    _tile_loadconfig(&shapes);
}

IN_TILES void veneer_tiles_end(void) { _tile_release(); }
#endif

void veneer_products_begin(int products) {
#if HAS_TILES
    if (products == PRODUCTS_TILES) veneer_tiles_begin();
#endif
    (void)products;
}

void veneer_products_end(int products) {
#if HAS_TILES
    if (products == PRODUCTS_TILES) veneer_tiles_end();
#endif
    (void)products;
}

/* Products of a step's rows, by the kind of product (next.h). */
#include "next.h"

#include <stdlib.h>

#include "panels.h"
#include "row_pairs.h"
#include "team.h"
#include "tiles.h"

#define PART_ROWS 64 /* least rows of a thread of its own: each widens all columns for them */

/* What this library and processor multiply bfloat16 with. Processors that have tiles multiply pairs more slowly than
 * floats. */
int veneer_bf16_products(int has_tiles, int threads) {
    (void)threads;
    if (!has_tiles) return BF16_PRODUCTS ? PRODUCTS_PAIRS : PRODUCTS_FLOATS;
#if HAS_TILES
    if (veneer_tiles_allowed()) return PRODUCTS_TILES;
#endif
    return PRODUCTS_FLOATS;
}

int veneer_next_parts(int products, int rows, int threads) {
    return products == PRODUCTS_FLOATS && rows >= threads * PART_ROWS ? threads : 1;
}

int veneer_next_pieces(const Matrix *m, int products, int rows) {
    switch (products) {
        case PRODUCTS_PAIRS: return rows;
        case PRODUCTS_TILES: return (rows + LANE_ROWS - 1) / LANE_ROWS;
        default: return veneer_rows_pieces(veneer_rows_order(m), m->depth, rows);
    }
}

int64_t veneer_next_room(const Matrix *m, int products, int rows) {
    switch (products) {
        case PRODUCTS_PAIRS: return rows * row_words(m->depth);
        case PRODUCTS_TILES: return lane_words(rows, m->depth);
        default: return veneer_rows_room(veneer_rows_order(m), m->depth, rows);
    }
}

int64_t veneer_next_scratch(int64_t depth, int products) {
    switch (products) {
        case PRODUCTS_PAIRS: return row_pairs_scratch(depth);
#if HAS_TILES
        case PRODUCTS_TILES: return veneer_tiles_scratch(depth);
#endif
        default: return panel_scratch(depth);
    }
}

void veneer_next_prepare(const Matrix *m, int products, const float *x, int64_t stride, int rows, int piece, float *out,
                         float *scratch) {
    switch (products) {
#if BF16_PRODUCTS
        case PRODUCTS_PAIRS: veneer_words_prepare(m, x + piece * stride, (uint32_t *)out + piece * row_words(m->depth)); return;
        case PRODUCTS_TILES: {
            const int first = piece * LANE_ROWS, rest = rows - first;
            veneer_lane_rows_lay_out(m, x + first * stride, stride, rest < LANE_ROWS ? rest : LANE_ROWS,
                                     (uint32_t *)out + lane_words(first, m->depth), (uint32_t *)scratch);
            return;
        }
#endif
        default: (void)scratch; veneer_rows_prepare_piece(veneer_rows_order(m), m->depth, x, stride, rows, piece, out);
    }
}

void veneer_next_unit(const Matrix *m, int products, const float *x, int rows, int first, int count, int add, float scale,
                      float *y, int64_t stride, float *scratch) {
    switch (products) {
#if BF16_PRODUCTS
        case PRODUCTS_PAIRS:
            veneer_row_pairs_unit(m, (const uint32_t *)x, rows, first, count, add, scale, y, stride, (uint32_t *)scratch);
            return;
#endif
#if HAS_TILES
        case PRODUCTS_TILES:
            veneer_tiles_unit(m, (const uint32_t *)x, rows, first, count, add, scale, y, stride, (uint32_t *)scratch);
            return;
#endif
        default: veneer_rows_unit(m, x, rows, first, count, add, scale, y, stride, scratch);
    }
}

/* y float32 [rows, columns] = x Wᵀ (+ bias [columns] or NULL), x float32 [rows, depth]; no row where a step ends no
 * prompt. Returns 0, or 1 if memory ran out. */
int veneer_rows_product(const Matrix *m, int products, const float *x, int rows, const float *bias, float *y, int threads) {
    if (rows <= 0) return 0;
    const int64_t stride = m->columns, each = whole_lines(veneer_next_scratch(m->depth, products));
    const int pieces = veneer_next_pieces(m, products, rows), units = (m->columns + UNIT - 1) / UNIT;
    float *prepared = aligned_alloc(64, (size_t)whole_lines(veneer_next_room(m, products, rows)) * 4 + 64);
    float *work = aligned_alloc(64, (size_t)(threads * each) * 4);
    Team *team = new_team(threads);
    const int failed = prepared == NULL || work == NULL || team == NULL;
#pragma omp parallel num_threads(threads) if (!failed)
    if (!failed) {
        const Member me = member_of(team, work, each);
        veneer_products_begin(products);
        for (int piece = share_start(&me, pieces); piece < share_stop(&me, pieces); piece++)
            veneer_next_prepare(m, products, x, m->depth, rows, piece, prepared, me.work);
        meet(&me);
        for (int unit; (unit = take(&me, units)) < units;) {
            const int first = unit * UNIT, count = m->columns - first < UNIT ? m->columns - first : UNIT;
            veneer_next_unit(m, products, prepared, rows, first, count, 0, 1.0f, y, stride, me.work);
            for (int row = 0; bias && row < rows; row++)
                for (int c = first; c < first + count; c++) y[row * stride + c] += bias[c];
        }
        veneer_products_end(products);
    }
    free(team), free(work), free(prepared);
    return failed;
}

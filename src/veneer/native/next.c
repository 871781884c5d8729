/* Products of next tokens' rows, by floats (rows.c) or by pairs of bfloat16 (row_pairs.c). */
#include "next.h"

#include <stdlib.h>

#include "panels.h"
#include "row_pairs.h"
#include "team.h"

#if defined(__AVX512BF16__)
#define BY_PAIRS(products) ((products) == PRODUCTS_PAIRS)
#else
#define BY_PAIRS(products) ((void)(products), 0)
#endif

int veneer_next_pieces(const Matrix *m, int products, int rows) {
    return BY_PAIRS(products) ? rows : veneer_rows_pieces(veneer_rows_order(m), m->depth, rows);
}

int64_t veneer_next_room(const Matrix *m, int products, int rows) {
    return BY_PAIRS(products) ? rows * row_words(m->depth) : veneer_rows_room(veneer_rows_order(m), m->depth, rows);
}

int64_t veneer_next_scratch(int64_t depth) {
    const int64_t panels = panel_scratch(depth), words = row_pairs_scratch(depth);
    return words > panels ? words : panels;
}

void veneer_next_prepare(const Matrix *m, int products, const float *x, int64_t stride, int rows, int piece, float *out) {
#if defined(__AVX512BF16__)
    if (BY_PAIRS(products)) {
        veneer_row_pairs_prepare(m, x + piece * stride, (uint32_t *)out + piece * row_words(m->depth));
        return;
    }
#endif
    (void)products;
    veneer_rows_prepare_piece(veneer_rows_order(m), m->depth, x, stride, rows, piece, out);
}

void veneer_next_unit(const Matrix *m, int products, const float *x, int rows, int first, int count, int add, float scale,
                      float *y, int64_t stride, float *scratch) {
#if defined(__AVX512BF16__)
    if (BY_PAIRS(products)) {
        veneer_row_pairs_unit(m, (const uint32_t *)x, rows, first, count, add, scale, y, stride, (uint32_t *)scratch);
        return;
    }
#endif
    (void)products;
    veneer_rows_unit(m, x, rows, first, count, add, scale, y, stride, scratch);
}

/* y float32 [rows, columns] = x Wᵀ (+ bias [columns] or NULL), x float32 [rows, depth]. Returns 0, or 1 where memory ran
 * out. */
int veneer_rows_product(const Matrix *m, int products, const float *x, int rows, const float *bias, float *y, int threads) {
    const int64_t stride = m->columns, each = whole_lines(veneer_next_scratch(m->depth));
    const int pieces = veneer_next_pieces(m, products, rows), units = (m->columns + UNIT - 1) / UNIT;
    float *prepared = aligned_alloc(64, (size_t)whole_lines(veneer_next_room(m, products, rows)) * 4 + 64);
    float *work = aligned_alloc(64, (size_t)(threads * each) * 4);
    Team *team = new_team(threads);
    const int failed = prepared == NULL || work == NULL || team == NULL;
#pragma omp parallel num_threads(threads) if (!failed)
    if (!failed) {
        const Member me = member_of(team, work, each);
        for (int piece = share_start(&me, pieces); piece < share_stop(&me, pieces); piece++)
            veneer_next_prepare(m, products, x, m->depth, rows, piece, prepared);
        gather(&me);
        for (int unit; (unit = take(&me, units)) < units;) {
            const int first = unit * UNIT, count = m->columns - first < UNIT ? m->columns - first : UNIT;
            veneer_next_unit(m, products, prepared, rows, first, count, 0, 1.0f, y, stride, me.work);
            for (int row = 0; bias && row < rows; row++)
                for (int c = first; c < first + count; c++) y[row * stride + c] += bias[c];
        }
    }
    free(team), free(work), free(prepared);
    return failed;
}

/* ‖W + s · B A‖ of each row, with the frozen W as it is stored: what DoRA divides its magnitudes by.
 *
 * The sums are those of the numbers themselves. ‖W‖² + 2 s (W Aᵀ) · B + … has fewer operations, but its terms cancel
 * where an update takes away most of a row.
 */
#include <math.h>
#include <stdlib.h>

#include "lanes.h"
#include "rows.h"

#define ROWS 8   /* of W at a time, which share what is loaded of A */
#define PART 512 /* depth at a time, so that A's part stays in the nearest caches; a multiple of every VL */

typedef struct {
    const Matrix *w;
    const float *a, *b; /* [rank][depth], [columns][rank] */
    float scale;
    int rank;
} Updated;

/* A's numbers [start, start + count) of the depth, as [vectors][rank][VL]; zeros follow the last one. */
static void lay_out(const Updated *u, int64_t start, int count, float *out) {
    for (int k = 0; k < count; k += VL) {
        const int wide = count - k < VL ? count - k : VL;
        for (int r = 0; r < u->rank; r++, out += VL) {
            memset(out, 0, VL * 4);
            memcpy(out, u->a + r * u->w->depth + start + k, (size_t)wide * 4);
        }
    }
}

/* squares += those of `count` numbers of ROWS rows; zeros follow them in w [ROWS][PART], up to a whole vector. */
static void add_squares(const Updated *u, const float *w, const float *a, const float *const b[ROWS], int count,
                        double squares[ROWS]) {
    lanes found[ROWS] = {0};
    const lanes scale = spread(u->scale);
    for (int k = 0; k < count; k += VL) {
        lanes sums[ROWS] = {0};
        for (int r = 0; r < u->rank; r++, a += VL) {
            const lanes right = *(const vec *)a;
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) sums[i] = fused(sums[i], spread(b[i][r]), right);
        }
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            const lanes updated = fused(*(const vec *)(w + i * PART + k), sums[i], scale);
            found[i] = fused(found[i], updated, updated);
        }
    }
    for (int i = 0; i < ROWS; i++) squares[i] += total(found[i]);
}

/* The rows [first, first + ROWS) of one part of the depth; rows from `end` on are the last one again, and not counted.
   */
static void add_rows(const Updated *u, int first, int end, int64_t start, int count, const float *a, float *w,
                     double *squares) {
    const float *b[ROWS];
    double own[ROWS] = {0};
    for (int i = 0; i < ROWS; i++) {
        const int row = first + i < end ? first + i : end - 1;
        b[i] = u->b + (int64_t)row * u->rank;
        veneer_rows_widen(u->w, row, start, count, w + i * PART);
        for (int k = count; k % VL; k++) w[i * PART + k] = 0.0f;
    }
    add_squares(u, w, a, b, count, own);
    for (int i = 0; i < ROWS && first + i < end; i++) squares[first + i] += own[i];
}

/* norms [columns] float32; a float32 [rank][depth], b float32 [columns][rank]. Returns 0, or 1 if memory ran out. */
int veneer_row_norms(const Matrix *w, const float *a, const float *b, int rank, float scale, float *norms, int threads) {
    const Updated u = {w, a, b, scale, rank};
    double *squares = calloc((size_t)w->columns, sizeof *squares);
    if (!squares) return 1;
    const int share = ((w->columns + threads - 1) / threads + ROWS - 1) / ROWS * ROWS;
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int begun = 0; begun < w->columns; begun += share) {
        const int end = begun + share < w->columns ? begun + share : w->columns;
        float *part = aligned_alloc(64, (size_t)(PART * rank + ROWS * PART) * 4);
        if (!part) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        for (int64_t start = 0; start < w->depth; start += PART) {
            const int count = w->depth - start < PART ? (int)(w->depth - start) : PART;
            lay_out(&u, start, count, part);
            for (int first = begun; first < end; first += ROWS)
                add_rows(&u, first, end, start, count, part, part + PART * rank, squares);
        }
        free(part);
    }
    for (int row = 0; row < w->columns; row++) norms[row] = (float)sqrt(squares[row]);
    free(squares);
    return failed;
}

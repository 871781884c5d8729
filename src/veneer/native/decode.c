/* A whole weight, from as it is stored to numbers. */
#include "rows.h"

#define SPAN 1024    /* weights of a row that are widened at a time */
#define ALONE 65536 /* this many weights are decoded by one thread before another has woken up: some rows of an embedding */

/* out [columns, depth] of `dtype`: each weight is widened to float32 and rounded once. Returns 0. */
int veneer_decode_stored(const Matrix *m, int dtype, void *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (m->columns * m->depth > ALONE)
    for (int column = 0; column < m->columns; column++) {
        float part[SPAN];
        for (int64_t first = 0; first < m->depth; first += SPAN) {
            const int count = (int)(m->depth - first < SPAN ? m->depth - first : SPAN);
            veneer_rows_widen(m, column, first, count, part);
            store_row(out, dtype, (int64_t)column * m->depth + first, count, part);
        }
    }
    return 0;
}

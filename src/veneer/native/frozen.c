/* y = x · W + s · x₂ · W₂ + b in float32, with the frozen W as it is stored: a base layer and its low-rank update at
 * once, on every instruction set.
 *
 * W is stored as rows of outputs, [columns][depth]; forward takes sums along a row, the input's gradient across rows.
 * Either way PANEL columns of the result are arranged as [depth][PANEL], widened to float32 on the way, a part of the
 * depth and some panels at a time, so that they stay in the second-level cache while rows of x run past them. Every sum
 * is taken in the order of the depth, independent of the number of rows, columns or threads; x₂ · W₂ comes first, and
 * is scaled.
 */
#include <stdlib.h>

#include "rows.h"

#if VL == 16
#define ROWS 6
#define STRIPS 4 /* ROWS · STRIPS sums stay in registers, beside the STRIPS vectors of W that they share */
#elif VL == 8
#define ROWS 6
#define STRIPS 2
#else
#define ROWS 6
#define STRIPS 4
#endif
#define PANEL (VL * STRIPS)
#define WIDTH 192 /* columns that are arranged at a time, a multiple of every PANEL */
#define PART 320  /* depth that is arranged at a time, at most: whole chunks, since those of 4 bits are widened at once */
#define TURNED 16 /* rows of W that are turned at a time */

typedef float lanes __attribute__((vector_size(VL * 4)));

typedef struct {
    const float *x, *x2; /* [rows][depth], [rows][rank] */
    const Matrix *w, *w2;
    const float *bias; /* [columns] or NULL */
    float scale;
    int by_outputs;
    int64_t rows;
    int depth, rank, columns;
    float *y;
} Product;

/* Columns [first, first + width) of the result and depth [start, start + count) of W, as panels [count][PANEL] one
 * behind the other; zeros beyond the last column. `row` holds TURNED · PART floats. */
static void lay_out(const Product *p, const Matrix *w, int first, int width, int start, int count, float *out, float *row) {
    if (width % PANEL) memset(out + (int64_t)(width / PANEL * PANEL) * count, 0, (size_t)PANEL * count * 4);
    if (!p->by_outputs) {
        for (int k = 0; k < count; k++) {
            veneer_rows_widen(w, start + k, first, width, row);
            for (int c = 0; c < width; c += PANEL)
                memcpy(out + (int64_t)c * count + (int64_t)k * PANEL, row + c,
                       (size_t)(width - c < PANEL ? width - c : PANEL) * 4);
        }
        return;
    }
    for (int c = 0; c < width; c += TURNED) {
        const int wide = width - c < TURNED ? width - c : TURNED;
        for (int i = 0; i < wide; i++) veneer_rows_widen(w, first + c + i, start, count, row + i * PART);
        float *to = out + (int64_t)(c / PANEL * PANEL) * count + c % PANEL;
        if (wide == TURNED)
            for (int k = 0; k < count; k++)
                for (int i = 0; i < TURNED; i++) to[(int64_t)k * PANEL + i] = row[i * PART + k];
        else
            for (int k = 0; k < count; k++)
                for (int i = 0; i < wide; i++) to[(int64_t)k * PANEL + i] = row[i * PART + k];
    }
}

static inline lanes fused(lanes sum, float a, lanes b) { return sum + a * b; }

/* Number by number: a compiler makes one slow instruction of `memset`, a tenth of a tile's time on Zen 3. */
__attribute__((always_inline)) static inline void clear(lanes sums[ROWS][STRIPS]) {
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < STRIPS; j++) sums[i][j] = (lanes){0};
}

/* sums += x · panel over `count` numbers of ROWS rows, in the first `strips` strips. */
__attribute__((always_inline)) static inline void add_strips(lanes sums[ROWS][STRIPS], const float *const x[ROWS],
                                                             const float *panel, int count, const int strips) {
#pragma GCC unroll 4
    for (int k = 0; k < count; k++, panel += PANEL) {
        lanes right[STRIPS];
#pragma GCC unroll 4
        for (int j = 0; j < strips; j++) right[j] = *(const vec *)(panel + j * VL);
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; i++) {
            const float left = x[i][k];
#pragma GCC unroll 4
            for (int j = 0; j < strips; j++) sums[i][j] = fused(sums[i][j], left, right[j]);
        }
    }
}

/* The same for as many strips as `width` columns take: an adapter's A has few, and the panel's others are zeros. */
__attribute__((always_inline)) static inline void add_products(lanes sums[ROWS][STRIPS], const float *const x[ROWS],
                                                               const float *panel, int count, int width) {
    if (width > 2 * VL)
        add_strips(sums, x, panel, count, STRIPS);
    else if (width > VL)
        add_strips(sums, x, panel, count, 2);
    else
        add_strips(sums, x, panel, count, 1);
}

/* Where ROWS rows begin, from number `start` on; rows beyond the last are the last one again. */
static inline void point(const float *x, int depth, int64_t first, int64_t rows, int start, const float *at[ROWS]) {
    for (int i = 0; i < ROWS; i++) at[i] = x + (first + i < rows ? first + i : rows - 1) * depth + start;
}

/* One tile of y: ROWS rows from `first` on, a panel from `column` on, depth [start, start + count). Each part of the
 * depth is summed separately, which rounds less than one long sum, and added to what is in y. */
static void tile(const Product *p, int64_t first, int column, int start, int count, const float *panel,
                 const float *update) {
    lanes sums[ROWS][STRIPS];
    float kept[ROWS][PANEL] __attribute__((aligned(64)));
    const float *x[ROWS];
    const int height = p->rows - first < ROWS ? (int)(p->rows - first) : ROWS;
    const int width = p->columns - column < PANEL ? p->columns - column : PANEL, whole = width == PANEL && height == ROWS;
    float *y = p->y + first * p->columns + column;
    const int64_t stride = whole ? p->columns : PANEL;
    float *to = whole ? y : kept[0];
    if (start && !whole)
        for (int i = 0; i < height; i++) memcpy(kept[i], y + (int64_t)i * p->columns, (size_t)width * 4);
    if (start == 0 && p->rank) {
        clear(sums);
        point(p->x2, p->rank, first, p->rows, 0, x);
        add_products(sums, x, update, p->rank, width);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < STRIPS; j++) *(vec *)(to + i * stride + j * VL) = sums[i][j] * p->scale;
    }
    clear(sums);
    point(p->x, p->depth, first, p->rows, start, x);
    add_products(sums, x, panel, count, width);
    if (start || p->rank)
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < STRIPS; j++) sums[i][j] += *(const vec *)(to + i * stride + j * VL);
    if (start + count == p->depth && p->bias)
        for (int j = 0; j < STRIPS; j++) {
            float bias[VL] = {0};
            for (int c = 0; c < VL && column + j * VL + c < p->columns; c++) bias[c] = p->bias[column + j * VL + c];
            for (int i = 0; i < ROWS; i++) sums[i][j] += *(const vec *)bias;
        }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < STRIPS; j++) *(vec *)(to + i * stride + j * VL) = sums[i][j];
    if (!whole)
        for (int i = 0; i < height; i++) memcpy(y + (int64_t)i * p->columns, kept[i], (size_t)width * 4);
}

/* WIDTH columns from `column` on against the rows from `first` to `end`. */
static void block(const Product *p, int column, int64_t first, int64_t end, float *space) {
    float *base = space, *update = base + (int64_t)WIDTH * PART, *row = update + (int64_t)WIDTH * p->rank;
    const int width = p->columns - column < WIDTH ? p->columns - column : WIDTH;
    if (p->rank)
        for (int k = 0; k < p->rank; k += PART) { /* high ranks: by parts too, since `row` holds one */
            const int count = p->rank - k < PART ? p->rank - k : PART;
            lay_out(p, p->w2, column, width, k, count, base, row);
            for (int c = 0; c < width; c += PANEL)
                memcpy(update + (int64_t)c * p->rank + (int64_t)k * PANEL, base + (int64_t)c * count,
                       (size_t)count * PANEL * 4);
        }
    const int parts = (p->depth + PART - 1) / PART, even = (p->depth + parts - 1) / parts;
    const int deep = (int)whole_chunks(even) < PART ? (int)whole_chunks(even) : PART;
    for (int start = 0; start < p->depth; start += deep) {
        const int count = p->depth - start < deep ? p->depth - start : deep;
        lay_out(p, p->w, column, width, start, count, base, row);
        for (int64_t r = first; r < end; r += ROWS)
            for (int c = 0; c < width; c += PANEL)
                tile(p, r, column + c, start, count, base + (int64_t)c * count, update + (int64_t)c * p->rank);
    }
}

/* y [rows, columns] = x W + scale · x₂ W₂ + bias, float32 but W. `by_outputs`: W is [columns, depth] and W₂ [columns,
 * rank]; else W is [depth, columns] and W₂ [rank, columns]. W₂ NULL leaves the update out. Returns 0, or 1 if memory
 * ran out. */
int veneer_frozen_product(const Matrix *w, const Matrix *w2, const float *x, const float *x2, const float *bias,
                          float scale, int by_outputs, int64_t rows, float *y, int threads) {
    const int columns = by_outputs ? w->columns : (int)w->depth, depth = by_outputs ? (int)w->depth : w->columns;
    const int rank = !w2 ? 0 : by_outputs ? (int)w2->depth : w2->columns;
    const Product p = {x, x2, w, w2, bias, scale, by_outputs, rows, depth, rank, columns, y};
    const int blocks = (columns + WIDTH - 1) / WIDTH;
    /* Where the columns cannot be shared out evenly, threads share the rows too, and each arranges its own panels. */
    const int parts = blocks % threads == 0 || blocks > 16 * threads ? 1 : threads;
    const int64_t height = ((rows + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *space = aligned_alloc(64, (size_t)(WIDTH * (PART + rank) + TURNED * PART) * 4);
        if (!space) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int task = 0; task < blocks * parts; task++) {
            const int64_t first = task % parts * height, end = first + height < rows ? first + height : rows;
            if (space && first < end) block(&p, task / parts * WIDTH, first, end, space);
        }
        free(space);
    }
    return failed;
}

/* Low-rank updates of few rows, in floats (adapt_tiles.c has those in tiles). A row's sums have one order, whatever
 * rows and adapters are beside it: those over the inputs have the lanes of rows.c, and those over the rank go up one by
 * one, from what the base has made. The sums of many columns are in registers meanwhile, so that Bᵀ is read in long
 * pieces and no sum waits for itself.
 */
#include "adapt_tiles.h"
#include "lanes.h"
#include "panels.h"

/* Floats of working memory for an A in floats. */
static int64_t float_scratch(int64_t depth) {
    return panel_scratch(depth) + (depth % CHUNK ? panel_room(depth, ADAPTED_ROWS) : 0);
}

int64_t veneer_adapt_scratch(int64_t depth) {
    return float_scratch(depth) + ADAPTED_ROWS * depth / 2; /* tiles take rows in bfloat16 */
}

/* What A of one layer makes of rows, in floats. */
static void down_floats(const Factor *f, int64_t depth, const float *x, int64_t apart, int rows, float *down, int64_t stride,
                        float *scratch, const void *next) {
    const Matrix a = {.format = f->format, .columns = f->rank, .depth = depth, .codes = f->down};
    float *panels = scratch + panel_scratch(depth);
    for (int panel = 0; depth % CHUNK && panel < panels_of(rows); panel++)
        veneer_panel_lay_out(NATURAL, depth, x, apart, rows, panel, panels);
    for (int first = 0; first < f->rank; first += UNIT) {
        const int rest = f->rank - first, count = rest < UNIT ? rest : UNIT;
        if (depth % CHUNK)
            veneer_panel_unit(&a, panels, rows, first, count, 0, 1.0f, down, stride, scratch);
        else
            veneer_rows_few(&a, x, apart, rows, first, count, 0, 1.0f, down, stride, scratch, next);
    }
    for (int row = 0; row < rows; row++)
        for (int r = 0; r < f->rank; r++) down[row * stride + r] *= f->scale;
}

void veneer_adapt_down(const Factor *factors, int count, int64_t depth, const float *x, int64_t apart, int rows, float *down,
                       int64_t stride, float *scratch, const void *next, Shapes *shapes) {
#if HAS_TILES
    uint32_t *const halves = (uint32_t *)(scratch + float_scratch(depth));
    int rounded = 0; /* whether the rows are there, as all tiles read them */
#else
    (void)shapes;
#endif
    for (int i = 0; i < count; down += factors[i++].rank) {
        const Factor *f = factors + i;
        const void *later = i + 1 < count && factors[i + 1].down ? factors[i + 1].down : next;
        if (f->down == NULL) continue;
#if HAS_TILES
        if (f->format == FACTOR_TILES) {
            if (!rounded) veneer_adapt_round(x, depth, apart, rows, halves);
            rounded = 1;
            veneer_adapt_down_tiles(f, depth, halves, rows, down, stride, later, shapes);
            continue;
        }
#endif
        down_floats(f, depth, x, apart, rows, down, stride, scratch, later);
    }
}

/* y float32, a row every `stride` floats, and what is added to it: the rows of `down`, a row every `ranks` floats. */
typedef struct {
    const float *down;
    float *y;
    int64_t ranks, stride, width; /* width: all columns of the layer */
    int first;  /* of the columns that are updated */
    Piece next; /* what is read next */
} Up;

#define UP_SUMS (VL == 8 ? 8 : 16) /* vectors of sums that stay in registers */
#define UP_ROWS 4                  /* rows that share what is loaded of Bᵀ, where there are as many */

/* The weights of VL columns at ranks r and r + 1. In bfloat16 a word holds both: two shifts widen them, where each
 * separately would first have to be moved into its lane. */
INLINE void up_lanes(const Factor *f, int format, const Up *u, int r, int column, lanes found[2]) {
    if (format == WEIGHT_BFLOAT16) {
        word_vec pairs;
        memcpy(&pairs, (const uint32_t *)f->up + r / 2 * u->width + column, sizeof pairs);
        found[0] = (lanes)(pairs << 16);
        found[1] = (lanes)(pairs & 0xffff0000u);
    } else {
        const float *at = (const float *)f->up + r * u->width + column;
        found[0] = (lanes) * (const vec *)at;
        found[1] = r + 1 < f->rank ? (lanes) * (const vec *)(at + u->width) : spread(0.0f);
    }
}

INLINE float up_at(const Factor *f, int format, const Up *u, int r, int column) {
    if (format == WEIGHT_BFLOAT16) return from_bf16(((const uint16_t *)f->up)[2 * (r / 2 * u->width + column) + r % 2]);
    return ((const float *)f->up)[r * u->width + column];
}

/* What is read next in the place of `columns` columns at ranks r and r + 1. */
INLINE void fetch_up(const Up *u, int format, int r, int column, int columns) {
    const int lines = format == WEIGHT_BFLOAT16 ? 1 : 2; /* of memory, for two ranks */
    const char *from = u->next.at + r * lines / 2 * u->next.stride + (column - u->first) * 4;
    for (int i = 0; i < lines; i++)
        for (int byte = 0; byte < columns * 4; byte += 64) __builtin_prefetch(from + i * u->next.stride + byte, 0, 2);
}

/* `rows` rows from `row` on by `vectors` vectors of columns, both known at compile time. */
INLINE void up_tile(const Factor *f, int format, const Up *u, int row, int rows, int column, int vectors) {
    lanes sums[UP_SUMS];
    float *y = u->y + row * u->stride + column;
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) sums[i * vectors + v] = (lanes) * (const vec *)(y + i * u->stride + v * VL);
    for (int r = 0; r < f->rank; r += 2) {
        const int two = r + 1 < f->rank; /* else the weights of the second are zero, and so is what they meet */
        if (row == 0 && u->next.at) fetch_up(u, format, r, column, vectors * VL);
        lanes left[2][UP_ROWS];
        for (int i = 0; i < rows; i++) {
            const float *down = u->down + (row + i) * u->ranks + r;
            left[0][i] = spread(down[0]);
            left[1][i] = spread(two ? down[1] : 0.0f);
        }
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) {
            lanes up[2];
            up_lanes(f, format, u, r, column + v * VL, up);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++)
                sums[i * vectors + v] = fused(fused(sums[i * vectors + v], left[0][i], up[0]), left[1][i], up[1]);
        }
    }
    for (int v = 0; v < vectors; v++) {
        const int at = column + v * VL;
        const lanes bias = f->bias ? (lanes) * (const vec *)(f->bias + at) : spread(0.0f);
        const lanes gain = f->gain ? (lanes) * (const vec *)(f->gain + at) : spread(1.0f);
        for (int i = 0; i < rows; i++) {
            const lanes sum = sums[i * vectors + v];
            *(vec *)(y + i * u->stride + v * VL) = (vec)(f->gain ? fused(bias, sum, gain) : f->bias ? sum + bias : sum);
        }
    }
}

/* Rows from `row` on by the columns [first, last), as many as there are whole vectors; returns where they end. */
INLINE int up_tiles(const Factor *f, int format, const Up *u, int row, int rows, int first, int last) {
    int c = first;
    const int most = UP_SUMS / rows; /* vectors; fewer of them for what is left, of which one alone would wait for itself */
    for (; c + most * VL <= last; c += most * VL) up_tile(f, format, u, row, rows, c, most);
    for (; most > 2 && c + most / 2 * VL <= last; c += most / 2 * VL) up_tile(f, format, u, row, rows, c, most / 2);
    for (; most > 4 && c + most / 4 * VL <= last; c += most / 4 * VL) up_tile(f, format, u, row, rows, c, most / 4);
    for (; c + VL <= last; c += VL) up_tile(f, format, u, row, rows, c, 1);
    return c;
}

/* The columns after the last whole vector. */
INLINE void up_rest(const Factor *f, int format, const Up *u, int row, int rows, int first, int last) {
    for (int i = row; i < row + rows; i++)
        for (int c = first; c < last; c++) {
            float sum = u->y[i * u->stride + c];
            for (int r = 0; r < f->rank; r++)
                sum = __builtin_fmaf(u->down[i * u->ranks + r], up_at(f, format, u, r, c), sum);
            if (f->gain)
                sum = __builtin_fmaf(sum, f->gain[c], f->bias ? f->bias[c] : 0.0f);
            else if (f->bias)
                sum += f->bias[c];
            u->y[i * u->stride + c] = sum;
        }
}

#define DEFINE_UP(name, format)                                                                            \
    static void name(const Factor *f, const Up *u, int rows, int first, int last) {                        \
        int row = 0;                                                                                       \
        for (; row + UP_ROWS <= rows; row += UP_ROWS)                                                      \
            up_rest(f, format, u, row, UP_ROWS, up_tiles(f, format, u, row, UP_ROWS, first, last), last);  \
        for (; row < rows; row++)                                                                          \
            up_rest(f, format, u, row, 1, up_tiles(f, format, u, row, 1, first, last), last);              \
    }
DEFINE_UP(up_float32, WEIGHT_FLOAT32)
DEFINE_UP(up_bfloat16, WEIGHT_BFLOAT16)

void veneer_adapt_up(const Factor *factor, int64_t width, const float *down, int64_t stride, int rows, int first,
                     int count, float *y, int64_t y_stride, Piece next, Shapes *shapes) {
#if HAS_TILES
    if (factor->format == FACTOR_TILES) {
        veneer_adapt_up_tiles(factor, width, down, stride, rows, first, count, y, y_stride, next, shapes);
        return;
    }
#endif
    (void)shapes;
    const Up u = {down, y, stride, y_stride, width, first, next};
    if (factor->format == WEIGHT_BFLOAT16)
        up_bfloat16(factor, &u, rows, first, first + count);
    else
        up_float32(factor, &u, rows, first, first + count);
}

void veneer_adapt_end(Shapes *shapes) {
#if HAS_TILES
    if (shapes->rows) veneer_tiles_begin();
#endif
    shapes->rows = 0;
}

/* y = x · W + s · x₂ · W₂ + b (+ y) in bfloat16 with float32 sums: a base layer and its low-rank update at once, here
 * in pairs (AVX-512 BF16), and in AMX's tiles by product_tiles.c.
 *
 * W is in memory as rows of outputs, [columns][depth] (a layer's forward), or as rows of inputs, [depth][columns]
 * (its input's gradient); W₂ like W. An instruction multiplies two neighbours in depth and adds both to a float32 sum,
 * so PANEL columns are arranged as pairs, [depth / 2][PANEL], a part of the depth at a time, and all rows of x run past
 * that part before the next is arranged. Every sum is taken in the same order, independent of the number of rows,
 * columns or threads, and is rounded once.
 */
#include <stdlib.h>

#include "common.h"
#include "product.h"

#if BF16_PRODUCTS

#define STRIPS 4
#define PANEL (16 * STRIPS) /* two lines of y: a line that two panels write would go to memory twice */
#define ROWS 6              /* ROWS · STRIPS sums stay in registers, beside the STRIPS vectors of W that they share */
#define PART 1024           /* pairs of depth that are arranged at a time: they fit the second-level cache */
#define LINE 16             /* words in a line of the cache */

/* Sixteen columns of a W of rows of inputs, `count` pairs of its depth from `start` on, as [count] lines of a panel. */
static void lay_out_inputs(const Factor *f, int columns, int column, int start, int count, uint32_t *out) {
    const __mmask16 mask = lanes_below(columns - column);
    for (int k = 0; k < count; k++) {
        const uint16_t *in = f->w + (int64_t)2 * (start + k) * columns + column;
        _mm512_storeu_si512(out + (int64_t)k * PANEL, pairs_of(in, mask, in + columns, mask));
    }
}

/* The same of a W of rows of outputs. */
static void lay_out_outputs(const Factor *f, int columns, int column, int start, int count, uint32_t *out) {
    for (int k = 0; k < count; k += 16) {
        const __mmask16 mask = lanes_below(count - k);
        __m512i words[16];
        for (int i = 0; i < 16; i++) {
            const int64_t place = (int64_t)(column + i) * f->pairs + start + k;
            words[i] = column + i < columns ? _mm512_maskz_loadu_epi32(mask, f->w + 2 * place) : _mm512_setzero_si512();
        }
        transpose_words(words);
        for (int i = 0; i < 16 && k + i < count; i++) _mm512_storeu_si512(out + (int64_t)(k + i) * PANEL, words[i]);
    }
}

/* PANEL columns of W from `first` on, `count` pairs of its depth from `start` on, as [count][PANEL]; zeros beyond the
 * last column of a strip. */
static void lay_out(const Factor *f, int by_outputs, int columns, int first, int start, int count, uint32_t *panel) {
    for (int column = first; column < columns && column < first + PANEL; column += 16, panel += 16) {
        if (by_outputs)
            lay_out_outputs(f, columns, column, start, count, panel);
        else
            lay_out_inputs(f, columns, column, start, count, panel);
    }
}

typedef __m512 Sums[ROWS][STRIPS];

/* sums += x · panel over `count` words of ROWS rows; meanwhile the same words `ahead` words on are fetched. */
__attribute__((always_inline)) static inline void add_products(Sums sums, int strips, const uint32_t *const x[ROWS],
                                                               int64_t ahead, const uint32_t *panel, int count) {
    for (int line = 0; line < count; line += LINE) {
        const int end = line + LINE < count ? line + LINE : count;
        for (int i = 0; i < ROWS; i++) __builtin_prefetch(x[i] + ahead + line);
        for (int k = line; k < end; k++) {
            __m512bh right[STRIPS];
            for (int j = 0; j < strips; j++)
                right[j] = as_pairs(_mm512_loadu_si512(panel + (int64_t)k * PANEL + 16 * j));
#pragma GCC unroll 6
            for (int i = 0; i < ROWS; i++) {
                const __m512bh pair = as_pairs(_mm512_set1_epi32((int)x[i][k]));
#pragma GCC unroll 4
                for (int j = 0; j < strips; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], pair, right[j]);
            }
        }
    }
}

/* Where the words of ROWS rows begin, from word `start` on; rows beyond the last are the last one again. */
static inline void point(const Factor *f, int64_t first, int64_t rows, int start, const uint32_t *x[ROWS]) {
    for (int i = 0; i < ROWS; i++) {
        const int64_t row = first + i < rows ? first + i : rows - 1;
        x[i] = (const uint32_t *)f->x + row * f->pairs + start;
    }
}

/* A part of the depth of a panel, arranged. */
typedef struct {
    int column, start, count; /* first column, first pair, pairs */
    uint32_t *base, *update;
} Panel;

/* One tile of y: ROWS rows from `first` on, `strips` strips of a panel. `kept` [ROWS][PANEL] carries the sums from one
 * part of the depth to the next. */
__attribute__((always_inline)) static inline void tile(const Product *p, const Panel *panel, int strips, int64_t first,
                                                       float *kept) {
    Sums sums;
    const uint32_t *x[ROWS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < strips; j++)
            sums[i][j] = panel->start ? _mm512_loadu_ps(kept + i * PANEL + 16 * j) : _mm512_setzero_ps();
    if (panel->start == 0 && p->update.pairs) {
        point(&p->update, first, p->rows, 0, x);
        add_products(sums, strips, x, (int64_t)ROWS * p->update.pairs, panel->update, p->update.pairs);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < strips; j++) sums[i][j] = _mm512_mul_ps(sums[i][j], _mm512_set1_ps(p->scale));
    }
    point(&p->base, first, p->rows, panel->start, x);
    /* Stores to lines that are not there yet would hold up the next tile. */
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < strips; j += 2)
            __builtin_prefetch(p->y + (first + i) * p->columns + panel->column + 16 * j, 1, 2);
    add_products(sums, strips, x, (int64_t)ROWS * p->base.pairs, panel->base, panel->count);
    if (panel->start + panel->count < p->base.pairs) {
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < strips; j++) _mm512_storeu_ps(kept + i * PANEL + 16 * j, sums[i][j]);
        return;
    }
    for (int j = 0; j < strips; j++) {
        const int at = panel->column + 16 * j;
        const __mmask16 mask = lanes_below(p->columns - at);
        const __m512 bias = p->bias ? _mm512_maskz_loadu_ps(mask, p->bias + at) : _mm512_setzero_ps();
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; i++)
            if (first + i < p->rows) {
                uint16_t *y = p->y + (first + i) * p->columns + at;
                __m256i found = narrow(_mm512_add_ps(sums[i][j], bias));
                if (p->add) found = narrow(_mm512_add_ps(floats_of(found), floats_below(y, mask)));
                _mm256_mask_storeu_epi16(y, mask, found);
            }
    }
}

/* The tiles of all rows from `first` to `end`; once for each number of strips, so that sums stay in registers. */
#define DEFINE_TILES(name, strips)                                                                             \
    static void name(const Product *p, const Panel *panel, int64_t first, int64_t end, float *kept) {         \
        for (int64_t row = first; row < end; row += ROWS) tile(p, panel, strips, row, kept + (row - first) * PANEL); \
    }
DEFINE_TILES(one_strip, 1)
DEFINE_TILES(two_strips, 2)
DEFINE_TILES(three_strips, 3)
DEFINE_TILES(four_strips, 4)

/* A panel against the rows from `first` to `end`; `space` holds a part of it and its update. */
static void panel_product(const Product *p, int column, int64_t first, int64_t end, uint32_t *space, float *kept) {
    static void (*const tiles[STRIPS])(const Product *, const Panel *, int64_t, int64_t, float *) = {
        one_strip, two_strips, three_strips, four_strips};
    const int width = p->columns - column < PANEL ? p->columns - column : PANEL;
    Panel panel = {column, 0, 0, space, space + (int64_t)PART * PANEL};
    if (p->update.pairs) lay_out(&p->update, p->by_outputs, p->columns, column, 0, p->update.pairs, panel.update);
    for (; panel.start < p->base.pairs; panel.start += PART) {
        panel.count = p->base.pairs - panel.start < PART ? p->base.pairs - panel.start : PART;
        lay_out(&p->base, p->by_outputs, p->columns, column, panel.start, panel.count, panel.base);
        tiles[(width + 15) / 16 - 1](p, &panel, first, end, kept);
    }
}

static int in_pairs(const Product *p, int threads) {
    const int panels = (p->columns + PANEL - 1) / PANEL;
    /* Where the panels cannot be shared out evenly, threads share the rows too, and each arranges its own panel. */
    const int parts = panels % threads == 0 || panels > 16 * threads ? 1 : threads;
    const int64_t height = ((p->rows + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        uint32_t *panel = aligned_alloc(64, (size_t)(PART + p->update.pairs) * PANEL * 4);
        float *kept = aligned_alloc(64, sizeof(float) * (p->base.pairs > PART ? (size_t)height : 1) * PANEL);
        if (!panel || !kept) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int task = 0; task < panels * parts; task++) {
            const int64_t first = task % parts * height, end = first + height < p->rows ? first + height : p->rows;
            if (panel && kept && first < end) panel_product(p, task / parts * PANEL, first, end, panel, kept);
        }
        free(panel);
        free(kept);
    }
    return failed;
}
#endif

/* Whether the product is in this library. */
int veneer_product_compiled(int threads) { return (void)threads, BF16_PRODUCTS; }

/* y [rows, columns] = x · W + scale · x₂ · W₂ + bias, all bfloat16 but the bias (float32 or NULL). x is [rows, depth],
 * x₂ [rows, rank]; depth and rank are even, rank 0 leaves the second product out. W is [columns, depth] and W₂
 * [columns, rank] where `by_outputs`, else [depth, columns] and [rank, columns]. Where `add`, that is added to what
 * stands in y, and rounded again. `products` is the kind of product: pairs or tiles. Returns 0, or 1 if memory ran out.
 * */
int veneer_product(const uint16_t *x, const uint16_t *w, const uint16_t *x2, const uint16_t *w2, const float *bias,
                   float scale, int by_outputs, int add, int64_t rows, int depth, int rank, int columns, int products,
                   uint16_t *y, int threads) {
#if BF16_PRODUCTS
    const Product p = {{x, w, depth / 2}, {x2, w2, rank / 2}, bias, scale, by_outputs, add, rows, columns, y};
#if HAS_TILES
    if (products == PRODUCTS_TILES) return veneer_product_in_tiles(&p, threads);
#endif
    (void)products;
    return in_pairs(&p, threads);
#else
    (void)x, (void)w, (void)x2, (void)w2, (void)bias, (void)scale, (void)by_outputs, (void)add, (void)rows, (void)depth;
    (void)rank, (void)columns, (void)products, (void)y, (void)threads;
    return 1;
#endif
}

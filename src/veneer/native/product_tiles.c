/* The product of products.c in AMX's tiles: the sums of 32 rows and 32 columns of y stay in four of them.
 *
 * A tile of x is sixteen rows by 32 numbers of each, as they are in memory. A tile of W is sixteen columns by the same
 * numbers, in pairs. A thread arranges a group of columns, which stays in the second-level cache, and its rows meet
 * them. Very long rows are multiplied a part at a time, and `kept` carries the sums from one part to the next.
 *
 * The update goes to the same sums: x₂ meets s · W₂, which is stored as a sum of bfloat16 numbers, one where the scale
 * is a power of two, else three, which together are as exact as a float. Each sum has one order, independent of the
 * number of rows, columns or threads. It is rounded once, while the next ones are multiplied.
 */
#include "product.h"

#if HAS_TILES
#include <math.h>
#include <stdlib.h>

#include "common.h"

#define TILE TILE_SIDE              /* rows of x, or columns of W, that a tile has */
#define SIDE BLOCK_SIDE             /* rows and columns of y that are computed at a time */
#define STEP 32                     /* numbers of a row, or of a column, that a tile has */
#define TILE_WORDS (TILE * STEP / 2)
#define STEP_WORDS (2 * TILE_WORDS) /* of SIDE columns */
#define PART 2048                   /* numbers of long rows that are multiplied at a time */
#define AHEAD (2 * STEP)            /* rows of W from which on lines are fetched while it is arranged */
#define GROUP_BYTES (1 << 20)       /* of columns that are arranged */

static inline int64_t whole(int64_t numbers, int64_t of) { return (numbers + of - 1) / of * of; }

/* What one thread computes: rows from `first` to `end`, and columns from `from` to `to`, at most `group` at a time. All
 * but the last are whole SIDEs. */
typedef struct {
    const Product *p;
    int64_t depth, part; /* of the base, whole STEPs */
    int64_t rank;        /* of the update: whole STEPs of `terms` times its own */
    int terms;
    int64_t first, end;
    int from, to, group;
    uint32_t *base, *update; /* columns that are arranged, [group / SIDE][part / STEP][2][TILE_WORDS] */
    uint32_t *plain;         /* SIDE columns of W₂ before they meet the scale */
    uint16_t *x, *x2;        /* rows that are copied */
    float *kept;             /* [group / SIDE][rows][SIDE] */
    float *sums;             /* [SIDE][SIDE] */
} Share;

/* Sums that are to be rounded into y. */
typedef struct {
    const float *sums;
    uint16_t *y;
    int64_t stride;
    int left, add; /* rows; whether they are added to y */
    __mmask16 low, high;
    __m512 bias[2];
} Pending;

/* The first row that is copied: where depth is no whole STEPs all are, else those behind the last SIDE. */
static inline int64_t first_copied(const Share *s) {
    const int whole_rows = s->depth == 2 * (int64_t)s->p->base.pairs;
    return whole_rows ? s->first + (s->end - s->first) / SIDE * SIDE : s->first;
}

/* Rows of a factor from `row` on, each `times` times side by side, with zeros up to `width` numbers and whole SIDEs of
   rows. */
static void copy_rows(const Share *s, const Factor *f, int64_t row, int times, int64_t width, uint16_t *out) {
    const int64_t numbers = 2 * (int64_t)f->pairs, end = s->first + whole(s->end - s->first, SIDE);
    for (; row < end; row++, out += width) {
        const int count = row < s->end ? times : 0;
        for (int i = 0; i < count; i++) memcpy(out + i * numbers, f->x + row * numbers, (size_t)numbers * 2);
        memset(out + count * numbers, 0, (size_t)(width - count * numbers) * 2);
    }
}

/* A tile of W: TILE columns from `column` on, pairs of the depth from `start` on; zeros beyond the last. */
static void lay_out_tile(const Factor *f, int by_outputs, int columns, int column, int start, uint32_t *out) {
    const int pairs = f->pairs - start, more = columns - column;
    __m512i words[TILE];
    for (int i = 0; i < TILE; i++) {
        words[i] = _mm512_setzero_si512();
        if (by_outputs && i < more) {
            const uint16_t *in = f->w + 2 * ((int64_t)(column + i) * f->pairs + start);
            words[i] = _mm512_maskz_loadu_epi32(lanes_below(pairs), in);
        } else if (!by_outputs && i < pairs && more > 0) {
            const uint16_t *in = f->w + (int64_t)2 * (start + i) * columns + column;
            words[i] = pairs_of(in, lanes_below(more), in + columns, lanes_below(more));
        }
    }
    if (by_outputs) transpose_words(words);
    for (int i = 0; i < TILE; i++) _mm512_storeu_si512(out + i * TILE, words[i]);
}

/* SIDE columns, a STEP of their depth from `start` on. */
static inline void lay_out_step(const Product *p, const Factor *f, int column, int64_t start, uint32_t *out) {
    for (int i = 0; !p->by_outputs && i < STEP; i++)
        __builtin_prefetch(f->w + (start + AHEAD + i) * p->columns + column, 0, 2);
    lay_out_tile(f, p->by_outputs, p->columns, column, (int)start / 2, out);
    lay_out_tile(f, p->by_outputs, p->columns, column + TILE, (int)start / 2, out + TILE_WORDS);
}

/* Columns from `column` to `stop`, `numbers` of their depth from `start` on, in the order in which they are stored. */
static void lay_out(const Product *p, const Factor *f, int column, int stop, int64_t start, int64_t numbers, uint32_t *out) {
    const int64_t unit = numbers / STEP * STEP_WORDS;
    for (int c = column; p->by_outputs && c < stop; c += SIDE)
        for (int64_t k = 0; k < numbers; k += STEP)
            lay_out_step(p, f, c, start + k, out + (c - column) / SIDE * unit + k / STEP * STEP_WORDS);
    for (int64_t k = 0; !p->by_outputs && k < numbers; k += STEP)
        for (int c = column; c < stop; c += SIDE)
            lay_out_step(p, f, c, start + k, out + (c - column) / SIDE * unit + k / STEP * STEP_WORDS);
}

/* Where a line of sixteen pairs stands, by its place along the depth. */
static inline int64_t line_at(int64_t pair, int half) {
    return pair / TILE * STEP_WORDS + half * TILE_WORDS + pair % TILE * TILE;
}

/* SIDE columns of W₂ times the scale, as `terms` numbers of bfloat16 for each. */
static void lay_out_update(const Share *s, int column, uint32_t *out) {
    const Factor *f = &s->p->update;
    const __m512 scale = _mm512_set1_ps(s->p->scale);
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    lay_out(s->p, f, column, column + SIDE, 0, whole(2 * f->pairs, STEP), s->plain);
    memset(out, 0, (size_t)(s->rank / STEP * STEP_WORDS) * 4);
    for (int k = 0; k < f->pairs; k++)
        for (int half = 0; half < 2; half++) {
            const __m512i words = _mm512_loadu_si512(s->plain + line_at(k, half));
            __m512 even = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), scale);
            __m512 odd = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(words, upper)), scale);
            for (int term = 0; term < s->terms; term++) {
                const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even); /* even numbers below, odd ones above */
                const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
                const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
                const __m512i pair = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
                _mm512_storeu_si512(out + line_at(term * f->pairs + k, half), pair);
                even = _mm512_sub_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
                odd = _mm512_sub_ps(odd, _mm512_castsi512_ps(_mm512_and_si512(pair, upper)));
            }
        }
}

/* Rounds up to `rows` rows of what is pending into y. */
static inline void hand_over(Pending *p, int rows) {
    for (; rows > 0 && p->left > 0; rows--, p->left--, p->sums += SIDE, p->y += p->stride) {
        const __m512 first = _mm512_add_ps(_mm512_loadu_ps(p->sums), p->bias[0]);
        const __m512 second = _mm512_add_ps(_mm512_loadu_ps(p->sums + TILE), p->bias[1]);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
        if (p->add) {
            const __m512 low = floats_of(_mm512_castsi512_si256(both)), high = floats_of(_mm512_extracti64x4_epi64(both, 1));
            both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_add_ps(high, floats_below(p->y + TILE, p->high)),
                                                _mm512_add_ps(low, floats_below(p->y, p->low)));
        }
        _mm512_mask_storeu_epi16(p->y, (__mmask32)p->high << TILE | p->low, both);
    }
}

/* The block += x · W; meanwhile what is pending is rounded. */
INLINE_IN_TILES void multiply(const uint16_t *x, int64_t stride, const uint32_t *w, int64_t numbers, Pending *pending) {
    const uint16_t *const end = x + numbers;
    for (; x < end; x += STEP, w += STEP_WORDS) {
        add_to_block((const uint32_t *)x, stride / 2, w, w + TILE_WORDS, TILE);
        hand_over(pending, 2);
    }
}

/* What SIDE rows and columns of y are to be rounded from. Their lines are fetched, since stores to lines that are not
 * there would hold up what is multiplied meanwhile. */
static inline Pending pending_at(const Share *s, int64_t row, int column) {
    const Product *p = s->p;
    const int more = p->columns - column;
    Pending pending = {.sums = s->sums, .y = p->y + row * p->columns + column, .stride = p->columns, .add = p->add};
    pending.left = s->end - row < SIDE ? (int)(s->end - row) : SIDE;
    pending.low = lanes_below(more), pending.high = more > TILE ? lanes_below(more - TILE) : 0;
    pending.bias[0] = p->bias ? _mm512_maskz_loadu_ps(pending.low, p->bias + column) : _mm512_setzero_ps();
    pending.bias[1] = p->bias ? _mm512_maskz_loadu_ps(pending.high, p->bias + column + TILE) : _mm512_setzero_ps();
    for (int i = 0; i < pending.left; i++) __builtin_prefetch(pending.y + i * pending.stride, 1, 2);
    return pending;
}

/* SIDE rows with a group of columns over a part of the depth. */
IN_TILES static void meet(const Share *s, int64_t row, int column, int stop, int64_t start, int64_t numbers,
                          Pending *pending) {
    const int64_t copied = first_copied(s), height = whole(s->end - s->first, SIDE);
    const int64_t stride = row < copied ? 2 * (int64_t)s->p->base.pairs : s->depth;
    const uint16_t *x = row < copied ? s->p->base.x + row * stride : s->x + (row - copied) * stride;
    for (int c = column; c < stop; c += SIDE) {
        const int64_t unit = (c - column) / SIDE;
        float *kept = s->kept + (unit * height + row - s->first) * SIDE;
        if (start) {
            load_block(kept, SIDE);
        } else {
            clear_block();
            if (s->rank)
                multiply(s->x2 + (row - s->first) * s->rank, s->rank, s->update + unit * SIDE * s->rank / 2, s->rank, pending);
        }
        multiply(x + start, stride, s->base + unit * SIDE * numbers / 2, numbers, pending);
        hand_over(pending, SIDE);
        if (start + numbers < s->depth) {
            store_block(kept, SIDE);
            continue;
        }
        store_block(s->sums, SIDE);
        *pending = pending_at(s, row, c);
    }
}

static void compute(const Share *s) {
    const Product *p = s->p;
    Pending pending = {.left = 0};
    copy_rows(s, &p->base, first_copied(s), 1, s->depth, s->x);
    if (s->rank) copy_rows(s, &p->update, s->first, s->terms, s->rank, s->x2);
    for (int column = s->from; column < s->to; column += s->group) {
        const int stop = column + s->group < s->to ? column + s->group : s->to;
        for (int c = column; s->rank && c < stop; c += SIDE) lay_out_update(s, c, s->update + (c - column) * s->rank / 2);
        for (int64_t start = 0; start < s->depth; start += s->part) {
            const int64_t numbers = s->depth - start < s->part ? s->depth - start : s->part;
            lay_out(p, &p->base, column, stop, start, numbers, s->base);
            for (int64_t row = s->first; row < s->end; row += SIDE) meet(s, row, column, stop, start, numbers, &pending);
        }
    }
    hand_over(&pending, SIDE);
}

/* The share of a thread. If columns cannot be shared out evenly, threads share the rows, and each arranges all columns.
   */
static Share share_of(const Product *p, int thread, int threads) {
    int exponent;
    Share s = {.p = p, .terms = fabsf(frexpf(p->scale, &exponent)) == 0.5f ? 1 : 3};
    s.depth = whole(2 * (int64_t)p->base.pairs, STEP), s.part = s.depth < PART ? s.depth : PART;
    s.rank = whole(2 * (int64_t)p->update.pairs * s.terms, STEP);
    const int units = (p->columns + SIDE - 1) / SIDE, by_columns = units % threads == 0 || units > 16 * threads;
    const int64_t height = by_columns ? p->rows : whole((p->rows + threads - 1) / threads, SIDE);
    s.first = by_columns ? 0 : thread * height < p->rows ? thread * height : p->rows;
    s.end = s.first + height < p->rows ? s.first + height : p->rows;
    s.from = by_columns ? (int)((int64_t)units * thread / threads) * SIDE : 0;
    s.to = by_columns ? (int)((int64_t)units * (thread + 1) / threads) * SIDE : units * SIDE;
    const int64_t group = GROUP_BYTES / (2 * (s.part + s.rank)) / SIDE * SIDE;
    s.group = (int)(group < SIDE ? SIDE : group < s.to - s.from ? group : s.to - s.from);
    return s;
}

/* A share's working memory, each piece of it on its own cache line; NULL if memory ran out. */
static char *allocate(Share *s) {
    const int64_t rows = whole(s->end - s->first, SIDE), copied = s->first + rows - first_copied(s);
    const int64_t base = s->group * s->part * 2, update = s->group * s->rank * 2, plain = s->rank * SIDE * 2;
    const int64_t x = copied * s->depth * 2, x2 = rows * s->rank * 2, sums = SIDE * SIDE * 4;
    const int64_t kept = s->part < s->depth ? s->group * rows * 4 : 0;
    char *memory = aligned_alloc(64, (size_t)(base + update + plain + x + x2 + sums + kept));
    if (memory == NULL) return NULL;
    s->base = (uint32_t *)memory;
    s->update = (uint32_t *)(memory + base);
    s->plain = (uint32_t *)(memory + base + update);
    s->x = (uint16_t *)(memory + base + update + plain);
    s->x2 = (uint16_t *)(memory + base + update + plain + x);
    s->sums = (float *)(memory + base + update + plain + x + x2);
    s->kept = (float *)(memory + base + update + plain + x + x2 + sums);
    return memory;
}

int veneer_product_in_tiles(const Product *p, int threads) {
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        Share share = share_of(p, thread, threads);
        if (share.first == share.end || share.from == share.to) continue;
        char *memory = allocate(&share);
        if (memory == NULL) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        veneer_tiles_begin();
        compute(&share);
        veneer_tiles_end();
        free(memory);
    }
    return failed;
}
#else
typedef int nothing_here; /* an empty file is not C */
#endif

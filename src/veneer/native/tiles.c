/* Products in AMX's tiles: x and W are rounded to bfloat16, W once from a code times its scale, sums are float32.
 *
 * A tile of W is sixteen columns by 32 weights of each, in their order after widening. A tile of x is the same 32
 * places of sixteen rows, which are lanes. Each sum goes along the depth in one order, and no lane meets another. So a
 * row's bits depend neither on the number of rows nor on the other rows, and prompts and next tokens are computed
 * alike.
 *
 * Tiles are multiplied faster than weights are widened. Where rows are few, a chunk of all columns is widened while the
 * chunk before it is multiplied, so that neither waits for the other. More rows share columns that are widened once.
 */
#include "tiles.h"

#if HAS_TILES
#define BLOCK (2 * LANE_ROWS) /* most rows that meet the columns of a unit at a time */
#define CHUNK_BYTES (CHUNK_WORDS * 4)
#define LINE_BYTES (LINE * 4)

/* Words of the columns of a unit: all chunks of them, or two that take turns, [chunks][UNIT][CHUNK_WORDS]. */
static int64_t widened_words(int64_t depth) {
    const int64_t chunks = whole_chunks(depth) / CHUNK;
    return (chunks < 2 ? 2 : chunks) * UNIT * CHUNK_WORDS;
}

int64_t veneer_tiles_scratch(int64_t depth) { return widened_words(depth) + UNIT * BLOCK + scale_room(depth, UNIT); }

/* The columns of a unit, which meet rows of x. */
typedef struct {
    const Matrix *m;
    const float *scales;
    int first, count;
    const char *ahead; /* what is stored after them, */
    int64_t bytes;     /* and what a chunk of a column takes there */
    uint32_t *widened;
    float *found;      /* [UNIT][BLOCK] */
} Meeting;

/* A chunk of the columns [c, c + count) of a unit, into `out` for the whole unit's. */
static void widen_part(const Meeting *t, int c, int count, int64_t chunk, uint32_t *out) {
    const char *ahead = t->ahead + (chunk * t->count + c) * t->bytes;
    veneer_words_chunk(t->m, t->scales + scale_room(t->m->depth, c), t->first + c, count, chunk, ahead,
                       out + c * CHUNK_WORDS);
}

/* A chunk of sixteen columns with sixteen rows, or with two sixteens. */
#define MULTIPLY(w, x, second, two, sums, more)                            \
    do {                                                                   \
        _tile_loadd(6, w, CHUNK_BYTES);                                    \
        _tile_loadd(7, (x), LINE_BYTES);                                   \
        _tile_dpbf16ps(sums, 6, 7);                                        \
        if (two) {                                                         \
            _tile_loadd(7, (x) + (second), LINE_BYTES);                    \
            _tile_dpbf16ps(more, 6, 7);                                    \
        }                                                                  \
        _tile_loadd(6, (w) + LINE, CHUNK_BYTES);                           \
        _tile_loadd(7, (x) + LINE * LANE_ROWS, LINE_BYTES);                \
        _tile_dpbf16ps(sums, 6, 7);                                        \
        if (two) {                                                         \
            _tile_loadd(7, (x) + (second) + LINE * LANE_ROWS, LINE_BYTES); \
            _tile_dpbf16ps(more, 6, 7);                                    \
        }                                                                  \
    } while (0)

/* All columns of a unit with sixteen rows of x, or with `two` sixteens, the other one `second` words after the first.
 * The columns are widened `before`, or meanwhile. `two` and `before` are known at compile time. */
IN_TILES INLINE void meet(const Meeting *t, const uint32_t *x, int64_t second, int two, int before) {
    const int64_t chunks = whole_chunks(t->m->depth) / CHUNK, behind = before ? 0 : 1;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t k = 0; k < chunks + behind; k++) {
        uint32_t *next = t->widened + k % 2 * UNIT * CHUNK_WORDS;
        const uint32_t *w = t->widened + (before ? k : (k + 1) % 2) * UNIT * CHUNK_WORDS;
        const int64_t at = (k - behind) * CHUNK_WORDS * LANE_ROWS;
#define COLUMNS(c, sums, more)                                                                           \
    if ((c) < t->count) {                                                                                \
        const int rest = t->count - (c);                                                                 \
        if (!before && k < chunks) widen_part(t, c, rest < LANE_COLUMNS ? rest : LANE_COLUMNS, k, next); \
        if (k >= behind) MULTIPLY(w + (c) * CHUNK_WORDS, x + at, second, two, sums, more);               \
    }
        COLUMNS(0, 0, 1)
        COLUMNS(LANE_COLUMNS, 2, 3)
        COLUMNS(2 * LANE_COLUMNS, 4, 5)
#undef COLUMNS
    }
    _tile_stored(0, t->found, BLOCK * 4);
    _tile_stored(2, t->found + LANE_COLUMNS * BLOCK, BLOCK * 4);
    _tile_stored(4, t->found + 2 * LANE_COLUMNS * BLOCK, BLOCK * 4);
    if (two) {
        _tile_stored(1, t->found + LANE_ROWS, BLOCK * 4);
        _tile_stored(3, t->found + LANE_COLUMNS * BLOCK + LANE_ROWS, BLOCK * 4);
        _tile_stored(5, t->found + 2 * LANE_COLUMNS * BLOCK + LANE_ROWS, BLOCK * 4);
    }
}

IN_TILES static void meet_sixteen(const Meeting *t, const uint32_t *x) { meet(t, x, 0, 0, 0); }
IN_TILES static void meet_block(const Meeting *t, const uint32_t *x, int64_t second) { meet(t, x, second, 1, 0); }
IN_TILES static void meet_again(const Meeting *t, const uint32_t *x, int64_t second) { meet(t, x, second, 1, 1); }

void veneer_tiles_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                       int64_t stride, uint32_t *scratch) {
    const int64_t chunks = whole_chunks(m->depth) / CHUNK, second = LANE_ROWS * row_words(m->depth);
    float *found = (float *)(scratch + widened_words(m->depth)), *scales = found + UNIT * BLOCK;
    const char *ahead = (const char *)m->codes + stored_bytes(m->format, whole_chunks((first + count) * m->depth));
    const Meeting t = {m, scales, first, count, ahead, stored_bytes(m->format, CHUNK), scratch, found};
    veneer_words_scales(m, first, count, scales);
    if (rows > BLOCK)
        for (int64_t k = 0; k < chunks; k++) widen_part(&t, 0, count, k, scratch + k * UNIT * CHUNK_WORDS);
    for (int row = 0; row < rows; row += BLOCK, x += 2 * second) {
        const int left = rows - row < BLOCK ? rows - row : BLOCK;
        if (rows > BLOCK)
            meet_again(&t, x, left > LANE_ROWS ? second : 0);
        else if (rows > LANE_ROWS)
            meet_block(&t, x, second);
        else
            meet_sixteen(&t, x);
        veneer_lane_rows_hand_over(found, BLOCK, count, left, add, scale, y + row * stride + first, stride);
    }
}

#endif

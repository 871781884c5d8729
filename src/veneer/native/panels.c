/* Products of many rows with a weight as it is stored, exact and to the bit those of few rows (rows.c).
 *
 * There a sum has VL lanes, each of which sums every VL-th product of a row, and the lanes are added in halves. Here a
 * vector has VL columns instead, and the lanes of a sum are taken one after the other: first all products of lane 0,
 * then all of lane 1, and so on; what they come to is added in halves at the end. So each sum has the order that it has
 * alone, no sum goes across a vector, and x is read number by number.
 *
 * The stored words of some columns are turned once, so that columns are side by side. Then each lane of them is widened
 * into the first-level cache, and meets all rows there. x is in panels of some rows, lane by lane.
 */
#include "panels.h"

#include "across.h"
#include "turn.h"

/* PANEL_COLUMNS columns: whole chunks up to the depth `turned` as turned words [..][turned / CHUNK][PANEL_COLUMNS] with
 * their scales [turned / CHUNK][PANEL_SCALES][PANEL_COLUMNS], and what follows as floats [depth][PANEL_COLUMNS] up to
 * whole chunks, zeros where there is no depth. */
typedef struct {
    int64_t turned;
    uint32_t *words;
    float *scales, *floats;
} Columns;

/* Where lanes of widened columns meet panels of x. */
typedef struct {
    const float *x, *w; /* [panels][steps][PANEL_ROWS] and [steps][PANEL_COLUMNS] */
    int64_t steps;
    float *sums;   /* [rows][PANEL_COLUMNS], `apart` floats from one level to the next: */
    int64_t apart; /* level n + 1 becomes what this lane comes to and the levels 0 … n together */
    int levels;
    const char *ahead; /* what is fetched meanwhile, from `at` on, `each` at every step: both in 1 / PARTS bytes */
    uint64_t at, each;
    int64_t fetched; /* bytes, where lines are fetched before a panel */
} Meeting;

#define PARTS 256 /* many rows have more steps than what they fetch has bytes */
#define SELDOM 8  /* where there are so many steps for a line to fetch, lines are fetched before the first step */

/* VECTORS steps of a panel from a chunk of its rows; a lane is `apart` floats after the last. */
static void lay_out_chunk(float rows[PANEL_ROWS][CHUNK], int64_t apart, float *out) {
    for (int v = 0; v < VECTORS; v++, out += PANEL_ROWS) {
#if VL == 16
        __m512i lines[16] = {0};
#pragma GCC unroll 8
        for (int i = 0; i < PANEL_ROWS; i++) lines[i] = _mm512_loadu_si512(rows[i] + v * VL);
        transpose_words(lines);
#pragma GCC unroll 16
        for (int lane = 0; lane < VL; lane++)
            _mm256_storeu_si256((__m256i *)(out + lane * apart), _mm512_castsi512_si256(lines[lane]));
#elif VL == 8 && defined(__AVX2__)
        for (int lane = 0; lane < VL; lane += 4) {
            __m128 four[4];
            for (int i = 0; i < 4; i++) four[i] = _mm_loadu_ps(rows[i] + v * VL + lane);
            _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
            for (int i = 0; i < 4; i++) _mm_storeu_ps(out + (lane + i) * apart, four[i]);
        }
#else
        for (int lane = 0; lane < VL; lane++)
            for (int i = 0; i < PANEL_ROWS; i++) out[lane * apart + i] = rows[i][v * VL + lane];
#endif
    }
}

void veneer_panel_lay_out(int order, int64_t depth, const float *x, int64_t stride, int rows, int panel, float *out) {
    const int64_t each = whole_chunks(depth) / VL * PANEL_ROWS;
    const int first = panel_start(rows, panel), height = panel_start(rows, panel + 1) - first;
    float chunk[PANEL_ROWS][CHUNK];
    memset(chunk, 0, sizeof chunk);
    for (int64_t k = 0; k < depth; k += CHUNK) {
        for (int i = 0; i < height; i++)
            veneer_rows_prepare(order, depth - k < CHUNK ? depth - k : CHUNK, x + (first + i) * stride + k, chunk[i]);
        lay_out_chunk(chunk, panels_of(rows) * each, out + panel * each + k / VL * PANEL_ROWS);
    }
}

#if HAS_TURNED
/* The chunks of columns whose words can be turned; and a lane of them widened to out [VECTORS][PANEL_COLUMNS] each. */
#define DEFINE_FORMAT(name, format)                                                                                         \
    static void turn_##name(const Matrix *m, const int *numbers, const Columns *to) {                                       \
        const uint8_t *columns[PANEL_COLUMNS];                                                                              \
        for (int c = 0; c < PANEL_COLUMNS; c++)                                                                             \
            columns[c] = (const uint8_t *)m->codes + stored_bytes(format, numbers[c] * m->depth);                           \
        const int64_t chunks = to->turned / CHUNK;                                                                          \
        for (int64_t chunk = 0; chunk < chunks; chunk++)                                                                    \
            for (int c = 0; c < PANEL_COLUMNS; c += VL)                                                                     \
                turn_chunk(m, format, columns + c, numbers + c, chunk * CHUNK, to->words + chunk * PANEL_COLUMNS + c,       \
                           chunks * PANEL_COLUMNS, to->scales + chunk * PANEL_SCALES * PANEL_COLUMNS + c, PANEL_COLUMNS);   \
    }                                                                                                                       \
    static void widen_##name(const Matrix *m, const Columns *from, int lane, float *out) {                                  \
        const Table table = TABLE_OF(m);                                                                                    \
        const int64_t chunks = from->turned / CHUNK;                                                                        \
        for (int64_t chunk = 0; chunk < chunks; chunk++, out += VECTORS * PANEL_COLUMNS)                                    \
            for (int c = 0; c < PANEL_COLUMNS; c += VL)                                                                     \
                lane_of_chunk(m, format, &table, from->words + chunk * PANEL_COLUMNS + c, chunks * PANEL_COLUMNS,           \
                              from->scales + chunk * PANEL_SCALES * PANEL_COLUMNS + c, PANEL_COLUMNS, lane, out + c);       \
    }
DEFINE_FORMAT(float32, WEIGHT_FLOAT32)
DEFINE_FORMAT(bfloat16, WEIGHT_BFLOAT16)
DEFINE_FORMAT(float16, WEIGHT_FLOAT16)
DEFINE_FORMAT(int8, WEIGHT_INT8)
DEFINE_FORMAT(codes, WEIGHT_4BIT)
DEFINE_FORMAT(q4_0, WEIGHT_Q4_0)
DEFINE_FORMAT(q4_1, WEIGHT_Q4_1)
DEFINE_FORMAT(q8_0, WEIGHT_Q8_0)

static void (*const turns[])(const Matrix *, const int *, const Columns *) = {
    turn_float32, turn_bfloat16, turn_float16, turn_int8, turn_codes, turn_q4_0, turn_q4_1, turn_q8_0};
static void (*const widens[])(const Matrix *, const Columns *, int, float *) = {
    widen_float32, widen_bfloat16, widen_float16, widen_int8, widen_codes, widen_q4_0, widen_q4_1, widen_q8_0};
#endif

/* `count` columns from `first` on; those that are missing repeat the last one. */
static void read_columns(const Matrix *m, int first, int count, Columns *to) {
    const int64_t depth = m->depth;
    int numbers[PANEL_COLUMNS];
    for (int c = 0; c < PANEL_COLUMNS; c++) numbers[c] = first + (c < count ? c : count - 1);
    to->turned = 0;
#if HAS_TURNED
    /* Rows of 4-bit weights that do not end with a byte, or a chunk, are never turned. */
    if (m->format != WEIGHT_4BIT || depth % CHUNK == 0) {
        to->turned = depth / CHUNK * CHUNK;
        turns[m->format](m, numbers, to);
    }
#endif
    to->floats = (float *)to->words + to->turned * PANEL_COLUMNS;
    for (int64_t k = to->turned; k < depth; k += CHUNK)
        for (int c = 0; c < PANEL_COLUMNS; c++) {
            float chunk[CHUNK] = {0};
            veneer_rows_widen(m, numbers[c], k, depth - k < CHUNK ? depth - k : CHUNK, chunk);
            for (int p = 0; p < CHUNK; p++) to->floats[(k - to->turned + p) * PANEL_COLUMNS + c] = chunk[p];
        }
}

/* A lane of columns, [whole_chunks(depth) / VL][PANEL_COLUMNS]. */
static void widen_lane(const Matrix *m, const Columns *from, int lane, float *out) {
#if HAS_TURNED
    if (from->turned) widens[m->format](m, from, lane, out);
#endif
    for (int64_t k = from->turned; k < whole_chunks(m->depth); k += VL)
        memcpy(out + k / VL * PANEL_COLUMNS, from->floats + (k - from->turned + lane) * PANEL_COLUMNS,
               PANEL_COLUMNS * sizeof(float));
}

/* One lane of a panel of `rows` rows; their number, and whether steps fetch what is read later, are known when this is
 * compiled. */
INLINE void meet(const Meeting *t, int rows, int fetching) {
    const float *x = t->x, *w = t->w;
    uint64_t at = t->at;
    lanes sums[PANEL_ROWS * PANEL_WIDE];
#pragma GCC unroll 24
    for (int i = 0; i < rows * PANEL_WIDE; i++) sums[i] = (lanes){0};
#pragma GCC unroll 4
    for (int64_t step = 0; step < t->steps; step++, x += PANEL_ROWS, w += PANEL_COLUMNS) {
        lanes right[PANEL_WIDE];
#pragma GCC unroll 3
        for (int c = 0; c < PANEL_WIDE; c++) right[c] = (lanes) * (const vec *)(w + c * VL);
        if (fetching) __builtin_prefetch(t->ahead + at / PARTS, 0, 2);
        at += t->each;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const lanes left = spread(x[i]);
#pragma GCC unroll 3
            for (int c = 0; c < PANEL_WIDE; c++) sums[i * PANEL_WIDE + c] = fused(sums[i * PANEL_WIDE + c], right[c], left);
        }
    }
    float *kept = t->sums;
    for (int level = 0; level < t->levels; level++, kept += t->apart)
#pragma GCC unroll 24
        for (int i = 0; i < rows * PANEL_WIDE; i++) sums[i] += (lanes) * (const vec *)(kept + i * VL);
#pragma GCC unroll 24
    for (int i = 0; i < rows * PANEL_WIDE; i++) *(vec *)(kept + i * VL) = (vec)sums[i];
}

/* One lane of `panels` panels of `rows` rows, and on to those behind them. */
INLINE void meet_panels(Meeting *t, int panels, int rows, int fetching) {
    const int64_t apart = t->steps * PANEL_ROWS, each = rows * PANEL_COLUMNS;
    for (; panels > 0; panels--, t->x += apart, t->sums += each, t->at += t->each * (uint64_t)t->steps) {
        for (; !fetching && t->fetched <= (int64_t)(t->at / PARTS); t->fetched += 64)
            __builtin_prefetch(t->ahead + t->fetched, 0, 2);
        meet(t, rows, fetching);
    }
}

#define MEET(count)                                                                         \
    static void meet_##count(Meeting *t, int panels) { meet_panels(t, panels, count, 0); }  \
    static void fetch_##count(Meeting *t, int panels) { meet_panels(t, panels, count, 1); }
MEET(1) MEET(2) MEET(3) MEET(4)
#if PANEL_ROWS > 4
MEET(5) MEET(6) MEET(7) MEET(8)
#endif

/* By whether steps fetch, and by rows. */
static void (*const meetings[2][PANEL_ROWS + 1])(Meeting *, int) = {
#if PANEL_ROWS > 4
    {NULL, meet_1, meet_2, meet_3, meet_4, meet_5, meet_6, meet_7, meet_8},
    {NULL, fetch_1, fetch_2, fetch_3, fetch_4, fetch_5, fetch_6, fetch_7, fetch_8},
#else
    {NULL, meet_1, meet_2, meet_3, meet_4},
    {NULL, fetch_1, fetch_2, fetch_3, fetch_4},
#endif
};

/* The lane that is the turn's: 0, 8, 4, 12, 2, … of sixteen, so that those that are added in halves follow each other.
   */
static int lane_of(int turn) {
    int lane = 0;
    for (int bit = 1; bit < VL; bit *= 2) lane = 2 * lane + (turn & bit ? 1 : 0);
    return lane;
}

/* What is summed after a turn: one level for each pair of halves that it completes. */
static int levels_of(int turn) {
    int levels = 0;
    for (; turn & 1; turn /= 2) levels++;
    return levels;
}

/* Fetches the lines of y that totals will go to: another thread may have written them last. */
static void fetch_places(const float *y, int64_t stride, int height, int count) {
    for (int i = 0; i < height; i++, y += stride) {
        __builtin_prefetch(y, 1);
        __builtin_prefetch(y + count - 1, 1);
    }
}

/* Totals [height][PANEL_COLUMNS] into `count` columns of y. */
INLINE void hand_over_columns(const float *found, int height, int count, int add, float scale, float *y, int64_t stride) {
    for (int i = 0; i < height; i++, found += PANEL_COLUMNS, y += stride)
        if (add)
            for (int c = 0; c < count; c++) y[c] = __builtin_fmaf(scale, found[c], y[c]);
        else
            memcpy(y, found, (size_t)count * sizeof(float));
}

static void hand_over(const float *found, int height, int count, int add, float scale, float *y, int64_t stride) {
    if (count == PANEL_COLUMNS) /* copied by vectors, since the number is known at compile time */
        hand_over_columns(found, height, PANEL_COLUMNS, add, scale, y, stride);
    else
        hand_over_columns(found, height, count, add, scale, y, stride);
}

/* The panels [start, stop) of `all` with `count` columns from `first` on. A lane of the columns meets all panels before
 * the next one does, while it is near. Returns the totals, [height][PANEL_COLUMNS]. */
static const float *meet_all(const Matrix *m, const float *panels, int rows, int start, int stop, int first, int count,
                             float *scratch) {
    const int64_t width = whole_chunks(m->depth), steps = width / VL;
    const int all = panels_of(rows), lower = rows / all, higher = rows % all; /* panels that have a row more */
    const int height = panel_start(rows, stop) - panel_start(rows, start);
    float *scales = scratch + PANEL_COLUMNS * width, *widened = scales + width / CHUNK * PANEL_SCALES * PANEL_COLUMNS;
    float *sums = widened + steps * PANEL_COLUMNS; /* [PANEL_LEVELS][height][PANEL_COLUMNS] */
    Columns columns = {.words = (uint32_t *)scratch, .scales = scales};
    read_columns(m, first, count, &columns);
    /* The columns after these are fetched little by little: step by step, or, since that takes a multiplication's time
     * now and then, before each panel where those are few lines. Many at a time would stop the multiplications. */
    const int64_t bytes = stored_bytes(m->format, whole_chunks(PANEL_COLUMNS * m->depth));
    const int64_t each = bytes / (VL * (stop - start));
    const int fetching = each * SELDOM > steps * 64;
    Meeting t = {.w = widened, .steps = steps, .apart = height * PANEL_COLUMNS, .each = (uint64_t)(each * PARTS / steps)};
    t.ahead = (const char *)m->codes + stored_bytes(m->format, whole_chunks(first * m->depth)) + bytes;
    for (int turn = 0; turn < VL; turn++) {
        const int lane = lane_of(turn);
        widen_lane(m, &columns, lane, widened);
        t.x = panels + (lane * all + start) * steps * PANEL_ROWS, t.sums = sums, t.levels = levels_of(turn);
        if (start < higher) meetings[fetching][lower + 1](&t, (stop < higher ? stop : higher) - start);
        if (stop > higher) meetings[fetching][lower](&t, stop - (start < higher ? higher : start));
    }
    return sums + levels_of(VL - 1) * height * PANEL_COLUMNS;
}

void veneer_panel_unit(const Matrix *m, const float *panels, int rows, int first, int count, int add, float scale, float *y,
                       int64_t stride, float *scratch) {
    const int all = panels_of(rows), shares = (all + PANEL_SHARE - 1) / PANEL_SHARE;
    for (int c = first; c < first + count; c += PANEL_COLUMNS)
        for (int share = 0; share < shares; share++) {
            const int rest = first + count - c, wide = rest < PANEL_COLUMNS ? rest : PANEL_COLUMNS;
            const int start = all * share / shares, stop = all * (share + 1) / shares;
            const int top = panel_start(rows, start), height = panel_start(rows, stop) - top;
            fetch_places(y + top * stride + c, stride, height, wide);
            const float *found = meet_all(m, panels, rows, start, stop, c, wide, scratch);
            hand_over(found, height, wide, add, scale, y + top * stride + c, stride);
        }
}

/* Products of few rows with a weight as it is stored, exact: every weight is widened to float32 (a code times its
 * scale, rounded as when the whole weight is decoded), and sums are float32.
 *
 * A sum has VL lanes: lane l sums the products of the elements l, l + VL, l + 2 VL, … of a row as they stand after
 * widening, one after the other, and the lanes are added in halves. Few rows are multiplied while their weights are
 * still in registers, more of them as panels.c says. Both take every sum in the same order, so that a row's bits do not
 * depend on the other rows.
 */
#include "panels.h"
#include "sums.h"
#include "widen.h"

#define FEW 8 /* rows that are multiplied while weights are in registers */
/* Columns that are widened together, so that they share what is loaded of x. Sixteen registers hold one column at a
   time. */
#define SHARED (VL == 8 ? 1 : VL == 16 ? 4 : 2)
#define MOST_SUMS 16 /* of few rows by some columns */

/* A row of x and y for each of `rows`. */
typedef struct {
    const float *x;
    float *y;
    const void *ahead;     /* what is read next, if it does not follow the matrix */
    int64_t apart, stride; /* from one row of x, and of y, to the next */
    int rows, add;
    float scale;
} Rows;

/* Whether what is read next is fetched before a column and not at each of its chunks. Some rows of eight lanes take all
 * registers, and are multiplied by a tenth faster without a fetch among them; few rows wait for memory, and weights of
 * more than 4 bits are too many lines at once. */
INLINE int fetches_first(int format, int rows) { return VL == 8 && rows >= 4 && format == WEIGHT_4BIT; }

/* `columns` columns from `column` on with their scales, of `rows` rows, both known at compile time, as is `halves`:
 * whether the halves of a chunk in 4 bits have scales of their own. It is one loop nest, because what is made a
 * function of its own goes through memory, at a tenth of the speed or more. */
INLINE void few_rows(const Matrix *m, int format, int halves, const Table *table, const float *scales, const Rows *r,
                     int rows, int columns, int column) {
    const int64_t each = scale_room(m->depth, 1);
    const char *ahead = r->ahead ? r->ahead : behind(m, format);
    lanes sums[MOST_SUMS];
    for (int i = 0; i < rows * columns; i++) sums[i] = (lanes){0};
    if (fetches_first(format, rows)) fetch_weights(format, ahead, column * m->depth, columns * m->depth);
    for (int64_t k = 0; k < m->depth; k += CHUNK, scales += SCALES)
#pragma GCC unroll 4 /* else the sums of all columns go through memory */
        for (int c = 0; c < columns; c += SHARED)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                vec w[SHARED][HALF];
                const int shared = columns - c < SHARED ? columns - c : SHARED;
#pragma GCC unroll 4
                for (int j = 0; j < shared; j++) {
                    const int64_t place = (int64_t)(column + c + j) * m->depth + k;
                    if (!half && !fetches_first(format, rows)) fetch_weights(format, ahead, place, CHUNK);
                    widen_half(m, format, table, scales + (c + j) * each, halves, place, column + c + j, half, w[j]);
                }
#pragma GCC unroll 8
                for (int v = 0; v < HALF; v++)
#pragma GCC unroll 8
                    for (int i = 0; i < rows; i++) {
                        const int64_t at = k + (half * HALF + v) * VL;
                        const lanes x = once((lanes) * (const vec *)(r->x + i * r->apart + at));
#pragma GCC unroll 4
                        for (int j = 0; j < shared; j++)
                            sums[i * columns + c + j] = fused(sums[i * columns + c + j], (lanes)w[j][v], x);
                    }
            }
    hand_over(sums, rows, columns, r->add, r->scale, r->y + column, r->stride);
}

/* Columns at a time: their sums, and those of all rows, stay in registers. There are sixteen with eight lanes. */
#define FEW_COLUMNS(rows) (VL == 8 ? (rows) <= 2 ? 4 : (rows) <= 4 ? 2 : 1 : (rows) <= 4 ? 4 : 2)

/* `count` columns from `first` on with their scales. */
INLINE void few_columns(const Matrix *m, int format, int halves, const Table *table, const float *scales, const Rows *r,
                        int rows, int first, int count) {
    const int64_t each = scale_room(m->depth, 1);
    const int columns = FEW_COLUMNS(rows);
    int c = 0;
    for (; c + columns <= count; c += columns)
        few_rows(m, format, halves, table, scales + c * each, r, rows, columns, first + c);
    for (; c < count; c++) few_rows(m, format, halves, table, scales + c * each, r, rows, 1, first + c);
}

#define FEW_CASE(format, halves, rows) \
    case rows: few_columns(m, format, halves, &table, scales, r, rows, first, count); break;

#define DEFINE_FEW_OF(name, format, halves)                                                       \
    static void name(const Matrix *m, const float *scales, const Rows *r, int first, int count) { \
        const Table table = TABLE_OF(m);                                                          \
        switch (r->rows) {                                                                        \
            FEW_CASE(format, halves, 1)                                                           \
            FEW_CASE(format, halves, 2)                                                           \
            FEW_CASE(format, halves, 3)                                                           \
            FEW_CASE(format, halves, 4)                                                           \
            FEW_CASE(format, halves, 5)                                                           \
            FEW_CASE(format, halves, 6)                                                           \
            FEW_CASE(format, halves, 7)                                                           \
            FEW_CASE(format, halves, 8)                                                           \
        }                                                                                         \
    }
#define DEFINE_FEW(name, format) DEFINE_FEW_OF(name, format, 0)
DEFINE_FEW(few_float32, WEIGHT_FLOAT32)
DEFINE_FEW(few_bfloat16, WEIGHT_BFLOAT16)
DEFINE_FEW(few_float16, WEIGHT_FLOAT16)
DEFINE_FEW(few_int8, WEIGHT_INT8)
DEFINE_FEW(few_4bit, WEIGHT_4BIT)
DEFINE_FEW_OF(few_4bit_halves, WEIGHT_4BIT, 1)
DEFINE_FEW(few_q4_0, WEIGHT_Q4_0)
DEFINE_FEW(few_q4_1, WEIGHT_Q4_1)
DEFINE_FEW(few_q8_0, WEIGHT_Q8_0)

/* `count` weights of a column from `place` on, whole chunks of them at once. */
#define DEFINE_SPAN(name, format)                                                               \
    static int64_t name(const Matrix *m, int column, int64_t place, int64_t count, float *out) { \
        const Table table = TABLE_OF(m);                                                        \
        int64_t k = 0;                                                                          \
        for (; k + CHUNK <= count; k += CHUNK) {                                                \
            vec w[VECTORS];                                                                     \
            widen_chunk(m, format, &table, place + k, column, w);                               \
            if (format == WEIGHT_4BIT) in_natural_order(w);                                     \
            for (int v = 0; v < VECTORS; v++) *(vec *)(out + k + v * VL) = w[v];                \
        }                                                                                       \
        return k;                                                                               \
    }
DEFINE_SPAN(span_float32, WEIGHT_FLOAT32)
DEFINE_SPAN(span_bfloat16, WEIGHT_BFLOAT16)
DEFINE_SPAN(span_float16, WEIGHT_FLOAT16)
DEFINE_SPAN(span_int8, WEIGHT_INT8)
DEFINE_SPAN(span_4bit, WEIGHT_4BIT)
DEFINE_SPAN(span_q4_0, WEIGHT_Q4_0)
DEFINE_SPAN(span_q4_1, WEIGHT_Q4_1)
DEFINE_SPAN(span_q8_0, WEIGHT_Q8_0)

void veneer_rows_widen(const Matrix *m, int column, int64_t first, int64_t count, float *out) {
    static int64_t (*const spans[])(const Matrix *, int, int64_t, int64_t, float *) = {span_float32, span_bfloat16,
                                                                                       span_float16, span_int8, span_4bit,
                                                                                       span_q4_0, span_q4_1, span_q8_0};
    const int64_t place = (int64_t)column * m->depth + first;
    /* Codes up to the next whole byte, or block, are taken one by one. */
    const int64_t unit = m->format == WEIGHT_4BIT ? CHUNK : is_blocks(m->format) ? GGUF_BLOCK : 1;
    int64_t k = 0;
    for (; k < count && (place + k) % unit; k++) out[k] = element(m, place + k, column);
    k += spans[m->format](m, column, place + k, count - k, out + k);
    for (; k < count; k++) out[k] = element(m, place + k, column);
}

int veneer_rows_order(const Matrix *m) {
    return HAS_PAIRED && m->format == WEIGHT_4BIT && m->depth % CHUNK == 0 ? PAIRED : NATURAL;
}

/* A chunk of numbers in the order in which widened codes stand (widen.h); where these are in their own, it is that. */
INLINE void prepare_paired(const float *x, float *out) {
#if VL == 16
    const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    for (int p = 0; p < CHUNK; p += VL) _mm512_storeu_ps(out + p, _mm512_permutexvar_ps(order, _mm512_loadu_ps(x + p)));
#elif VL == 8 && defined(__AVX2__)
    /* Of eight neighbours four are in the upper halves of bytes, and four in the lower ones. */
    for (int p = 0; p < CHUNK; p += 8) {
        const __m128 left = _mm_loadu_ps(x + p), right = _mm_loadu_ps(x + p + 4);
        float *to = out + p % 32 + p / 32 * 4;
        _mm_storeu_ps(to, _mm_shuffle_ps(left, right, _MM_SHUFFLE(2, 0, 2, 0)));
        _mm_storeu_ps(to + CHUNK / 2, _mm_shuffle_ps(left, right, _MM_SHUFFLE(3, 1, 3, 1)));
    }
#else
    memcpy(out, x, CHUNK * sizeof *out);
#endif
}

void veneer_rows_prepare(int order, int64_t depth, const float *x, float *out) {
    if (order == PAIRED) {
        for (int64_t k = 0; k < depth; k += CHUNK) prepare_paired(x + k, out + k);
        return;
    }
    memcpy(out, x, (size_t)depth * 4);
    for (int64_t k = depth; k < whole_chunks(depth); k++) out[k] = 0.0f;
}

#define BESIDE 8192 /* floats of x that stay in a first-level cache of 32 KB while weights go past */

/* Whether panels gain nothing. Eight lanes read x once for each column, and paired codes are turned fast. */
static int is_few(int order, int64_t depth, int rows) {
    if (VL == 8 && order == PAIRED && rows > 4 && rows * depth > BESIDE) return 0;
    return rows <= FEW && depth % CHUNK == 0;
}

int veneer_rows_pieces(int order, int64_t depth, int rows) { return is_few(order, depth, rows) ? rows : panels_of(rows); }

int64_t veneer_rows_room(int order, int64_t depth, int rows) {
    return is_few(order, depth, rows) ? rows * whole_chunks(depth) : panel_room(depth, rows);
}

void veneer_rows_prepare_piece(int order, int64_t depth, const float *x, int64_t stride, int rows, int piece, float *out) {
    if (is_few(order, depth, rows))
        veneer_rows_prepare(order, depth, x + piece * stride, out + piece * whole_chunks(depth));
    else
        veneer_panel_lay_out(order, depth, x, stride, rows, piece, out);
}

void veneer_rows_few(const Matrix *m, const float *x, int64_t apart, int rows, int first, int count, int add, float scale,
                     float *y, int64_t stride, float *scratch, const void *ahead) {
    static void (*const few[])(const Matrix *, const float *, const Rows *, int, int) = {
        few_float32, few_bfloat16, few_float16, few_int8, few_4bit, few_q4_0, few_q4_1, few_q8_0};
    const int halves = m->format == WEIGHT_4BIT && m->block < CHUNK;
    /* Neighbouring columns have neighbouring scales, which are read much faster all at once than column by column. */
    if (m->format == WEIGHT_4BIT) read_scales(m, first * m->depth, count * m->depth / CHUNK, scratch);
    for (int row = 0; row < rows; row += FEW) {
        const int rest = rows - row;
        const Rows r = {x + row * apart, y + row * stride, ahead, apart, stride, rest < FEW ? rest : FEW, add, scale};
        (halves ? few_4bit_halves : few[m->format])(m, scratch, &r, first, count);
    }
}

void veneer_rows_unit(const Matrix *m, const float *x, int rows, int first, int count, int add, float scale, float *y,
                      int64_t stride, float *scratch) {
    if (is_few(veneer_rows_order(m), m->depth, rows))
        veneer_rows_few(m, x, m->depth, rows, first, count, add, scale, y, stride, scratch, NULL);
    else
        veneer_panel_unit(m, x, rows, first, count, add, scale, y, stride, scratch);
}

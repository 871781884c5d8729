/* Products of next tokens' rows in bfloat16 with float32 sums, where the processor multiplies pairs of bfloat16 faster than
 * floats: x and W are rounded to bfloat16, W once from a code times its scale, as for prompts and in training.
 *
 * The order of a sum is that of rows.c, with pairs in place of numbers: lane l adds up the pairs l, l + VL, l + 2 VL, … of a
 * row as they stand after widening, and the lanes are added in halves. Few rows are multiplied while their weights are still
 * in registers, more of them after the columns of a unit are widened. Both take every sum in one order, so that a row's bits
 * do not depend on the rows beside it. It is not the order of prompts.c, where rows are lanes: one row would leave fifteen
 * lanes of sixteen idle.
 */
#include "row_pairs.h"

#include "pairs.h"
#include "sums.h"
#include "widen.h"

#if BF16_PRODUCTS

#define WORDS 2        /* vectors of words in a chunk */
#define STRETCH 2048   /* weights of a column whose scales are read at a time */
#define MOST_FEW 8     /* rows that are multiplied while weights are in registers, */
#define MOST_COLUMNS 4 /* and columns that are widened together for them */
#define MOST_SUMS (PAIR_ROWS * PAIR_COLUMNS)

/* A row of x and y for each of `rows`. */
typedef struct {
    const uint32_t *x;
    float *y;
    int64_t words, stride; /* from one row of x, and of y, to the next */
    int rows, add;
    float scale;
} Rows;

/* How the weights of a chunk stand as words. */
enum { NATURAL_WORDS, CODE_WORDS, BLOCK_WORDS };

static int order_of(const Matrix *m) {
    if (m->format == WEIGHT_4BIT) return m->depth % CHUNK ? NATURAL_WORDS : CODE_WORDS;
    return m->format == WEIGHT_Q4_0 || m->format == WEIGHT_Q4_1 ? BLOCK_WORDS : NATURAL_WORDS;
}

/* The weight of a chunk that stands at a place of its words. */
static int weight_at(int order, int place) {
    static const int codes[4] = {1, 0, 3, 2}, blocks[4] = {0, 16, 1, 17};
    if (order == CODE_WORDS) return 4 * (place % 16) + codes[place / 16];
    if (order == BLOCK_WORDS) return place / 32 * 32 + 2 * (place % 8) + blocks[place % 32 / 8];
    return place;
}

void veneer_row_pairs_prepare(const Matrix *m, const float *x, uint32_t *out) {
    const int order = order_of(m);
    uint16_t places[CHUNK];
    for (int p = 0; p < CHUNK; p++) places[p] = (uint16_t)weight_at(order, p);
    const __m512i first = _mm512_loadu_si512(places), second = _mm512_loadu_si512(places + CHUNK / 2);
    for (int64_t k = 0; k < m->depth; k += CHUNK, out += CHUNK / 2) {
        float rest[CHUNK] = {0};
        const float *from = x + k;
        if (m->depth - k < CHUNK) from = memcpy(rest, from, (size_t)(m->depth - k) * sizeof(float));
        const __m512i low = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
        const __m512i high = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 48), _mm512_loadu_ps(from + 32));
        _mm512_storeu_si512(out, _mm512_permutex2var_epi16(low, first, high));
        _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(low, second, high));
    }
}

/* Sixteen numbers rounded, twice: a permutation of words reads five bits of an index, whatever the fifth is. */
INLINE __m512i rounded_table(__m512 values) { return (__m512i)_mm512_cvtne2ps_pbh(values, values); }

/* A chunk of 4-bit codes: sixteen words of four codes each, whose codes fall apart by shifts. */
INLINE void words_of_codes(const Matrix *m, const float *scales, int halves, int64_t place, __m512i w[WORDS]) {
    const __m512 values = _mm512_loadu_ps(m->values);
    const __m256i codes = _mm256_loadu_si256((const __m256i *)((const uint8_t *)m->codes + place / 2));
    const __m512i both = _mm512_broadcast_i64x4(codes), table = rounded_table(values * _mm512_set1_ps(scales[0]));
    const __m512i right = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i low = _mm512_srlv_epi16(both, right);
    const __m512i high = _mm512_srlv_epi16(both, _mm512_add_epi16(right, _mm512_set1_epi16(8)));
    w[0] = _mm512_permutexvar_epi16(low, table);
    w[1] = _mm512_permutexvar_epi16(high, table);
    if (halves) {
        const __m512i other = rounded_table(values * _mm512_set1_ps(scales[1]));
        w[0] = _mm512_mask_permutexvar_epi16(w[0], 0xff00ff00u, low, other);
        w[1] = _mm512_mask_permutexvar_epi16(w[1], 0xff00ff00u, high, other);
    }
}

/* A block of GGUF's 4-bit codes: eight words of four codes each. */
INLINE __m512i words_of_block(int format, const uint8_t *block) {
    const __m512i right = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(_mm_set1_epi16(4), _mm_setzero_si128())),
                                             _mm256_set_m128i(_mm_set1_epi16(12), _mm_set1_epi16(8)), 1);
    const __m128i codes = _mm_loadu_si128((const __m128i *)(block + block_head(format)));
    return _mm512_permutexvar_epi16(_mm512_srlv_epi16(_mm512_broadcast_i32x4(codes), right),
                                    rounded_table((__m512)block_table(format, block)));
}

/* A chunk of a column as words. */
INLINE void words_of(const Matrix *m, int format, const float *scales, int halves, int64_t place, int column,
                     __m512i w[WORDS]) {
    if (format == WEIGHT_4BIT) {
        words_of_codes(m, scales, halves, place, w);
    } else if (format == WEIGHT_Q4_0 || format == WEIGHT_Q4_1) {
        for (int i = 0; i < WORDS; i++) w[i] = words_of_block(format, block_at(m, format, place + i * GGUF_BLOCK));
    } else if (format == WEIGHT_BFLOAT16) {
        for (int i = 0; i < WORDS; i++) w[i] = _mm512_loadu_si512((const uint16_t *)m->codes + place + i * 32);
    } else {
        const Table table = TABLE_OF(m);
        for (int i = 0; i < WORDS; i++) {
            vec half[HALF];
            widen_half(m, format, &table, scales, halves, place, column, i, half);
            w[i] = (__m512i)_mm512_cvtne2ps_pbh((__m512)half[1], (__m512)half[0]);
        }
    }
}

INLINE lanes pairs_fused(lanes sum, __m512i a, __m512i b) {
    return (lanes)_mm512_dpbf16_ps((__m512)sum, as_pairs(a), as_pairs(b));
}

/* `columns` columns from `column` on, of `rows` rows, both known when this is compiled, as is `halves` (see rows.c). */
INLINE void few_rows(const Matrix *m, int format, int halves, const Rows *r, int rows, int columns, int column) {
    lanes sums[MOST_SUMS];
    for (int i = 0; i < rows * columns; i++) sums[i] = (lanes){0};
    for (int64_t from = 0; from < m->depth; from += STRETCH) {
        const int64_t stop = m->depth - from < STRETCH ? m->depth : from + STRETCH;
        float scales[MOST_COLUMNS][STRETCH / CHUNK * SCALES];
        if (format == WEIGHT_4BIT)
            for (int c = 0; c < columns; c++)
                read_scales(m, (int64_t)(column + c) * m->depth + from, (stop - from) / CHUNK, scales[c]);
        for (int64_t k = from; k < stop; k += CHUNK) {
            __m512i w[MOST_COLUMNS][WORDS];
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) {
                const int64_t place = (int64_t)(column + c) * m->depth + k;
                fetch_ahead(m, format, place);
                words_of(m, format, scales[c] + (k - from) / CHUNK * SCALES, halves, place, column + c, w[c]);
            }
#pragma GCC unroll 2
            for (int v = 0; v < WORDS; v++)
#pragma GCC unroll 8
                for (int i = 0; i < rows; i++) {
                    const __m512i x = _mm512_loadu_si512(r->x + i * r->words + k / 2 + v * VL);
#pragma GCC unroll 4
                    for (int c = 0; c < columns; c++)
                        sums[i * columns + c] = pairs_fused(sums[i * columns + c], w[c][v], x);
                }
        }
    }
    hand_over(sums, rows, columns, r->add, r->scale, r->y + column, r->stride);
}

/* All of `count` columns from `first` on. Sums of all rows by the columns of a turn stay in registers. */
INLINE void few_columns(const Matrix *m, int format, int halves, const Rows *r, int rows, int first, int count) {
    const int columns = rows <= 4 ? 4 : 2;
    int column = first;
    for (; column + columns <= first + count; column += columns) few_rows(m, format, halves, r, rows, columns, column);
    for (; column < first + count; column++) few_rows(m, format, halves, r, rows, 1, column);
}

INLINE void few_of(const Matrix *m, int format, int halves, const Rows *r, int first, int count) {
    switch (r->rows) {
        case 1: few_columns(m, format, halves, r, 1, first, count); break;
        case 2: few_columns(m, format, halves, r, 2, first, count); break;
        case 3: few_columns(m, format, halves, r, 3, first, count); break;
        case 4: few_columns(m, format, halves, r, 4, first, count); break;
        case 5: few_columns(m, format, halves, r, 5, first, count); break;
        case 6: few_columns(m, format, halves, r, 6, first, count); break;
        case 7: few_columns(m, format, halves, r, 7, first, count); break;
        case 8: few_columns(m, format, halves, r, 8, first, count); break;
    }
}

/* The whole chunks of `count` columns from `first` on as words, a column every row_words(depth). */
INLINE void words_to(const Matrix *m, int format, int halves, int first, int count, uint32_t *out) {
    const int64_t words = row_words(m->depth), whole = m->depth / CHUNK * CHUNK;
    for (int c = first; c < first + count; c++, out += words)
        for (int64_t from = 0; from < whole; from += STRETCH) {
            const int64_t stop = whole - from < STRETCH ? whole : from + STRETCH, column = (int64_t)c * m->depth;
            float scales[STRETCH / CHUNK * SCALES];
            if (format == WEIGHT_4BIT) read_scales(m, column + from, (stop - from) / CHUNK, scales);
            for (int64_t k = from; k < stop; k += CHUNK) {
                __m512i w[WORDS];
                words_of(m, format, scales + (k - from) / CHUNK * SCALES, halves, column + k, c, w);
                for (int i = 0; i < WORDS; i++) _mm512_storeu_si512(out + k / 2 + i * VL, w[i]);
            }
        }
}

#define DEFINE_FORMAT(name, format, halves)                                           \
    static void few_##name(const Matrix *m, const Rows *r, int first, int count) {    \
        few_of(m, format, halves, r, first, count);                                   \
    }                                                                                 \
    static void words_##name(const Matrix *m, int first, int count, uint32_t *out) {  \
        words_to(m, format, halves, first, count, out);                               \
    }
DEFINE_FORMAT(float32, WEIGHT_FLOAT32, 0)
DEFINE_FORMAT(bfloat16, WEIGHT_BFLOAT16, 0)
DEFINE_FORMAT(float16, WEIGHT_FLOAT16, 0)
DEFINE_FORMAT(int8, WEIGHT_INT8, 0)
DEFINE_FORMAT(4bit, WEIGHT_4BIT, 0)
DEFINE_FORMAT(q4_0, WEIGHT_Q4_0, 0)
DEFINE_FORMAT(q4_1, WEIGHT_Q4_1, 0)
DEFINE_FORMAT(q8_0, WEIGHT_Q8_0, 0)
DEFINE_FORMAT(4bit_halves, WEIGHT_4BIT, 1)

#define HALVES 8 /* the place of 4 bits whose halves of a chunk have scales of their own */
static int kind_of(const Matrix *m) { return m->format == WEIGHT_4BIT && m->block < CHUNK ? HALVES : m->format; }

/* `count` columns from `first` on as words; what is not a whole chunk is taken one by one. */
static void widen_columns(const Matrix *m, int first, int count, uint32_t *out) {
    static void (*const kinds[])(const Matrix *, int, int, uint32_t *) = {
        words_float32, words_bfloat16, words_float16, words_int8, words_4bit,
        words_q4_0, words_q4_1, words_q8_0, words_4bit_halves};
    const int order = order_of(m);
    const int64_t whole = m->format == WEIGHT_4BIT && m->depth % CHUNK ? 0 : m->depth / CHUNK * CHUNK;
    if (whole > 0) kinds[kind_of(m)](m, first, count, out);
    for (int c = 0; c < count; c++) {
        uint16_t *column = (uint16_t *)(out + c * row_words(m->depth));
        for (int64_t k = whole; k < whole_chunks(m->depth); k++) {
            const int64_t at = k / CHUNK * CHUNK + weight_at(order, (int)(k % CHUNK));
            column[k] = at < m->depth ? to_bf16(element(m, (int64_t)(first + c) * m->depth + at, first + c)) : 0;
        }
    }
}

/* What is read later on: `each` bytes at every step of a tile. */
typedef struct {
    const char *from;
    int64_t each;
} Ahead;

/* Rows from `row` on by columns that are widened, both counts known when this is compiled. */
INLINE void tile(const Rows *r, int row, int rows, const uint32_t *w, int columns, float *y, Ahead *ahead) {
    lanes sums[MOST_SUMS];
#pragma GCC unroll 24
    for (int i = 0; i < rows * columns; i++) sums[i] = (lanes){0};
    const uint32_t *x = r->x + row * r->words;
    const char *later = ahead->from;
    for (int64_t k = 0; k < r->words; k += VL) {
        __m512i right[PAIR_COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) right[c] = _mm512_loadu_si512(w + c * r->words + k);
        __builtin_prefetch(later, 0, 2);
        __builtin_prefetch(later + ahead->each / 2, 0, 2);
        later += ahead->each;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const __m512i left = _mm512_loadu_si512(x + i * r->words + k);
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) sums[i * columns + c] = pairs_fused(sums[i * columns + c], right[c], left);
        }
    }
    ahead->from = later;
    hand_over(sums, rows, columns, r->add, r->scale, y + row * r->stride, r->stride);
}

#define TILES(height)                                                                                        \
    static void tiles_##height(const Rows *r, int row, const uint32_t *w, int count, float *y, Ahead *ahead) { \
        int c = 0;                                                                                            \
        for (; c + PAIR_COLUMNS <= count; c += PAIR_COLUMNS)                                                  \
            tile(r, row, height, w + c * r->words, PAIR_COLUMNS, y + c, ahead);                               \
        for (; c < count; c++) tile(r, row, height, w + c * r->words, 1, y + c, ahead);                       \
    }
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)

/* Rows in heights of at most PAIR_ROWS, all of about the same, with the columns of a unit. */
static void many_rows(const Matrix *m, const Rows *r, int first, int count, uint32_t *scratch) {
    static void (*const tiles[])(const Rows *, int, const uint32_t *, int, float *, Ahead *) = {
        NULL, tiles_1, tiles_2, tiles_3, tiles_4, tiles_5, tiles_6};
    const int heights = (r->rows + PAIR_ROWS - 1) / PAIR_ROWS;
    const int64_t bytes = stored_bytes(m->format, whole_chunks(count * m->depth));
    const int64_t steps = heights * r->words / VL * ((count + PAIR_COLUMNS - 1) / PAIR_COLUMNS);
    Ahead ahead = {(const char *)m->codes + stored_bytes(m->format, whole_chunks(first * m->depth)) + bytes, bytes / steps};
    widen_columns(m, first, count, scratch);
    for (int i = 0; i < heights; i++) {
        const int row = i * r->rows / heights, stop = (i + 1) * r->rows / heights;
        tiles[stop - row](r, row, scratch, count, r->y + first, &ahead);
    }
}

void veneer_row_pairs_unit(const Matrix *m, const uint32_t *x, int rows, int first, int count, int add, float scale, float *y,
                           int64_t stride, uint32_t *scratch) {
    static void (*const few[])(const Matrix *, const Rows *, int, int) = {
        few_float32, few_bfloat16, few_float16, few_int8, few_4bit, few_q4_0, few_q4_1, few_q8_0, few_4bit_halves};
    const Rows r = {x, y, row_words(m->depth), stride, rows, add, scale};
    if (rows <= MOST_FEW && m->depth % CHUNK == 0)
        few[kind_of(m)](m, &r, first, count);
    else
        many_rows(m, &r, first, count, scratch);
}
#endif

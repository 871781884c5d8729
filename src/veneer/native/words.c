/* Rows of x and stored columns as words (words.h). */
#include "words.h"

#if BF16_PRODUCTS

/* How the weights of a chunk are stored as words. */
enum { NATURAL_WORDS, CODE_WORDS, BLOCK_WORDS };

/* Whether every column is made of chunks of codes that are its own. What is not a whole chunk is taken weight by
   weight. */
static int has_chunks(const Matrix *m) { return m->format != WEIGHT_4BIT || m->depth % CHUNK == 0; }

static int order_of(const Matrix *m) {
    if (m->format == WEIGHT_4BIT) return has_chunks(m) ? CODE_WORDS : NATURAL_WORDS;
    return m->format == WEIGHT_Q4_0 || m->format == WEIGHT_Q4_1 ? BLOCK_WORDS : NATURAL_WORDS;
}

/* The weight of a chunk that is at a place of its words. */
static int weight_at(int order, int place) {
    static const int codes[4] = {1, 0, 3, 2}, blocks[4] = {0, 16, 1, 17};
    if (order == CODE_WORDS) return 4 * (place % 16) + codes[place / 16];
    if (order == BLOCK_WORDS) return place / 32 * 32 + 2 * (place % 8) + blocks[place % 32 / 8];
    return place;
}

void veneer_words_prepare(const Matrix *m, const float *x, uint32_t *out) {
    const int order = order_of(m);
    uint16_t places[CHUNK];
    for (int p = 0; p < CHUNK; p++) places[p] = (uint16_t)weight_at(order, p);
    const __m512i first = _mm512_loadu_si512(places), second = _mm512_loadu_si512(places + CHUNK / 2);
    for (int64_t k = 0; k < m->depth; k += CHUNK, out += CHUNK_WORDS) {
        float rest[CHUNK] = {0};
        const float *from = x + k;
        if (m->depth - k < CHUNK) from = memcpy(rest, from, (size_t)(m->depth - k) * sizeof(float));
        const __m512i low = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
        const __m512i high = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 48), _mm512_loadu_ps(from + 32));
        _mm512_storeu_si512(out, _mm512_permutex2var_epi16(low, first, high));
        _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(low, second, high));
    }
}

void veneer_words_scales(const Matrix *m, int first, int count, float *out) {
    if (m->format == WEIGHT_4BIT && has_chunks(m)) read_scales(m, first * m->depth, count * m->depth / CHUNK, out);
}

static inline int64_t chunks_of(const Matrix *m) { return has_chunks(m) ? (int64_t)((uint64_t)m->depth / CHUNK) : 0; }

/* The whole chunks of all columns, column by column. */
INLINE void widen_columns(const Matrix *matrix, int format, int halves, const float *scales, int first, int count,
                          int64_t apart, uint32_t *out) {
    const Matrix own = *matrix, *m = &own; /* what is written may not change it */
    const int64_t chunks = chunks_of(m);
    for (int c = first; c < first + count; c++, out += apart)
        for (int64_t k = 0; k < chunks; k++, scales += SCALES) {
            __m512i w[WORDS];
            words_of(m, format, scales, halves, c * m->depth + k * CHUNK, c, w);
            for (int i = 0; i < WORDS; i++) _mm512_storeu_si512(out + k * CHUNK_WORDS + i * VL, w[i]);
        }
}

/* One chunk of all columns. */
INLINE void widen_chunks(const Matrix *matrix, int format, int halves, const float *scales, int first, int count,
                         int64_t chunk, const char *ahead, uint32_t *out) {
    const Matrix own = *matrix, *m = &own;
    const int64_t each = scale_room(m->depth, 1), bytes = stored_bytes(format, CHUNK);
    int64_t place = first * m->depth + chunk * CHUNK;
    scales += chunk * SCALES;
    for (int c = first; c < first + count; c++, place += m->depth, scales += each, ahead += bytes, out += CHUNK_WORDS) {
        __m512i w[WORDS];
        for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(ahead + byte, 0, 2);
        words_of(m, format, scales, halves, place, c, w);
        for (int i = 0; i < WORDS; i++) _mm512_storeu_si512(out + i * VL, w[i]);
    }
}

typedef void Columns(const Matrix *m, const float *scales, int first, int count, int64_t apart, uint32_t *out);
typedef void Chunks(const Matrix *m, const float *scales, int first, int count, int64_t chunk, const char *ahead,
                    uint32_t *out);

#define DEFINE_FORMAT(name, format, halves)                                                                        \
    static void columns_##name(const Matrix *m, const float *scales, int first, int count, int64_t apart,          \
                               uint32_t *out) {                                                                    \
        widen_columns(m, format, halves, scales, first, count, apart, out);                                        \
    }                                                                                                              \
    static void chunks_##name(const Matrix *m, const float *scales, int first, int count, int64_t chunk,           \
                              const char *ahead, uint32_t *out) {                                                  \
        widen_chunks(m, format, halves, scales, first, count, chunk, ahead, out);                                  \
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

/* The weights of a column from chunk `chunk` on, up to whole chunks, one by one. */
static void widen_rest(const Matrix *m, int column, int64_t chunk, int64_t stop, uint32_t *out) {
    const int order = order_of(m);
    uint16_t *weights = (uint16_t *)out;
    for (; chunk < stop; chunk++, weights += CHUNK)
        for (int p = 0; p < CHUNK; p++) {
            const int64_t k = chunk * CHUNK + weight_at(order, p);
            weights[p] = k < m->depth ? to_bf16(element(m, column * m->depth + k, column)) : 0;
        }
}

void veneer_words_widen(const Matrix *m, const float *scales, int first, int count, int64_t apart, uint32_t *out) {
    static Columns *const kinds[] = {columns_float32, columns_bfloat16, columns_float16,
                                     columns_int8,    columns_4bit,     columns_q4_0,
                                     columns_q4_1,    columns_q8_0,     columns_4bit_halves};
    const int64_t chunks = chunks_of(m);
    kinds[kind_of(m)](m, scales, first, count, apart, out);
    for (int c = 0; c < count; c++)
        widen_rest(m, first + c, chunks, whole_chunks(m->depth) / CHUNK, out + c * apart + chunks * CHUNK_WORDS);
}

void veneer_words_chunk(const Matrix *m, const float *scales, int first, int count, int64_t chunk, const char *ahead,
                        uint32_t *out) {
    static Chunks *const kinds[] = {chunks_float32, chunks_bfloat16, chunks_float16, chunks_int8,       chunks_4bit,
                                    chunks_q4_0,    chunks_q4_1,     chunks_q8_0,    chunks_4bit_halves};
    if (chunk < chunks_of(m))
        kinds[kind_of(m)](m, scales, first, count, chunk, ahead, out);
    else
        for (int c = 0; c < count; c++) widen_rest(m, first + c, chunk, chunk + 1, out + c * CHUNK_WORDS);
}

#endif

/* Products of few rows with a weight as it is stored, exact: every weight is widened to float32 (a code times its scale,
 * rounded as when the whole weight is decoded), and sums are float32.
 *
 * A sum has VL lanes: lane l adds up the products of the elements l, l + VL, l + 2 VL, … of a row as they stand after
 * widening, one after the other, and the lanes are added in halves. Few rows are multiplied while their weights are still
 * in registers; for more the weights of some columns are widened into the cache once, and all rows run past them. Both
 * take every sum in the same order, so that a row's bits do not depend on the rows beside it.
 */
#include <stdlib.h>

#include "rows.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define VECTORS (CHUNK / VL)
#define FEW 4  /* rows that are multiplied while weights are in registers */
#define WIDE 4 /* columns at a time then */
#if VL == 8
#define TILE_COLUMNS 2 /* sixteen registers hold the sums of 4 by 2, and what they are made of */
#else
#define TILE_COLUMNS 4
#endif
#define TILE_ROWS 4
#define STEP 7.874015718698502e-3f /* 1 / 127, as quant/rowwise.py has it */
#define INLINE __attribute__((always_inline)) static inline

typedef float lanes __attribute__((vector_size(VL * 4))); /* a vec that is passed by value */
typedef uint16_t half_vec __attribute__((vector_size(VL * 2), aligned(2), may_alias));
typedef uint32_t word_vec __attribute__((vector_size(VL * 4)));

/* A product that is not fused with the sum it goes into. */
INLINE float rounded(float value) {
#if defined(__x86_64__)
    __asm__("" : "+x"(value));
#elif defined(__aarch64__)
    __asm__("" : "+w"(value));
#else
    volatile float kept = value;
    value = kept;
#endif
    return value;
}

INLINE float scale_at(const Matrix *m, int64_t place) {
    const int64_t block = place >> __builtin_ctz((unsigned)m->block);
    if (m->scales) return m->scales[block];
    const float factor = m->scale_factors[block >> __builtin_ctz((unsigned)m->nested)];
    return rounded(m->scale_values[m->scale_codes[block]] * factor) + m->scale_offset;
}

static inline float from_f16(uint16_t stored) {
    const uint32_t sign = (uint32_t)(stored & 0x8000) << 16, rest = stored & 0x7fff;
    if (rest >= 0x7c00) return bits_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    /* The exponent is put right by a product, which also makes the small numbers (those without one) normal. */
    return bits_float(sign | float_bits(bits_float(rest << 13) * 0x1p112f));
}

/* One weight, by its place in the flattened tensor. */
static float element(const Matrix *m, int64_t place, int column) {
    switch (m->format) {
        case WEIGHT_FLOAT32: return ((const float *)m->codes)[place];
        case WEIGHT_BFLOAT16: return from_bf16(((const uint16_t *)m->codes)[place]);
        case WEIGHT_FLOAT16: return from_f16(((const uint16_t *)m->codes)[place]);
        case WEIGHT_INT8: return rounded((float)((const int8_t *)m->codes)[place] * m->scales[column]) * STEP;
        default: {
            const uint8_t byte = ((const uint8_t *)m->codes)[place / 2];
            return m->values[place % 2 ? byte & 15 : byte >> 4] * scale_at(m, place);
        }
    }
}

#if VL == 16
#define HAS_PAIRED 1
/* Sixteen bytes at a time: their upper halves, then their lower ones. The sixteen values, times the scale, are one
 * register, and a permutation looks all up; it reads four bits of an index and no more. */
static inline int paired_place(int p) { return p / 32 * 32 + p % 16 * 2 + p / 16 % 2; }

INLINE void widen_4bit(const Matrix *m, int64_t place, vec w[VECTORS]) {
    const __m512 values = _mm512_loadu_ps(m->values);
    __m512 table = _mm512_mul_ps(values, _mm512_set1_ps(scale_at(m, place)));
    for (int half = 0; half < 2; half++) {
        if (half && m->block < CHUNK) table = _mm512_mul_ps(values, _mm512_set1_ps(scale_at(m, place + 32)));
        const uint8_t *codes = (const uint8_t *)m->codes + place / 2 + 16 * half;
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
        w[2 * half] = (vec)_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
        w[2 * half + 1] = (vec)_mm512_permutexvar_ps(bytes, table);
    }
}
#elif VL == 8
#define HAS_PAIRED 1
/* The four bytes of a value are looked up apart, 32 codes at a time, and put together by interleaving: 12 instructions,
 * where looking up floats (which eight values of a register allow) would take 20. */
static inline int paired_place(int p) {
    const int vector = p / 8, lane = p / 4 % 2, byte = 16 * lane + 4 * (vector % 4) + p % 4;
    return 2 * byte + vector / 4;
}

typedef struct {
    __m256i plane[4];
} Planes;

/* Byte b of each of the sixteen values, in both halves of plane b. */
INLINE Planes planes_of(const float *values) {
    Planes found;
    for (int b = 0; b < 4; b++) {
        uint8_t bytes[16];
        for (int i = 0; i < 16; i++) bytes[i] = (uint8_t)(float_bits(values[i]) >> 8 * b);
        found.plane[b] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
    }
    return found;
}

INLINE void look_up(const Planes *planes, __m256i codes, __m256 scale, vec w[4]) {
    const __m256i b0 = _mm256_shuffle_epi8(planes->plane[0], codes), b1 = _mm256_shuffle_epi8(planes->plane[1], codes);
    const __m256i b2 = _mm256_shuffle_epi8(planes->plane[2], codes), b3 = _mm256_shuffle_epi8(planes->plane[3], codes);
    const __m256i low = _mm256_unpacklo_epi8(b0, b1), low2 = _mm256_unpacklo_epi8(b2, b3);
    const __m256i high = _mm256_unpackhi_epi8(b0, b1), high2 = _mm256_unpackhi_epi8(b2, b3);
    w[0] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(low, low2)), scale);
    w[1] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(low, low2)), scale);
    w[2] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(high, high2)), scale);
    w[3] = (vec)_mm256_mul_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(high, high2)), scale);
}

INLINE void widen_paired(const Matrix *m, const Planes *planes, int64_t place, vec w[VECTORS]) {
    /* A half of the register holds 32 neighbours, which always share a scale. */
    const float first = scale_at(m, place), second = m->block < CHUNK ? scale_at(m, place + 32) : first;
    const __m256 scale = _mm256_set_m128(_mm_set1_ps(second), _mm_set1_ps(first));
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)((const uint8_t *)m->codes + place / 2));
    const __m256i mask = _mm256_set1_epi8(15);
    look_up(planes, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask), scale, w);
    look_up(planes, _mm256_and_si256(bytes, mask), scale, w + 4);
}
#else
#define HAS_PAIRED 0
#endif

#if VL == 8
typedef Planes Table;
#define TABLE_OF(m) ((m)->format == WEIGHT_4BIT ? planes_of((m)->values) : (Planes){0})
#define WIDEN_4BIT(m, table, place, w) widen_paired(m, table, place, w)
#else
typedef int Table;
#define TABLE_OF(m) ((void)(m), 0)
#if HAS_PAIRED
#define WIDEN_4BIT(m, table, place, w) ((void)(table), widen_4bit(m, place, w))
#else
#define WIDEN_4BIT(m, table, place, w) ((void)(table), widen_each(m, place, w))
static inline int paired_place(int p) { return p; }
INLINE void widen_each(const Matrix *m, int64_t place, vec w[VECTORS]) {
    float values[CHUNK];
    for (int k = 0; k < CHUNK; k++) values[k] = element(m, place + k, 0);
    memcpy(w, values, sizeof values);
}
#endif
#endif

INLINE lanes f16_lanes(const uint16_t *in) {
#if VL == 16
    return (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)in));
#elif VL == 8 && defined(__F16C__)
    return (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)in));
#elif defined(__aarch64__)
    return (lanes)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in)));
#else
    lanes out;
    for (int i = 0; i < VL; i++) out[i] = from_f16(in[i]);
    return out;
#endif
}

INLINE lanes int8_lanes(const int8_t *in) {
#if VL == 16
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)in)));
#elif VL == 8 && defined(__AVX2__)
    return (lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)in)));
#else
    lanes out;
    for (int i = 0; i < VL; i++) out[i] = in[i];
    return out;
#endif
}

/* A chunk of a column, from `place` in the flattened tensor on. */
INLINE void widen(const Matrix *m, int format, const Table *table, int64_t place, int column, vec w[VECTORS]) {
    if (format == WEIGHT_4BIT) {
        WIDEN_4BIT(m, table, place, w);
        return;
    }
    for (int v = 0; v < VECTORS; v++) {
        const int64_t at = place + v * VL;
        if (format == WEIGHT_FLOAT32) {
            w[v] = *(const vec *)((const float *)m->codes + at);
        } else if (format == WEIGHT_BFLOAT16) {
            const half_vec stored = *(const half_vec *)((const uint16_t *)m->codes + at);
            w[v] = (vec)(__builtin_convertvector(stored, word_vec) << 16);
        } else if (format == WEIGHT_FLOAT16) {
            w[v] = f16_lanes((const uint16_t *)m->codes + at);
        } else {
            w[v] = int8_lanes((const int8_t *)m->codes + at) * m->scales[column] * STEP;
        }
    }
}

/* sum + a · b, rounded once: written out, because a compiler that is free to fuse the two does so in one place and not in
 * another, and sums would differ. */
INLINE lanes fused(lanes sum, lanes a, lanes b) {
#if VL == 16
    return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif VL == 8 && defined(__FMA__)
    return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__aarch64__)
    return (lanes)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#else
    for (int i = 0; i < VL; i++) sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
    return sum;
#endif
}

/* The lanes of a sum, added in halves. */
INLINE float total(lanes sum) {
#if VL == 16 || (VL == 8 && defined(__AVX2__))
#if VL == 16
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)sum), _mm512_extractf32x8_ps((__m512)sum, 1));
#else
    const __m256 eight = (__m256)sum;
#endif
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float parts[VL];
    memcpy(parts, &sum, sizeof parts);
    for (int width = VL / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
#endif
}

INLINE void put(float *y, int add, float scale, lanes sum) {
    const float found = total(sum);
    *y = add ? __builtin_fmaf(scale, found, *y) : found;
}

/* A row of x and y for each of `rows`. */
typedef struct {
    const float *x;
    float *y;
    int64_t depth, stride; /* from one row of x, and of y, to the next */
    int rows, add;
    float scale;
} Rows;

/* `columns` columns from `first` on, of `rows` rows, both known when this is compiled. */
INLINE void few_rows(const Matrix *m, int format, const Table *table, const Rows *r, int rows, int columns, int first) {
    vec sums[FEW][WIDE];
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < columns; c++) sums[i][c] = (vec){0};
    for (int64_t k = 0; k < m->depth; k += CHUNK)
        for (int c = 0; c < columns; c++) {
            vec w[VECTORS];
            widen(m, format, table, (int64_t)(first + c) * m->depth + k, first + c, w);
            for (int i = 0; i < rows; i++)
                for (int v = 0; v < VECTORS; v++)
                    sums[i][c] = fused(sums[i][c], w[v], *(const vec *)(r->x + i * r->depth + k + v * VL));
        }
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < columns; c++) put(r->y + i * r->stride + first + c, r->add, r->scale, sums[i][c]);
}

#define DEFINE_FEW(name, format)                                                                           \
    static void name(const Matrix *m, const Rows *r, int first, int count) {                               \
        const Table table = TABLE_OF(m);                                                                   \
        int column = first;                                                                                \
        for (; column + WIDE <= first + count; column += WIDE) switch (r->rows) {                          \
                case 1: few_rows(m, format, &table, r, 1, WIDE, column); break;                            \
                case 2: few_rows(m, format, &table, r, 2, WIDE, column); break;                            \
                case 3: few_rows(m, format, &table, r, 3, WIDE, column); break;                            \
                default: few_rows(m, format, &table, r, 4, WIDE, column);                                  \
            }                                                                                              \
        for (; column < first + count; column++) switch (r->rows) {                                        \
                case 1: few_rows(m, format, &table, r, 1, 1, column); break;                               \
                case 2: few_rows(m, format, &table, r, 2, 1, column); break;                               \
                case 3: few_rows(m, format, &table, r, 3, 1, column); break;                               \
                default: few_rows(m, format, &table, r, 4, 1, column);                                     \
            }                                                                                              \
    }
DEFINE_FEW(few_float32, WEIGHT_FLOAT32)
DEFINE_FEW(few_bfloat16, WEIGHT_BFLOAT16)
DEFINE_FEW(few_float16, WEIGHT_FLOAT16)
DEFINE_FEW(few_int8, WEIGHT_INT8)
DEFINE_FEW(few_4bit, WEIGHT_4BIT)

/* `count` columns from `first` on, widened, as [count][whole_chunks(depth)] with zeros behind. */
#define DEFINE_WIDEN(name, format)                                                            \
    static void name(const Matrix *m, int first, int count, float *out) {                     \
        const Table table = TABLE_OF(m);                                                      \
        for (int c = 0; c < count; c++)                                                       \
            for (int64_t k = 0; k + CHUNK <= m->depth; k += CHUNK) {                          \
                vec w[VECTORS];                                                               \
                widen(m, format, &table, (int64_t)(first + c) * m->depth + k, first + c, w);  \
                float *to = out + c * whole_chunks(m->depth) + k;                             \
                for (int v = 0; v < VECTORS; v++) *(vec *)(to + v * VL) = w[v];               \
            }                                                                                 \
    }
DEFINE_WIDEN(widen_float32, WEIGHT_FLOAT32)
DEFINE_WIDEN(widen_bfloat16, WEIGHT_BFLOAT16)
DEFINE_WIDEN(widen_float16, WEIGHT_FLOAT16)
DEFINE_WIDEN(widen_int8, WEIGHT_INT8)
DEFINE_WIDEN(widen_codes, WEIGHT_4BIT)

static void widen_columns(const Matrix *m, int first, int count, float *out) {
    static void (*const chunks[])(const Matrix *, int, int, float *) = {widen_float32, widen_bfloat16, widen_float16,
                                                                        widen_int8, widen_codes};
    const int64_t width = whole_chunks(m->depth);
    /* Rows of 4-bit weights that do not end with a byte, or a chunk, are taken one by one. */
    const int64_t whole = m->format == WEIGHT_4BIT && m->depth % CHUNK ? 0 : m->depth / CHUNK * CHUNK;
    if (whole) chunks[m->format](m, first, count, out);
    for (int c = 0; c < count; c++)
        for (int64_t k = whole; k < width; k++)
            out[c * width + k] = k < m->depth ? element(m, (int64_t)(first + c) * m->depth + k, first + c) : 0.0f;
}

/* `count` weights of a column from `place` on, whole chunks of them at once. */
#define DEFINE_SPAN(name, format)                                                               \
    static int64_t name(const Matrix *m, int column, int64_t place, int64_t count, float *out) { \
        const Table table = TABLE_OF(m);                                                        \
        int64_t k = 0;                                                                          \
        for (; k + CHUNK <= count; k += CHUNK) {                                                \
            vec w[VECTORS];                                                                     \
            widen(m, format, &table, place + k, column, w);                                     \
            if (format == WEIGHT_4BIT) {                                                        \
                float mixed[CHUNK];                                                             \
                memcpy(mixed, w, sizeof mixed);                                                 \
                for (int p = 0; p < CHUNK; p++) out[k + paired_place(p)] = mixed[p];            \
            } else {                                                                            \
                for (int v = 0; v < VECTORS; v++) *(vec *)(out + k + v * VL) = w[v];            \
            }                                                                                   \
        }                                                                                       \
        return k;                                                                               \
    }
DEFINE_SPAN(span_float32, WEIGHT_FLOAT32)
DEFINE_SPAN(span_bfloat16, WEIGHT_BFLOAT16)
DEFINE_SPAN(span_float16, WEIGHT_FLOAT16)
DEFINE_SPAN(span_int8, WEIGHT_INT8)
DEFINE_SPAN(span_4bit, WEIGHT_4BIT)

void veneer_rows_widen(const Matrix *m, int column, int64_t first, int64_t count, float *out) {
    static int64_t (*const spans[])(const Matrix *, int, int64_t, int64_t, float *) = {span_float32, span_bfloat16,
                                                                                       span_float16, span_int8, span_4bit};
    const int64_t place = (int64_t)column * m->depth + first;
    /* 4-bit weights that do not begin with a chunk are taken one by one. */
    int64_t k = m->format == WEIGHT_4BIT && place % CHUNK ? 0 : spans[m->format](m, column, place, count, out);
    for (; k < count; k++) out[k] = element(m, place + k, column);
}

/* `rows` rows by `columns` widened columns, both known when this is compiled. */
INLINE void tile(const Rows *r, const float *w, int first_row, int rows, int column, int columns) {
    vec sums[TILE_ROWS][TILE_COLUMNS];
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < columns; c++) sums[i][c] = (vec){0};
    const float *x = r->x + first_row * r->depth;
    for (int64_t k = 0; k < r->depth; k += VL) {
        vec right[TILE_COLUMNS];
        for (int c = 0; c < columns; c++) right[c] = *(const vec *)(w + c * r->depth + k);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) {
            const vec left = *(const vec *)(x + i * r->depth + k);
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) sums[i][c] = fused(sums[i][c], right[c], left);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < columns; c++)
            put(r->y + (first_row + i) * r->stride + column + c, r->add, r->scale, sums[i][c]);
}

static void many_rows(const Rows *r, const float *w, int first, int count) {
    int row = 0;
    for (; row + TILE_ROWS <= r->rows; row += TILE_ROWS) {
        int c = 0;
        for (; c + TILE_COLUMNS <= count; c += TILE_COLUMNS)
            tile(r, w + c * r->depth, row, TILE_ROWS, first + c, TILE_COLUMNS);
        for (; c < count; c++) tile(r, w + c * r->depth, row, TILE_ROWS, first + c, 1);
    }
    for (; row < r->rows; row++) {
        int c = 0;
        for (; c + TILE_COLUMNS <= count; c += TILE_COLUMNS)
            tile(r, w + c * r->depth, row, 1, first + c, TILE_COLUMNS);
        for (; c < count; c++) tile(r, w + c * r->depth, row, 1, first + c, 1);
    }
}

int veneer_rows_order(const Matrix *m) {
    return HAS_PAIRED && m->format == WEIGHT_4BIT && m->depth % CHUNK == 0 ? PAIRED : NATURAL;
}

void veneer_rows_prepare(int order, int64_t depth, const float *x, float *out) {
    if (order == PAIRED) {
        for (int64_t k = 0; k < depth; k += CHUNK)
            for (int p = 0; p < CHUNK; p++) out[k + p] = x[k + paired_place(p)];
        return;
    }
    memcpy(out, x, (size_t)depth * 4);
    for (int64_t k = depth; k < whole_chunks(depth); k++) out[k] = 0.0f;
}

void veneer_rows_unit(const Matrix *m, const float *x, int rows, int first, int count, int add, float scale, float *y,
                      int64_t stride, float *scratch) {
    static void (*const few[])(const Matrix *, const Rows *, int, int) = {few_float32, few_bfloat16, few_float16,
                                                                          few_int8, few_4bit};
    if (rows == 0) return;
    const Rows r = {x, y, whole_chunks(m->depth), stride, rows, add, scale};
    if (rows <= FEW && m->depth % CHUNK == 0) {
        few[m->format](m, &r, first, count);
        return;
    }
    widen_columns(m, first, count, scratch);
    many_rows(&r, scratch, first, count);
}

/* y float32 [rows, columns] = x Wᵀ (+ bias [columns] or NULL), x float32 [rows, depth]. Returns 0, or 1 where memory ran
 * out. */
int veneer_rows_product(const Matrix *m, const float *x, int rows, const float *bias, float *y, int threads) {
    const int64_t width = whole_chunks(m->depth), stride = m->columns;
    float *prepared = aligned_alloc(64, (size_t)((rows ? rows : 1) * width) * 4);
    int failed = prepared == NULL;
#pragma omp parallel num_threads(threads) if (!failed)
    {
        float *scratch = aligned_alloc(64, (size_t)rows_scratch(m->depth) * 4);
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
        if (prepared) {
#pragma omp for schedule(static)
            for (int row = 0; row < rows; row++)
                veneer_rows_prepare(veneer_rows_order(m), m->depth, x + row * m->depth, prepared + row * width);
        }
#pragma omp for schedule(dynamic)
        for (int first = 0; first < m->columns; first += UNIT) {
            const int count = m->columns - first < UNIT ? m->columns - first : UNIT;
            if (!scratch || !prepared) continue;
            veneer_rows_unit(m, prepared, rows, first, count, 0, 1.0f, y, stride, scratch);
            for (int row = 0; bias && row < rows; row++)
                for (int c = first; c < first + count; c++) y[row * stride + c] += bias[c];
        }
        free(scratch);
    }
    free(prepared);
    return failed;
}

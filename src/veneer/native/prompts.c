/* Products of prompts' rows in bfloat16 with float32 sums.
 *
 * Prompts have many rows, and what is computed of them is in the model's dtype, as in training: x and W are rounded to
 * bfloat16, sums are float32. The rows of x are lanes, laid out once an operation, and the weights of a column are taken
 * as they stand, two neighbours in depth at a time, so that nothing of W is turned around. Each sum goes along the depth
 * in one order whatever the number of rows.
 */
#include "prompts.h"

#include "pairs.h"
#include "widen.h"

#if BF16_PRODUCTS

#if defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#define IN_TILES __attribute__((target("amx-tile,amx-bf16")))
#endif

#define COLUMNS 6 /* columns of a tile of pairs */
#define STRIPS 4  /* panels of a tile */
#define BLOCK (STRIPS * PROMPT_PANEL)
#define LINE 16 /* words in a line of the cache */

/* Words from one widened column to the next: one line more, so that columns do not share the cache's sets. */
static inline int64_t apart(int64_t depth) { return prompt_pairs(depth) + LINE; }

int64_t veneer_prompt_scratch(int64_t depth) { return PROMPT_UNIT * (apart(depth) + BLOCK); }

/* A chunk of widened weights as words. */
INLINE void narrow_chunk(const vec w[VECTORS], uint32_t *out) {
    for (int v = 0; v < VECTORS; v += 2)
        _mm512_storeu_si512(out + v / 2 * LINE, (__m512i)_mm512_cvtne2ps_pbh((__m512)w[v + 1], (__m512)w[v]));
}

/* The whole chunks of `count` columns from `first` on, rounded, a column every `stride` words. */
#define DEFINE_NARROW(name, format)                                                                    \
    static void name(const Matrix *m, int first, int count, int64_t stride, uint32_t *out) {           \
        const Table table = TABLE_OF(m);                                                               \
        for (int c = first; c < first + count; c++, out += stride)                                     \
            for (int64_t k = 0; k + CHUNK <= m->depth; k += CHUNK) {                                   \
                vec w[VECTORS];                                                                        \
                widen_chunk(m, format, &table, (int64_t)c * m->depth + k, c, w);                       \
                narrow_chunk(w, out + k / 2);                                                          \
            }                                                                                          \
    }
DEFINE_NARROW(narrow_float32, WEIGHT_FLOAT32)
DEFINE_NARROW(narrow_bfloat16, WEIGHT_BFLOAT16)
DEFINE_NARROW(narrow_float16, WEIGHT_FLOAT16)
DEFINE_NARROW(narrow_int8, WEIGHT_INT8)
DEFINE_NARROW(narrow_4bit, WEIGHT_4BIT)
DEFINE_NARROW(narrow_q4_0, WEIGHT_Q4_0)
DEFINE_NARROW(narrow_q4_1, WEIGHT_Q4_1)
DEFINE_NARROW(narrow_q8_0, WEIGHT_Q8_0)

static void narrow_columns(const Matrix *m, int first, int count, uint32_t *out) {
    static void (*const chunks[])(const Matrix *, int, int, int64_t, uint32_t *) = {
        narrow_float32, narrow_bfloat16, narrow_float16, narrow_int8, narrow_4bit,
        narrow_q4_0, narrow_q4_1, narrow_q8_0};
    const int64_t stride = apart(m->depth);
    /* Rows of 4-bit weights that do not end with a byte, or a chunk, are taken one by one. */
    const int64_t whole = m->format == WEIGHT_4BIT && m->depth % CHUNK ? 0 : m->depth / CHUNK * CHUNK;
    if (whole) chunks[m->format](m, first, count, stride, out);
    for (int c = 0; c < count; c++) {
        uint16_t *column = (uint16_t *)(out + c * stride);
        for (int64_t k = whole; k < 2 * prompt_pairs(m->depth); k++)
            column[k] = k < m->depth ? to_bf16(element(m, (int64_t)(first + c) * m->depth + k, first + c)) : 0;
    }
}

void veneer_prompt_lay_out(int order, int64_t depth, const float *x, int64_t stride, int rows, uint32_t *panel,
                           uint32_t *scratch) {
    const int64_t pairs = prompt_pairs(depth), width = whole_chunks(depth);
    float *prepared = (float *)scratch;
    uint32_t *words = scratch + width;
    for (int row = 0; row < PROMPT_PANEL; row++) {
        uint32_t *own = words + row * pairs;
        if (row >= rows) {
            memset(own, 0, (size_t)pairs * 4);
            continue;
        }
        veneer_rows_prepare(order, depth, x + row * stride, prepared);
        for (int64_t k = 0; k < pairs; k += LINE)
            _mm512_storeu_si512(own + k, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(prepared + 2 * k + 16),
                                                                      _mm512_loadu_ps(prepared + 2 * k)));
    }
    for (int64_t k = 0; k < pairs; k += LINE) {
        __m512i lines[PROMPT_PANEL];
        for (int row = 0; row < PROMPT_PANEL; row++) lines[row] = _mm512_loadu_si512(words + row * pairs + k);
        transpose_words(lines);
        for (int i = 0; i < LINE; i++) _mm512_storeu_si512(panel + (k + i) * PROMPT_PANEL, lines[i]);
    }
}

/* Where a block of x, `strips` panels of it, meets the widened columns of a unit: found[column][BLOCK]. */
typedef struct {
    const uint32_t *columns, *panels;
    int64_t apart, pairs;
    float *found;
} Meeting;

/* Six columns from `column` on with `strips` panels; the number of panels is known when this is compiled. */
INLINE void tile_of_pairs(const Meeting *t, int column, int strips) {
    __m512 sums[COLUMNS][STRIPS];
    for (int i = 0; i < COLUMNS; i++)
        for (int j = 0; j < strips; j++) sums[i][j] = _mm512_setzero_ps();
    const uint32_t *w = t->columns + column * t->apart, *x = t->panels;
    for (int64_t k = 0; k < t->pairs; k++, x += PROMPT_PANEL) {
        __m512bh right[STRIPS];
#pragma GCC unroll 4
        for (int j = 0; j < strips; j++)
            right[j] = as_pairs(_mm512_loadu_si512(x + j * PROMPT_PANEL * t->pairs));
#pragma GCC unroll 6
        for (int i = 0; i < COLUMNS; i++) {
            const __m512bh left = as_pairs(_mm512_set1_epi32((int)w[i * t->apart + k]));
#pragma GCC unroll 4
            for (int j = 0; j < strips; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < COLUMNS; i++)
        for (int j = 0; j < strips; j++)
            _mm512_storeu_ps(t->found + (column + i) * BLOCK + j * PROMPT_PANEL, sums[i][j]);
}

/* Columns beyond `count` are computed too, of whatever stands there, up to a whole tile; nobody reads them. */
static void meet_in_pairs(const Meeting *t, int count, int strips) {
    for (int c = 0; c < count; c += COLUMNS) switch (strips) {
            case 1: tile_of_pairs(t, c, 1); break;
            case 2: tile_of_pairs(t, c, 2); break;
            case 3: tile_of_pairs(t, c, 3); break;
            default: tile_of_pairs(t, c, 4);
        }
}

#if AMX
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) TileShapes;

IN_TILES static void begin_tiles(void) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = 16;
    _tile_loadconfig(&shapes);
}

IN_TILES static void end_tiles(void) { _tile_release(); }

/* 32 columns with two panels, and what is left of both. */
IN_TILES static void four_tiles(const uint32_t *w, int64_t step, const uint32_t *x, int64_t panel, int64_t pairs,
                                float *found) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < pairs; k += LINE) {
        _tile_loadd(4, w + k, step * 4);
        _tile_loadd(6, x + k * PROMPT_PANEL, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x + panel + k * PROMPT_PANEL, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, w + 16 * step + k, step * 4);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, found, BLOCK * 4);
    _tile_stored(1, found + PROMPT_PANEL, BLOCK * 4);
    _tile_stored(2, found + 16 * BLOCK, BLOCK * 4);
    _tile_stored(3, found + 16 * BLOCK + PROMPT_PANEL, BLOCK * 4);
}

IN_TILES static void one_tile(const uint32_t *w, int64_t step, const uint32_t *x, int64_t pairs, float *found) {
    _tile_zero(0);
    for (int64_t k = 0; k < pairs; k += LINE) {
        _tile_loadd(4, w + k, step * 4);
        _tile_loadd(6, x + k * PROMPT_PANEL, 64);
        _tile_dpbf16ps(0, 4, 6);
    }
    _tile_stored(0, found, BLOCK * 4);
}

static void meet_in_tiles(const Meeting *t, int count, int strips) {
    const int64_t panel = PROMPT_PANEL * t->pairs;
    for (int c = 0; c < count; c += 32)
        for (int j = 0; j < strips; j += 2) {
            const uint32_t *w = t->columns + c * t->apart, *x = t->panels + j * panel;
            float *found = t->found + c * BLOCK + j * PROMPT_PANEL;
            if (c + 16 < count && j + 1 < strips) {
                four_tiles(w, t->apart, x, panel, t->pairs, found);
                continue;
            }
            for (int i = 0; i < 32 && c + i < count; i += 16)
                for (int n = 0; n < 2 && j + n < strips; n++)
                    one_tile(w + i * t->apart, t->apart, x + n * panel, t->pairs, found + i * BLOCK + n * PROMPT_PANEL);
        }
}
#endif

/* Sixteen sums of a row into y. */
INLINE void hand_row(__m512i line, __mmask16 mask, int add, float scale, float *y) {
    __m512 sum = _mm512_castsi512_ps(line);
    if (add) sum = _mm512_fmadd_ps(_mm512_set1_ps(scale), sum, _mm512_maskz_loadu_ps(mask, y));
    _mm512_mask_storeu_ps(y, mask, sum);
}

/* What was found of `count` columns and `rows` rows into y. */
static void hand_over(const float *found, int count, int rows, int add, float scale, float *y, int64_t stride) {
    for (int first = 0; first < rows; first += PROMPT_PANEL, y += PROMPT_PANEL * stride)
        for (int c = 0; c < count; c += 16) {
            const __mmask16 mask = lanes_below(count - c);
            const float *from = found + c * BLOCK + first;
            __m512i lines[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) lines[i] = _mm512_loadu_si512(from + i * BLOCK);
            transpose_words(lines);
            if (first + PROMPT_PANEL <= rows) {
#pragma GCC unroll 16
                for (int i = 0; i < PROMPT_PANEL; i++) hand_row(lines[i], mask, add, scale, y + i * stride + c);
            } else {
                for (int i = 0; first + i < rows; i++) hand_row(lines[i], mask, add, scale, y + i * stride + c);
            }
        }
}

void veneer_prompt_unit(const Matrix *m, int products, const uint32_t *panels, int rows, int first, int count, int add,
                        float scale, float *y, int64_t stride, uint32_t *scratch) {
    Meeting t = {scratch, panels, apart(m->depth), prompt_pairs(m->depth), (float *)(scratch + PROMPT_UNIT * apart(m->depth))};
    narrow_columns(m, first, count, scratch);
#if AMX
    if (products == PRODUCTS_TILES) begin_tiles();
#endif
    for (int row = 0; row < rows; row += BLOCK, t.panels += BLOCK * t.pairs) {
        const int left = rows - row < BLOCK ? rows - row : BLOCK, strips = (left + PROMPT_PANEL - 1) / PROMPT_PANEL;
#if AMX
        if (products == PRODUCTS_TILES)
            meet_in_tiles(&t, count, strips);
        else
#endif
            meet_in_pairs(&t, count, strips);
        hand_over(t.found, count, left, add, scale, y + row * stride + first, stride);
    }
#if AMX
    if (products == PRODUCTS_TILES) end_tiles();
#endif
    (void)products;
}
#endif

/* What products of prompts' rows this library and processor have. Tiles need the system's leave for the process (Linux:
 * arch_prctl with ARCH_REQ_XCOMP_PERM). Processors that have tiles multiply pairs more slowly than floats. */
int veneer_bf16_products(int has_tiles, int threads) {
    (void)threads;
    if (!has_tiles) return BF16_PRODUCTS ? PRODUCTS_PAIRS : PRODUCTS_FLOATS;
#if AMX
    if (syscall(SYS_arch_prctl, 0x1023, 18) == 0) return PRODUCTS_TILES;
#endif
    return PRODUCTS_FLOATS;
}

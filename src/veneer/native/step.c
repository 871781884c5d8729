/* One step of a whole decoder: a token a row through a list of operations, in one call. The tokens are those of any
 * sequences, next ones and prompts; what a row sees stands in the blocks of its sequence.
 *
 * Called one by one from Python, the two dozen operations of a layer of a small model take longer than what they compute.
 * Activations are float32 throughout, and a row meets the same operations in the same order whatever rows are beside it.
 */
#include <math.h>
#include <stdlib.h>

#include "adapt.h"
#include "attention.h"
#include "rows.h"

enum { OP_NORM, OP_LINEAR, OP_ROTATE, OP_ATTEND, OP_GATE, OP_ADD, OP_ADAPT };
enum { NORM_CENTRED = 1, NORM_BY_HEAD = 2 };
enum { GATE_SILU, GATE_GELU_TANH };
enum { ROTATE_HALVES, ROTATE_NEIGHBOURS };

/* Rows of floats in the working memory; stride 0: there are none. */
typedef struct {
    int64_t offset, stride;
} Place;

/* to = W x + bias, or to += scale · W x. */
typedef struct {
    Matrix weight;
    const float *bias;
    Place to;
    float scale;
    int32_t add;
} Linear;

typedef struct {
    int32_t kind, variant;
    int32_t heads, kv_heads, dim; /* of norms too: `heads` rows of `dim` are normalised apart */
    int32_t number;               /* of the layer within its group, of the angles, or of the first factor */
    int32_t window, linears;      /* keys that a query sees, 0: all; how many products */
    int32_t group, unused;        /* of the layer whose cache is meant */
    float scale, other;           /* of what is added, or of scores; eps, or the scores' cap (0: none) */
    Place from, beside, third, to;
    const float *weight, *bias; /* of a norm; sinks of attention */
    const Linear *products;
} Op;

typedef struct {
    float *space;
    int rows;
    int cache_dtype, block;             /* `block` tokens of a sequence stand in one block of the cache: */
    void *const *const *blocks;         /* [group][row], each [block number]: [layers][keys, values][kv_heads][block][dim] */
    const int64_t *seen;                /* by row: keys, its own included */
    const float *const *cosine, *const *sine; /* by number of the angles, [rows][turned / 2] */
    const Segment *segments;
    int segment_count;
    int64_t span, ranks;                /* most keys that a row sees; most ranks of an operation's factors, added up */
    float *prepared;                    /* [rows][widest] */
    float *down;                        /* [rows][ranks] */
} Step;

static inline float *at(const Step *s, Place place, int row) { return s->space + place.offset + row * place.stride; }

/* How many parts of at most `part` cover `count`. */
static inline int parts_of(int64_t count, int64_t part) { return (int)((count + part - 1) / part); }

static void norm_row(const Op *op, const float *x, float *y) {
    const int dim = op->dim;
    for (int head = 0; head < op->heads; head++, x += dim, y += dim) {
        const float *weight = op->weight + (op->variant & NORM_BY_HEAD ? head * dim : 0);
        const float *bias = op->bias ? op->bias + (op->variant & NORM_BY_HEAD ? head * dim : 0) : NULL;
        float mean = 0.0f, squares = 0.0f;
        if (op->variant & NORM_CENTRED) {
#pragma omp simd reduction(+ : mean)
            for (int i = 0; i < dim; i++) mean += x[i];
            mean /= (float)dim;
        }
#pragma omp simd reduction(+ : squares)
        for (int i = 0; i < dim; i++) squares += (x[i] - mean) * (x[i] - mean);
        const float rstd = 1.0f / sqrtf(squares / (float)dim + op->other);
        for (int i = 0; i < dim; i++) y[i] = (x[i] - mean) * rstd * weight[i] + (bias ? bias[i] : 0.0f);
    }
}

/* from += scale · beside, where there is something beside it; to = norm(from). */
static void norm(const Step *s, const Op *op) {
#pragma omp for schedule(static)
    for (int row = 0; row < s->rows; row++) {
        float *x = at(s, op->from, row);
        const float *more = at(s, op->beside, row);
        for (int i = 0; op->beside.stride && i < op->heads * op->dim; i++) x[i] += op->scale * more[i];
        norm_row(op, x, at(s, op->to, row));
    }
}

static void add(const Step *s, const Op *op) {
#pragma omp for schedule(static)
    for (int row = 0; row < s->rows; row++) {
        float *x = at(s, op->from, row);
        const float *more = at(s, op->beside, row);
        for (int i = 0; i < op->dim; i++) x[i] += op->scale * more[i];
    }
}

/* All products of one input; their columns are shared out among the threads in units. */
static void linear(const Step *s, const Op *op, float *scratch) {
    const Matrix *first = &op->products->weight;
    const int64_t width = whole_chunks(first->depth);
    const int order = veneer_rows_order(first);
#pragma omp for schedule(static)
    for (int row = 0; row < s->rows; row++)
        veneer_rows_prepare(order, first->depth, at(s, op->from, row), s->prepared + row * width);
    int units = 0;
    for (int i = 0; i < op->linears; i++) units += parts_of(op->products[i].weight.columns, UNIT);
#pragma omp for schedule(dynamic, 2)
    for (int unit = 0; unit < units; unit++) {
        const Linear *one = op->products;
        int own = unit;
        for (int count; own >= (count = parts_of(one->weight.columns, UNIT)); one++) own -= count;
        const int column = own * UNIT, rest = one->weight.columns - column, count = rest < UNIT ? rest : UNIT;
        float *y = at(s, one->to, 0);
        veneer_rows_unit(&one->weight, s->prepared, s->rows, column, count, one->add, one->scale, y, one->to.stride,
                         scratch);
        for (int row = 0; one->bias && row < s->rows; row++)
            for (int c = column; c < column + count; c++) y[row * one->to.stride + c] += one->bias[c];
    }
}

static void rotate(const Step *s, const Op *op) {
    const int half = op->dim / 2; /* of the numbers that are turned; a head may have more */
    const int apart = op->variant == ROTATE_HALVES ? half : 1, step = op->variant == ROTATE_HALVES ? 1 : 2;
    const int64_t width = op->from.stride ? op->kv_heads : 0; /* floats of a head */
#pragma omp for schedule(static)
    for (int row = 0; row < s->rows; row++) {
        const float *cosine = s->cosine[op->number] + (int64_t)row * half;
        const float *sine = s->sine[op->number] + (int64_t)row * half;
        for (int head = 0; head < op->heads; head++) {
            float *x = at(s, op->from, row) + head * width;
            for (int i = 0; i < half; i++) {
                const float left = x[i * step], right = x[i * step + apart];
                x[i * step] = left * cosine[i] - right * sine[i];
                x[i * step + apart] = right * cosine[i] + left * sine[i];
            }
        }
    }
}

/* Where the keys (part 0) or values (part 1) of one head begin in a block, in numbers. */
static inline int64_t line_of(const Step *s, const Op *op, int part, int kv) {
    return (((int64_t)op->number * 2 + part) * op->kv_heads + kv) * s->block * op->dim;
}

static inline void *block_of(const Step *s, const Op *op, int row, int64_t token) {
    return s->blocks[(int64_t)op->group * s->rows + row][token / s->block];
}

/* A row's own key and value into the cache. */
static void put_row(const Step *s, const Op *op, int row) {
    const int64_t own = s->seen[row] - 1, place = own % s->block * op->dim;
    void *block = block_of(s, op, row, own);
    for (int kv = 0; kv < op->kv_heads; kv++) {
        store_row(block, s->cache_dtype, line_of(s, op, 0, kv) + place, op->dim, at(s, op->beside, row) + kv * op->dim);
        store_row(block, s->cache_dtype, line_of(s, op, 1, kv) + place, op->dim, at(s, op->third, row) + kv * op->dim);
    }
}

static inline int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

/* The query heads of one key head of one row; a key is read once for all of them. */
static void attend_group(const Step *s, const Op *op, int row, int kv, float *work) {
    const int dim = op->dim, group = op->heads / op->kv_heads, dtype = s->cache_dtype;
    const int64_t seen = s->seen[row], apart = whole_lines(s->span);
    const int64_t oldest = op->window && seen > op->window ? seen - op->window : 0, length = seen - oldest;
    const int64_t keys = line_of(s, op, 0, kv), values = line_of(s, op, 1, kv);
    const float *asked = at(s, op->from, row) + kv * group * dim;
    float *mixed = at(s, op->to, row) + kv * group * dim, *cached = work, *scores = work + whole_lines(dim);
    for (int64_t t = 0; t < length; t++) {
        load_row(block_of(s, op, row, oldest + t), dtype, keys + (oldest + t) % s->block * dim, dim, cached);
        for (int g = 0; g < group; g++) {
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int d = 0; d < dim; d++) sum += asked[g * dim + d] * cached[d];
            scores[g * apart + t] = sum * op->scale;
        }
    }
    for (int g = 0; g < group; g++)
        softmax(scores + g * apart, length, op->other, op->weight ? op->weight + kv * group + g : NULL);
    memset(mixed, 0, (size_t)group * dim * 4);
    for (int64_t t = 0; t < length; t++) {
        load_row(block_of(s, op, row, oldest + t), dtype, values + (oldest + t) % s->block * dim, dim, cached);
        for (int g = 0; g < group; g++) {
            const float weight = scores[g * apart + t];
#pragma omp simd
            for (int d = 0; d < dim; d++) mixed[g * dim + d] += weight * cached[d];
        }
    }
}

/* All rows' keys are there before the first is read, since rows may be neighbours in one sequence. */
static void attend(const Step *s, const Op *op, float *work) {
#pragma omp for schedule(static)
    for (int row = 0; row < s->rows; row++) put_row(s, op, row);
#pragma omp for schedule(dynamic)
    for (int task = 0; task < s->rows * op->kv_heads; task++)
        attend_group(s, op, task / op->kv_heads, task % op->kv_heads, work);
}

#define ADAPTED_ROWS 32     /* rows of a segment that a thread takes at a time */
#define ADAPTED_COLUMNS 256 /* columns of a layer that a thread takes at a time */

/* Ranks of an operation's factors before layer `linear`, added up: where its columns of `down` begin. */
static int64_t ranks_before(const Op *op, const Segment *segment, int linear) {
    int64_t found = 0;
    for (int i = 0; i < linear; i++) found += segment->factors[op->number + i].rank;
    return found;
}

/* The updates of all adapters of layers that share their input. */
static void adapt(const Step *s, const Op *op, float *scratch) {
    if (s->segment_count == 0) return;
    const int64_t depth = op->products->weight.depth, width = whole_chunks(depth);
#pragma omp for schedule(static)
    for (int row = 0; row < s->rows; row++)
        veneer_rows_prepare(NATURAL, depth, at(s, op->from, row), s->prepared + row * width);
    const int parts = parts_of(s->rows, ADAPTED_ROWS);
#pragma omp for schedule(dynamic) collapse(3)
    for (int number = 0; number < s->segment_count; number++)
        for (int linear = 0; linear < op->linears; linear++)
            for (int part = 0; part < parts; part++) {
                const Segment *segment = s->segments + number;
                const Factor *factor = segment->factors + op->number + linear;
                const int first = segment->start + part * ADAPTED_ROWS, rest = segment->stop - first;
                if (rest > 0 && factor->down)
                    veneer_adapt_down(factor, depth, s->prepared + first * width,
                                      rest < ADAPTED_ROWS ? rest : ADAPTED_ROWS,
                                      s->down + first * s->ranks + ranks_before(op, segment, linear), s->ranks, scratch);
            }
    int columns = 0;
    for (int i = 0; i < op->linears; i++)
        columns = op->products[i].weight.columns > columns ? op->products[i].weight.columns : columns;
    const int units = parts_of(columns, ADAPTED_COLUMNS);
#pragma omp for schedule(dynamic) collapse(3)
    for (int number = 0; number < s->segment_count; number++)
        for (int linear = 0; linear < op->linears; linear++)
            for (int unit = 0; unit < units; unit++) {
                const Segment *segment = s->segments + number;
                const Factor *factor = segment->factors + op->number + linear;
                const Linear *layer = op->products + linear;
                const int first = unit * ADAPTED_COLUMNS, rest = layer->weight.columns - first;
                if (rest > 0 && factor->down)
                    veneer_adapt_up(factor, layer->weight.columns,
                                    s->down + segment->start * s->ranks + ranks_before(op, segment, linear), s->ranks,
                                    segment->stop - segment->start, first,
                                    rest < ADAPTED_COLUMNS ? rest : ADAPTED_COLUMNS,
                                    at(s, layer->to, segment->start), layer->to.stride);
            }
}

#define GATED 256 /* numbers of a row that a thread takes at a time */

static void gate(const Step *s, const Op *op) {
    const int parts = parts_of(op->dim, GATED);
#pragma omp for schedule(static)
    for (int task = 0; task < s->rows * parts; task++) {
        const int row = task / parts, first = task % parts * GATED, rest = op->dim - first;
        const int count = rest < GATED ? rest : GATED;
        const float *g = at(s, op->from, row) + first, *up = at(s, op->beside, row) + first;
        float *y = at(s, op->to, row) + first;
        if (op->variant == GATE_SILU) {
#pragma omp simd
            for (int i = 0; i < count; i++) y[i] = g[i] / (1.0f + fast_exp(-g[i])) * up[i];
        } else {
            /* (1 + tanh(a)) / 2 = e / (e + 1) with e = exp(2 a) */
#pragma omp simd
            for (int i = 0; i < count; i++) {
                const float a = 0.7978845608028654f * (g[i] + 0.044715f * g[i] * g[i] * g[i]);
                const float e = fast_exp(2.0f * a);
                y[i] = g[i] * (e / (e + 1.0f)) * up[i];
            }
        }
    }
}

static void run(const Step *s, const Op *op, float *work) {
    switch (op->kind) {
        case OP_NORM: norm(s, op); break;
        case OP_LINEAR: linear(s, op, work); break;
        case OP_ROTATE: rotate(s, op); break;
        case OP_ATTEND: attend(s, op, work); break;
        case OP_GATE: gate(s, op); break;
        case OP_ADAPT: adapt(s, op, work); break;
        default: add(s, op);
    }
}

/* Floats of working memory that an operation takes in each thread. */
static int64_t own_work(const Op *op, int64_t span) {
    if (op->kind == OP_ATTEND) return whole_lines(op->dim) + op->heads / op->kv_heads * whole_lines(span);
    if (op->kind == OP_LINEAR || op->kind == OP_ADAPT) return rows_scratch(op->products->weight.depth);
    return 0;
}

/* Ranks of the factors of one operation, added up, where they are most. */
static int64_t most_ranks(const Op *op, const Segment *segments, int count) {
    int64_t most = 0;
    for (int i = 0; op->kind == OP_ADAPT && i < count; i++) {
        const int64_t found = ranks_before(op, segments + i, op->linears);
        most = found > most ? found : most;
    }
    return most;
}

/* Carry out `count` operations for `rows` rows. Returns 0, or 1 where memory ran out. */
int veneer_step(const Op *ops, int count, float *space, int rows, int cache_dtype, int block,
                void *const *const *blocks, const int64_t *seen, const float *const *cosine, const float *const *sine,
                const Segment *segments, int segment_count, int threads) {
    Step s = {space, rows, cache_dtype, block, blocks, seen, cosine, sine, segments, segment_count, 0, 0, NULL, NULL};
    for (int row = 0; row < rows; row++) s.span = seen[row] > s.span ? seen[row] : s.span;
    int64_t own = 0, widest = 0;
    for (int i = 0; i < count; i++) {
        const Op *op = ops + i;
        const int64_t work = own_work(op, s.span), ranks = most_ranks(op, segments, segment_count);
        own = work > own ? work : own;
        s.ranks = ranks > s.ranks ? ranks : s.ranks;
        if ((op->kind == OP_LINEAR || op->kind == OP_ADAPT) && whole_chunks(op->products->weight.depth) > widest)
            widest = whole_chunks(op->products->weight.depth);
    }
    const int64_t each = whole_lines(own), shared = whole_lines(rows * widest);
    float *work = aligned_alloc(64, (size_t)(threads * each + shared + whole_lines(rows * s.ranks) + 16) * 4 / 64 * 64);
    if (work == NULL) return 1;
    s.prepared = work + threads * each;
    s.down = s.prepared + shared;
    int ready = 0;
#pragma omp parallel num_threads(threads)
    {
        int number;
#pragma omp atomic capture
        number = ready++;
        for (int i = 0; i < count; i++) run(&s, ops + i, work + number * each);
    }
    free(work);
    return 0;
}

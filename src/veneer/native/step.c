/* One step of a whole decoder: a token a row through a list of operations, in one call. The tokens are those of any
 * sequences, next ones and prompts; what a row sees is in the blocks of its sequence.
 *
 * Called one by one from Python, the two dozen operations of a layer of a small model take longer than what they
 * compute. Activations are float32; products may round them to bfloat16 (rows.h). A row goes through the same
 * operations in the same order, independent of the other rows.
 */
#include <math.h>
#include <stdlib.h>

#include "lanes.h"
#include "next.h"
#include "pairs.h"
#include "prompts.h"
#include "step.h"

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
static void norm(const Step *s, const Op *op, const Member *me) {
    for (int row = share_start(me, s->rows); row < share_stop(me, s->rows); row++) {
        float *x = at(s, op->from, row);
        const float *more = at(s, op->beside, row);
        for (int i = 0; op->beside.stride && i < op->heads * op->dim; i++) x[i] += op->scale * more[i];
        norm_row(op, x, at(s, op->to, row));
    }
    meet(me);
}

static void add(const Step *s, const Op *op, const Member *me) {
    for (int row = share_start(me, s->rows); row < share_stop(me, s->rows); row++) {
        float *x = at(s, op->from, row);
        const float *more = at(s, op->beside, row);
        for (int i = 0; i < op->dim; i++) x[i] += op->scale * more[i];
    }
    meet(me);
}

/* x = weight · x + bias, number by number. */
static void gain(const Step *s, const Op *op, const Member *me) {
    for (int row = share_start(me, s->rows); row < share_stop(me, s->rows); row++) {
        float *x = at(s, op->from, row);
        for (int i = 0; i < op->dim; i++) x[i] = __builtin_fmaf(x[i], op->weight[i], op->bias ? op->bias[i] : 0.0f);
    }
    meet(me);
}

/* The product that a unit belongs to, units of `width` columns; `unit` becomes its number within the product. */
static const Linear *product_of(const Op *op, int width, int *unit) {
    const Linear *one = op->products;
    for (int count; *unit >= (count = parts_of(one->weight.columns, width)); one++) *unit -= count;
    return one;
}

static int units_of(const Op *op, int width) {
    int units = 0;
    for (int i = 0; i < op->linears; i++) units += parts_of(op->products[i].weight.columns, width);
    return units;
}

static void add_bias(const Linear *one, int rows, int first, int count, float *y) {
    for (int row = 0; one->bias && row < rows; row++)
        for (int c = first; c < first + count; c++) y[row * one->to.stride + c] += one->bias[c];
}

/* The rows that meet weights as next tokens do, prompts' too unless they have a kernel of their own. */
static inline int next_rows(const Step *s) { return s->products == PRODUCTS_PAIRS ? s->first_prompt : s->rows; }

/* Neighbouring rows that one product multiplies, and their prepared copy. */
typedef struct {
    int start, rows;
    float *prepared;
} Part;

/* The floats of a part's rows, prepared. */
static int64_t part_room(const Step *s, const Op *op) {
    return whole_lines(veneer_next_room(&op->products->weight, s->products, parts_of(next_rows(s), s->parts)));
}

static Part part_of(const Step *s, const Op *op, int number) {
    const int rows = next_rows(s), start = number * rows / s->parts, stop = (number + 1) * rows / s->parts;
    return (Part){start, stop - start, s->prepared + number * part_room(s, op)};
}

/* Pieces of a part, from one up to another. */
static void prepare(const Step *s, const Op *op, const Part *part, int from, int to, const Member *me) {
    for (int piece = from; piece < to; piece++)
        veneer_next_prepare(&op->products->weight, s->products, at(s, op->from, part->start), op->from.stride, part->rows,
                            piece, part->prepared, me->work);
}

/* The rows that are not prompts' own with all weights of one input. Columns are shared out among the threads in units;
 * many rows are too, so that a thread reads and writes what it has near. */
static void next_products(const Step *s, const Op *op, const Member *me) {
    const Matrix *first = &op->products->weight;
    const int units = units_of(op, UNIT), tasks = s->parts * units;
    if (s->parts == 1) {
        const Part all = part_of(s, op, 0);
        const int pieces = veneer_next_pieces(first, s->products, all.rows);
        prepare(s, op, &all, share_start(me, pieces), share_stop(me, pieces), me);
    } else
        for (int number = share_start(me, s->parts); number < share_stop(me, s->parts); number++) {
            const Part part = part_of(s, op, number);
            prepare(s, op, &part, 0, veneer_next_pieces(first, s->products, part.rows), me);
        }
    meet(me);
    Part part = part_of(s, op, 0);
    for (int task, number = 0; (task = take(me, tasks)) < tasks;) {
        int own = task % units;
        if (task / units != number) part = part_of(s, op, number = task / units);
        const Linear *one = product_of(op, UNIT, &own);
        const int column = own * UNIT, rest = one->weight.columns - column, count = rest < UNIT ? rest : UNIT;
        float *y = at(s, one->to, part.start);
        veneer_next_unit(&one->weight, s->products, part.prepared, part.rows, column, count, one->add, one->scale, y,
                         one->to.stride, me->work);
        add_bias(one, part.rows, column, count, y);
    }
    meet(me);
}

#if BF16_PRODUCTS
/* The rows from `start` on, which are prompts', with all weights of one input, in pairs. */
static void prompt_products(const Step *s, const Op *op, int start, const Member *me) {
    const Matrix *first = &op->products->weight;
    const int rows = s->rows - start, pieces = parts_of(rows, LANE_ROWS), units = units_of(op, PROMPT_UNIT);
    uint32_t *laid_out = (uint32_t *)s->prepared, *scratch = (uint32_t *)me->work;
    for (int piece = share_start(me, pieces); piece < share_stop(me, pieces); piece++) {
        const int row = piece * LANE_ROWS, rest = rows - row;
        veneer_lane_rows_lay_out(first, at(s, op->from, start + row), op->from.stride, rest < LANE_ROWS ? rest : LANE_ROWS,
                                 laid_out + lane_words(row, first->depth), scratch);
    }
    meet(me);
    for (int unit; (unit = take(me, units)) < units;) {
        int own = unit;
        const Linear *one = product_of(op, PROMPT_UNIT, &own);
        const int column = own * PROMPT_UNIT, rest = one->weight.columns - column;
        const int count = rest < PROMPT_UNIT ? rest : PROMPT_UNIT;
        float *y = at(s, one->to, start);
        veneer_prompt_unit(&one->weight, laid_out, rows, column, count, one->add, one->scale, y, one->to.stride, scratch);
        add_bias(one, rows, column, count, y);
    }
    meet(me);
}
#endif

static void linear(const Step *s, const Op *op, const Member *me) {
    const int start = next_rows(s);
    if (start > 0) next_products(s, op, me);
#if BF16_PRODUCTS
    if (start < s->rows) prompt_products(s, op, start, me);
#endif
}

static void rotate(const Step *s, const Op *op, const Member *me) {
    const int half = op->dim / 2; /* of the numbers that are turned; a head may have more */
    const int apart = op->variant == ROTATE_HALVES ? half : 1, step = op->variant == ROTATE_HALVES ? 1 : 2;
    const int64_t width = op->from.stride ? op->kv_heads : 0; /* floats of a head */
    for (int row = share_start(me, s->rows); row < share_stop(me, s->rows); row++) {
        const float *cosine = s->cosine[op->number] + s->places[row] * half;
        const float *sine = s->sine[op->number] + s->places[row] * half;
        for (int head = 0; head < op->heads; head++) {
            float *x = at(s, op->from, row) + head * width;
            for (int i = 0; i < half; i++) {
                const float left = x[i * step], right = x[i * step + apart];
                x[i * step] = left * cosine[i] - right * sine[i];
                x[i * step + apart] = right * cosine[i] + left * sine[i];
            }
        }
    }
    meet(me);
}

#define ADAPTED_COLUMNS 256 /* most columns of a layer that a thread takes at a time */

/* What A of all adapters makes of the input that layers share: a thread takes all layers of some rows, which it has
 * mostly made itself. It needs nothing of the layers' own products, which follow and wait for all threads. Factors come
 * from memory, where they do not stand one after the other, so that the processor cannot foresee them: each is fetched
 * while the one before is multiplied. */
static void adapt_down(const Step *s, const Op *op, const Member *me) {
    if (s->piece_count == 0) return;
    Shapes shapes = {0};
    for (int piece; (piece = take(me, s->piece_count)) < s->piece_count;) {
        const Segment *own = s->pieces + piece;
        const void *later = piece + 1 < share_stop(me, s->piece_count) ? own[1].factors[op->number].down : NULL;
        veneer_adapt_down(own->factors + op->number, op->linears, op->products->weight.depth, at(s, op->from, own->start),
                          op->from.stride, own->stop - own->start, s->down + own->start * s->ranks, s->ranks, me->work, later,
                          &shapes);
    }
    veneer_adapt_end(&shapes);
}

/* Ranks of a segment's factors of an operation before those of layer `linear`, summed: where its columns of `down`
   begin. */
static int64_t ranks_before(const Op *op, const Segment *segment, int linear) {
    int64_t found = 0;
    for (int i = 0; i < linear; i++) found += segment->factors[op->number + i].rank;
    return found;
}

/* What B of one adapter adds to some columns of one of the layers that share their input. */
typedef struct {
    const Segment *segment;
    const Factor *factor;
    const Linear *layer;
    const float *down; /* [rows of the segment][ranks of all factors] */
    int first, count;  /* of the columns; none where the adapter leaves the layer as it is */
} Update;

/* Update number `task` where there are `each` for each adapter. The parts of a layer are of about one size: a short one
 * would be over before what follows is fetched. */
static Update update_of(const Step *s, const Op *op, int each, int task) {
    const Segment *segment = s->segments + task / each;
    int part = task % each, linear = 0, parts;
    while (part >= (parts = parts_of(op->products[linear].weight.columns, ADAPTED_COLUMNS))) part -= parts, linear++;
    const Linear *layer = op->products + linear;
    const Factor *factor = segment->factors + op->number + linear;
    const int line = 2 * VL, columns = layer->weight.columns; /* two vectors of columns are side by side in tiles */
    const int width = parts_of(columns, parts * line) * line, first = part * width, rest = columns - first;
    return (Update){segment, factor, layer, s->down + segment->start * s->ranks + ranks_before(op, segment, linear), first,
                    factor->down == NULL ? 0 : rest < width ? rest : width};
}

/* The columns of Bᵀ that an update reads. */
static Piece piece_of(const Update *u) {
    const int64_t bytes = 4; /* a float, or two bfloat16 */
    return (Piece){(const char *)u->factor->up + u->first * bytes, u->layer->weight.columns * bytes};
}

/* What B of all adapters adds to the layers' outputs. What a thread reads next is fetched meanwhile. */
static void adapt_up(const Step *s, const Op *op, const Member *me) {
    if (s->segment_count == 0) return;
    const int each = units_of(op, ADAPTED_COLUMNS), tasks = s->segment_count * each;
    Shapes shapes = {0};
    for (int task; (task = take(me, tasks)) < tasks;) {
        const Update u = update_of(s, op, each, task);
        if (u.count == 0) continue;
        const Update next = task + 1 < share_stop(me, tasks) ? update_of(s, op, each, task + 1) : (Update){0};
        veneer_adapt_up(u.factor, u.layer->weight.columns, u.down, s->ranks, u.segment->stop - u.segment->start, u.first,
                        u.count, at(s, u.layer->to, u.segment->start), u.layer->to.stride,
                        next.count ? piece_of(&next) : (Piece){0}, &shapes);
    }
    veneer_adapt_end(&shapes);
    meet(me);
}

#define GATED 256 /* numbers of a row that a thread takes at a time */

/* silu(g) · up, or gelu(g) · up by its formula with tanh: (1 + tanh(a)) / 2 = e / (e + 1) with e = exp(2 a). */
INLINE lanes gated(int variant, lanes g, lanes up) {
    const lanes one = spread(1.0f);
    if (variant == GATE_SILU) return g / (one + exponentials_of(-g)) * up;
    const lanes inner = fused(g, spread(0.044715f) * g * g, g);
    const lanes e = exponentials_of(spread(2.0f * 0.7978845608028654f) * inner);
    return g * (e / (e + one)) * up;
}

INLINE void gate_part(int variant, const float *g, const float *up, float *y, int count) {
    int i = 0;
    for (; i + VL <= count; i += VL)
        *(vec *)(y + i) = gated(variant, (lanes) * (const vec *)(g + i), (lanes) * (const vec *)(up + i));
    if (i == count) return;
    float ends[3][VL] = {{0}};
    memcpy(ends[0], g + i, (size_t)(count - i) * 4);
    memcpy(ends[1], up + i, (size_t)(count - i) * 4);
    *(vec *)ends[2] = gated(variant, (lanes) * (const vec *)ends[0], (lanes) * (const vec *)ends[1]);
    memcpy(y + i, ends[2], (size_t)(count - i) * 4);
}

static void gate(const Step *s, const Op *op, const Member *me) {
    const int parts = parts_of(op->dim, GATED), tasks = s->rows * parts;
    for (int task = share_start(me, tasks); task < share_stop(me, tasks); task++) {
        const int row = task / parts, first = task % parts * GATED, rest = op->dim - first;
        const int count = rest < GATED ? rest : GATED;
        const float *g = at(s, op->from, row) + first, *up = at(s, op->beside, row) + first;
        float *y = at(s, op->to, row) + first;
        if (op->variant == GATE_SILU)
            gate_part(GATE_SILU, g, up, y, count);
        else
            gate_part(GATE_GELU_TANH, g, up, y, count);
    }
    meet(me);
}

/* One operation; all threads have done their parts of it at its end, or of OP_ADAPT_DOWN at the next meeting. */
static void run(const Step *s, const Op *op, const Member *me) {
    switch (op->kind) {
        case OP_NORM: norm(s, op, me); break;
        case OP_LINEAR: linear(s, op, me); break;
        case OP_ROTATE: rotate(s, op, me); break;
        case OP_ATTEND: veneer_attend(s, op, me); break;
        case OP_GATE: gate(s, op, me); break;
        case OP_ADAPT_DOWN: adapt_down(s, op, me); break;
        case OP_ADAPT_UP: adapt_up(s, op, me); break;
        case OP_GAIN: gain(s, op, me); break;
        default: add(s, op, me);
    }
}

/* Floats of working memory that an operation needs in each thread. */
static int64_t own_work(const Step *s, const Op *op) {
    if (op->kind == OP_ATTEND) return veneer_attend_work(s, op);
    if (op->kind != OP_LINEAR && op->kind != OP_ADAPT_DOWN) return 0;
    if (op->kind == OP_ADAPT_DOWN) return veneer_adapt_scratch(op->products->weight.depth);
    const int64_t rows = veneer_next_scratch(op->products->weight.depth, s->products);
#if BF16_PRODUCTS
    const int64_t prompts = veneer_prompt_scratch(op->products->weight.depth);
    if (s->products == PRODUCTS_PAIRS && prompts > rows) return prompts;
#endif
    return rows;
}

/* Floats of all rows of an operation, prepared. */
static int64_t prepared_work(const Step *s, const Op *op) {
    if (op->kind != OP_LINEAR) return 0;
    const int64_t rows = s->parts * part_room(s, op);
    const int64_t prompts = lane_words(s->rows - next_rows(s), op->products->weight.depth);
    return prompts > rows ? prompts : rows;
}

/* Ranks of the factors of one operation, summed, where they are most. */
static int64_t most_ranks(const Op *op, const Segment *segments, int count) {
    int64_t most = 0;
    for (int i = 0; op->kind == OP_ADAPT_DOWN && i < count; i++) {
        const int64_t found = ranks_before(op, segments + i, op->linears);
        most = found > most ? found : most;
    }
    return most;
}

/* Whether two neighbouring rows are of one sequence: their keys and values are in the same blocks. */
static int neighbours(const Step *s, int groups, int row) {
    for (int group = 0; group < groups; group++)
        if (s->blocks[(int64_t)group * s->rows + row] != s->blocks[(int64_t)group * s->rows + row - 1]) return 0;
    return 1;
}

/* The runs of neighbouring rows into `starts`, [rows + 1]. */
static void find_runs(Step *s, int groups, int *starts) {
    s->run_starts = starts;
    for (int row = 0; row < s->rows; row++)
        if (row == 0 || row - starts[s->runs - 1] == RUN || !neighbours(s, groups, row)) starts[s->runs++] = row;
    starts[s->runs] = s->rows;
    for (int i = 0; i < s->runs; i++)
        s->longest = starts[i + 1] - starts[i] > s->longest ? starts[i + 1] - starts[i] : s->longest;
}

/* The segments' rows, at most ADAPTED_ROWS at a time, into `pieces`, [rows]. */
static void find_pieces(Step *s, Segment *pieces) {
    s->pieces = pieces;
    for (int i = 0; i < s->segment_count; i++)
        for (int start = s->segments[i].start; start < s->segments[i].stop; start += ADAPTED_ROWS) {
            const int rest = s->segments[i].stop - start;
            pieces[s->piece_count++] =
                (Segment){start, start + (rest < ADAPTED_ROWS ? rest : ADAPTED_ROWS), s->segments[i].factors};
        }
}

/* Execute `count` operations for `rows` rows, those from `first_prompt` on tokens of prompts. Returns 0, or 1 where
 * memory ran out. */
int veneer_step(const Op *ops, int count, float *space, int rows, int first_prompt, int products, int cache_dtype,
                int block, void *const *const *blocks, const int64_t *seen, const float *const *cosine,
                const float *const *sine, const int64_t *places, const Segment *segments, int segment_count, int threads) {
    Step s = {.space = space, .rows = rows, .cache_dtype = cache_dtype, .block = block, .blocks = blocks, .seen = seen,
              .cosine = cosine, .sine = sine, .places = places, .segments = segments, .segment_count = segment_count,
              .first_prompt = first_prompt, .products = products};
    int groups = 0;
    for (int row = 0; row < rows; row++) s.span = seen[row] > s.span ? seen[row] : s.span;
    for (int i = 0; i < count; i++)
        if (ops[i].kind == OP_ATTEND && ops[i].group >= groups) groups = ops[i].group + 1;
    int *starts = malloc((size_t)(rows + 1) * sizeof(int));
    Segment *pieces = malloc((size_t)(rows + 1) * sizeof(Segment));
    if (starts == NULL || pieces == NULL) {
        free(pieces), free(starts);
        return 1;
    }
    s.parts = veneer_next_parts(products, next_rows(&s), threads);
    find_runs(&s, groups, starts);
    find_pieces(&s, pieces);
    int64_t own = 0, shared = 0;
    for (int i = 0; i < count; i++) {
        const int64_t work = own_work(&s, ops + i), prepared = prepared_work(&s, ops + i);
        const int64_t ranks = most_ranks(ops + i, segments, segment_count);
        own = work > own ? work : own;
        shared = prepared > shared ? prepared : shared;
        s.ranks = ranks > s.ranks ? ranks : s.ranks;
    }
    const int64_t each = whole_lines(own);
    float *work = aligned_alloc(64, (size_t)(threads * each + whole_lines(shared) + whole_lines(rows * s.ranks)) * 4 + 64);
    Team *team = new_team(threads);
    if (work == NULL || team == NULL) {
        free(team), free(work), free(pieces), free(starts);
        return 1;
    }
    s.prepared = work + threads * each;
    s.down = s.prepared + whole_lines(shared);
#pragma omp parallel num_threads(threads)
    {
        const Member me = member_of(team, work, each);
        veneer_products_begin(products);
        for (int i = 0; i < count; i++) run(&s, ops + i, &me);
        veneer_products_end(products);
    }
    free(team), free(work), free(pieces), free(starts);
    return 0;
}

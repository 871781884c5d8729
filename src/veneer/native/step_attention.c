/* Attention of a step's rows over keys and values that are in blocks.
 *
 * The keys of a block are stored across, [dim][tokens]: neighbouring keys are neighbouring lanes, and a score is summed
 * number by number of the head. Values are stored along, [tokens][dim], and are mixed key by key. Neighbouring rows of
 * one sequence, a piece of a prompt, read keys and values together. Each sum has one order nevertheless, so that a
 * row's bits do not depend on the other rows.
 */
#include "attention.h"
#include "lanes.h"
#include "step.h"

#define KEY_VECTORS 4 /* vectors of keys at a time for few queries; for more, two */
#if VL == 8      /* sixteen registers hold the sums */
#define SHORT 3  /* queries that are few */
#define LONG 6   /* most queries at a time */
#define STRIPS 2 /* vectors of a value's numbers at a time */
#else
#define SHORT 4
#define LONG 12
#define STRIPS 4
#endif
#define MIXED 6 /* most queries whose values are mixed at a time */
#define NEAR 64 /* keys whose values all queries meet before the next ones are read */

/* One key head of neighbouring rows of a sequence; no rows: nothing. */
typedef struct {
    int row, rows, kv;
} Part;

/* The queries of a part. */
typedef struct {
    const Step *s;
    const Op *op;
    int row, rows, kv;
    Part next;       /* what is read after it */
    int queries;     /* rows · query heads of a key head */
    int64_t base;    /* the key that the first score belongs to */
    int64_t apart;   /* floats from one query's scores to the next */
    float *asked;    /* [dim][queries] */
    float *scores;   /* [queries][apart], weights later on */
    float *mixed;    /* [queries][dim] */
} Reading;

/* Where the keys (part 0) or values (part 1) of one head begin in a block, in numbers. */
static inline int64_t line_of(const Step *s, const Op *op, int part, int kv) {
    return (((int64_t)op->number * 2 + part) * op->kv_heads + kv) * s->block * op->dim;
}

static inline char *block_of(const Step *s, const Op *op, int row, int64_t token) {
    return s->blocks[(int64_t)op->group * s->rows + row][token / s->block];
}

static inline int64_t oldest_of_row(const Step *s, const Op *op, int row) {
    return op->window && s->seen[row] > op->window ? s->seen[row] - op->window : 0;
}

static inline int64_t bytes_of(int dtype) { return dtype == BFLOAT16 ? 2 : 4; }

/* A row's own key and value into the cache. */
static void put_row(const Step *s, const Op *op, int row) {
    const int64_t own = s->seen[row] - 1, place = own % s->block;
    char *block = block_of(s, op, row, own);
    for (int kv = 0; kv < op->kv_heads; kv++) {
        const float *key = at(s, op->beside, row) + kv * op->dim, *value = at(s, op->third, row) + kv * op->dim;
        const int64_t line = line_of(s, op, 0, kv) + place;
        if (s->cache_dtype == BFLOAT16)
            for (int d = 0; d < op->dim; d++) ((uint16_t *)block)[line + (int64_t)d * s->block] = to_bf16(key[d]);
        else
            for (int d = 0; d < op->dim; d++) ((float *)block)[line + (int64_t)d * s->block] = key[d];
        store_row(block, s->cache_dtype, line_of(s, op, 1, kv) + place * op->dim, op->dim, value);
    }
}

/* Bytes from the keys of a head to its values, which take as many in a block. */
static inline int64_t values_behind(const Reading *r, int dtype) {
    return (line_of(r->s, r->op, 1, r->kv) - line_of(r->s, r->op, 0, r->kv)) * bytes_of(dtype);
}

INLINE lanes cached_lanes(int dtype, const char *in) {
    return dtype == BFLOAT16 ? bf16_lanes((const uint16_t *)in) : (lanes) * (const vec *)in;
}

INLINE float cached_number(int dtype, const char *in) {
    return dtype == BFLOAT16 ? from_bf16(*(const uint16_t *)in) : *(const float *)in;
}

/* Scores of `queries` queries from number `first` on, with `vectors` vectors of keys that begin at `keys` and have
 * `step` bytes from one number of the head to the next; queries and vectors are known at compile time. */
INLINE void score(const Reading *r, int dtype, int first, int queries, const char *const *keys, int vectors, int64_t step,
                  int64_t place) {
    lanes sums[LONG][KEY_VECTORS];
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++) sums[q][v] = (lanes){0};
    const float *asked = r->asked + first;
    const int64_t values = values_behind(r, dtype);
    for (int d = 0; d < r->op->dim; d++, asked += r->queries) {
        lanes left[LONG], key[KEY_VECTORS];
        if (queries < vectors) /* the smaller of the two stays in registers with the sums */
#pragma GCC unroll 4
            for (int q = 0; q < queries; q++) left[q] = spread(asked[q]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const char *at = keys[v] + d * step;
            key[v] = cached_lanes(dtype, at);
            if (v * VL % 16 == 0) __builtin_prefetch(at + values, 0, 2); /* sixteen floats are a line of memory */
            if (queries < vectors)
#pragma GCC unroll 4
                for (int q = 0; q < queries; q++) sums[q][v] = fused(sums[q][v], left[q], key[v]);
        }
        if (queries >= vectors)
#pragma GCC unroll 12
            for (int q = 0; q < queries; q++) {
                const lanes one = spread(asked[q]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) sums[q][v] = fused(sums[q][v], one, key[v]);
            }
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            *(vec *)(r->scores + (first + q) * r->apart + place + v * VL) = sums[q][v] * r->op->scale;
}

/* All queries with `vectors` vectors of keys. */
INLINE void score_all(const Reading *r, int dtype, const char *const *keys, int vectors, int64_t step, int64_t place) {
    int first = 0;
    if (vectors <= 2)
        for (; first + LONG <= r->queries; first += LONG) score(r, dtype, first, LONG, keys, vectors, step, place);
    for (; first + SHORT <= r->queries; first += SHORT) score(r, dtype, first, SHORT, keys, vectors, step, place);
    switch (r->queries - first) {
        case 1: score(r, dtype, first, 1, keys, vectors, step, place); break;
        case 2: score(r, dtype, first, 2, keys, vectors, step, place); break;
        case 3: score(r, dtype, first, 3, keys, vectors, step, place); break;
        default:;
    }
}

/* The scores of all queries with the keys from r->base to `end`, and some beyond, up to a whole vector. */
INLINE void scores_of(const Reading *r, int dtype, int64_t end) {
    const Step *s = r->s;
    const int64_t line = line_of(s, r->op, 0, r->kv) * bytes_of(dtype), step = s->block * bytes_of(dtype);
    if (s->block % VL) { /* blocks of some other length: key by key, in the same order */
        for (int64_t t = r->base; t < end; t++) {
            const char *key = block_of(s, r->op, r->row, t) + line + t % s->block * bytes_of(dtype);
            for (int q = 0; q < r->queries; q++) {
                float sum = 0.0f;
                for (int d = 0; d < r->op->dim; d++)
                    sum = __builtin_fmaf(r->asked[d * r->queries + q], cached_number(dtype, key + d * step), sum);
                r->scores[q * r->apart + t - r->base] = sum * r->op->scale;
            }
        }
        return;
    }
    const int most = r->queries > SHORT ? 2 : KEY_VECTORS;
    for (int64_t t = r->base; t < end;) {
        const char *keys[KEY_VECTORS];
        int vectors = 0;
        const int64_t from = t;
        for (; vectors < most && t < end; vectors++, t += VL)
            keys[vectors] = block_of(s, r->op, r->row, t) + line + t % s->block * bytes_of(dtype);
        switch (vectors) {
            case 1: score_all(r, dtype, keys, 1, step, from - r->base); break;
            case 2: score_all(r, dtype, keys, 2, step, from - r->base); break;
            case 3: score_all(r, dtype, keys, 3, step, from - r->base); break;
            default: score_all(r, dtype, keys, 4, step, from - r->base);
        }
    }
}

/* Where the next part has the keys of a token, in the order in which they stand; `values` if it has none. */
static inline const char *next_keys(const Reading *r, int dtype, int64_t token, const char *values) {
    if (r->next.rows == 0 || token >= r->s->seen[r->next.row]) return values;
    const char *block = block_of(r->s, r->op, r->next.row, token);
    const int64_t number = line_of(r->s, r->op, 0, r->next.kv) + token % r->s->block * r->op->dim;
    return block == NULL ? values : block + number * bytes_of(dtype);
}

/* Neighbouring values of a block: `count` from a key on, and what is fetched meanwhile. */
typedef struct {
    int count;
    const char *values, *next;
} Values;

/* The values from key `from` on, up to `end` or the end of their block. */
INLINE Values values_from(const Reading *r, int dtype, int64_t from, int64_t end) {
    const int64_t place = from % r->s->block, rest = r->s->block - place;
    const int64_t number = line_of(r->s, r->op, 1, r->kv) + place * r->op->dim;
    const char *values = block_of(r->s, r->op, r->row, from) + number * bytes_of(dtype);
    return (Values){(int)(rest < end - from ? rest : end - from), values, next_keys(r, dtype, from, values)};
}

/* mixed += weight · value over the keys [from, end), for `queries` queries from `first` on and `strips` vectors of
 * numbers from `d` on; queries and strips are known at compile time. */
INLINE void mix(const Reading *r, int dtype, int first, int queries, int d, int strips, int64_t from, int64_t end) {
    lanes sums[MIXED][STRIPS];
    const int dim = r->op->dim;
    float *mixed = r->mixed + first * dim + d;
    const float *weights = r->scores + first * r->apart + from - r->base;
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < strips; v++) sums[q][v] = *(const vec *)(mixed + q * dim + v * VL);
    while (from < end) {
        const Values own = values_from(r, dtype, from, end);
        const char *values = own.values + d * bytes_of(dtype), *next = own.next + d * bytes_of(dtype);
        from += own.count;
        for (int t = 0; t < own.count; t++, weights++, values += dim * bytes_of(dtype), next += dim * bytes_of(dtype)) {
            lanes value[STRIPS];
#pragma GCC unroll 4
            for (int v = 0; v < strips; v++) {
                const int64_t at = v * VL * bytes_of(dtype);
                value[v] = cached_lanes(dtype, values + at);
                if (at % 64 == 0) __builtin_prefetch(next + at, 0, 2);
            }
#pragma GCC unroll 6
            for (int q = 0; q < queries; q++)
#pragma GCC unroll 4
                for (int v = 0; v < strips; v++) sums[q][v] = fused(sums[q][v], spread(weights[q * r->apart]), value[v]);
        }
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < strips; v++) *(vec *)(mixed + q * dim + v * VL) = sums[q][v];
}

/* One number that is left of a value where vectors of them do not come to the head. */
static void mix_number(const Reading *r, int dtype, int query, int d, int64_t from, int64_t end) {
    float sum = r->mixed[query * r->op->dim + d];
    const float *weights = r->scores + query * r->apart - r->base;
    while (from < end) {
        const Values own = values_from(r, dtype, from, end);
        for (int t = 0; t < own.count; t++, from++)
            sum = __builtin_fmaf(weights[from],
                                 cached_number(dtype, own.values + ((int64_t)t * r->op->dim + d) * bytes_of(dtype)), sum);
    }
    r->mixed[query * r->op->dim + d] = sum;
}

/* All numbers of `queries` queries. */
INLINE void mix_numbers(const Reading *r, int dtype, int first, int queries, int64_t from, int64_t end) {
    const int dim = r->op->dim;
    int d = 0;
    for (; d + STRIPS * VL <= dim; d += STRIPS * VL) mix(r, dtype, first, queries, d, STRIPS, from, end);
    for (; d + VL <= dim; d += VL) mix(r, dtype, first, queries, d, 1, from, end);
    for (; d < dim; d++)
        for (int q = first; q < first + queries; q++) mix_number(r, dtype, q, d, from, end);
}

/* The values of the keys [from, end) for the queries [first, last), added to what is there. */
INLINE void mix_keys(const Reading *r, int dtype, int first, int last, int64_t from, int64_t end) {
    for (int64_t stop; from < end; from = stop) {
        stop = from + NEAR < end ? from + NEAR : end;
        int q = first;
        for (; q + MIXED <= last; q += MIXED) mix_numbers(r, dtype, q, MIXED, from, stop);
        switch (last - q) {
            case 1: mix_numbers(r, dtype, q, 1, from, stop); break;
            case 2: mix_numbers(r, dtype, q, 2, from, stop); break;
            case 3: mix_numbers(r, dtype, q, 3, from, stop); break;
            case 4: mix_numbers(r, dtype, q, 4, from, stop); break;
            case 5: mix_numbers(r, dtype, q, 5, from, stop); break;
            default:;
        }
    }
}

/* Weights of the keys from scores [length], in place: softmax(cap(scores)) with a sink, which takes its share. There
 * may be no cap (0) and no sink (NULL). */
INLINE void weigh(float *scores, int64_t length, float cap, const float *sink) {
    const int64_t whole = length / VL * VL, left = length - whole;
    if (cap > 0.0f)
        for (int64_t t = 0; t < length; t++) scores[t] = cap * tanhf(scores[t] / cap);
    /* The last scores apart, where nothing follows them. */
    float rest[VL];
    for (int i = 0; i < VL; i++) rest[i] = -INFINITY;
    memcpy(rest, scores + whole, (size_t)left * 4);
    lanes most = (lanes) * (vec *)rest;
    for (int64_t t = 0; t < whole; t += VL) most = larger(most, (lanes) * (vec *)(scores + t));
    float largest = sink ? *sink : -INFINITY;
    for (int i = 0; i < VL; i++) largest = most[i] > largest ? most[i] : largest;
    lanes sum = spread(0.0f);
    for (int64_t t = 0; t < whole; t += VL) {
        const lanes weights = exponentials_of((lanes) * (vec *)(scores + t) - spread(largest));
        *(vec *)(scores + t) = weights;
        sum += weights;
    }
    *(vec *)rest = exponentials_of((lanes) * (vec *)rest - spread(largest));
    memset(rest + left, 0, (size_t)(VL - left) * 4);
    memcpy(scores + whole, rest, (size_t)left * 4);
    const float all = total(sum + (lanes) * (vec *)rest) + (sink ? fast_exp(*sink - largest) : 0.0f), inverse = 1.0f / all;
    for (int64_t t = 0; t < length; t++) scores[t] *= inverse;
}

/* What all queries read. The keys that all rows see are read for all of them together. */
INLINE void read_keys(const Reading *r, int dtype) {
    const Step *s = r->s;
    const Op *op = r->op;
    const int heads = op->heads / op->kv_heads;
    int64_t from = 0, end = INT64_MAX, last = 0;
    for (int row = r->row; row < r->row + r->rows; row++) {
        const int64_t oldest = oldest_of_row(s, op, row), seen = s->seen[row];
        from = oldest > from ? oldest : from;
        end = seen < end ? seen : end;
        last = seen > last ? seen : last;
    }
    scores_of(r, dtype, last);
    for (int q = 0; q < r->queries; q++) {
        const int row = r->row + q / heads;
        const int64_t oldest = oldest_of_row(s, op, row);
        weigh(r->scores + q * r->apart + oldest - r->base, s->seen[row] - oldest, op->other,
              op->weight ? op->weight + r->kv * heads + q % heads : NULL);
    }
    memset(r->mixed, 0, (size_t)(r->queries * op->dim) * 4);
    if (from > end) from = end; /* windows that do not overlap */
    for (int i = 0; i < r->rows; i++)
        mix_keys(r, dtype, i * heads, (i + 1) * heads, oldest_of_row(s, op, r->row + i), from);
    mix_keys(r, dtype, 0, r->queries, from, end);
    for (int i = 0; i < r->rows; i++) {
        const int64_t oldest = oldest_of_row(s, op, r->row + i);
        mix_keys(r, dtype, i * heads, (i + 1) * heads, oldest > end ? oldest : end, s->seen[r->row + i]);
    }
}

static void attend_part(const Step *s, const Op *op, Part part, Part next, float *work) {
    const int row = part.row, rows = part.rows, kv = part.kv;
    const int dim = op->dim, heads = op->heads / op->kv_heads, queries = rows * heads;
    int64_t oldest = INT64_MAX;
    for (int i = row; i < row + rows; i++) oldest = oldest_of_row(s, op, i) < oldest ? oldest_of_row(s, op, i) : oldest;
    const int64_t own = whole_lines((int64_t)queries * dim);
    /* A whole vector of keys is in one block. In blocks of some other length, keys before the oldest may be gone. */
    const int64_t base = s->block % VL ? oldest : oldest / VL * VL;
    const Reading r = {s,    op,   row, rows, kv, next, queries, base, whole_lines(s->span + VL),
                       work, work + 2 * own, work + own};
    for (int q = 0; q < queries; q++) {
        const float *asked = at(s, op->from, row + q / heads) + (kv * heads + q % heads) * dim;
        for (int d = 0; d < dim; d++) r.asked[d * queries + q] = asked[d];
    }
    if (s->cache_dtype == BFLOAT16)
        read_keys(&r, BFLOAT16);
    else
        read_keys(&r, FLOAT32);
    for (int i = 0; i < rows; i++)
        memcpy(at(s, op->to, row + i) + kv * heads * dim, r.mixed + i * heads * dim, (size_t)heads * dim * 4);
}

int64_t veneer_attend_work(const Step *s, const Op *op) {
    const int64_t queries = (int64_t)s->longest * (op->heads / op->kv_heads);
    return 2 * whole_lines(queries * op->dim) + queries * whole_lines(s->span + VL);
}

static Part part_of(const Step *s, const Op *op, int number) {
    const int *run = s->run_starts + number / op->kv_heads;
    return (Part){run[0], run[1] - run[0], number % op->kv_heads};
}

/* Keys and values are in many places, and a processor foresees little of that: while keys are read, their values are
 * fetched, and while these are read, the keys of the part that the thread takes next.
 *
 * All rows' keys are there before the first is read, since rows may be neighbours in one sequence. */
void veneer_attend(const Step *s, const Op *op, const Member *me) {
    for (int row = share_start(me, s->rows); row < share_stop(me, s->rows); row++) put_row(s, op, row);
    meet(me);
    const int tasks = s->runs * op->kv_heads;
    for (int task; (task = take(me, tasks)) < tasks;) {
        const int more = task + 1 < share_stop(me, tasks);
        attend_part(s, op, part_of(s, op, task), more ? part_of(s, op, task + 1) : (Part){0}, me->work);
    }
    meet(me);
}

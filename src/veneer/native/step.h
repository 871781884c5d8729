/* A step of a decoder: its operations, and the rows that they are carried out for. */
#ifndef VENEER_STEP_H
#define VENEER_STEP_H

#include "adapt.h"
#include "rows.h"
#include "team.h"

enum { OP_NORM, OP_LINEAR, OP_ROTATE, OP_ATTEND, OP_GATE, OP_ADD, OP_ADAPT_DOWN, OP_ADAPT_UP, OP_GAIN };
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
    const float *weight, *bias; /* of a norm; sinks of attention; of a gain */
    const Linear *products;
} Op;

typedef struct {
    float *space;
    int rows;
    int cache_dtype, block;             /* `block` tokens of a sequence are in one block of the cache: */
    void *const *const *blocks;         /* [group][row], each [block number]: [layers][keys, values][kv_heads][block · dim] */
    const int64_t *seen;                /* by row: keys, its own included */
    const float *const *cosine, *const *sine; /* by number of the angles, [places][turned / 2] */
    const int64_t *places;              /* by row: where its angles stand */
    const Segment *segments;
    int segment_count, piece_count;
    const Segment *pieces;              /* the segments, cut where they have many rows */
    int first_prompt;                   /* the rows from there on are prompts' */
    int products;                       /* of rows.h; */
    int parts;                          /* what next.h makes of the rows for them */
    int64_t span, ranks;                /* most keys that a row sees; most ranks of an operation's factors, summed */
    float *prepared;                    /* [rows][widest] */
    float *down;                        /* [rows][ranks] */
    int runs, longest;                  /* runs of neighbouring rows of one sequence, and the most rows of one */
    int *run_starts;                    /* [runs + 1] */
} Step;

#define RUN 8 /* most rows of a run */

static inline float *at(const Step *s, Place place, int row) { return s->space + place.offset + row * place.stride; }

/* How many parts of at most `part` cover `count`. */
static inline int parts_of(int64_t count, int64_t part) { return (int)((count + part - 1) / part); }

/* Floats of working memory that attention needs in each thread. */
int64_t veneer_attend_work(const Step *s, const Op *op);

/* Attention: keys and values into the cache, and the values that each row sees mixed. */
void veneer_attend(const Step *s, const Op *op, const Member *me);

#endif

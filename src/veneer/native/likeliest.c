/* The first of a row's largest scores: the token of a greedy answer. */
#include <math.h>

#include "lanes.h"

#define PART 1024 /* scores that are looked through again, for the place of the largest */

typedef int32_t mask __attribute__((vector_size(VL * 4)));

/* The largest of some scores; NaN where one of them is. */
static float largest_of(const float *scores, int64_t count) {
    lanes most = spread(-INFINITY);
    mask numbers = most == most;
    float found = -INFINITY;
    int64_t i = 0;
    for (; i + VL <= count; i += VL) {
        const lanes some = (lanes) * (const vec *)(scores + i);
        most = larger(most, some);
        numbers &= some == some;
    }
    for (int lane = 0; lane < VL; lane++) {
        if (!numbers[lane]) return NAN;
        found = most[lane] > found ? most[lane] : found;
    }
    for (; i < count; i++) {
        if (isnan(scores[i])) return NAN;
        found = scores[i] > found ? scores[i] : found;
    }
    return found;
}

/* As NumPy's argmax: a NaN is larger than any number. */
static int64_t first_largest(const float *scores, int64_t count) {
    float most = NAN;
    int64_t part = 0;
    for (int64_t first = 0; first < count; first += PART) {
        const float found = largest_of(scores + first, count - first < PART ? count - first : PART);
        if (first > 0 && !isnan(found) && found <= most) continue;
        most = found, part = first;
        if (isnan(most)) break;
    }
    int64_t place = part;
    while (isnan(most) ? !isnan(scores[place]) : scores[place] != most) place++;
    return place;
}

/* found [count]: for each of the rows that are named, the place of its first largest score; scores [.., columns], of at
 * least one column. */
int veneer_likeliest(const float *scores, int64_t columns, const int64_t *rows, int64_t count, int64_t *found, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > 1)
    for (int64_t i = 0; i < count; i++) found[i] = first_largest(scores + rows[i] * columns, columns);
    return 0;
}

/* The sums of some rows by some columns, lanes each, on their way into y. */
#ifndef VENEER_SUMS_H
#define VENEER_SUMS_H

#include "lanes.h"

/* The totals of `rows` by `columns` sums into y, a row every `stride` floats; all counts are known at compile time.
 * `add`: y += scale · total instead. */
INLINE void hand_over(const lanes *sums, int rows, int columns, int add, float scale, float *y, int64_t stride) {
    const int count = rows * columns;
    float found[32];
#pragma GCC unroll 2
    for (int at = 0; at < count; at += 16) totals(sums + at, count - at < 16 ? count - at : 16, found + at);
    if (add)
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < columns; c++)
                y[i * stride + c] = __builtin_fmaf(scale, found[i * columns + c], y[i * stride + c]);
    else
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < columns; c++) y[i * stride + c] = found[i * columns + c];
}

#endif

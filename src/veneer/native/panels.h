/* Products of many rows with a weight as it is stored. */
#ifndef VENEER_PANELS_H
#define VENEER_PANELS_H

#include "rows.h"

#if VL == 8 /* sixteen registers hold the sums of 4 by 3 vectors; 6 by 2 take more loads for as many products */
#define PANEL_ROWS 4 /* most rows of a panel of x, which are side by side, */
#else
#define PANEL_ROWS 8
#endif
#define PANEL_WIDE 3 /* and which meet so many vectors of columns in registers */
#define PANEL_COLUMNS (PANEL_WIDE * VL) /* columns that are taken at a time, */
#define PANEL_SHARE (128 / PANEL_ROWS)  /* and most panels of x that they meet before they are taken again */
#define PANEL_SCALES 4                  /* numbers that a chunk of a column has beside its weights */
#define PANEL_LEVELS 5                  /* sums of a row and column that are kept: of 1, 2, 4, 8 and all 16 lanes */

/* Floats of a thread's working memory. */
static inline int64_t panel_scratch(int64_t depth) {
    const int64_t width = whole_chunks(depth), weights = width + width / CHUNK * PANEL_SCALES + width / VL;
    return PANEL_COLUMNS * (weights + PANEL_LEVELS * PANEL_SHARE * PANEL_ROWS);
}

/* Panels that rows of x fall into, all of about the same height. */
static inline int panels_of(int rows) { return (rows + PANEL_ROWS - 1) / PANEL_ROWS; }

/* The first row of a panel. The higher ones come first. */
static inline int panel_start(int rows, int panel) {
    const int all = panels_of(rows), higher = rows % all;
    return panel * (rows / all) + (panel < higher ? panel : higher);
}

/* Floats of x in panels: [VL lanes][panels][whole_chunks(depth) / VL][PANEL_ROWS]. */
static inline int64_t panel_room(int64_t depth, int rows) { return panels_of(rows) * whole_chunks(depth) * PANEL_ROWS; }

/* One of the panels that `rows` rows of x, each `stride` floats, fall into. */
void veneer_panel_lay_out(int order, int64_t depth, const float *x, int64_t stride, int rows, int panel, float *out);

/* As veneer_rows_unit, of x arranged in panels. */
void veneer_panel_unit(const Matrix *m, const float *panels, int rows, int first, int count, int add, float scale, float *y,
                       int64_t stride, float *scratch);

#endif

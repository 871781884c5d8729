/* Words turned in registers: rows become columns. */
#ifndef VENEER_TURN_H
#define VENEER_TURN_H

#if defined(__AVX512F__)
#include <immintrin.h>

/* Sixteen vectors of sixteen words, turned: word j of vector i becomes word i of vector j. */
static inline void transpose_words(__m512i x[16]) {
    __m512i y[16];
    for (int i = 0; i < 16; i += 2) { /* pairs of rows, within every 128 bits */
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* fours of rows: x[i + j] holds column j of each 128 bits */
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int j = 0; j < 4; j++) { /* then the 128-bit parts among themselves */
        const __m512i low = _mm512_shuffle_i32x4(x[j], x[j + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(x[j], x[j + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(x[j + 8], x[j + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(x[j + 8], x[j + 12], 0xdd);
        y[j] = _mm512_shuffle_i32x4(low, low2, 0x88);
        y[j + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        y[j + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        y[j + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    for (int i = 0; i < 16; i++) x[i] = y[i];
}
#endif

#endif

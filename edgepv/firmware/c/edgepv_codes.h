/* edgepv_codes.h: kernels of models whose values are codes of eight bits. Included by model.c behind edgepv_kernels.h.
 *
 * A code c means (c - zero) * scale, as ONNX's DequantizeLinear has it; all codes are unsigned here. Sums of products
 * are exact, in int32_t. What is rounded, and when, is the same on every machine, so that all give the same codes:
 *
 * - a sum becomes a code by one product: float(sum) * m, with m = float(float(x scale * w scale) / y scale), then
 *   nearest whole number, halves to even, then + zero, then held between low and high;
 * - element by element everything is done in float, in the order in which ONNX has it, each result rounded to float.
 *
 * Vectors are EDGEPV_CODE_LANES wide: 16 for AVX-512, 8 for AVX2, 4 for arm64, else 1, which is plain C99.
 */
#ifndef EDGEPV_CODES_H
#define EDGEPV_CODES_H

#include "edgepv_kernels.h"

#if EDGEPV_LANES == 16 && defined(__AVX512BW__)
#define EDGEPV_CODE_LANES 16
#elif EDGEPV_LANES >= 8 && defined(__AVX2__)
#define EDGEPV_CODE_LANES 8
#elif EDGEPV_LANES == 4 && defined(__aarch64__)
#define EDGEPV_CODE_LANES 4
#else
#define EDGEPV_CODE_LANES 1
#endif
#if EDGEPV_CODE_LANES >= 8
#include <immintrin.h>
#elif EDGEPV_CODE_LANES == 4
#include <arm_neon.h>
#endif

/* A tile in pixels. AVX2 without VNNI takes two registers more for a weight, and one for what it multiplies. */
#if EDGEPV_CODE_LANES == 16
#define EDGEPV_PICK_CODES(few, middle, wide) ((size_t)(wide))
#elif EDGEPV_CODE_LANES == 4 || defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define EDGEPV_PICK_CODES(few, middle, wide) ((size_t)(middle))
#elif EDGEPV_CODE_LANES == 8
#define EDGEPV_PICK_CODES(few, middle, wide) ((size_t)(few))
#else
#define EDGEPV_PICK_CODES(few, middle, wide) ((size_t)1)
#endif

typedef struct {
    float scale;
    int32_t zero;
} edgepv_code;

typedef struct { /* of a code that is made: its zero, the least and the largest that it may be */
    int32_t zero, low, high;
} edgepv_bounds;

typedef struct { /* what sums begin with, and what they become; by channel of the answer */
    const int32_t *begin, *sign; /* sign: added where a machine multiplies codes less 128; NULL if none does */
    const float *scale, *shift;  /* sum * scale + shift; shift may be NULL */
} edgepv_ends;

#define EDGEPV_MAGIC 12582912.0f /* 1.5 * 2^23: what is added to it is rounded to whole, halves to even */
#define EDGEPV_MAGIC_BITS 0x4b400000

EDGEPV_INLINE float edgepv_lowest(const edgepv_bounds to) { return (float)(to.low - to.zero); }
EDGEPV_INLINE float edgepv_highest(const edgepv_bounds to) { return (float)(to.high - to.zero); }

/* The nearest code, of NaN the least. Limits come first: they are whole, and what is left is small enough for the
 * magic number. They also keep a compiler from rounding a product before, and the sum here, at once. */
EDGEPV_INLINE uint8_t edgepv_nearest(float v, const edgepv_bounds to) {
    v = v > edgepv_lowest(to) ? v : edgepv_lowest(to);
    v = v < edgepv_highest(to) ? v : edgepv_highest(to);
    const float shifted = v + EDGEPV_MAGIC;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (uint8_t)(bits - EDGEPV_MAGIC_BITS + to.zero);
}

EDGEPV_INLINE float edgepv_product(const float a, const float b) {
    float v = a * b;
    EDGEPV_ROUNDED(v);
    return v;
}

#if EDGEPV_CODE_LANES == 16
#define EDGEPV_L 16
#include "edgepv_code_lanes.h"
#undef EDGEPV_L
#endif
#if EDGEPV_CODE_LANES >= 8
#define EDGEPV_L 8
#include "edgepv_code_lanes.h"
#undef EDGEPV_L
#elif EDGEPV_CODE_LANES == 4
#define EDGEPV_L 4
#include "edgepv_code_lanes.h"
#undef EDGEPV_L
#endif
#define EDGEPV_L 1
#include "edgepv_code_lanes.h"
#undef EDGEPV_L

#if EDGEPV_CODE_LANES == 16
#define EDGEPV_SPLIT_CODES(channels, kernel, ...) \
    do { \
        const size_t whole_ = (size_t)(channels) / 16 * 16; \
        kernel##_16((size_t)0, whole_, __VA_ARGS__); \
        kernel##_8(whole_, (size_t)(channels), __VA_ARGS__); \
    } while (0)
#define EDGEPV_WIDEST_CODES(kernel) kernel##_16
#elif EDGEPV_CODE_LANES == 8
#define EDGEPV_SPLIT_CODES(channels, kernel, ...) kernel##_8((size_t)0, (size_t)(channels), __VA_ARGS__)
#define EDGEPV_WIDEST_CODES(kernel) kernel##_8
#elif EDGEPV_CODE_LANES == 4
#define EDGEPV_SPLIT_CODES(channels, kernel, ...) kernel##_4((size_t)0, (size_t)(channels), __VA_ARGS__)
#define EDGEPV_WIDEST_CODES(kernel) kernel##_4
#else
#define EDGEPV_SPLIT_CODES(channels, kernel, ...) kernel##_1((size_t)0, (size_t)(channels), __VA_ARGS__)
#define EDGEPV_WIDEST_CODES(kernel) kernel##_1
#endif

/* One tile of tr x tc pixels and of one block of 16 or 8 channels. */
EDGEPV_INLINE void edgepv_code_tile(const size_t block, const size_t tr, const size_t tc, const edgepv_shape s,
                                    const edgepv_bounds to, const size_t room, const uint8_t *const *x,
                                    const size_t at, const int8_t *w, const edgepv_ends ends, const size_t c,
                                    uint8_t *y, float *f) {
#if EDGEPV_CODE_LANES == 16
    if (block == 16) {
        edgepv_code_tile_16(1, tr, tc, s, to, room, x, at, w, ends, c, y, f);
    } else {
        edgepv_code_tile_8(1, tr, tc, s, to, room, x, at, w, ends, c, y, f);
    }
#elif EDGEPV_CODE_LANES == 8
    edgepv_code_tile_8(block / 8, tr, tc, s, to, room, x, at, w, ends, c, y, f);
#elif EDGEPV_CODE_LANES == 4
    edgepv_code_tile_4(block / 4, tr, tc, s, to, room, x, at, w, ends, c, y, f);
#else
    edgepv_code_tile_1(block, tr, tc, s, to, room, x, at, w, ends, c, y, f);
#endif
}

/* tr rows of one block, from row oy on. */
EDGEPV_INLINE void edgepv_code_rows(const size_t block, const size_t room, const size_t c, const size_t tr,
                                    const size_t tc, const edgepv_shape s, const edgepv_bounds to, const size_t oy,
                                    const uint8_t *const *x, const int8_t *w, const edgepv_ends ends, uint8_t *y,
                                    float *f) {
    const size_t rest = s.width % tc;
    const int8_t *const wb = w + c * s.sources * s.taps_down * s.taps_across * s.channels;
    size_t ox = 0;
    EDGEPV_ROLLED
    for (; ox + tc <= s.width; ox += tc) {
        const size_t out = oy * s.y_row + ox * s.y_pixel + c;
        edgepv_code_tile(block, tr, tc, s, to, room, x, oy * s.step_row + ox * s.step_pixel, wb, ends, c,
                         y ? y + out : NULL, f ? f + out : NULL);
    }
    if (rest) {
        const size_t out = oy * s.y_row + ox * s.y_pixel + c;
        edgepv_code_tile(block, tr, rest, s, to, room, x, oy * s.step_row + ox * s.step_pixel, wb, ends, c,
                         y ? y + out : NULL, f ? f + out : NULL);
    }
}

EDGEPV_INLINE void edgepv_code_block(const size_t block, const size_t room, const size_t c, const size_t tr,
                                     const size_t tc, const edgepv_shape s, const edgepv_bounds to,
                                     const uint8_t *const *x, const int8_t *w, const edgepv_ends ends, uint8_t *y,
                                     float *f) {
    const size_t below = s.height % tr;
    size_t oy = 0;
    EDGEPV_ROLLED
    for (; oy + tr <= s.height; oy += tr) {
        edgepv_code_rows(block, room, c, tr, tc, s, to, oy, x, w, ends, y, f);
    }
    if (below) {
        edgepv_code_rows(block, room, c, below, tc, s, to, oy, x, w, ends, y, f);
    }
}

/* Convolution like edgepv_convolve, of codes. s.channels: of each source and tap, a multiple of 4, the last ones with
 * weights of zero. w: blocks of 16 answers, the last of 16 or 8: in each [source][down][across][channel / 4][answer][4].
 * Answers are codes at y, or floats at f; the other is NULL. */
EDGEPV_INLINE void edgepv_code_convolve(const edgepv_shape s, const edgepv_bounds to, const size_t tr,
                                        const size_t tc, const uint8_t *const *x, const int8_t *w,
                                        const edgepv_ends ends, uint8_t *y, float *f) {
    const size_t whole = s.answers / EDGEPV_BLOCK * EDGEPV_BLOCK, tail = s.answers - whole;
    const size_t last = tail > 8 ? 16 : 8, room = edgepv_least(last, s.padded - whole);
    EDGEPV_ROLLED
    for (size_t c = 0; c < whole; c += EDGEPV_BLOCK) {
        edgepv_code_block(16, 16, c, tr, tc, s, to, x, w, ends, y, f);
    }
    if (tail) {
        edgepv_code_block(last, room, whole, tr, tc, s, to, x, w, ends, y, f);
    }
}

/* Depthwise convolution; channels: a multiple of 8. w: [down][across][channel]. */
EDGEPV_INLINE void edgepv_code_depthwise(const edgepv_shape s, const edgepv_bounds to, const size_t tc,
                                         const uint8_t *x, const int8_t *w, const edgepv_ends ends, uint8_t *y,
                                         float *f) {
    EDGEPV_ROLLED
    for (size_t oy = 0; oy < s.height; oy++) {
        EDGEPV_SPLIT_CODES(s.channels, edgepv_code_depthwise_row, s, to, tc, x + oy * s.step_row, w, ends,
                           y ? y + oy * s.y_row : NULL, f ? f + oy * s.y_row : NULL);
    }
}

/* Weighted sum of sources, pixel by pixel and channel by channel (a multiple of 8); w: [source][channel].
 * sums: of the codes of every channel over all pixels; may be NULL. */
EDGEPV_INLINE void edgepv_code_taps(const edgepv_shape s, const edgepv_bounds to, const uint8_t *const *x,
                                    const int8_t *w, const edgepv_ends ends, uint8_t *y, int32_t *sums) {
    const size_t rest = s.width % EDGEPV_TOGETHER;
    if (sums) {
        memset(sums, 0, s.channels * sizeof *sums);
    }
    size_t at = 0;
    EDGEPV_ROLLED
    for (; at + EDGEPV_TOGETHER <= s.width; at += EDGEPV_TOGETHER) {
        EDGEPV_SPLIT_CODES(s.channels, edgepv_code_taps_part, s, to, (size_t)EDGEPV_TOGETHER, at, x, w, ends, y,
                           sums);
    }
    if (rest) {
        EDGEPV_SPLIT_CODES(s.channels, edgepv_code_taps_part, s, to, rest, at, x, w, ends, y, sums);
    }
}

/* Sums of the codes of every channel (a multiple of 8) over all pixels. */
EDGEPV_INLINE void edgepv_code_sums(const size_t channels, const size_t height, const size_t width,
                                    const size_t row, const size_t pixel, const uint8_t *x, int32_t *sums) {
    EDGEPV_SPLIT_CODES(channels, edgepv_code_sums_part, height, width, row, pixel, x, sums);
}

/* Means of what the codes of count pixels mean, from their sums; part: scale / count. */
EDGEPV_INLINE void edgepv_code_means(const size_t channels, const int32_t count, const int32_t zero,
                                     const float part, const int32_t *sums, float *y) {
    for (size_t c = 0; c < channels; c++) {
        y[c] = (float)(sums[c] - count * zero) * part;
    }
}

/* Codes of floats that lie together. */
EDGEPV_INLINE void edgepv_quantize(const size_t count, const float scale, const edgepv_bounds to, const float *x,
                                   uint8_t *y) {
    const size_t whole = count / EDGEPV_CODE_LANES * EDGEPV_CODE_LANES;
    EDGEPV_WIDEST_CODES(edgepv_quantize_part)((size_t)0, whole, scale, to, x, y);
    edgepv_quantize_part_1(whole, count, scale, to, x, y);
}

/* What codes that lie together mean. */
EDGEPV_INLINE void edgepv_dequantize(const size_t count, const edgepv_code code, const uint8_t *x, float *y) {
    for (size_t i = 0; i < count; i++) {
        y[i] = (float)(x[i] - code.zero) * code.scale;
    }
}

EDGEPV_INLINE void edgepv_look_up(const size_t count, const uint8_t *table, const uint8_t *x, uint8_t *y) {
    for (size_t i = 0; i < count; i++) {
        y[i] = table[x[i]];
    }
}

/* The code of the sum of what two mean. */
EDGEPV_INLINE void edgepv_code_add(const size_t count, const edgepv_code a, const edgepv_code b, const float scale,
                                   const edgepv_bounds to, const uint8_t *xa, const uint8_t *xb, uint8_t *y) {
    const size_t whole = count / EDGEPV_CODE_LANES * EDGEPV_CODE_LANES;
    EDGEPV_WIDEST_CODES(edgepv_code_add_part)((size_t)0, whole, a, b, scale, to, xa, xb, y);
    edgepv_code_add_part_1(whole, count, a, b, scale, to, xa, xb, y);
}

/* The codes of pixels times a factor for each channel (a multiple of 8). */
EDGEPV_INLINE void edgepv_code_scale(const size_t channels, const size_t pixels, const size_t x_pixel,
                                     const size_t y_pixel, const edgepv_code a, const edgepv_code b,
                                     const float scale, const edgepv_bounds to, const uint8_t *x,
                                     const uint8_t *factors, uint8_t *y) {
    EDGEPV_SPLIT_CODES(channels, edgepv_code_scale_part, pixels, x_pixel, y_pixel, a, b, scale, to, x, factors, y);
}

/* The largest of each channel over a window inside the picture. */
EDGEPV_INLINE void edgepv_code_most(const size_t channels, const size_t step, const size_t rows,
                                    const size_t columns, const size_t row, const size_t pixel, const uint8_t *x,
                                    uint8_t *y) {
    for (size_t c = 0; c < channels; c++) {
        uint8_t most = x[c * step];
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < columns; j++) {
                const uint8_t next = x[c * step + i * row + j * pixel];
                most = next > most ? next : most;
            }
        }
        y[c * step] = most;
    }
}

#endif

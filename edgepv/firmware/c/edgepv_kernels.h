/* edgepv_kernels.h: what generated models are made of. Channels are innermost, and vectors go along them.
 *
 * Every kernel is inlined into a layer whose sizes are constants, so that the compiler unrolls its tiles into
 * registers. Vectors are those of GCC and clang, EDGEPV_LANES floats wide; with one lane this is plain C99.
 */
#ifndef EDGEPV_KERNELS_H
#define EDGEPV_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef EDGEPV_LANES
#if !defined(__GNUC__)
#define EDGEPV_LANES 1
#elif defined(__AVX512F__) && defined(__AVX512VL__)
#define EDGEPV_LANES 16
#elif defined(__AVX__)
#define EDGEPV_LANES 8
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define EDGEPV_LANES 4
#else
#define EDGEPV_LANES 1
#endif
#endif

#if defined(__GNUC__)
#define EDGEPV_INLINE static inline __attribute__((always_inline, unused))
#define EDGEPV_ONCE __attribute__((noinline)) /* one copy for all that call it */
#else
#define EDGEPV_INLINE static inline
#define EDGEPV_ONCE
#endif
#if defined(__clang__)
#define EDGEPV_UNROLL _Pragma("clang loop unroll(full)")
#define EDGEPV_ROLLED _Pragma("clang loop unroll(disable)") /* a tile is large enough already */
#elif defined(__GNUC__)
#define EDGEPV_UNROLL _Pragma("GCC unroll 64")
#define EDGEPV_ROLLED _Pragma("GCC unroll 1")
#else
#define EDGEPV_UNROLL
#define EDGEPV_ROLLED
#endif

/* Keeps a product apart from the sum it goes into, so that both are rounded on every machine; v: a float or a vector. */
#if defined(__AVX512F__)
#define EDGEPV_ROUNDED(v) __asm__("" : "+v"(v))
#elif defined(__GNUC__) && defined(__SSE2__)
#define EDGEPV_ROUNDED(v) __asm__("" : "+x"(v))
#elif defined(__GNUC__) && defined(__aarch64__)
#define EDGEPV_ROUNDED(v) __asm__("" : "+w"(v))
#elif defined(__GNUC__) && defined(__arm__) && defined(__ARM_FP)
#define EDGEPV_ROUNDED(v) __asm__("" : "+t"(v))
#else
#define EDGEPV_ROUNDED(v) \
    do { \
        volatile float kept_ = (v); \
        (v) = kept_; \
    } while (0)
#endif

#if defined(EDGEPV_EXACT) /* the same sums on machines that round a product and a sum once, and on others */
#define EDGEPV_APART(v) EDGEPV_ROUNDED(v)
#else
#define EDGEPV_APART(v)
#endif

/* A tile of a layer in pixels, by how many registers of sums there are: 12 of 4 lanes, as many of 8 (or 24 of
 * 4), and 24 of 16. */
#if EDGEPV_LANES == 16
#define EDGEPV_PICK(narrow, middle, wide) ((size_t)(wide))
#elif EDGEPV_LANES == 8 || (EDGEPV_LANES == 4 && defined(__aarch64__))
#define EDGEPV_PICK(narrow, middle, wide) ((size_t)(middle))
#elif EDGEPV_LANES == 4
#define EDGEPV_PICK(narrow, middle, wide) ((size_t)(narrow))
#else
#define EDGEPV_PICK(narrow, middle, wide) ((size_t)1)
#endif
#define EDGEPV_MOST_PIXELS 16 /* of a tile */
#define EDGEPV_BLOCK 16       /* channels whose weights lie together; the last block may have 8 */

typedef enum { EDGEPV_AS_IS, EDGEPV_RELU, EDGEPV_CLIP, EDGEPV_HARD } edgepv_act_kind;
typedef struct { /* CLIP: to low and high; HARD: scale * x + shift before that */
    edgepv_act_kind kind;
    float scale, shift, low, high;
} edgepv_act;

typedef struct { /* sizes in values; steps in floats */
    size_t sources, taps_down, taps_across, channels; /* channels: of each source */
    size_t tap_row, tap_pixel;    /* from one tap to the next, dilation included */
    size_t step_row, step_pixel;  /* from the window of one answer to that of the next, stride included */
    size_t height, width, answers; /* of the answer; answers: its channels */
    size_t y_row, y_pixel, r_row, r_pixel;
    size_t padded;        /* channels that y has room for, from its first on */
    size_t blocks_first;  /* 1: all pixels of one block of weights before the next block */
} edgepv_shape;

#if EDGEPV_LANES == 16
#define EDGEPV_L 16
#include "edgepv_lanes.h"
#undef EDGEPV_L
#endif
#if EDGEPV_LANES >= 8
#define EDGEPV_L 8
#include "edgepv_lanes.h"
#undef EDGEPV_L
#elif EDGEPV_LANES == 4
#define EDGEPV_L 4
#include "edgepv_lanes.h"
#undef EDGEPV_L
#else
#define EDGEPV_L 1
#include "edgepv_lanes.h"
#undef EDGEPV_L
#endif

#if EDGEPV_LANES == 16 /* whole vectors, then the last 8 channels */
#define EDGEPV_SPLIT(channels, kernel, ...) \
    do { \
        const size_t whole_ = (size_t)(channels) / 16 * 16; \
        kernel##_16((size_t)0, whole_, __VA_ARGS__); \
        kernel##_8(whole_, (size_t)(channels), __VA_ARGS__); \
    } while (0)
#elif EDGEPV_LANES == 8
#define EDGEPV_SPLIT(channels, kernel, ...) kernel##_8((size_t)0, (size_t)(channels), __VA_ARGS__)
#elif EDGEPV_LANES == 4
#define EDGEPV_SPLIT(channels, kernel, ...) kernel##_4((size_t)0, (size_t)(channels), __VA_ARGS__)
#else
#define EDGEPV_SPLIT(channels, kernel, ...) kernel##_1((size_t)0, (size_t)(channels), __VA_ARGS__)
#endif

EDGEPV_INLINE size_t edgepv_least(const size_t a, const size_t b) { return a < b ? a : b; }
EDGEPV_INLINE size_t edgepv_above(const size_t a, const size_t b) { return a > b ? a - b : 0; }
EDGEPV_INLINE float edgepv_min(const float a, const float b) { return a > b ? b : a; } /* a NaN first stays */
EDGEPV_INLINE float edgepv_max(const float a, const float b) { return a < b ? b : a; }

/* One tile of tr x tc pixels and of one block of 16 or 8 channels. */
EDGEPV_INLINE void edgepv_tile(const size_t block, const size_t tr, const size_t tc, const edgepv_shape s,
                               const edgepv_act act, const size_t room, const size_t at,
                               const float *const *x, const float *w, const float *b, const float *r, float *y) {
#if EDGEPV_LANES == 16
    if (block == 16) {
        edgepv_tile_16(1, tr, tc, s, act, room, at, x, w, b, r, y);
    } else {
        edgepv_tile_8(1, tr, tc, s, act, room, at, x, w, b, r, y);
    }
#elif EDGEPV_LANES == 8
    edgepv_tile_8(block / 8, tr, tc, s, act, room, at, x, w, b, r, y);
#elif EDGEPV_LANES == 4
    edgepv_tile_4(block / 4, tr, tc, s, act, room, at, x, w, b, r, y);
#else
    edgepv_tile_1(block, tr, tc, s, act, room, at, x, w, b, r, y);
#endif
}

/* tr rows of one block, from row oy on; room: channels of it that y has. */
EDGEPV_INLINE void edgepv_rows(const size_t block, const size_t room, const size_t c, const size_t tr,
                               const size_t tc, const edgepv_shape s, const edgepv_act act, const size_t oy,
                               const float *const *x, const float *w, const float *b, const float *r, float *y) {
    const size_t rest = s.width % tc;
    const float *wb = w + c * s.sources * s.taps_down * s.taps_across * s.channels;
    size_t ox = 0;
    EDGEPV_ROLLED
    for (; ox + tc <= s.width; ox += tc) {
        edgepv_tile(block, tr, tc, s, act, room, oy * s.step_row + ox * s.step_pixel, x, wb, b + c,
                    r ? r + oy * s.r_row + ox * s.r_pixel + c : NULL, y + oy * s.y_row + ox * s.y_pixel + c);
    }
    if (rest) {
        edgepv_tile(block, tr, rest, s, act, room, oy * s.step_row + ox * s.step_pixel, x, wb, b + c,
                    r ? r + oy * s.r_row + ox * s.r_pixel + c : NULL, y + oy * s.y_row + ox * s.y_pixel + c);
    }
}

/* Convolution of as many sources as share the strides of one: channels, taps of time, or both.
 * w: blocks of 16 answers, the last of 16 or 8: in each [source][down][across][channel][answer], zeros where
 * there is none. r: added before act; may be NULL. y is none of the others. */
EDGEPV_INLINE void edgepv_convolve(const edgepv_shape s, const edgepv_act act, const size_t tr, const size_t tc,
                                   const float *const *x, const float *w, const float *b, const float *r,
                                   float *y) {
    const size_t whole = s.answers / EDGEPV_BLOCK * EDGEPV_BLOCK, tail = s.answers - whole;
    const size_t last = tail > 8 ? 16 : 8, room = edgepv_least(last, s.padded - whole), below = s.height % tr;
    if (s.blocks_first) {
        EDGEPV_ROLLED
        for (size_t c = 0; c < whole; c += EDGEPV_BLOCK) {
            size_t oy = 0;
            EDGEPV_ROLLED
            for (; oy + tr <= s.height; oy += tr) {
                edgepv_rows(16, 16, c, tr, tc, s, act, oy, x, w, b, r, y);
            }
            if (below) {
                edgepv_rows(16, 16, c, below, tc, s, act, oy, x, w, b, r, y);
            }
        }
        if (tail) {
            size_t oy = 0;
            EDGEPV_ROLLED
            for (; oy + tr <= s.height; oy += tr) {
                edgepv_rows(last, room, whole, tr, tc, s, act, oy, x, w, b, r, y);
            }
            if (below) {
                edgepv_rows(last, room, whole, below, tc, s, act, oy, x, w, b, r, y);
            }
        }
        return;
    }
    size_t oy = 0;
    EDGEPV_ROLLED
    for (; oy + tr <= s.height; oy += tr) {
        EDGEPV_ROLLED
        for (size_t c = 0; c < whole; c += EDGEPV_BLOCK) {
            edgepv_rows(16, 16, c, tr, tc, s, act, oy, x, w, b, r, y);
        }
        if (tail) {
            edgepv_rows(last, room, whole, tr, tc, s, act, oy, x, w, b, r, y);
        }
    }
    if (below) {
        EDGEPV_ROLLED
        for (size_t c = 0; c < whole; c += EDGEPV_BLOCK) {
            edgepv_rows(16, 16, c, below, tc, s, act, oy, x, w, b, r, y);
        }
        if (tail) {
            edgepv_rows(last, room, whole, below, tc, s, act, oy, x, w, b, r, y);
        }
    }
}

EDGEPV_INLINE void edgepv_scale_block(const size_t block, const size_t taps, const size_t channels,
                                      const float *restrict w, const float *restrict scale,
                                      float *restrict scaled) {
    EDGEPV_ROLLED
    for (size_t t = 0; t < taps; t++) {
        EDGEPV_ROLLED
        for (size_t i = 0; i < channels; i++) {
            EDGEPV_UNROLL
            for (size_t j = 0; j < block; j++) {
                scaled[(t * channels + i) * block + j] = w[(t * channels + i) * block + j] * scale[i];
            }
        }
    }
}

/* Weights of a convolution whose inputs are scaled: w as edgepv_convolve has it, of one source. */
EDGEPV_INLINE void edgepv_scale_weights(const edgepv_shape s, const float *restrict w, const float *restrict scale,
                                        float *restrict scaled) {
    const size_t taps = s.taps_down * s.taps_across, whole = s.answers / EDGEPV_BLOCK, tail = s.answers % 16;
    const size_t step = EDGEPV_BLOCK * taps * s.channels;
    EDGEPV_ROLLED
    for (size_t at = 0; at < whole * step; at += step) {
        edgepv_scale_block(16, taps, s.channels, w + at, scale, scaled + at);
    }
    if (tail > 8) {
        edgepv_scale_block(16, taps, s.channels, w + whole * step, scale, scaled + whole * step);
    } else if (tail) {
        edgepv_scale_block(8, taps, s.channels, w + whole * step, scale, scaled + whole * step);
    }
}

/* Depthwise convolution; channels: a multiple of 8. w: [down][across][channel]. */
EDGEPV_INLINE void edgepv_depthwise(const edgepv_shape s, const edgepv_act act, const size_t tc, const float *x,
                                    const float *w, const float *b, float *y) {
    for (size_t oy = 0; oy < s.height; oy++) {
        EDGEPV_SPLIT(s.channels, edgepv_depthwise_row, s, act, tc, x + oy * s.step_row, w, b, y + oy * s.y_row);
    }
}

#define EDGEPV_TOGETHER 16 /* pixels of one pass over the channels, so that they stay in the first cache */

/* Weighted sum of sources, pixel by pixel and channel by channel (a multiple of 8); w: [source][channel].
 * means: of every channel over all pixels; may be NULL. */
EDGEPV_INLINE void edgepv_taps(const edgepv_shape s, const edgepv_act act, const float *const *x, const float *w,
                               const float *b, float *y, float *means) {
    const size_t rest = s.width % EDGEPV_TOGETHER;
    if (means) {
        memset(means, 0, s.channels * sizeof(float));
    }
    size_t at = 0;
    for (; at + EDGEPV_TOGETHER <= s.width; at += EDGEPV_TOGETHER) {
        EDGEPV_SPLIT(s.channels, edgepv_taps_part, s, act, (size_t)EDGEPV_TOGETHER, at, x, w, b, y, means);
    }
    if (rest) {
        EDGEPV_SPLIT(s.channels, edgepv_taps_part, s, act, rest, at, x, w, b, y, means);
    }
    if (means) {
        for (size_t c = 0; c < s.channels; c++) {
            means[c] *= 1.0f / (float)s.width;
        }
    }
}

/* A matrix of one row by w: [channel][answer], answers padded to a multiple of 8. */
EDGEPV_INLINE void edgepv_dense(const size_t channels, const size_t answers, const size_t room,
                                const edgepv_act act, const float *x, const float *w, const float *b, float *y) {
    const size_t padded = (answers + 7) / 8 * 8;
    EDGEPV_SPLIT(padded, edgepv_dense_part, channels, padded, room, act, x, w, b, y);
}

/* Mean of every channel (a multiple of 8) over all pixels. */
EDGEPV_INLINE void edgepv_mean(const size_t channels, const size_t height, const size_t width, const size_t row,
                               const size_t pixel, const float *x, float *y) {
    EDGEPV_SPLIT(channels, edgepv_mean_part, height, width, row, pixel, x, y);
}

/* The largest, or the sum divided by count, of each channel over a window inside the picture. */
EDGEPV_INLINE void edgepv_most_of(const size_t channels, const size_t step, const size_t rows, const size_t columns,
                                  const size_t row, const size_t pixel, const float *x, float *y) {
    for (size_t c = 0; c < channels; c++) {
        float most = x[c * step];
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < columns; j++) {
                most = edgepv_max(x[c * step + i * row + j * pixel], most);
            }
        }
        y[c * step] = most;
    }
}

EDGEPV_INLINE void edgepv_average(const size_t channels, const size_t x_step, const size_t y_step,
                                  const size_t rows, const size_t columns, const size_t row, const size_t pixel,
                                  const float count, const float *x, float *y) {
    for (size_t c = 0; c < channels; c++) {
        float sum = 0.0f;
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < columns; j++) {
                sum += x[c * x_step + i * row + j * pixel];
            }
        }
        y[c * y_step] = sum / count;
    }
}

/* A matrix (depth, width) as edgepv_convolve reads weights. */
EDGEPV_INLINE void edgepv_pack(const size_t depth, const size_t width, const size_t row, const size_t column,
                               const float *x, float *y) {
    const size_t padded = (width + 7) / 8 * 8;
    for (size_t c = 0; c < padded; c += EDGEPV_BLOCK) {
        const size_t block = edgepv_least(EDGEPV_BLOCK, padded - c);
        for (size_t i = 0; i < depth; i++) {
            for (size_t j = 0; j < block; j++) {
                *y++ = c + j < width ? x[i * row + (c + j) * column] : 0.0f;
            }
        }
    }
}

#if EDGEPV_LANES == 16
#define EDGEPV_WIDEST(kernel) kernel##_16
#elif EDGEPV_LANES == 8
#define EDGEPV_WIDEST(kernel) kernel##_8
#elif EDGEPV_LANES == 4
#define EDGEPV_WIDEST(kernel) kernel##_4
#else
#define EDGEPV_WIDEST(kernel) kernel##_1
#endif

/* Softmax of values that lie together. */
EDGEPV_INLINE void edgepv_softmax(const size_t count, const float *x, float *y) {
    float most = x[0], sum = 0.0f;
    for (size_t i = 1; i < count; i++) {
        most = edgepv_max(x[i], most);
    }
    for (size_t i = EDGEPV_WIDEST(edgepv_exp_row)(count, most, x, y, &sum); i < count; i++) {
        y[i] = expf(x[i] - most);
        sum += y[i];
    }
    const float share = 1.0f / sum;
    for (size_t i = 0; i < count; i++) {
        y[i] *= share;
    }
}

/* Zeros, or the code of zero, around an image of height x width pixels at image; row, pixel: in bytes. */
EDGEPV_INLINE void edgepv_border(void *image, const size_t height, const size_t width, const size_t row,
                                 const size_t pixel, const size_t top, const size_t left, const size_t bottom,
                                 const size_t right, const int zero) {
    unsigned char *const x = image;
    memset(x - top * row - left * pixel, zero, top * row + left * pixel);
    for (size_t i = 0; i < height; i++) { /* what is right of one row and left of the next lies together */
        memset(x + i * row + width * pixel, zero, (i + 1 < height ? right + left : right) * pixel);
    }
    memset(x + height * row - left * pixel, zero, bottom * row);
}

#endif

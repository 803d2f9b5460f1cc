/* edgepv_code_lanes.h: kernels for vectors of EDGEPV_L codes; included by edgepv_codes.h once for each width. */
#define EDGEPV_PASTE(name, lanes) name##_##lanes
#define EDGEPV_JOIN(name, lanes) EDGEPV_PASTE(name, lanes)
#define EDGEPV_N(name) EDGEPV_JOIN(name, EDGEPV_L)
#define I EDGEPV_N(edgepv_sums)
#define F EDGEPV_N(edgepv_reals)
#define FOUR EDGEPV_N(edgepv_four)
#define WEIGHT EDGEPV_N(edgepv_weight)

/* What each machine does in its own way.
 * I, F: EDGEPV_L numbers of int32_t and float. FOUR: four codes, the same for each lane; WEIGHT: four weights of each
 * lane. wide: codes as numbers; signed: weights as such. times: products of numbers of 16 bits. dot: sums with the
 * products of four. real: floats of sums. put: stores the nearest whole numbers + zero as codes. */
#if EDGEPV_L == 1

typedef int32_t I;
typedef float F;
typedef const uint8_t *FOUR;
typedef const int8_t *WEIGHT;
EDGEPV_INLINE I EDGEPV_N(edgepv_wide)(const uint8_t *p) { return *p; }
EDGEPV_INLINE I EDGEPV_N(edgepv_signed)(const int8_t *p) { return *p; }
EDGEPV_INLINE I EDGEPV_N(edgepv_load)(const int32_t *p) { return *p; }
EDGEPV_INLINE void EDGEPV_N(edgepv_store)(int32_t *p, const I v) { *p = v; }
EDGEPV_INLINE F EDGEPV_N(edgepv_floats)(const float *p) { return *p; }
EDGEPV_INLINE void EDGEPV_N(edgepv_store_floats)(float *p, const F v) { *p = v; }
EDGEPV_INLINE I EDGEPV_N(edgepv_times)(const I a, const I b) { return a * b; }
EDGEPV_INLINE FOUR EDGEPV_N(edgepv_fours)(const uint8_t *p) { return p; }
EDGEPV_INLINE WEIGHT EDGEPV_N(edgepv_weights)(const int8_t *p) { return p; }
EDGEPV_INLINE I EDGEPV_N(edgepv_dot)(const I sum, const FOUR x, const WEIGHT w) {
    return sum + x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + x[3] * w[3];
}
EDGEPV_INLINE F EDGEPV_N(edgepv_real)(const I v) { return (float)v; }
EDGEPV_INLINE void EDGEPV_N(edgepv_put_codes)(uint8_t *p, const F v, const edgepv_bounds to) {
    *p = edgepv_held(edgepv_whole(v) + to.zero, to);
}

#endif

/* Sums of the channels from c on, brought where answers go: the first room of them. */
EDGEPV_INLINE void EDGEPV_N(edgepv_end)(const I sum, const edgepv_ends ends, const size_t c,
                                        const edgepv_bounds to, const size_t room, uint8_t *y, float *f) {
    F v = EDGEPV_N(edgepv_real)(sum) * EDGEPV_N(edgepv_floats)(ends.scale + c);
    if (ends.shift) {
        EDGEPV_ROUNDED(v);
        v += EDGEPV_N(edgepv_floats)(ends.shift + c);
    }
    if (room >= EDGEPV_L) {
        if (y) {
            EDGEPV_N(edgepv_put_codes)(y, v, to);
        } else {
            EDGEPV_N(edgepv_store_floats)(f, v);
        }
        return;
    }
    uint8_t codes[EDGEPV_L];
    float floats[EDGEPV_L];
    if (y) {
        EDGEPV_N(edgepv_put_codes)(codes, v, to);
    } else {
        EDGEPV_N(edgepv_store_floats)(floats, v);
    }
    for (size_t i = 0; i < EDGEPV_L && i < room; i++) {
        if (y) {
            y[i] = codes[i];
        } else {
            f[i] = floats[i];
        }
    }
}

/* tr x tc pixels by nv vectors; at: codes from each source to the window of the first pixel. c: the first channel. */
EDGEPV_INLINE void EDGEPV_N(edgepv_code_tile)(const size_t nv, const size_t tr, const size_t tc,
                                              const edgepv_shape s, const edgepv_bounds to, const size_t room,
                                              const uint8_t *const *x, const size_t at, const int8_t *w,
                                              const edgepv_ends ends, const size_t c, uint8_t *y, float *f) {
    I sums[EDGEPV_MOST_PIXELS][EDGEPV_BLOCK / EDGEPV_L];
    EDGEPV_UNROLL
    for (size_t p = 0; p < tr * tc; p++) {
        EDGEPV_UNROLL
        for (size_t v = 0; v < nv; v++) {
            sums[p][v] = EDGEPV_N(edgepv_load)(ends.begin + c + EDGEPV_L * v);
        }
    }
    EDGEPV_ROLLED
    for (size_t k = 0; k < s.sources; k++) {
        EDGEPV_ROLLED
        for (size_t down = 0; down < s.taps_down; down++) {
            EDGEPV_ROLLED
            for (size_t across = 0; across < s.taps_across; across++) {
                const uint8_t *q = x[k] + at + down * s.tap_row + across * s.tap_pixel;
                EDGEPV_ROLLED
                for (size_t i = 0; i < s.channels; i += 4, w += 4 * EDGEPV_L * nv) {
                    WEIGHT weights[EDGEPV_BLOCK / EDGEPV_L];
                    EDGEPV_UNROLL
                    for (size_t v = 0; v < nv; v++) {
                        weights[v] = EDGEPV_N(edgepv_weights)(w + 4 * EDGEPV_L * v);
                    }
                    EDGEPV_UNROLL
                    for (size_t p = 0; p < tr * tc; p++) {
                        const FOUR four = EDGEPV_N(edgepv_fours)(q + p / tc * s.step_row + p % tc * s.step_pixel + i);
                        EDGEPV_UNROLL
                        for (size_t v = 0; v < nv; v++) {
                            sums[p][v] = EDGEPV_N(edgepv_dot)(sums[p][v], four, weights[v]);
                        }
                    }
                }
            }
        }
    }
    EDGEPV_UNROLL
    for (size_t p = 0; p < tr * tc; p++) {
        const size_t out = p / tc * s.y_row + p % tc * s.y_pixel;
        EDGEPV_UNROLL
        for (size_t v = 0; v < nv; v++) {
            const size_t lane = EDGEPV_L * v, left = room > lane ? room - lane : 0;
            EDGEPV_N(edgepv_end)(sums[p][v], ends, c + lane, to, left, y ? y + out + lane : NULL,
                                 f ? f + out + lane : NULL);
        }
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_code_depthwise_pixels)(const size_t pixels, const edgepv_shape s,
                                                          const edgepv_bounds to, const uint8_t *x,
                                                          const int8_t *w, const edgepv_ends ends, const size_t c,
                                                          uint8_t *y, float *f) {
    I sums[EDGEPV_MOST_PIXELS];
    EDGEPV_UNROLL
    for (size_t p = 0; p < pixels; p++) {
        sums[p] = EDGEPV_N(edgepv_load)(ends.begin + c);
    }
    EDGEPV_UNROLL
    for (size_t down = 0; down < s.taps_down; down++) {
        EDGEPV_UNROLL
        for (size_t across = 0; across < s.taps_across; across++) {
            const I weight = EDGEPV_N(edgepv_signed)(w + (down * s.taps_across + across) * s.channels + c);
            const uint8_t *const q = x + down * s.tap_row + across * s.tap_pixel + c;
            EDGEPV_UNROLL
            for (size_t p = 0; p < pixels; p++) {
                sums[p] += EDGEPV_N(edgepv_times)(EDGEPV_N(edgepv_wide)(q + p * s.step_pixel), weight);
            }
        }
    }
    EDGEPV_UNROLL
    for (size_t p = 0; p < pixels; p++) {
        EDGEPV_N(edgepv_end)(sums[p], ends, c, to, EDGEPV_L, y ? y + p * s.y_pixel + c : NULL,
                             f ? f + p * s.y_pixel + c : NULL);
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_code_depthwise_row)(const size_t from, const size_t to_channel,
                                                       const edgepv_shape s, const edgepv_bounds to,
                                                       const size_t tc, const uint8_t *x, const int8_t *w,
                                                       const edgepv_ends ends, uint8_t *y, float *f) {
    const size_t rest = s.width % tc;
    EDGEPV_ROLLED
    for (size_t c = from; c < to_channel; c += EDGEPV_L) {
        size_t ox = 0;
        EDGEPV_ROLLED
        for (; ox + tc <= s.width; ox += tc) {
            EDGEPV_N(edgepv_code_depthwise_pixels)(tc, s, to, x + ox * s.step_pixel, w, ends, c,
                                                   y ? y + ox * s.y_pixel : NULL, f ? f + ox * s.y_pixel : NULL);
        }
        if (rest) {
            EDGEPV_N(edgepv_code_depthwise_pixels)(rest, s, to, x + ox * s.step_pixel, w, ends, c,
                                                   y ? y + ox * s.y_pixel : NULL, f ? f + ox * s.y_pixel : NULL);
        }
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_code_taps_part)(const size_t from, const size_t to_channel,
                                                   const edgepv_shape s, const edgepv_bounds to,
                                                   const size_t pixels, const size_t at, const uint8_t *const *x,
                                                   const int8_t *w, const edgepv_ends ends, uint8_t *y,
                                                   int32_t *sums) {
    EDGEPV_ROLLED
    for (size_t c = from; c < to_channel; c += EDGEPV_L) {
        I total = EDGEPV_N(edgepv_load)(sums ? sums + c : ends.begin + c);
        EDGEPV_ROLLED
        for (size_t p = at; p < at + pixels; p++) {
            I sum = EDGEPV_N(edgepv_load)(ends.begin + c);
            EDGEPV_UNROLL
            for (size_t k = 0; k < s.sources; k++) {
                sum += EDGEPV_N(edgepv_times)(EDGEPV_N(edgepv_wide)(x[k] + p * s.step_pixel + c),
                                              EDGEPV_N(edgepv_signed)(w + k * s.channels + c));
            }
            uint8_t *const out = y + p * s.y_pixel + c;
            EDGEPV_N(edgepv_end)(sum, ends, c, to, EDGEPV_L, out, NULL);
            total += EDGEPV_N(edgepv_wide)(out);
        }
        if (sums) {
            EDGEPV_N(edgepv_store)(sums + c, total);
        }
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_code_sums_part)(const size_t from, const size_t to_channel, const size_t height,
                                                   const size_t width, const size_t row, const size_t pixel,
                                                   const uint8_t *x, int32_t *sums) {
    EDGEPV_ROLLED
    for (size_t c = from; c < to_channel; c += EDGEPV_L) {
        I sum = EDGEPV_N(edgepv_wide)(x + c);
        sum -= sum;
        EDGEPV_ROLLED
        for (size_t i = 0; i < height; i++) {
            EDGEPV_ROLLED
            for (size_t j = 0; j < width; j++) {
                sum += EDGEPV_N(edgepv_wide)(x + i * row + j * pixel + c);
            }
        }
        EDGEPV_N(edgepv_store)(sums + c, sum);
    }
}

/* Codes of whole vectors of floats; returns how many values are done. */
EDGEPV_INLINE size_t EDGEPV_N(edgepv_quantize)(const size_t count, const float scale, const edgepv_bounds to,
                                               const float *x, uint8_t *y) {
    size_t i = 0;
    EDGEPV_ROLLED
    for (; i + EDGEPV_L <= count; i += EDGEPV_L) {
        EDGEPV_N(edgepv_put_codes)(y + i, EDGEPV_N(edgepv_floats)(x + i) / scale, to);
    }
    return i;
}

EDGEPV_INLINE size_t EDGEPV_N(edgepv_code_add)(size_t i, const size_t count, const edgepv_code a,
                                               const edgepv_code b, const float scale, const edgepv_bounds to,
                                               const uint8_t *xa, const uint8_t *xb, uint8_t *y) {
    EDGEPV_ROLLED
    for (; i + EDGEPV_L <= count; i += EDGEPV_L) {
        F one = EDGEPV_N(edgepv_real)(EDGEPV_N(edgepv_wide)(xa + i) - a.zero) * a.scale;
        F other = EDGEPV_N(edgepv_real)(EDGEPV_N(edgepv_wide)(xb + i) - b.zero) * b.scale;
        EDGEPV_ROUNDED(one);
        EDGEPV_ROUNDED(other);
        EDGEPV_N(edgepv_put_codes)(y + i, (one + other) / scale, to);
    }
    return i;
}

EDGEPV_INLINE void EDGEPV_N(edgepv_code_scale_part)(const size_t from, const size_t to_channel,
                                                    const size_t pixels, const size_t x_pixel,
                                                    const size_t y_pixel, const edgepv_code a, const edgepv_code b,
                                                    const float scale, const edgepv_bounds to, const uint8_t *x,
                                                    const uint8_t *factors, uint8_t *y) {
    EDGEPV_ROLLED
    for (size_t c = from; c < to_channel; c += EDGEPV_L) {
        const F factor = EDGEPV_N(edgepv_real)(EDGEPV_N(edgepv_wide)(factors + c) - b.zero) * b.scale;
        EDGEPV_ROLLED
        for (size_t p = 0; p < pixels; p++) {
            const F v = EDGEPV_N(edgepv_real)(EDGEPV_N(edgepv_wide)(x + p * x_pixel + c) - a.zero) * a.scale;
            EDGEPV_N(edgepv_put_codes)(y + p * y_pixel + c, v * factor / scale, to);
        }
    }
}

#undef I
#undef F
#undef FOUR
#undef WEIGHT
#undef EDGEPV_N

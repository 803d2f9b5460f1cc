/* edgepv_lanes.h: kernels for vectors of EDGEPV_L floats; included by edgepv_kernels.h once for each width. */
#define EDGEPV_PASTE(name, lanes) name##_##lanes
#define EDGEPV_JOIN(name, lanes) EDGEPV_PASTE(name, lanes)
#define EDGEPV_N(name) EDGEPV_JOIN(name, EDGEPV_L)
#define V EDGEPV_N(edgepv_v)

#if EDGEPV_L == 1
typedef float V;
#define EDGEPV_LOAD(p) (*(p))
#define EDGEPV_STORE(p, v) (*(p) = (v))
EDGEPV_INLINE V EDGEPV_N(edgepv_same)(const float x) { return x; }
EDGEPV_INLINE V EDGEPV_N(edgepv_low)(const V v, const V low) { return v < low ? low : v; }
EDGEPV_INLINE V EDGEPV_N(edgepv_high)(const V v, const V high) { return v > high ? high : v; }
#else
typedef float V __attribute__((vector_size(4 * EDGEPV_L)));
typedef float EDGEPV_N(edgepv_u) __attribute__((vector_size(4 * EDGEPV_L), aligned(4), may_alias));
typedef int32_t EDGEPV_N(edgepv_i) __attribute__((vector_size(4 * EDGEPV_L)));
#define EDGEPV_LOAD(p) (*(const EDGEPV_N(edgepv_u) *)(p))
#define EDGEPV_STORE(p, v) (*(EDGEPV_N(edgepv_u) *)(p) = (v))
EDGEPV_INLINE V EDGEPV_N(edgepv_same)(const float x) {
    const V zero = {0};
    return zero + x;
}
/* NaN stays NaN in both. */
EDGEPV_INLINE V EDGEPV_N(edgepv_low)(const V v, const V low) {
    const EDGEPV_N(edgepv_i) below = v < low;
    return (V)(((EDGEPV_N(edgepv_i))v & ~below) | ((EDGEPV_N(edgepv_i))low & below));
}
EDGEPV_INLINE V EDGEPV_N(edgepv_high)(const V v, const V high) {
    const EDGEPV_N(edgepv_i) above = v > high;
    return (V)(((EDGEPV_N(edgepv_i))v & ~above) | ((EDGEPV_N(edgepv_i))high & above));
}
#endif

EDGEPV_INLINE V EDGEPV_N(edgepv_acted)(V v, const edgepv_act act) {
    if (act.kind == EDGEPV_HARD) {
        v = v * act.scale;
        EDGEPV_APART(v);
        v = v + act.shift;
    }
    if (act.kind == EDGEPV_RELU) {
        v = EDGEPV_N(edgepv_low)(v, EDGEPV_N(edgepv_same)(0.0f));
    } else if (act.kind != EDGEPV_AS_IS) {
        v = EDGEPV_N(edgepv_high)(EDGEPV_N(edgepv_low)(v, EDGEPV_N(edgepv_same)(act.low)),
                                  EDGEPV_N(edgepv_same)(act.high));
    }
    return v;
}

/* The first room of the floats at p, which may be all, some or none of the lanes. */
EDGEPV_INLINE V EDGEPV_N(edgepv_part)(const float *p, const size_t room) {
    if (room >= EDGEPV_L) {
        return EDGEPV_LOAD(p);
    }
    float lanes[EDGEPV_L] = {0};
    for (size_t i = 0; i < EDGEPV_L && i < room; i++) {
        lanes[i] = p[i];
    }
    return EDGEPV_LOAD(lanes);
}

EDGEPV_INLINE void EDGEPV_N(edgepv_put)(float *p, const V v, const size_t room) {
    if (room >= EDGEPV_L) {
        EDGEPV_STORE(p, v);
        return;
    }
    float lanes[EDGEPV_L];
    EDGEPV_STORE(lanes, v);
    for (size_t i = 0; i < EDGEPV_L && i < room; i++) {
        p[i] = lanes[i];
    }
}

EDGEPV_INLINE size_t EDGEPV_N(edgepv_left)(const size_t room, const size_t lane) {
    return room > lane ? room - lane : 0;
}

/* tr x tc pixels by nv vectors; at: floats from each source to the window of the first pixel. */
EDGEPV_INLINE void EDGEPV_N(edgepv_tile)(const size_t nv, const size_t tr, const size_t tc, const edgepv_shape s,
                                         const edgepv_act act, const size_t room, const size_t at,
                                         const float *const *x, const float *w, const float *b, const float *r,
                                         float *y) {
    V sums[EDGEPV_MOST_PIXELS][EDGEPV_BLOCK / (EDGEPV_L > 8 ? 16 : EDGEPV_L)];
    EDGEPV_UNROLL
    for (size_t p = 0; p < tr * tc; p++) {
        EDGEPV_UNROLL
        for (size_t v = 0; v < nv; v++) {
            sums[p][v] = EDGEPV_LOAD(b + EDGEPV_L * v);
            if (r) {
                sums[p][v] += EDGEPV_N(edgepv_part)(r + p / tc * s.r_row + p % tc * s.r_pixel + EDGEPV_L * v,
                                                    EDGEPV_N(edgepv_left)(room, EDGEPV_L * v));
            }
        }
    }
    EDGEPV_ROLLED
    for (size_t k = 0; k < s.sources; k++) {
        EDGEPV_ROLLED
        for (size_t down = 0; down < s.taps_down; down++) {
            EDGEPV_ROLLED
            for (size_t across = 0; across < s.taps_across; across++) {
                const float *q = x[k] + at + down * s.tap_row + across * s.tap_pixel;
                EDGEPV_ROLLED
                for (size_t i = 0; i < s.channels; i++, w += EDGEPV_L * nv) {
#if EDGEPV_L > 1
                    V weights[EDGEPV_BLOCK / (EDGEPV_L > 8 ? 16 : EDGEPV_L)];
                    EDGEPV_UNROLL
                    for (size_t v = 0; v < nv; v++) {
                        weights[v] = EDGEPV_LOAD(w + EDGEPV_L * v);
                    }
#endif
                    EDGEPV_UNROLL
                    for (size_t p = 0; p < tr * tc; p++) { /* one value in a register at a time */
                        const float value = q[p / tc * s.step_row + p % tc * s.step_pixel + i];
                        EDGEPV_UNROLL
                        for (size_t v = 0; v < nv; v++) {
#if EDGEPV_L == 1 /* one pixel: every weight is used once, and registers are few */
                            V product = value * w[v];
#else
                            V product = value * weights[v];
#endif
                            EDGEPV_APART(product);
                            sums[p][v] += product;
                        }
                    }
                }
            }
        }
    }
    EDGEPV_UNROLL
    for (size_t p = 0; p < tr * tc; p++) {
        EDGEPV_UNROLL
        for (size_t v = 0; v < nv; v++) {
            EDGEPV_N(edgepv_put)(y + p / tc * s.y_row + p % tc * s.y_pixel + EDGEPV_L * v,
                                 EDGEPV_N(edgepv_acted)(sums[p][v], act),
                                 EDGEPV_N(edgepv_left)(room, EDGEPV_L * v));
        }
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_depthwise_pixels)(const size_t pixels, const edgepv_shape s,
                                                     const edgepv_act act, const float *x, const float *w,
                                                     const float *b, float *y) {
    V sums[EDGEPV_MOST_PIXELS];
    EDGEPV_UNROLL
    for (size_t p = 0; p < pixels; p++) {
        sums[p] = EDGEPV_LOAD(b);
    }
    EDGEPV_UNROLL
    for (size_t down = 0; down < s.taps_down; down++) {
        EDGEPV_UNROLL
        for (size_t across = 0; across < s.taps_across; across++) {
            const V weight = EDGEPV_LOAD(w + (down * s.taps_across + across) * s.channels);
            EDGEPV_UNROLL
            for (size_t p = 0; p < pixels; p++) {
                V product = EDGEPV_LOAD(x + down * s.tap_row + across * s.tap_pixel + p * s.step_pixel) * weight;
                EDGEPV_APART(product);
                sums[p] += product;
            }
        }
    }
    EDGEPV_UNROLL
    for (size_t p = 0; p < pixels; p++) {
        EDGEPV_STORE(y + p * s.y_pixel, EDGEPV_N(edgepv_acted)(sums[p], act));
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_depthwise_row)(const size_t from, const size_t to, const edgepv_shape s,
                                                  const edgepv_act act, const size_t tc, const float *x,
                                                  const float *w, const float *b, float *y) {
    const size_t rest = s.width % tc;
    EDGEPV_ROLLED
    for (size_t c = from; c < to; c += EDGEPV_L) {
        size_t ox = 0;
        EDGEPV_ROLLED
        for (; ox + tc <= s.width; ox += tc) {
            EDGEPV_N(edgepv_depthwise_pixels)(tc, s, act, x + ox * s.step_pixel + c, w + c, b + c,
                                              y + ox * s.y_pixel + c);
        }
        if (rest) {
            EDGEPV_N(edgepv_depthwise_pixels)(rest, s, act, x + ox * s.step_pixel + c, w + c, b + c,
                                              y + ox * s.y_pixel + c);
        }
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_taps_part)(const size_t from, const size_t to, const edgepv_shape s,
                                              const edgepv_act act, const size_t pixels, const size_t at,
                                              const float *const *x, const float *w, const float *b, float *y,
                                              float *means) {
    EDGEPV_ROLLED
    for (size_t c = from; c < to; c += EDGEPV_L) {
        V total = EDGEPV_N(edgepv_same)(0.0f);
        EDGEPV_ROLLED
        for (size_t p = at; p < at + pixels; p++) {
            V sum = EDGEPV_LOAD(b + c);
            EDGEPV_UNROLL
            for (size_t k = 0; k < s.sources; k++) {
                V product = EDGEPV_LOAD(x[k] + p * s.step_pixel + c) * EDGEPV_LOAD(w + k * s.channels + c);
                EDGEPV_APART(product);
                sum += product;
            }
            sum = EDGEPV_N(edgepv_acted)(sum, act);
            total += sum;
            EDGEPV_STORE(y + p * s.y_pixel + c, sum);
        }
        if (means) {
            EDGEPV_STORE(means + c, EDGEPV_LOAD(means + c) + total);
        }
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_dense_part)(const size_t from, const size_t to, const size_t channels,
                                               const size_t padded, const size_t room, const edgepv_act act,
                                               const float *x, const float *w, const float *b, float *y) {
    const size_t fours = channels / 4 * 4; /* four sums, as one would wait for itself */
    EDGEPV_ROLLED
    for (size_t c = from; c < to; c += EDGEPV_L) {
        const V zero = EDGEPV_N(edgepv_same)(0.0f);
        V sums[4] = {EDGEPV_LOAD(b + c), zero, zero, zero};
        EDGEPV_ROLLED
        for (size_t i = 0; i < fours; i += 4) {
            EDGEPV_UNROLL
            for (size_t j = 0; j < 4; j++) {
                V product = x[i + j] * EDGEPV_LOAD(w + (i + j) * padded + c);
                EDGEPV_APART(product);
                sums[j] += product;
            }
        }
        for (size_t i = fours; i < channels; i++) {
            V product = x[i] * EDGEPV_LOAD(w + i * padded + c);
            EDGEPV_APART(product);
            sums[0] += product;
        }
        EDGEPV_N(edgepv_put)(y + c, EDGEPV_N(edgepv_acted)((sums[0] + sums[1]) + (sums[2] + sums[3]), act),
                             EDGEPV_N(edgepv_left)(room, c));
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_mean_part)(const size_t from, const size_t to, const size_t height,
                                              const size_t width, const size_t row, const size_t pixel,
                                              const float *x, float *y) {
    for (size_t c = from; c < to; c += EDGEPV_L) {
        V sum = EDGEPV_N(edgepv_same)(0.0f);
        for (size_t i = 0; i < height; i++) {
            for (size_t j = 0; j < width; j++) {
                sum += EDGEPV_LOAD(x + i * row + j * pixel + c);
            }
        }
        EDGEPV_STORE(y + c, sum * (1.0f / (float)(height * width)));
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_most)(const size_t from, const size_t to, const size_t rows,
                                         const size_t columns, const size_t row, const size_t pixel,
                                         const float *x, float *y) {
    for (size_t c = from; c < to; c += EDGEPV_L) { /* the largest of a window that lies inside the picture */
        V most = EDGEPV_LOAD(x + c);
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < columns; j++) {
                most = EDGEPV_N(edgepv_low)(most, EDGEPV_LOAD(x + i * row + j * pixel + c));
            }
        }
        EDGEPV_STORE(y + c, most);
    }
}

/* e to the power of v: 2 to its whole part times a polynomial of the rest (coefficients of Cephes' expf), within
 * 2 units in the last place. Below -87 it is what float calls next to nothing. */
EDGEPV_INLINE V EDGEPV_N(edgepv_exp)(const V v) {
#if EDGEPV_L == 1
    return expf(v);
#else
    const V x = EDGEPV_N(edgepv_high)(EDGEPV_N(edgepv_low)(v, EDGEPV_N(edgepv_same)(-87.0f)),
                                      EDGEPV_N(edgepv_same)(88.0f));
    const V magic = EDGEPV_N(edgepv_same)(12582912.0f); /* 1.5 * 2^23: what is added to it is rounded to whole */
    const V shifted = x * 1.44269504f + magic, whole = shifted - magic;
    const V rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    V sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    const EDGEPV_N(edgepv_i) bits = (EDGEPV_N(edgepv_i))shifted << 23; /* the whole part as an exponent */
    return (V)((EDGEPV_N(edgepv_i))sum + bits) + (x - x); /* NaN stays NaN */
#endif
}

/* Softmax of whole vectors; what is left over is up to the caller. Returns how many values are done, and adds their
 * exponentials to sum. */
EDGEPV_INLINE size_t EDGEPV_N(edgepv_exp_row)(const size_t count, const float most, const float *x, float *y,
                                              float *sum) {
    V total = EDGEPV_N(edgepv_same)(0.0f);
    size_t i = 0;
    for (; i + EDGEPV_L <= count; i += EDGEPV_L) {
        const V e = EDGEPV_N(edgepv_exp)(EDGEPV_LOAD(x + i) - most);
        total += e;
        EDGEPV_STORE(y + i, e);
    }
    float lanes[EDGEPV_L];
    EDGEPV_STORE(lanes, total);
    for (size_t lane = 0; lane < EDGEPV_L; lane++) {
        *sum += lanes[lane];
    }
    return i;
}

#undef EDGEPV_LOAD
#undef EDGEPV_STORE
#undef V
#undef EDGEPV_N

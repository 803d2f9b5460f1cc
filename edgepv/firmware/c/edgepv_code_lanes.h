/* edgepv_code_lanes.h: kernels for vectors of EDGEPV_L codes; included by edgepv_codes.h once for each width. */
#define EDGEPV_PASTE(name, lanes) name##_##lanes
#define EDGEPV_JOIN(name, lanes) EDGEPV_PASTE(name, lanes)
#define EDGEPV_N(name) EDGEPV_JOIN(name, EDGEPV_L)
#define I EDGEPV_N(edgepv_sums)
#define F EDGEPV_N(edgepv_reals)
#define FOUR EDGEPV_N(edgepv_four)
#define WEIGHT EDGEPV_N(edgepv_weight)
#if EDGEPV_L == 1 /* registers are few, and code is what a small machine has little room for */
#define EDGEPV_SPREAD EDGEPV_ROLLED
#else
#define EDGEPV_SPREAD EDGEPV_UNROLL
#endif

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
    *p = edgepv_nearest(v, to);
}

#else

typedef int32_t I __attribute__((vector_size(4 * EDGEPV_L)));
typedef float F __attribute__((vector_size(4 * EDGEPV_L)));

#if EDGEPV_L == 16
#define EDGEPV_X86(name) _mm512_##name
#define EDGEPV_BITS __m512i
EDGEPV_INLINE I EDGEPV_N(edgepv_load)(const int32_t *p) { return (I)_mm512_loadu_si512(p); }
EDGEPV_INLINE void EDGEPV_N(edgepv_store)(int32_t *p, const I v) { _mm512_storeu_si512(p, (__m512i)v); }
EDGEPV_INLINE __m128i EDGEPV_N(edgepv_bytes)(const void *p) { return _mm_loadu_si128(p); }
EDGEPV_INLINE I EDGEPV_N(edgepv_all)(const void *p) { return (I)_mm512_loadu_si512(p); }
EDGEPV_INLINE void EDGEPV_N(edgepv_narrow)(uint8_t *p, const I v) {
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8((__m512i)v));
}
#elif EDGEPV_L == 8
#define EDGEPV_X86(name) _mm256_##name
#define EDGEPV_BITS __m256i
EDGEPV_INLINE I EDGEPV_N(edgepv_load)(const int32_t *p) { return (I)_mm256_loadu_si256((const void *)p); }
EDGEPV_INLINE void EDGEPV_N(edgepv_store)(int32_t *p, const I v) { _mm256_storeu_si256((void *)p, (__m256i)v); }
EDGEPV_INLINE __m128i EDGEPV_N(edgepv_bytes)(const void *p) { return _mm_loadl_epi64(p); }
EDGEPV_INLINE I EDGEPV_N(edgepv_all)(const void *p) { return (I)_mm256_loadu_si256(p); }
EDGEPV_INLINE void EDGEPV_N(edgepv_narrow)(uint8_t *p, const I v) {
    const __m128i low = _mm256_castsi256_si128((__m256i)v), high = _mm256_extracti128_si256((__m256i)v, 1);
    const __m128i words = _mm_packs_epi32(low, high);
    _mm_storel_epi64((void *)p, _mm_packus_epi16(words, words));
}
#endif

#if EDGEPV_L >= 8

EDGEPV_INLINE I EDGEPV_N(edgepv_wide)(const uint8_t *p) {
    return (I)EDGEPV_X86(cvtepu8_epi32)(EDGEPV_N(edgepv_bytes)(p));
}
EDGEPV_INLINE I EDGEPV_N(edgepv_signed)(const int8_t *p) {
    return (I)EDGEPV_X86(cvtepi8_epi32)(EDGEPV_N(edgepv_bytes)(p));
}
EDGEPV_INLINE F EDGEPV_N(edgepv_floats)(const float *p) { return (F)EDGEPV_X86(loadu_ps)(p); }
EDGEPV_INLINE void EDGEPV_N(edgepv_store_floats)(float *p, const F v) { EDGEPV_X86(storeu_ps)(p, v); }
EDGEPV_INLINE I EDGEPV_N(edgepv_times)(const I a, const I b) { /* a: not negative, so that its upper half is 0 */
    return (I)EDGEPV_X86(madd_epi16)((EDGEPV_BITS)a, (EDGEPV_BITS)b);
}
EDGEPV_INLINE EDGEPV_BITS EDGEPV_N(edgepv_same_four)(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return EDGEPV_X86(set1_epi32)(four);
}
#if defined(__AVX512VNNI__) && defined(__AVX512VL__) || (EDGEPV_L == 8 && defined(__AVXVNNI__))
typedef EDGEPV_BITS FOUR;
typedef EDGEPV_BITS WEIGHT;
EDGEPV_INLINE FOUR EDGEPV_N(edgepv_fours)(const uint8_t *p) { return EDGEPV_N(edgepv_same_four)(p); }
EDGEPV_INLINE WEIGHT EDGEPV_N(edgepv_weights)(const int8_t *p) { return (EDGEPV_BITS)EDGEPV_N(edgepv_all)(p); }
EDGEPV_INLINE I EDGEPV_N(edgepv_dot)(const I sum, const FOUR x, const WEIGHT w) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return (I)EDGEPV_X86(dpbusd_epi32)((EDGEPV_BITS)sum, x, w);
#else
    return (I)_mm256_dpbusd_avx_epi32((__m256i)sum, x, w);
#endif
}
#else /* in words, as products of bytes summed two by two may leave 16 bits */
typedef struct {
    EDGEPV_BITS even, odd;
} FOUR;
typedef FOUR WEIGHT;
EDGEPV_INLINE FOUR EDGEPV_N(edgepv_fours)(const uint8_t *p) {
    const EDGEPV_BITS v = EDGEPV_N(edgepv_same_four)(p);
    const FOUR four = {(EDGEPV_BITS)((I)v & 0x00ff00ff), EDGEPV_X86(srli_epi16)(v, 8)};
    return four;
}
EDGEPV_INLINE WEIGHT EDGEPV_N(edgepv_weights)(const int8_t *p) {
    const EDGEPV_BITS v = (EDGEPV_BITS)EDGEPV_N(edgepv_all)(p);
    const WEIGHT weight = {EDGEPV_X86(srai_epi16)(EDGEPV_X86(slli_epi16)(v, 8), 8), EDGEPV_X86(srai_epi16)(v, 8)};
    return weight;
}
EDGEPV_INLINE I EDGEPV_N(edgepv_dot)(const I sum, const FOUR x, const WEIGHT w) {
    return sum + (I)EDGEPV_X86(madd_epi16)(x.even, w.even) + (I)EDGEPV_X86(madd_epi16)(x.odd, w.odd);
}
#endif
EDGEPV_INLINE F EDGEPV_N(edgepv_real)(const I v) { return (F)EDGEPV_X86(cvtepi32_ps)((EDGEPV_BITS)v); }
EDGEPV_INLINE void EDGEPV_N(edgepv_put_codes)(uint8_t *p, const F v, const edgepv_bounds to) {
    const F above = (F)EDGEPV_X86(max_ps)(v, EDGEPV_X86(set1_ps)(edgepv_lowest(to))); /* of NaN the second */
    const F held = (F)EDGEPV_X86(min_ps)(above, EDGEPV_X86(set1_ps)(edgepv_highest(to)));
    EDGEPV_N(edgepv_narrow)(p, (I)EDGEPV_X86(cvtps_epi32)(held) + to.zero);
}
#undef EDGEPV_X86
#undef EDGEPV_BITS

#else /* arm64 */

typedef int8x16_t FOUR; /* less 128, as its products are signed: what sums begin with makes up for it */
typedef int8x16_t WEIGHT;
EDGEPV_INLINE uint8x8_t EDGEPV_N(edgepv_bytes)(const void *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vreinterpret_u8_u32(vdup_n_u32(four));
}
EDGEPV_INLINE I EDGEPV_N(edgepv_wide)(const uint8_t *p) {
    return (I)vmovl_u16(vget_low_u16(vmovl_u8(EDGEPV_N(edgepv_bytes)(p))));
}
EDGEPV_INLINE I EDGEPV_N(edgepv_signed)(const int8_t *p) {
    return (I)vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(EDGEPV_N(edgepv_bytes)(p)))));
}
EDGEPV_INLINE I EDGEPV_N(edgepv_load)(const int32_t *p) { return (I)vld1q_s32(p); }
EDGEPV_INLINE void EDGEPV_N(edgepv_store)(int32_t *p, const I v) { vst1q_s32(p, (int32x4_t)v); }
EDGEPV_INLINE F EDGEPV_N(edgepv_floats)(const float *p) { return (F)vld1q_f32(p); }
EDGEPV_INLINE void EDGEPV_N(edgepv_store_floats)(float *p, const F v) { vst1q_f32(p, (float32x4_t)v); }
EDGEPV_INLINE I EDGEPV_N(edgepv_times)(const I a, const I b) { return a * b; }
EDGEPV_INLINE FOUR EDGEPV_N(edgepv_fours)(const uint8_t *p) {
    const uint8x8_t four = EDGEPV_N(edgepv_bytes)(p);
    return vreinterpretq_s8_u8(veorq_u8(vcombine_u8(four, four), vdupq_n_u8(0x80)));
}
EDGEPV_INLINE WEIGHT EDGEPV_N(edgepv_weights)(const int8_t *p) { return vld1q_s8(p); }
EDGEPV_INLINE I EDGEPV_N(edgepv_dot)(const I sum, const FOUR x, const WEIGHT w) {
#if defined(__ARM_FEATURE_DOTPROD)
    return (I)vdotq_s32((int32x4_t)sum, w, x);
#else
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(w), vget_high_s8(x)));
    return sum + (I)vpaddq_s32(low, high);
#endif
}
EDGEPV_INLINE F EDGEPV_N(edgepv_real)(const I v) { return (F)vcvtq_f32_s32((int32x4_t)v); }
EDGEPV_INLINE void EDGEPV_N(edgepv_put_codes)(uint8_t *p, const F v, const edgepv_bounds to) {
    const float32x4_t above = vmaxnmq_f32((float32x4_t)v, vdupq_n_f32(edgepv_lowest(to))); /* of NaN the second */
    const float32x4_t held = vminnmq_f32(above, vdupq_n_f32(edgepv_highest(to)));
    const int32x4_t codes = vaddq_s32(vcvtnq_s32_f32(held), vdupq_n_s32(to.zero));
    const uint16x4_t words = vqmovun_s32(codes);
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);
    memcpy(p, &four, sizeof four);
}

#endif
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
    EDGEPV_SPREAD
    for (size_t p = 0; p < tr * tc; p++) {
        EDGEPV_SPREAD
        for (size_t v = 0; v < nv; v++) {
            sums[p][v] = EDGEPV_N(edgepv_load)(ends.begin + c + EDGEPV_L * v);
#if EDGEPV_L == 4
            sums[p][v] += EDGEPV_N(edgepv_load)(ends.sign + c + EDGEPV_L * v);
#endif
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
                    EDGEPV_SPREAD
                    for (size_t v = 0; v < nv; v++) {
                        weights[v] = EDGEPV_N(edgepv_weights)(w + 4 * EDGEPV_L * v);
                    }
                    EDGEPV_SPREAD
                    for (size_t p = 0; p < tr * tc; p++) {
                        const FOUR four = EDGEPV_N(edgepv_fours)(q + p / tc * s.step_row + p % tc * s.step_pixel + i);
                        EDGEPV_SPREAD
                        for (size_t v = 0; v < nv; v++) {
                            sums[p][v] = EDGEPV_N(edgepv_dot)(sums[p][v], four, weights[v]);
                        }
                    }
                }
            }
        }
    }
    EDGEPV_SPREAD
    for (size_t p = 0; p < tr * tc; p++) {
        const size_t out = p / tc * s.y_row + p % tc * s.y_pixel;
        EDGEPV_SPREAD
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
    EDGEPV_SPREAD
    for (size_t p = 0; p < pixels; p++) {
        sums[p] = EDGEPV_N(edgepv_load)(ends.begin + c);
    }
    EDGEPV_SPREAD
    for (size_t down = 0; down < s.taps_down; down++) {
        EDGEPV_SPREAD
        for (size_t across = 0; across < s.taps_across; across++) {
            const I weight = EDGEPV_N(edgepv_signed)(w + (down * s.taps_across + across) * s.channels + c);
            const uint8_t *const q = x + down * s.tap_row + across * s.tap_pixel + c;
            EDGEPV_SPREAD
            for (size_t p = 0; p < pixels; p++) {
                sums[p] += EDGEPV_N(edgepv_times)(EDGEPV_N(edgepv_wide)(q + p * s.step_pixel), weight);
            }
        }
    }
    EDGEPV_SPREAD
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
            EDGEPV_SPREAD
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

EDGEPV_INLINE void EDGEPV_N(edgepv_quantize_part)(const size_t from, const size_t end, const float scale,
                                                  const edgepv_bounds to, const float *x, uint8_t *y) {
    EDGEPV_ROLLED
    for (size_t i = from; i < end; i += EDGEPV_L) {
        EDGEPV_N(edgepv_put_codes)(y + i, EDGEPV_N(edgepv_floats)(x + i) / scale, to);
    }
}

EDGEPV_INLINE void EDGEPV_N(edgepv_code_add_part)(const size_t from, const size_t end, const edgepv_code a,
                                                  const edgepv_code b, const float scale,
                                                  const edgepv_bounds to, const uint8_t *xa, const uint8_t *xb,
                                                  uint8_t *y) {
    EDGEPV_ROLLED
    for (size_t i = from; i < end; i += EDGEPV_L) {
        F one = EDGEPV_N(edgepv_real)(EDGEPV_N(edgepv_wide)(xa + i) - a.zero) * a.scale;
        F other = EDGEPV_N(edgepv_real)(EDGEPV_N(edgepv_wide)(xb + i) - b.zero) * b.scale;
        EDGEPV_ROUNDED(one);
        EDGEPV_ROUNDED(other);
        EDGEPV_N(edgepv_put_codes)(y + i, (one + other) / scale, to);
    }
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
#undef EDGEPV_SPREAD
#undef EDGEPV_N

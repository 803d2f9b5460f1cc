/* Kernels for the peaks of one core. Each does n rounds of independent multiply-adds, or reads memory. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#define KEEP(value) "+v"(value)
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define KEEP(value) "+w"(value)
#endif

typedef float floats __attribute__((vector_size(WIDTH), may_alias, aligned(4)));
typedef double doubles __attribute__((vector_size(WIDTH), may_alias, aligned(8)));

/* As many sums at once as hide the latency of an instruction on two ports, in registers. */
#define SUMS 12
#define UNROLLED _Pragma("GCC unroll 12")
#define ROUNDS 100

double fp32_operations(void) { return (double)ROUNDS * SUMS * (WIDTH / 4) * 2; }

double fp32(long n) {
    floats sums[SUMS], a, b;
    for (int k = 0; k < WIDTH / 4; k++) {
        a[k] = 0.999f;
        b[k] = 1e-3f;
    }
    UNROLLED for (int i = 0; i < SUMS; i++) sums[i] = b * (float)i;
    for (long j = 0; j < n * ROUNDS; j++) {
        UNROLLED for (int i = 0; i < SUMS; i++) {
            sums[i] = sums[i] * a + b;
            __asm__ volatile("" : KEEP(sums[i]));
        }
    }
    floats all = sums[0];
    UNROLLED for (int i = 1; i < SUMS; i++) all += sums[i];
    return all[0];
}

#if defined(__AVX512VNNI__)
#define KIND "AVX-512 VNNI"
typedef __m512i integers;
#define START(i) _mm512_set1_epi8((char)(i + 1))
#define ADD(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define FIRST(sum) _mm_cvtsi128_si32(_mm512_castsi512_si128(sum))
#define BYTES 64
#elif defined(__AVXVNNI__)
#define KIND "AVX VNNI"
typedef __m256i integers;
#define START(i) _mm256_set1_epi8((char)(i + 1))
#define ADD(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#define FIRST(sum) _mm_cvtsi128_si32(_mm256_castsi256_si128(sum))
#define BYTES 32
#elif defined(__AVX2__)
#define KIND "AVX2 maddubs and madd"
typedef __m256i integers;
#define START(i) _mm256_set1_epi8((char)(i + 1))
#define ADD(sum, a, b) \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#define FIRST(sum) _mm_cvtsi128_si32(_mm256_castsi256_si128(sum))
#define BYTES 32
#elif defined(__ARM_FEATURE_DOTPROD)
#define KIND "SDOT"
typedef int32x4_t integers;
#define START(i) vreinterpretq_s32_s8(vdupq_n_s8((int8_t)(i + 1)))
#define ADD(sum, a, b) vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#define FIRST(sum) vgetq_lane_s32(sum, 0)
#define BYTES 16
#elif defined(__ARM_NEON)
#define KIND "NEON multiply and pairwise add"
typedef int32x4_t integers;
#define START(i) vreinterpretq_s32_s8(vdupq_n_s8((int8_t)(i + 1)))
#define LOW(v) vget_low_s8(vreinterpretq_s8_s32(v))
#define HIGH(v) vget_high_s8(vreinterpretq_s8_s32(v))
#define ADD(sum, a, b) vpadalq_s16(vpadalq_s16(sum, vmull_s8(LOW(a), LOW(b))), vmull_s8(HIGH(a), HIGH(b)))
#define FIRST(sum) vgetq_lane_s32(sum, 0)
#define BYTES 16
#endif

#if defined(KIND)
const char *int8_kind(void) { return KIND; }

double int8_operations(void) { return (double)ROUNDS * SUMS * BYTES * 2; }

double int8(long n) {
    integers sums[SUMS], a = START(1), b = START(2);
    UNROLLED for (int i = 0; i < SUMS; i++) sums[i] = START(i);
    for (long j = 0; j < n * ROUNDS; j++) {
        __asm__ volatile("" : KEEP(a), KEEP(b)); /* the products are not the same ones, for all it knows */
        UNROLLED for (int i = 0; i < SUMS; i++) {
            sums[i] = ADD(sums[i], a, b);
            __asm__ volatile("" : KEEP(sums[i]));
        }
    }
    int all = 0;
    UNROLLED for (int i = 0; i < SUMS; i++) all += FIRST(sums[i]);
    return all;
}
#else
const char *int8_kind(void) { return ""; }
double int8_operations(void) { return 0; }
double int8(long n) { return (double)n; }
#endif

/* Read so many bytes n times. */
double read_all(const void *from, size_t bytes, long n) {
    doubles sums[8];
    memset(sums, 0, sizeof sums);
    const size_t step = sizeof sums;
    for (long j = 0; j < n; j++) {
        const char *p = from;
        for (size_t at = 0; at + step <= bytes; at += step) {
            for (int i = 0; i < 8; i++) sums[i] += *(const doubles *)(p + at + i * WIDTH);
        }
        __asm__ volatile("" ::: "memory");
    }
    doubles all = sums[0];
    for (int i = 1; i < 8; i++) all += sums[i];
    return all[0];
}

/* edgepv_picture.h: a camera's pictures at another size, a row at a time, number for number as OpenCV makes them
 * (cv2.resize with INTER_AREA, COLOR_YUV2BGR_NV12, COLOR_BGR2GRAY). For edgepv_core.c alone.
 */
#ifndef EDGEPV_PICTURE_H
#define EDGEPV_PICTURE_H

#include "edgepv_model.h"

#include <float.h>
#include <string.h>

#define LEAST(type, last) (offsetof(type, last) + sizeof(((type *)0)->last)) /* the fields of ABI 1 */
#define MOST_SIDE 16384u /* pixels: keeps every sum and index below 32 bits */
#define LINEAR_ONE 2048  /* OpenCV's unit of weights when it enlarges bytes */

#if (__GNUC__ > 8 || defined(__clang__)) && (defined(__SSE2__) || defined(__ARM_NEON)) && !defined(__ARM_BIG_ENDIAN)
#define COLOURS_TOGETHER 1 /* vectors of GCC and clang; elsewhere the same in plain C99 */
typedef float colours __attribute__((vector_size(16)));
typedef int32_t four_numbers __attribute__((vector_size(16)));
typedef int16_t eight_numbers __attribute__((vector_size(16)));
typedef int8_t sixteen_numbers __attribute__((vector_size(16)));
#if defined(__clang__)
#define MIXED(kind, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(kind, a, b, ...) __builtin_shuffle(a, b, (kind){__VA_ARGS__})
#endif
#define BACKWARDS(v) MIXED(four_numbers, v, v, 2, 1, 0, 3)
#else
#define COLOURS_TOGETHER 0
#endif

typedef struct { /* memory that is handed out part by part; without a base it is only counted */
    uint8_t *base;
    size_t used;
} store;

typedef enum { SAME_SIZE, WHOLE_FACTORS, AREA, LINEAR } scaling;

typedef struct { /* what one pixel of the result takes along one axis */
    uint32_t first, count;   /* source pixels */
    float head, body, tail;  /* AREA: weights of the first, of those between, of the last */
    int32_t own, next;       /* LINEAR: weights of two neighbours */
} tap;

typedef struct {
    edgepv_camera camera;
    scaling how;
    uint32_t width, height;       /* of the result */
    uint32_t channels;            /* bytes of a pixel in a row: NV12 is 4 once it is blue, green, red and nothing */
    uint32_t factor_x, factor_y;  /* of WHOLE_FACTORS */
    tap *columns, *rows;
    uint32_t *converted;          /* one source row of NV12, as pixels */
    uint8_t *small;               /* one row of the result */
    void *sums[2];                /* two rows of the result before they are rounded: float, uint32_t or int32_t */
    uint32_t held[2];             /* AREA, LINEAR: the source row, counted from 1, whose sums are there; 0 for none */
} resizer;

static void *take(store *from, size_t bytes)
{
    size_t at = from->used;

    from->used += (bytes + EDGEPV_ALIGN - 1) / EDGEPV_ALIGN * EDGEPV_ALIGN;
    return from->base == NULL ? NULL : from->base + at;
}

/* --- sizes and tables of a resize -------------------------------------------------------------------- */

static uint32_t bytes_per_pixel(uint32_t format)
{
    return format == EDGEPV_BGR24 || format == EDGEPV_RGB24 ? 3u : 1u;
}

/* OpenCV's scale of one axis: source pixels per pixel of the result, through the reciprocal. */
static double scale_of(uint32_t source, uint32_t result)
{
    double inverse = (double)result / (double)source;
    return 1.0 / inverse;
}

static int is_whole(double scale)
{
    double off = scale - (double)(uint32_t)(scale + 0.5);
    return off < DBL_EPSILON && -off < DBL_EPSILON;
}

static scaling scaling_of(const edgepv_camera *camera, uint32_t width, uint32_t height)
{
    if (camera->width == width && camera->height == height)
        return SAME_SIZE;
    double x = scale_of(camera->width, width), y = scale_of(camera->height, height);
    if (!(x >= 1.0 && y >= 1.0))
        return LINEAR;
    return is_whole(x) && is_whole(y) ? WHOLE_FACTORS : AREA;
}

/* Round half to even, for 0 <= value < 2^22: adding 2^23 leaves no bits behind the point. */
static int32_t rounded(float value)
{
    float shifted = value + 8388608.0f;
    return (int32_t)(shifted - 8388608.0f);
}

static uint8_t byte_of(float value)
{
    int32_t whole = rounded(value);
    return (uint8_t)(whole > 255 ? 255 : whole);
}

static uint32_t ceiling(double value)
{
    uint32_t whole = (uint32_t)value;
    return (double)whole < value ? whole + 1 : whole;
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

/* Source pixels and their shares in result pixel `at`, as OpenCV's INTER_AREA weighs them. */
static tap area_tap(uint32_t at, uint32_t source, double scale)
{
    tap t = {0, 0, 0.0f, 0.0f, 0.0f, 0, 0};
    double start = at * scale, stop = start + scale;
    double width = least(scale, source - start);
    uint32_t begin = ceiling(start), end = (uint32_t)stop;

    end = end < source - 1 ? end : source - 1;
    begin = begin < end ? begin : end;
    t.first = begin;
    t.count = end - begin;
    t.head = t.body = t.tail = (float)(1.0 / width);
    if (stop - end > 1e-3) {
        t.count++;
        t.tail = (float)(least(least(stop - end, 1.0), width) / width);
        if (t.count == 1)
            t.head = t.tail;
    }
    if (begin - start > 1e-3) {
        t.first--;
        t.count++;
        t.head = (float)((begin - start) / width);
    }
    return t;
}

/* Two neighbours and their weights, as OpenCV's INTER_AREA enlarges. */
static tap linear_tap(uint32_t at, uint32_t source, double scale, double inverse)
{
    tap t = {0, 2, 0.0f, 0.0f, 0.0f, LINEAR_ONE, 0};

    t.first = (uint32_t)(at * scale);
    float part = (float)((double)(at + 1) - (double)(t.first + 1) * inverse);
    part = part <= 0.0f ? 0.0f : part - (float)(uint32_t)part;
    if (t.first + 1 >= source) {
        t.first = source - 1;
        t.count = 1;
        return t;
    }
    t.own = rounded((1.0f - part) * (float)LINEAR_ONE);
    t.next = rounded(part * (float)LINEAR_ONE);
    return t;
}

static void make_taps(tap *taps, uint32_t source, uint32_t result, scaling how)
{
    double inverse = (double)result / (double)source, scale = 1.0 / inverse;

    for (uint32_t at = 0; at < result; at++)
        taps[at] = how == AREA ? area_tap(at, source, scale) : linear_tap(at, source, scale, inverse);
}

/* --- one row of a picture ---------------------------------------------------------------------------- */

static uint8_t clamped(int32_t value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* From 20 bits behind the point to a byte. */
static uint8_t whole_byte(int32_t value)
{
    return clamped(value < 0 ? 0 : value >> 20);
}

/* A pixel as it lies in memory: blue, green, red and 0. */
static uint32_t pixel_of(uint32_t blue, uint32_t green, uint32_t red)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return blue << 24 | green << 16 | red << 8;
#else
    return blue | green << 8 | red << 16;
#endif
}

/* A row of NV12 as pixels: ITU-R BT.601, limited range, in OpenCV's fixed point. */
static void convert_nv12(const uint8_t *restrict luma, const uint8_t *restrict chroma, uint32_t width,
                         uint32_t *restrict pixels)
{
    const int32_t half = 1 << 19, luma_unit = 1220542;

    for (size_t x = 0; x < width; x += 2) {
        int32_t u = chroma[x] - 128, v = chroma[x + 1] - 128;
        int32_t blue = half + 2116026 * u, green = half - 409993 * u - 852492 * v, red = half + 1673527 * v;
        int32_t left = luma[x] < 16 ? 0 : (luma[x] - 16) * luma_unit;
        int32_t right = luma[x + 1] < 16 ? 0 : (luma[x + 1] - 16) * luma_unit;
        pixels[x] = pixel_of(whole_byte(left + blue), whole_byte(left + green), whole_byte(left + red));
        pixels[x + 1] = pixel_of(whole_byte(right + blue), whole_byte(right + green), whole_byte(right + red));
    }
}

/* Row y of the picture. */
static const uint8_t *source_row(const resizer *r, const edgepv_frame *frame, uint32_t y)
{
    const uint8_t *row = frame->plane[0] + (size_t)y * frame->stride[0];

    if (r->camera.format != EDGEPV_NV12)
        return row;
    convert_nv12(row, frame->plane[1] + (size_t)(y / 2) * frame->stride[1], r->camera.width, r->converted);
    return (const uint8_t *)r->converted;
}

static void add_whole(const uint8_t *row, uint32_t width, uint32_t factor, uint32_t *sums)
{
    for (uint32_t x = 0; x < width; x++, row += factor)
        for (uint32_t k = 0; k < factor; k++)
            sums[x] += row[k];
}

static void add_whole_colour(const uint8_t *row, uint32_t width, uint32_t channels, uint32_t factor, uint32_t *sums)
{
    for (uint32_t x = 0; x < width; x++, sums += channels) {
        uint32_t a = 0, b = 0, c = 0;
        for (uint32_t k = 0; k < factor; k++, row += channels) {
            a += row[0];
            b += row[1];
            c += row[2];
        }
        sums[0] += a;
        sums[1] += b;
        sums[2] += c;
    }
}

static void shrink_row(const uint8_t *row, const tap *taps, uint32_t width, float *sums)
{
    for (uint32_t x = 0; x < width; x++) {
        const tap *t = &taps[x];
        const uint8_t *p = row + t->first;
        float sum = (float)p[0] * t->head;
        for (uint32_t k = 1; k + 1 < t->count; k++)
            sum += (float)p[k] * t->body;
        if (t->count > 1)
            sum += (float)p[t->count - 1] * t->tail;
        sums[x] = sum;
    }
}

#if COLOURS_TOGETHER
/* The colours of a pixel; a byte more than three is read. */
static colours colours_of(const uint8_t *pixel)
{
    const sixteen_numbers none = {0};
    int32_t all;

    memcpy(&all, pixel, sizeof all);
    const sixteen_numbers bytes = (sixteen_numbers)(four_numbers){all};
    const eight_numbers words = (eight_numbers)MIXED(sixteen_numbers, bytes, none, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                                     6, 22, 7, 23);
    const eight_numbers wide = MIXED(eight_numbers, words, (eight_numbers)none, 0, 8, 1, 9, 2, 10, 3, 11);
    return __builtin_convertvector((four_numbers)wide, colours);
}

/* One value of all colours of a row; a float more than three is written. */
static void shrink_colours(const uint8_t *row, const tap *t, uint32_t channels, float *sums)
{
    const uint8_t *p = row + (size_t)channels * t->first;
    colours sum = colours_of(p) * t->head;

    for (uint32_t k = 1; k < t->count; k++) {
        p += channels;
        sum += colours_of(p) * (k + 1 < t->count ? t->body : t->tail);
    }
    memcpy(sums, &sum, sizeof sum);
}
#endif

static void shrink_row_colour(const uint8_t *row, const tap *taps, uint32_t width, uint32_t channels, float *sums)
{
    uint32_t x = 0;

#if COLOURS_TOGETHER /* the last pixel of three bytes has nothing behind it, in the picture as in the sums */
    const uint32_t together = channels < 4 ? width - 1 : width;
    for (; x < together; x++, sums += channels)
        shrink_colours(row, &taps[x], channels, sums);
#endif
    for (; x < width; x++, sums += channels) {
        const tap *t = &taps[x];
        const uint8_t *p = row + (size_t)channels * t->first;
        float a = (float)p[0] * t->head, b = (float)p[1] * t->head, c = (float)p[2] * t->head;
        for (uint32_t k = 1; k < t->count; k++) {
            float weight = k + 1 < t->count ? t->body : t->tail;
            p += channels;
            a += (float)p[0] * weight;
            b += (float)p[1] * weight;
            c += (float)p[2] * weight;
        }
        sums[0] = a;
        sums[1] = b;
        sums[2] = c;
        if (channels > 3)
            sums[3] = 0.0f;
    }
}

static void enlarge_row(const uint8_t *row, const tap *taps, uint32_t width, uint32_t channels, int32_t *sums)
{
    for (uint32_t x = 0; x < width; x++, sums += channels) {
        const tap *t = &taps[x];
        const uint8_t *p = row + (size_t)channels * t->first, *next = t->count > 1 ? p + channels : p;
        for (uint32_t c = 0; c < channels; c++)
            sums[c] = p[c] * t->own + next[c] * t->next;
    }
}

/* --- one row of the result --------------------------------------------------------------------------- */

static uint32_t row_values(const resizer *r)
{
    return r->width * r->channels;
}

static void whole_row(resizer *r, const edgepv_frame *frame, uint32_t y)
{
    uint32_t values = row_values(r), *sums = r->sums[0];
    float share = 1.0f / (float)(r->factor_x * r->factor_y);

    memset(sums, 0, values * sizeof *sums);
    for (uint32_t k = 0; k < r->factor_y; k++) {
        const uint8_t *row = source_row(r, frame, y * r->factor_y + k);
        if (r->channels == 1)
            add_whole(row, r->width, r->factor_x, sums);
        else
            add_whole_colour(row, r->width, r->channels, r->factor_x, sums);
    }
    if (r->factor_x == 2 && r->factor_y == 2) /* OpenCV rounds halves up here, and to even elsewhere */
        for (uint32_t i = 0; i < values; i++)
            r->small[i] = (uint8_t)((sums[i] + 2) >> 2);
    else
        for (uint32_t i = 0; i < values; i++)
            r->small[i] = byte_of((float)sums[i] * share);
}

/* The sums of source row y along it, made unless they are there: two rows of the result share one at their edge. */
static const float *shrunk(resizer *r, const edgepv_frame *frame, uint32_t y)
{
    float *line = r->sums[0];

    if (r->held[0] == y + 1)
        return line;
    r->held[0] = y + 1;
    const uint8_t *row = source_row(r, frame, y);
    if (r->channels == 1)
        shrink_row(row, r->columns, r->width, line);
    else
        shrink_row_colour(row, r->columns, r->width, r->channels, line);
    return line;
}

static void area_row(resizer *r, const edgepv_frame *frame, uint32_t y)
{
    const tap *t = &r->rows[y];
    const uint32_t values = row_values(r);
    float *sums = r->sums[1];

    for (uint32_t k = 0; k < t->count; k++) {
        const float weight = k == 0 ? t->head : k + 1 < t->count ? t->body : t->tail;
        const float *line = shrunk(r, frame, t->first + k);
        if (k == 0)
            for (uint32_t i = 0; i < values; i++)
                sums[i] = line[i] * weight;
        else
            for (uint32_t i = 0; i < values; i++)
                sums[i] += line[i] * weight;
    }
    for (uint32_t i = 0; i < values; i++)
        r->small[i] = byte_of(sums[i]);
}

/* The sums of source row y, made unless they are there: neighbours have places of their own. */
static const int32_t *enlarged(resizer *r, const edgepv_frame *frame, uint32_t y)
{
    int32_t *sums = r->sums[y & 1];

    if (r->held[y & 1] == y + 1)
        return sums;
    r->held[y & 1] = y + 1;
    enlarge_row(source_row(r, frame, y), r->columns, r->width, r->channels, sums);
    return sums;
}

static void linear_row(resizer *r, const edgepv_frame *frame, uint32_t y)
{
    const tap *t = &r->rows[y];
    uint32_t values = row_values(r);
    const int32_t *upper = enlarged(r, frame, t->first);
    const int32_t *lower = t->count > 1 ? enlarged(r, frame, t->first + 1) : upper;

    for (uint32_t i = 0; i < values; i++) {
        int32_t sum = ((upper[i] / 16 * t->own) / 65536) + ((lower[i] / 16 * t->next) / 65536);
        r->small[i] = clamped((sum + 2) / 4);
    }
}

static const uint8_t *resized_row(resizer *r, const edgepv_frame *frame, uint32_t y)
{
    switch (r->how) {
    case SAME_SIZE:
        return source_row(r, frame, y);
    case WHOLE_FACTORS:
        whole_row(r, frame, y);
        break;
    case AREA:
        area_row(r, frame, y);
        break;
    default:
        linear_row(r, frame, y);
    }
    return r->small;
}

/* How far it is in a row from one colour of a pixel to its next; 0 for grey. */
static size_t colour_step(const resizer *r)
{
    return r->channels > 1;
}

/* A row without its colours, in OpenCV's 15-bit fixed point. */
static void grey_row(const resizer *r, const uint8_t *row, uint8_t *grey)
{
    const size_t blue = r->camera.format == EDGEPV_RGB24 ? 2 : 0, red = 2 - blue;

    if (r->channels == 1) {
        memcpy(grey, row, r->width);
        return;
    }
    for (uint32_t x = 0; x < r->width; x++, row += r->channels) {
        uint32_t sum = row[blue] * 3735u + row[1] * 19235u + row[red] * 9798u;
        grey[x] = (uint8_t)((sum + (1u << 14)) >> 15);
    }
}

/* A resizer and its parts in a store. */
static void make_resizer(resizer *r, const edgepv_camera *camera, uint32_t width, uint32_t height, store *from)
{
    memset(r, 0, sizeof *r);
    memcpy(&r->camera, camera, LEAST(edgepv_camera, format)); /* no more than a caller of ABI 1 has */
    r->how = scaling_of(camera, width, height);
    r->width = width;
    r->height = height;
    r->channels = camera->format == EDGEPV_NV12 ? 4 : bytes_per_pixel(camera->format);
    r->factor_x = camera->width / width;
    r->factor_y = camera->height / height;
    if (camera->format == EDGEPV_NV12)
        r->converted = take(from, camera->width * sizeof *r->converted);
    if (r->how == SAME_SIZE)
        return;
    r->small = take(from, row_values(r));
    r->sums[0] = take(from, row_values(r) * sizeof(float));
    if (r->how == WHOLE_FACTORS)
        return;
    r->sums[1] = take(from, row_values(r) * sizeof(float));
    r->columns = take(from, width * sizeof(tap));
    r->rows = take(from, height * sizeof(tap));
    if (from->base != NULL) {
        make_taps(r->columns, camera->width, width, r->how);
        make_taps(r->rows, camera->height, height, r->how);
    }
}

#endif

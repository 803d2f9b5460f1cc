/* edgepv_core.c: from a camera's picture to an answer, around any model that edgepv_model.h describes. C99.
 *
 * Pictures are resized and normalised number for number as edgepv does in Python, where OpenCV does it
 * (cv2.resize with INTER_AREA, COLOR_YUV2BGR_NV12, COLOR_BGR2GRAY). That rests on every product being rounded
 * before it is added: no fused multiply-add, no -ffast-math, no x87.
 */
#include "edgepv_model.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "edgepv_core.c counts on rounding as IEEE 754 says: leave out -ffast-math"
#endif
#if FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2
#error "edgepv_core.c needs float sums in float: add -msse2 -mfpmath=sse"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#define LEAST(type, last) (offsetof(type, last) + sizeof(((type *)0)->last)) /* the fields of ABI 1 */
#define MOST_SIDE 16384u     /* pixels: keeps every sum and index below 32 bits */
#define MOST_LOOK_BACK 4096u /* frames that answer.missed counts over, as in Python */
#define LINEAR_ONE 2048      /* OpenCV's unit of weights when it enlarges bytes */

typedef enum { FED_TENSORS, SAME_SIZE, WHOLE_FACTORS, AREA, LINEAR } scaling;

typedef struct { /* what one pixel of the result takes along one axis */
    uint32_t first, count;   /* source pixels */
    float head, body, tail;  /* AREA: weights of the first, of those between, of the last */
    int32_t own, next;       /* LINEAR: weights of two neighbours */
} tap;

struct edgepv_session {
    const edgepv_model *model;
    edgepv_camera camera;
    scaling how;
    uint32_t channels, planes;    /* of a row: pixels of 3 in 1, of NV12 1 in 3 behind each other, grey 1 in 1 */
    uint32_t factor_x, factor_y;  /* of WHOLE_FACTORS */
    tap *columns, *rows;
    uint8_t *converted;           /* one source row of NV12, in blue, green and red */
    uint8_t *small;               /* one row of the result */
    void *sums[2];                /* two rows of the result before they are rounded: float, uint32_t or int32_t */
    uint32_t held[2];             /* LINEAR: the source row, counted from 1, that each of them has; 0 for none */
    uint32_t *lost;               /* frames missed before each of the last ones */
    uint32_t lost_count, lost_at;
    uint64_t lost_sum;
    float *scores, *outputs[2];
    uint32_t answering;           /* which of the outputs holds the last answer */
    uint32_t answered;            /* 0 before the first, and after a step that failed */
    uint32_t gathered;            /* frames of a chunk that is not full */
    uint32_t restarted;
    uint64_t seen;
    volatile uint32_t cancelled;
    void *state, *arena;
};

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

static scaling scaling_of(const edgepv_model *model, const edgepv_camera *camera)
{
    if (camera == NULL)
        return FED_TENSORS;
    if (camera->width == model->width && camera->height == model->height)
        return SAME_SIZE;
    double x = scale_of(camera->width, model->width), y = scale_of(camera->height, model->height);
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

/* A row of NV12 as three rows, blue, green and red: ITU-R BT.601, limited range, in OpenCV's fixed point. */
static void convert_nv12(const uint8_t *restrict luma, const uint8_t *restrict chroma, uint32_t width,
                         uint8_t *restrict bgr)
{
    const int32_t half = 1 << 19, luma_unit = 1220542;
    uint8_t *restrict blues = bgr, *restrict greens = bgr + width, *restrict reds = bgr + 2 * (size_t)width;

    for (size_t x = 0, pairs = width / 2; pairs > 0; pairs--, x += 2) {
        int32_t u = chroma[x] - 128, v = chroma[x + 1] - 128;
        int32_t blue = half + 2116026 * u, green = half - 409993 * u - 852492 * v, red = half + 1673527 * v;
        int32_t left = luma[x] < 16 ? 0 : (luma[x] - 16) * luma_unit;
        int32_t right = luma[x + 1] < 16 ? 0 : (luma[x + 1] - 16) * luma_unit;
        blues[x] = whole_byte(left + blue);
        blues[x + 1] = whole_byte(right + blue);
        greens[x] = whole_byte(left + green);
        greens[x + 1] = whole_byte(right + green);
        reds[x] = whole_byte(left + red);
        reds[x + 1] = whole_byte(right + red);
    }
}

/* Row y of the picture: `planes` rows, one behind the other. */
static const uint8_t *source_row(const edgepv_session *s, const edgepv_frame *frame, uint32_t y)
{
    const uint8_t *row = frame->plane[0] + (size_t)y * frame->stride[0];

    if (s->camera.format != EDGEPV_NV12)
        return row;
    convert_nv12(row, frame->plane[1] + (size_t)(y / 2) * frame->stride[1], s->camera.width, s->converted);
    return s->converted;
}

static void add_whole(const uint8_t *row, uint32_t width, uint32_t channels, uint32_t factor, uint32_t *sums)
{
    for (uint32_t x = 0; x < width; x++, sums += channels)
        for (uint32_t k = 0; k < factor; k++, row += channels)
            for (uint32_t c = 0; c < channels; c++)
                sums[c] += row[c];
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

static void shrink_row_colour(const uint8_t *row, const tap *taps, uint32_t width, float *sums)
{
    for (uint32_t x = 0; x < width; x++, sums += 3) {
        const tap *t = &taps[x];
        const uint8_t *p = row + (size_t)3 * t->first;
        float a = (float)p[0] * t->head, b = (float)p[1] * t->head, c = (float)p[2] * t->head;
        for (uint32_t k = 1; k < t->count; k++) {
            float weight = k + 1 < t->count ? t->body : t->tail;
            p += 3;
            a += (float)p[0] * weight;
            b += (float)p[1] * weight;
            c += (float)p[2] * weight;
        }
        sums[0] = a;
        sums[1] = b;
        sums[2] = c;
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

static uint32_t row_values(const edgepv_session *s)
{
    return s->model->width * s->channels * s->planes;
}

static void whole_row(edgepv_session *s, const edgepv_frame *frame, uint32_t y)
{
    uint32_t values = row_values(s), width = s->model->width, *sums = s->sums[0];
    float share = 1.0f / (float)(s->factor_x * s->factor_y);

    memset(sums, 0, values * sizeof *sums);
    for (uint32_t k = 0; k < s->factor_y; k++) {
        const uint8_t *row = source_row(s, frame, y * s->factor_y + k);
        for (uint32_t p = 0; p < s->planes; p++)
            add_whole(row + p * s->camera.width, width, s->channels, s->factor_x, sums + p * width);
    }
    if (s->factor_x == 2 && s->factor_y == 2) /* OpenCV rounds halves up here, and to even elsewhere */
        for (uint32_t i = 0; i < values; i++)
            s->small[i] = (uint8_t)((sums[i] + 2) >> 2);
    else
        for (uint32_t i = 0; i < values; i++)
            s->small[i] = byte_of((float)sums[i] * share);
}

static void area_row(edgepv_session *s, const edgepv_frame *frame, uint32_t y)
{
    const tap *t = &s->rows[y];
    uint32_t values = row_values(s), width = s->model->width;
    float *line = s->sums[0], *sums = s->sums[1];

    for (uint32_t k = 0; k < t->count; k++) {
        float weight = k == 0 ? t->head : k + 1 < t->count ? t->body : t->tail;
        const uint8_t *row = source_row(s, frame, t->first + k);
        if (s->channels == 3)
            shrink_row_colour(row, s->columns, width, line);
        else
            for (uint32_t p = 0; p < s->planes; p++)
                shrink_row(row + p * s->camera.width, s->columns, width, line + p * width);
        if (k == 0)
            for (uint32_t i = 0; i < values; i++)
                sums[i] = line[i] * weight;
        else
            for (uint32_t i = 0; i < values; i++)
                sums[i] += line[i] * weight;
    }
    for (uint32_t i = 0; i < values; i++)
        s->small[i] = byte_of(sums[i]);
}

/* The sums of source row y, made unless they are there: neighbours have places of their own. */
static const int32_t *enlarged(edgepv_session *s, const edgepv_frame *frame, uint32_t y)
{
    uint32_t width = s->model->width;
    int32_t *sums = s->sums[y & 1];

    if (s->held[y & 1] == y + 1)
        return sums;
    s->held[y & 1] = y + 1;
    const uint8_t *row = source_row(s, frame, y);
    for (uint32_t p = 0; p < s->planes; p++)
        enlarge_row(row + p * s->camera.width, s->columns, width, s->channels, sums + p * width);
    return sums;
}

static void linear_row(edgepv_session *s, const edgepv_frame *frame, uint32_t y)
{
    const tap *t = &s->rows[y];
    uint32_t values = row_values(s);
    const int32_t *upper = enlarged(s, frame, t->first);
    const int32_t *lower = t->count > 1 ? enlarged(s, frame, t->first + 1) : upper;

    for (uint32_t i = 0; i < values; i++) {
        int32_t sum = ((upper[i] / 16 * t->own) / 65536) + ((lower[i] / 16 * t->next) / 65536);
        s->small[i] = clamped((sum + 2) / 4);
    }
}

/* --- a row as the model takes it --------------------------------------------------------------------- */

/* How far it is in a row from one colour of a pixel to its next. */
static size_t colour_step(const edgepv_session *s)
{
    return s->planes == 3 ? s->model->width : s->channels == 3 ? 1 : 0;
}

static void normalise_grey(const edgepv_session *s, const uint8_t *row, float *to)
{
    const float scale = s->model->scale[0], shift = s->model->shift[0];
    const size_t step = colour_step(s), blue = s->camera.format == EDGEPV_RGB24 ? 2 * step : 0, red = 2 * step - blue;

    for (uint32_t x = 0; x < s->model->width; x++, row += s->channels) {
        uint32_t grey = row[0];
        if (step > 0) /* OpenCV's 15-bit fixed point */
            grey = (row[blue] * 3735u + row[step] * 19235u + row[red] * 9798u + (1u << 14)) >> 15;
        to[x] = (float)grey * scale - shift;
    }
}

static void normalise_colour(const edgepv_session *s, const uint8_t *row, float *to)
{
    const edgepv_model *m = s->model;
    const size_t step = colour_step(s), as_is = (s->camera.format == EDGEPV_RGB24) == (m->rgb != 0);
    const uint8_t *first = row + (as_is ? 0 : 2 * step), *middle = row + step, *last = row + (as_is ? 2 * step : 0);

    for (uint32_t x = 0, at = 0; x < m->width; x++, at += s->channels, to += 3) {
        to[0] = (float)first[at] * m->scale[0] - m->shift[0];
        to[1] = (float)middle[at] * m->scale[1] - m->shift[1];
        to[2] = (float)last[at] * m->scale[2] - m->shift[2];
    }
}

static float *input_frame(const edgepv_session *s)
{
    const edgepv_place *place = &s->model->input;
    return (float *)(void *)((uint8_t *)s->arena + place->offset) + s->gathered * place->frame_values;
}

static edgepv_status take_picture(edgepv_session *s, const edgepv_frame *frame)
{
    float *to = input_frame(s);

    s->held[0] = s->held[1] = 0;
    for (uint32_t y = 0; y < s->model->height; y++, to += s->model->input.row_values) {
        const uint8_t *row = s->small;
        if (s->cancelled)
            return EDGEPV_CANCELLED;
        if (s->how == SAME_SIZE)
            row = source_row(s, frame, y);
        else if (s->how == WHOLE_FACTORS)
            whole_row(s, frame, y);
        else if (s->how == AREA)
            area_row(s, frame, y);
        else
            linear_row(s, frame, y);
        if (s->model->channels == 1)
            normalise_grey(s, row, to);
        else
            normalise_colour(s, row, to);
    }
    return EDGEPV_OK;
}

static void take_tensor(edgepv_session *s, const float *input)
{
    const edgepv_model *m = s->model;
    float *to = input_frame(s);

    for (uint32_t y = 0; y < m->height; y++, to += m->input.row_values)
        for (uint32_t c = 0; c < m->channels; c++) {
            const float *from = input + ((size_t)c * m->height + y) * m->width;
            for (uint32_t x = 0; x < m->width; x++)
                to[x * m->channels + c] = from[x];
        }
}

/* --- a step ------------------------------------------------------------------------------------------ */

static int all_finite(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u)
            return 0;
    }
    return 1;
}

static void score(const edgepv_model *m, const float *answer, float *scores)
{
    float most = answer[0], sum = 0.0f;

    for (uint32_t i = 0; i < m->label_count; i++)
        most = answer[i] > most ? answer[i] : most;
    for (uint32_t i = 0; i < m->label_count; i++) {
        if (m->probabilities)
            scores[i] = answer[i] < 0.0f ? 0.0f : answer[i] > 1.0f ? 1.0f : answer[i];
        else
            sum += scores[i] = expf(answer[i] - most);
    }
    for (uint32_t i = 0; !m->probabilities && i < m->label_count; i++)
        scores[i] /= sum;
}

/* Forget what was seen; the next answer says so. */
static void forget(edgepv_session *s)
{
    s->model->reset(s->model, s->state);
    memset(s->outputs[s->answering], 0, s->model->output_values * sizeof(float));
    if (s->lost_count > 0)
        memset(s->lost, 0, s->lost_count * sizeof *s->lost);
    s->lost_sum = 0;
    s->lost_at = s->gathered = s->answered = 0;
    s->seen = 0;
    s->restarted = 1;
}

/* More frames were lost than the model looks back on: nothing that it keeps is of use. */
static uint32_t bridge(edgepv_session *s, uint32_t missed)
{
    if (missed == 0 || missed < s->model->warmup)
        return missed;
    forget(s);
    return 0;
}

static void note(edgepv_session *s, uint32_t missed)
{
    if (s->lost_count == 0)
        return;
    s->lost_sum += missed;
    s->lost_sum -= s->lost[s->lost_at];
    s->lost[s->lost_at] = missed;
    s->lost_at = (s->lost_at + 1) % s->lost_count;
}

static void fill(edgepv_session *s, uint64_t pts_ns, edgepv_answer *answer)
{
    const edgepv_model *m = s->model;

    answer->label = -1;
    answer->score = 0.0f;
    if (m->label_count > 0) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < m->label_count; i++)
            best = s->scores[i] > s->scores[best] ? i : best;
        answer->label = (int32_t)best;
        answer->score = s->scores[best];
    }
    answer->valid = s->seen - s->gathered >= m->warmup;
    answer->restarted = s->restarted;
    answer->missed = s->lost_sum > UINT32_MAX ? UINT32_MAX : (uint32_t)s->lost_sum;
    answer->index = s->seen - 1;
    answer->pts_ns = pts_ns;
}

static edgepv_status compute(edgepv_session *s)
{
    const edgepv_model *m = s->model;
    uint32_t other = m->chunk > 1 ? 1 - s->answering : 0;
    edgepv_status status = m->run(m, s->state, s->arena, s->outputs[other], &s->cancelled);

    if (status == EDGEPV_OK && !all_finite(s->outputs[other], m->output_values))
        status = EDGEPV_NOT_FINITE;
    if (status != EDGEPV_OK)
        return status;
    m->commit(m, s->state);
    s->answering = other;
    return EDGEPV_OK;
}

/* Answer to the frame that lies at input: computed when its chunk is full, else the last one stands. */
static edgepv_status advance(edgepv_session *s, uint64_t pts_ns, uint32_t missed, edgepv_answer *answer)
{
    s->answered = 0;
    if (s->gathered + 1 == s->model->chunk) {
        edgepv_status status = compute(s);
        if (status != EDGEPV_OK)
            return status;
        s->gathered = 0;
    } else {
        s->gathered++;
    }
    if (s->model->label_count > 0)
        score(s->model, s->outputs[s->answering], s->scores);
    s->seen++;
    note(s, missed);
    fill(s, pts_ns, answer);
    s->answered = 1;
    s->restarted = 0;
    return EDGEPV_OK;
}

static edgepv_status check_frame(const edgepv_session *s, const edgepv_frame *frame)
{
    if (frame->plane[0] == NULL || frame->stride[0] < s->camera.width * bytes_per_pixel(s->camera.format))
        return EDGEPV_INPUT;
    if (s->camera.format == EDGEPV_NV12 && (frame->plane[1] == NULL || frame->stride[1] < s->camera.width))
        return EDGEPV_INPUT;
    return EDGEPV_OK;
}

edgepv_status edgepv_step(edgepv_session *session, const edgepv_frame *frame, edgepv_answer *answer)
{
    if (session == NULL || frame == NULL || answer == NULL || session->how == FED_TENSORS)
        return EDGEPV_INPUT;
    if (frame->size < LEAST(edgepv_frame, missed) || answer->size < LEAST(edgepv_answer, pts_ns))
        return EDGEPV_VERSION;
    edgepv_status status = check_frame(session, frame);
    if (status != EDGEPV_OK)
        return status;
    session->cancelled = 0;
    uint32_t missed = bridge(session, frame->missed);
    session->answered = 0;
    status = take_picture(session, frame);
    return status == EDGEPV_OK ? advance(session, frame->pts_ns, missed, answer) : status;
}

edgepv_status edgepv_step_tensor(edgepv_session *session, const float *input, size_t values, uint32_t missed,
                                 edgepv_answer *answer)
{
    if (session == NULL || input == NULL || answer == NULL)
        return EDGEPV_INPUT;
    const edgepv_model *m = session->model;
    if (values != (size_t)m->channels * m->height * m->width)
        return EDGEPV_INPUT;
    if (answer->size < LEAST(edgepv_answer, pts_ns))
        return EDGEPV_VERSION;
    session->cancelled = 0;
    missed = bridge(session, missed);
    take_tensor(session, input);
    return advance(session, 0, missed, answer);
}

/* --- a session --------------------------------------------------------------------------------------- */

static edgepv_status check_model(const edgepv_model *m)
{
    if (m == NULL)
        return EDGEPV_INPUT;
    if (m->size < sizeof *m || m->abi != EDGEPV_ABI)
        return EDGEPV_VERSION;
    return EDGEPV_OK;
}

static edgepv_status check_camera(const edgepv_model *m, const edgepv_camera *camera)
{
    if (camera == NULL)
        return EDGEPV_OK;
    if (camera->size < LEAST(edgepv_camera, format))
        return EDGEPV_VERSION;
    if (camera->width - 1 >= MOST_SIDE || camera->height - 1 >= MOST_SIDE || (m->channels != 1 && m->channels != 3))
        return EDGEPV_INPUT;
    switch (camera->format) {
    case EDGEPV_BGR24:
    case EDGEPV_RGB24:
    case EDGEPV_GRAY8:
        return EDGEPV_OK;
    case EDGEPV_NV12: /* its chroma is of half the size */
        return (camera->width | camera->height) & 1u ? EDGEPV_INPUT : EDGEPV_OK;
    default:
        return EDGEPV_INPUT;
    }
}

typedef struct { /* where the parts of a session lie in its memory */
    size_t columns, rows, converted, small, sums[2], lost, scores, outputs[2], state, arena, total;
} layout;

static size_t put(size_t *total, size_t bytes)
{
    size_t at = *total;
    *total = at + (bytes + EDGEPV_ALIGN - 1) / EDGEPV_ALIGN * EDGEPV_ALIGN;
    return at;
}

static uint32_t look_back(const edgepv_model *m)
{
    return m->warmup < MOST_LOOK_BACK ? m->warmup : MOST_LOOK_BACK;
}

static layout lay_out(const edgepv_model *m, const edgepv_camera *camera)
{
    scaling how = scaling_of(m, camera);
    size_t row = how > SAME_SIZE ? (size_t)m->width * (camera->format == EDGEPV_GRAY8 ? 1 : 3) : 0;
    size_t taps = how > WHOLE_FACTORS ? sizeof(tap) : 0;
    size_t line = camera != NULL && camera->format == EDGEPV_NV12 ? (size_t)3 * camera->width : 0;
    layout l = {0};

    put(&l.total, sizeof(edgepv_session));
    l.columns = put(&l.total, m->width * taps);
    l.rows = put(&l.total, m->height * taps);
    l.converted = put(&l.total, line);
    l.small = put(&l.total, row);
    l.sums[0] = put(&l.total, row * sizeof(float));
    l.sums[1] = put(&l.total, how > WHOLE_FACTORS ? row * sizeof(float) : 0);
    l.lost = put(&l.total, look_back(m) * sizeof(uint32_t));
    l.scores = put(&l.total, m->label_count * sizeof(float));
    l.outputs[0] = put(&l.total, m->output_values * sizeof(float));
    l.outputs[1] = put(&l.total, m->chunk > 1 ? m->output_values * sizeof(float) : 0);
    l.state = put(&l.total, m->state_bytes);
    l.arena = put(&l.total, m->arena_bytes);
    return l;
}

edgepv_status edgepv_need(const edgepv_model *model, const edgepv_camera *camera, size_t *bytes, size_t *align)
{
    edgepv_status status = check_model(model);

    if (status == EDGEPV_OK)
        status = check_camera(model, camera);
    if (status != EDGEPV_OK)
        return status;
    if (bytes == NULL || align == NULL)
        return EDGEPV_INPUT;
    *bytes = lay_out(model, camera).total;
    *align = EDGEPV_ALIGN;
    return EDGEPV_OK;
}

static void set_up(edgepv_session *s, uint8_t *memory, const layout *l)
{
    s->columns = (tap *)(void *)(memory + l->columns);
    s->rows = (tap *)(void *)(memory + l->rows);
    s->converted = memory + l->converted;
    s->small = memory + l->small;
    s->lost = (uint32_t *)(void *)(memory + l->lost);
    s->scores = (float *)(void *)(memory + l->scores);
    for (int k = 0; k < 2; k++) {
        s->sums[k] = memory + l->sums[k];
        s->outputs[k] = (float *)(void *)(memory + l->outputs[k]);
    }
    s->state = memory + l->state;
    s->arena = memory + l->arena;
}

static void set_camera(edgepv_session *s, const edgepv_camera *camera)
{
    const edgepv_model *m = s->model;

    s->how = scaling_of(m, camera);
    if (camera == NULL)
        return;
    s->camera = *camera;
    s->channels = bytes_per_pixel(camera->format);
    s->planes = camera->format == EDGEPV_NV12 ? 3 : 1;
    s->factor_x = camera->width / m->width;
    s->factor_y = camera->height / m->height;
    if (s->how > WHOLE_FACTORS) {
        make_taps(s->columns, camera->width, m->width, s->how);
        make_taps(s->rows, camera->height, m->height, s->how);
    }
}

edgepv_status edgepv_begin(const edgepv_model *model, const edgepv_camera *camera, void *memory, size_t bytes,
                           edgepv_session **session)
{
    size_t needed, align;
    edgepv_status status = edgepv_need(model, camera, &needed, &align);

    if (status != EDGEPV_OK)
        return status;
    if (session == NULL)
        return EDGEPV_INPUT;
    if (memory == NULL || bytes < needed || (uintptr_t)memory % align != 0)
        return EDGEPV_MEMORY;
    const layout parts = lay_out(model, camera);
    edgepv_session *s = memory;
    memset(s, 0, sizeof *s);
    s->model = model;
    set_up(s, memory, &parts);
    set_camera(s, camera);
    s->lost_count = look_back(model);
    if (model->begin != NULL)
        status = model->begin(model, s->state);
    if (status != EDGEPV_OK)
        return status;
    forget(s);
    s->restarted = 0; /* there was nothing to forget */
    *session = s;
    return EDGEPV_OK;
}

void edgepv_reset(edgepv_session *session)
{
    if (session != NULL)
        forget(session);
}

void edgepv_cancel(edgepv_session *session)
{
    if (session != NULL)
        session->cancelled = 1;
}

void edgepv_end(edgepv_session *session)
{
    if (session != NULL && session->model->end != NULL)
        session->model->end(session->model, session->state);
}

/* --- what is told ------------------------------------------------------------------------------------ */

edgepv_status edgepv_output(const edgepv_session *session, uint32_t output, const float **data, size_t *values)
{
    if (session == NULL || data == NULL || values == NULL || !session->answered ||
        output >= session->model->output_count)
        return EDGEPV_INPUT;
    *data = session->outputs[session->answering] + session->model->outputs[output].offset;
    *values = session->model->outputs[output].values;
    return EDGEPV_OK;
}

edgepv_status edgepv_scores(const edgepv_session *session, const float **data, size_t *values)
{
    if (session == NULL || data == NULL || values == NULL || !session->answered ||
        session->model->label_count == 0)
        return EDGEPV_INPUT;
    *data = session->scores;
    *values = session->model->label_count;
    return EDGEPV_OK;
}

edgepv_status edgepv_inform(const edgepv_model *model, edgepv_info *info)
{
    edgepv_status status = check_model(model);

    if (status != EDGEPV_OK)
        return status;
    if (info == NULL)
        return EDGEPV_INPUT;
    if (info->size < LEAST(edgepv_info, fps_den))
        return EDGEPV_VERSION;
    info->abi = model->abi;
    info->name = model->name;
    info->digest = model->digest;
    info->task = model->task;
    info->labels = model->label_count;
    info->outputs = model->output_count;
    info->states = model->state_count;
    info->warmup = model->warmup;
    info->chunk = model->chunk;
    info->delay = model->delay;
    info->width = model->width;
    info->height = model->height;
    info->channels = model->channels;
    info->fps_num = model->fps_num;
    info->fps_den = model->fps_den;
    return EDGEPV_OK;
}

const char *edgepv_label(const edgepv_model *model, uint32_t label)
{
    return check_model(model) == EDGEPV_OK && label < model->label_count ? model->labels[label] : NULL;
}

uint32_t edgepv_abi(void)
{
    return EDGEPV_ABI;
}

const char *edgepv_text(edgepv_status status)
{
    switch (status) {
    case EDGEPV_OK:
        return "all is well";
    case EDGEPV_INTERNAL:
        return "this should not happen: a fault of edgepv";
    case EDGEPV_INPUT:
        return "an argument, a format or a frame that cannot be used: compare with edgepv.h";
    case EDGEPV_PARITY:
        return "the recorded answers are not reproduced: compiler, options or model are not those they claim to be";
    case EDGEPV_ENGINE:
        return "the engine that the bundle needs is not here, or refuses its file";
    case EDGEPV_SIGNATURE:
        return "the bundle is not signed by this key, or was changed";
    case EDGEPV_MEMORY:
        return "less memory, or less aligned, than edgepv_need says";
    case EDGEPV_VERSION:
        return "a model or a struct of another version: set its size, and compile all of it with one edgepv.h";
    case EDGEPV_NOT_FINITE:
        return "the model answered NaN or infinity; the frame is forgotten";
    case EDGEPV_CANCELLED:
        return "edgepv_cancel ended the step; the frame is forgotten";
    }
    return "no status of this version";
}

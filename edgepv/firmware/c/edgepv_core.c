/* edgepv_core.c: from a camera's picture to an answer, around any model that edgepv_model.h describes. C99.
 *
 * Pictures become the model's input number for number as in Python. That rests on every product being rounded before
 * it is added: no fused multiply-add, no -ffast-math, no x87.
 */
#include "edgepv_model.h"

#include <float.h>

#if defined(__FAST_MATH__)
#error "edgepv_core.c counts on rounding as IEEE 754 says: leave out -ffast-math"
#endif
#if FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2
#error "edgepv_core.c needs float sums in float: add -msse2 -mfpmath=sse"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#define UNROLLED _Pragma("clang loop unroll_count(4)") /* of a loop whose turns are as short as their count */
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#ifndef UNROLLED
#define UNROLLED
#endif

#include "edgepv_births.h"
#include "edgepv_picture.h"

#define MOST_LOOK_BACK 4096u /* frames that answer.missed counts over, as in Python */

struct edgepv_session {
    const edgepv_model *model;
    uint32_t has_camera;
    resizer picture;
    births particles;
    uint8_t *grey;                /* one row for a model without colours */
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

/* --- a row as the model takes it --------------------------------------------------------------------- */

static void normalise_grey(const edgepv_session *s, const uint8_t *row, float *to)
{
    const float scale = s->model->scale[0], shift = s->model->shift[0];

    grey_row(&s->picture, row, s->grey);
    for (uint32_t x = 0; x < s->model->width; x++)
        to[x] = (float)s->grey[x] * scale - shift;
}

static void normalise_colour(const edgepv_session *s, const uint8_t *row, float *to)
{
    const edgepv_model *m = s->model;
    const resizer *r = &s->picture;
    const size_t step = colour_step(r), as_is = (r->camera.format == EDGEPV_RGB24) == (m->rgb != 0);
    const uint8_t *first = row + (as_is ? 0 : 2 * step), *middle = row + step, *last = row + (as_is ? 2 * step : 0);
    uint32_t x = 0, at = 0;

#if COLOURS_TOGETHER /* but of the last pixel: a float more than three is written */
    const colours scale = {m->scale[0], m->scale[1], m->scale[2]}, shift = {m->shift[0], m->shift[1], m->shift[2]};
    for (; step > 0 && x + 1 < m->width; x++, at += r->channels, to += 3) {
        colours v = colours_of(row + at);
        v = (as_is ? v : BACKWARDS(v)) * scale - shift;
        memcpy(to, &v, sizeof v);
    }
#endif
    UNROLLED
    for (; x < m->width; x++, at += r->channels, to += 3) {
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

    s->picture.held[0] = s->picture.held[1] = 0;
    for (uint32_t y = 0; y < s->model->height; y++, to += s->model->input.row_values) {
        if (s->cancelled)
            return EDGEPV_CANCELLED;
        const uint8_t *row = resized_row(&s->picture, frame, y);
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

/* Other tasks may have particles too, and bear them in their graph. */
static int is_tracker(const edgepv_model *m)
{
    return strcmp(m->task, "tracking") == 0;
}

static edgepv_status write_particles(edgepv_session *s)
{
    const edgepv_model *m = s->model;
    float *position = m->state(m, s->state, m->position), *life = m->state(m, s->state, m->life);

    if (position == NULL || life == NULL)
        return EDGEPV_INTERNAL;
    write_states(&s->particles, position, life);
    return EDGEPV_OK;
}

static edgepv_status first_particles(edgepv_session *s, const edgepv_frame *frame)
{
    if (!is_tracker(s->model) || s->seen > 0)
        return EDGEPV_OK;
    births_reset(&s->particles);
    births_update(&s->particles, NULL, 0, frame);
    return write_particles(s);
}

/* Who is there in the frame after this one. */
static edgepv_status next_particles(edgepv_session *s, const edgepv_frame *frame)
{
    const edgepv_port *tracks = &s->model->outputs[0];
    births *b = &s->particles;

    if (!is_tracker(s->model))
        return EDGEPV_OK;
    for (uint32_t k = 0; k < b->count; k++)
        b->ids[k] = b->places[k].id;
    const float *rows = s->outputs[s->answering] + tracks->offset;
    return births_update(b, rows, tracks->values / b->count, frame) ? write_particles(s) : EDGEPV_OK;
}

static edgepv_status check_frame(const edgepv_camera *camera, const edgepv_frame *frame)
{
    if (frame->plane[0] == NULL || frame->stride[0] < camera->width * bytes_per_pixel(camera->format))
        return EDGEPV_INPUT;
    if (camera->format == EDGEPV_NV12 && (frame->plane[1] == NULL || frame->stride[1] < camera->width))
        return EDGEPV_INPUT;
    return EDGEPV_OK;
}

edgepv_status edgepv_step(edgepv_session *session, const edgepv_frame *frame, edgepv_answer *answer)
{
    if (session == NULL || frame == NULL || answer == NULL || !session->has_camera)
        return EDGEPV_INPUT;
    if (frame->size < LEAST(edgepv_frame, missed) || answer->size < LEAST(edgepv_answer, pts_ns))
        return EDGEPV_VERSION;
    edgepv_status status = check_frame(&session->picture.camera, frame);
    if (status != EDGEPV_OK)
        return status;
    session->cancelled = 0;
    uint32_t missed = bridge(session, frame->missed);
    session->answered = 0;
    status = take_picture(session, frame);
    if (status == EDGEPV_OK)
        status = first_particles(session, frame);
    if (status == EDGEPV_OK)
        status = advance(session, frame->pts_ns, missed, answer);
    return status == EDGEPV_OK ? next_particles(session, frame) : status;
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

/* A tracker needs somebody who bears its particles, with a camera for corners, or by edgepv_write: without, it follows
 * nothing. */
static int is_blind(const edgepv_model *m, const edgepv_camera *camera)
{
    return is_tracker(m) && (camera == NULL ? m->write == NULL : m->particles == 0 || m->state == NULL);
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

static uint32_t look_back(const edgepv_model *m)
{
    return m->warmup < MOST_LOOK_BACK ? m->warmup : MOST_LOOK_BACK;
}

/* A session and its parts in a store. */
static void make_session(edgepv_session *s, const edgepv_model *m, const edgepv_camera *camera, store *from)
{
    memset(s, 0, sizeof *s);
    s->model = m;
    s->has_camera = camera != NULL;
    if (camera != NULL)
        make_resizer(&s->picture, camera, m->width, m->height, from);
    if (camera != NULL && m->channels == 1)
        s->grey = take(from, m->width);
    if (camera != NULL && is_tracker(m))
        make_births(&s->particles, m, camera, from);
    s->lost_count = look_back(m);
    s->lost = take(from, s->lost_count * sizeof *s->lost);
    s->scores = take(from, m->label_count * sizeof *s->scores);
    s->outputs[0] = take(from, m->output_values * sizeof(float));
    if (m->chunk > 1)
        s->outputs[1] = take(from, m->output_values * sizeof(float));
    s->state = take(from, m->state_bytes);
    s->arena = take(from, m->arena_bytes);
}

edgepv_status edgepv_need(const edgepv_model *model, const edgepv_camera *camera, size_t *bytes, size_t *align)
{
    edgepv_status status = check_model(model);
    edgepv_session counted;
    store none = {NULL, 0};

    if (status == EDGEPV_OK)
        status = check_camera(model, camera);
    if (status != EDGEPV_OK)
        return status;
    if (bytes == NULL || align == NULL || is_blind(model, camera))
        return EDGEPV_INPUT;
    take(&none, sizeof counted);
    make_session(&counted, model, camera, &none);
    *bytes = none.used;
    *align = EDGEPV_ALIGN;
    return EDGEPV_OK;
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
    store from = {memory, 0};
    edgepv_session *s = take(&from, sizeof *s);
    make_session(s, model, camera, &from);
    if (model->begin != NULL)
        status = model->begin(model, s->state);
    if (status != EDGEPV_OK)
        return status;
    forget(s);
    s->restarted = 0; /* there was nothing to forget */
    *session = s;
    return EDGEPV_OK;
}

edgepv_status edgepv_write(edgepv_session *session, uint32_t state, const float *data, size_t values)
{
    if (session == NULL || data == NULL)
        return EDGEPV_INPUT;
    const edgepv_model *m = session->model;
    if (m->write == NULL || state >= m->state_count)
        return EDGEPV_INPUT;
    return m->write(m, session->state, state, data, values);
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

edgepv_status edgepv_ids(const edgepv_session *session, const int32_t **ids, size_t *count)
{
    if (session == NULL || ids == NULL || count == NULL || !session->answered || session->particles.count == 0)
        return EDGEPV_INPUT;
    *ids = session->particles.ids;
    *count = session->particles.count;
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

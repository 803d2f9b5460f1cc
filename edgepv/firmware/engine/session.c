/* session.c: a model of an engine as edgepv_core.c steps it: its states, its handles, one step. */
#include <string.h>

#include "model.h"

typedef struct {   /* at the beginning of a session's memory */
    void *session; /* the engine's */
    uint64_t step;
    void **fed, **read; /* handles of this step */
} head;

static const edgepv_opened *opened_of(const edgepv_model *model)
{
    return model->data;
}

static uint32_t *position_of(const edgepv_opened *o, const edgepv_ring *ring, char *memory, size_t lane)
{
    return (uint32_t *)(void *)(memory + o->positions_at) + ring->first_lane + lane;
}

static size_t lane_of(const edgepv_ring *ring, const char *memory)
{
    return (size_t)(((const head *)(const void *)memory)->step % ring->spec->period);
}

/* Places in a lane, in bytes, of what the engine reads and of where it writes, by the view's position. */
static size_t view_at(const edgepv_ring *ring, uint32_t position)
{
    if (ring->whole) return position * ring->half + (ring->spec->fresh - ring->spec->in.shape[0]) * ring->row;
    return (size_t)position * ring->spec->fresh * ring->row;
}

static size_t slot_at(const edgepv_ring *ring, uint32_t position)
{
    if (ring->whole) return (1u - position) * ring->half;
    return view_at(ring, position) + ring->spec->in.bytes;
}

static char *lane_start(const edgepv_ring *ring, char *memory, size_t lane)
{
    return memory + ring->offset + lane * ring->lane;
}

static char *view_of(const edgepv_opened *o, const edgepv_ring *ring, char *memory)
{
    size_t lane = lane_of(ring, memory);
    return lane_start(ring, memory, lane) + view_at(ring, *position_of(o, ring, memory, lane));
}

static char *slot_of(const edgepv_opened *o, const edgepv_ring *ring, char *memory)
{
    size_t lane = lane_of(ring, memory);
    return lane_start(ring, memory, lane) + slot_at(ring, *position_of(o, ring, memory, lane));
}

/* Have room behind the view for the rows of this step; what the view shows stays the same. */
static void make_room(const edgepv_opened *o, const edgepv_ring *ring, char *memory)
{
    size_t lane = lane_of(ring, memory);
    uint32_t *position = position_of(o, ring, memory, lane);
    if (ring->whole || *position < ring->positions) return;
    char *start = lane_start(ring, memory, lane);
    memmove(start, start + view_at(ring, *position), ring->spec->in.bytes);
    *position = 0;
}

static void **handle_of(const edgepv_opened *o, char *memory, size_t index)
{
    return (void **)(void *)(memory + o->handles_at) + index;
}

/* The handle of a state's view (or else slot) at this step. */
static void *ring_handle(const edgepv_opened *o, const edgepv_ring *ring, char *memory, int slot)
{
    if (!ring->direct) return *handle_of(o, memory, ring->handles + (size_t)slot);
    size_t lane = lane_of(ring, memory), places = (size_t)ring->positions * ring->spec->period;
    size_t at = lane * ring->positions + *position_of(o, ring, memory, lane);
    return *handle_of(o, memory, ring->handles + at + (slot ? places : 0));
}

static void fill(char *at, size_t bytes, edgepv_dtype dtype, double value)
{
    if (value == 0.0 || dtype == EDGEPV_FLOAT16) { /* a float16 state that begins otherwise was refused */
        memset(at, 0, bytes);
        return;
    }
    for (size_t i = 0; i < bytes / edgepv_item_bytes[dtype]; i++) {
        if (dtype == EDGEPV_FLOAT32) ((float *)(void *)at)[i] = (float)value;
        if (dtype == EDGEPV_INT8) ((int8_t *)(void *)at)[i] = (int8_t)value;
        if (dtype == EDGEPV_UINT8) ((uint8_t *)(void *)at)[i] = (uint8_t)value;
        if (dtype == EDGEPV_INT32) ((int32_t *)(void *)at)[i] = (int32_t)value;
        if (dtype == EDGEPV_INT64) ((int64_t *)(void *)at)[i] = (int64_t)value;
    }
}

static void reset(const edgepv_model *model, void *state)
{
    const edgepv_opened *o = opened_of(model);
    char *memory = state;
    ((head *)state)->step = 0;
    for (uint32_t i = 0; i < o->bundle.state_count; i++) {
        const edgepv_ring *ring = &o->rings[i];
        for (size_t lane = 0; lane < ring->spec->period; lane++) *position_of(o, ring, memory, lane) = 0;
        fill(memory + ring->offset, ring->lane * ring->spec->period, ring->spec->in.dtype, ring->spec->init);
    }
}

/* One frame, channels innermost in the arena, as planes. */
static void as_planes(const edgepv_model *model, const char *arena, uint32_t index, float *planes)
{
    const edgepv_place *place = &model->input;
    const float *frame = (const float *)(const void *)(arena + place->offset) + index * place->frame_values;
    size_t channels = model->channels, plane = (size_t)model->width * model->height;
    for (size_t c = 0; c < channels; c++)
        for (size_t y = 0; y < model->height; y++)
            for (size_t x = 0; x < model->width; x++)
                planes[c * plane + y * model->width + x] = frame[y * place->row_values + x * channels + c];
}

/* The last frames as one clip (C, T, H, W): a ring of frames in a session's memory, of which one place is for
 * the newest, that counts once the step is committed. The first frame stands for those before it. */
static void fill_window(const edgepv_opened *o, char *memory, const char *arena, float *clip)
{
    uint64_t step = ((const head *)(void *)memory)->step;
    size_t frames = o->bundle.frames, channels = o->bundle.channels;
    size_t plane = (size_t)o->bundle.width * o->bundle.height, frame = channels * plane;
    float *ring = (float *)(void *)(memory + o->window_at);
    as_planes(&o->model, arena, 0, ring + step % (frames + 1) * frame);
    for (size_t t = 0; t < frames; t++) {
        uint64_t age = frames - 1 - t;
        const float *from = ring + (step - (age < step ? age : step)) % (frames + 1) * frame;
        for (size_t c = 0; c < channels; c++)
            memcpy(clip + (c * frames + t) * plane, from + c * plane, plane * sizeof(float));
    }
}

static void gather(const edgepv_opened *o, char *memory, const char *arena)
{
    float *input = (float *)(void *)(memory + o->input_at);
    if (!o->bundle.streamed) {
        fill_window(o, memory, arena, input);
        return;
    }
    size_t frame = (size_t)o->bundle.channels * o->bundle.width * o->bundle.height;
    for (uint32_t i = 0; i < o->bundle.chunk; i++) as_planes(&o->model, arena, i, input + i * frame);
}

/* Where the engine wrote an output at this step. */
static char *read_of(const edgepv_opened *o, uint32_t port, char *memory)
{
    const edgepv_read_place *place = &o->places[port];
    if (place->ring == EDGEPV_NO_PORT) return memory + place->offset;
    const edgepv_ring *ring = &o->rings[place->ring];
    return ring->direct ? slot_of(o, ring, memory) : memory + ring->slot_copy;
}

/* Everything that the engine is told before a step. */
static void bind(const edgepv_opened *o, char *memory)
{
    head *h = (head *)(void *)memory;
    h->fed[0] = *handle_of(o, memory, 0);
    for (uint32_t i = 0; i < o->bundle.state_count; i++) {
        const edgepv_ring *ring = &o->rings[i];
        make_room(o, ring, memory);
        if (!ring->direct) memcpy(memory + ring->view_copy, view_of(o, ring, memory), ring->spec->in.bytes);
        h->fed[1 + i] = ring_handle(o, ring, memory, 0);
    }
    for (uint32_t i = 0; i < o->ports.read_count; i++) {
        const edgepv_read_place *place = &o->places[i];
        h->read[i] = place->ring == EDGEPV_NO_PORT ? *handle_of(o, memory, place->handle)
                                                   : ring_handle(o, &o->rings[place->ring], memory, 1);
    }
}

/* New rows into the slots where the engine did not write them itself. They count once commit was called. */
static void keep_rows(const edgepv_opened *o, char *memory)
{
    for (uint32_t i = 0; i < o->bundle.state_count; i++) {
        const edgepv_ring *ring = &o->rings[i];
        if (ring->owner && ring->direct) continue;
        const char *from =
            ring->read_port == EDGEPV_NO_PORT ? memory + o->input_at : read_of(o, ring->read_port, memory);
        memcpy(slot_of(o, ring, memory), from, ring->spec->out.bytes);
    }
}

static edgepv_status run(const edgepv_model *model, void *state, void *arena, float *outputs,
                         const volatile uint32_t *cancel)
{
    const edgepv_opened *o = opened_of(model);
    char *memory = state;
    head *h = state;
    if (cancel && *cancel) return EDGEPV_CANCELLED;
    gather(o, memory, arena);
    bind(o, memory);
    edgepv_status status = o->back->run(h->session, h->fed, h->read, cancel);
    if (status != EDGEPV_OK) return status;
    keep_rows(o, memory);
    for (uint32_t i = 0; i < o->bundle.answer_count; i++)
        memcpy(outputs + o->outputs[i].offset, read_of(o, o->answers[i], memory), o->bundle.answers[i].bytes);
    return EDGEPV_OK;
}

static void commit(const edgepv_model *model, void *state)
{
    const edgepv_opened *o = opened_of(model);
    head *h = state;
    for (uint32_t i = 0; i < o->bundle.state_count; i++) {
        const edgepv_ring *ring = &o->rings[i];
        uint32_t *position = position_of(o, ring, state, lane_of(ring, state));
        if (h->step >= ring->spec->first) *position = ring->whole ? 1u - *position : *position + 1u;
    }
    h->step++;
}

static float *state_values(const edgepv_model *model, void *state, uint32_t index)
{
    const edgepv_opened *o = opened_of(model);
    if (index >= o->bundle.state_count || o->rings[index].spec->in.dtype != EDGEPV_FLOAT32) return NULL;
    return (float *)(void *)view_of(o, &o->rings[index], state);
}

static void end(const edgepv_model *model, void *state)
{
    const edgepv_opened *o = opened_of(model);
    head *h = state;
    for (size_t i = 0; i < o->handles; i++) {
        void **handle = handle_of(o, state, i);
        if (*handle) o->back->unwrap(h->session, *handle);
        *handle = NULL;
    }
    if (h->session) o->back->end(h->session);
    h->session = NULL;
}

static edgepv_status wrap_ring(const edgepv_opened *o, const edgepv_ring *ring, char *memory, void *session)
{
    const edgepv_tensor *in = &ring->spec->in, *out = &ring->spec->out;
    edgepv_status status = EDGEPV_OK;
    if (!ring->direct) {
        status = o->back->wrap(session, in, memory + ring->view_copy, handle_of(o, memory, ring->handles));
        if (status != EDGEPV_OK || !ring->owner) return status;
        return o->back->wrap(session, out, memory + ring->slot_copy, handle_of(o, memory, ring->handles + 1));
    }
    size_t places = (size_t)ring->positions * ring->spec->period;
    for (size_t i = 0; i < places && status == EDGEPV_OK; i++) {
        char *lane = lane_start(ring, memory, i / ring->positions);
        uint32_t position = (uint32_t)(i % ring->positions);
        status = o->back->wrap(session, in, lane + view_at(ring, position),
                               handle_of(o, memory, ring->handles + i));
        if (status == EDGEPV_OK && ring->owner)
            status = o->back->wrap(session, out, lane + slot_at(ring, position),
                                   handle_of(o, memory, ring->handles + places + i));
    }
    return status;
}

static edgepv_status begin(const edgepv_model *model, void *state)
{
    const edgepv_opened *o = opened_of(model);
    char *memory = state;
    head *h = state;
    memset(memory, 0, o->input_at); /* head, positions, handles */
    h->fed = handle_of(o, memory, o->handles);
    h->read = h->fed + o->ports.fed_count;
    edgepv_status status = o->back->begin(o->engine, &h->session);
    if (status == EDGEPV_OK)
        status = o->back->wrap(h->session, &o->bundle.input, memory + o->input_at, handle_of(o, memory, 0));
    for (uint32_t i = 0; i < o->bundle.state_count && status == EDGEPV_OK; i++)
        status = wrap_ring(o, &o->rings[i], memory, h->session);
    for (uint32_t i = 0; i < o->ports.read_count && status == EDGEPV_OK; i++)
        if (o->places[i].ring == EDGEPV_NO_PORT)
            status = o->back->wrap(h->session, o->read[i], memory + o->places[i].offset,
                                   handle_of(o, memory, o->places[i].handle));
    if (status != EDGEPV_OK) end(model, state);
    return status;
}

/* A place of so many bytes at the end of what is laid out, aligned; counts in 64 bits, so nothing wraps. */
static size_t place_for(uint64_t *used, uint64_t bytes)
{
    uint64_t at = (*used + EDGEPV_ALIGN - 1) / EDGEPV_ALIGN * EDGEPV_ALIGN;
    *used = at + bytes;
    return (size_t)at;
}

static void lay_out_ring(edgepv_opened *o, edgepv_ring *ring, uint64_t *used)
{
    const edgepv_state_spec *spec = ring->spec;
    uint64_t depth = spec->in.shape[0], fresh = spec->fresh, row = spec->in.bytes / depth;
    ring->row = (size_t)row;
    ring->whole = fresh >= depth;
    uint64_t half = (fresh * row + EDGEPV_ALIGN - 1) / EDGEPV_ALIGN * EDGEPV_ALIGN;
    ring->half = (size_t)half;
    ring->positions = ring->whole ? 2u : (uint32_t)(depth / fresh + 1);
    ring->direct = ring->whole ? (fresh - depth) * row % EDGEPV_ALIGN == 0
                               : fresh * row % EDGEPV_ALIGN == 0 && depth * row % EDGEPV_ALIGN == 0;
    uint64_t bytes = ring->whole ? 2 * half : (2 * depth + fresh) * row;
    uint64_t lane = (bytes + EDGEPV_ALIGN - 1) / EDGEPV_ALIGN * EDGEPV_ALIGN;
    ring->lane = (size_t)lane;
    ring->first_lane = o->lanes;
    ring->handles = o->handles;
    o->lanes += spec->period;
    o->handles += ring->direct ? 2 * (size_t)ring->positions * spec->period : 2;
    ring->offset = place_for(used, lane * spec->period);
    if (ring->direct) return;
    ring->view_copy = place_for(used, spec->in.bytes);
    ring->slot_copy = place_for(used, spec->out.bytes);
}

int edgepv_lay_out(edgepv_opened *o)
{
    edgepv_model *model = &o->model;
    const edgepv_bundle *b = &o->bundle;
    uint64_t rings = 0, used = sizeof(head);
    o->handles = 1; /* of the input */
    for (uint32_t i = 0; i < b->state_count; i++) lay_out_ring(o, &o->rings[i], &rings);
    for (uint32_t i = 0; i < o->ports.read_count; i++)
        if (o->places[i].ring == EDGEPV_NO_PORT) o->places[i].handle = o->handles++;
    o->positions_at = place_for(&used, (uint64_t)o->lanes * sizeof(uint32_t));
    o->handles_at =
        place_for(&used, ((uint64_t)o->handles + o->ports.fed_count + o->ports.read_count) * sizeof(void *));
    o->input_at = place_for(&used, b->input.bytes);
    for (uint32_t i = 0; i < o->ports.read_count; i++)
        if (o->places[i].ring == EDGEPV_NO_PORT) o->places[i].offset = place_for(&used, o->read[i]->bytes);
    size_t start = place_for(&used, rings);
    for (uint32_t i = 0; i < b->state_count; i++) {
        o->rings[i].offset += start;
        o->rings[i].view_copy += start;
        o->rings[i].slot_copy += start;
    }
    uint64_t frame = (uint64_t)b->width * b->height * b->channels * sizeof(float);
    o->window_at = place_for(&used, b->streamed ? 0 : frame * (b->frames + 1));
    if (used > SIZE_MAX / 2 || frame * b->chunk > SIZE_MAX / 2) return 0;
    model->input.row_values = (size_t)b->width * b->channels;
    model->input.frame_values = (size_t)frame / sizeof(float);
    model->arena_bytes = (size_t)frame * b->chunk;
    model->state_bytes = (size_t)used;
    model->data = o;
    model->reset = reset;
    model->run = run;
    model->commit = commit;
    model->state = state_values;
    model->begin = begin;
    model->end = end;
    return 1;
}

/* toy_tracker.c: particle k moves by drift(k) a step, and by a jump where the k-th value of the input is large; it is
 * seen unless that value is small. life: 2 and 1 become 1, else -1. Its NumPy twin is in tests/toy_core.py. */
#include "toy_tracker.h"

#include <string.h>

#define MOST 64u

typedef struct {
    float position[2][MOST * 2], life[2][MOST];
    uint32_t now;
} tracker_state;

size_t toy_tracker_size(void)
{
    return sizeof(toy_tracker);
}

static void reset(const edgepv_model *m, void *state)
{
    (void)m;
    memset(state, 0, sizeof(tracker_state));
}

static float drift(uint32_t k, uint32_t of)
{
    return (float)((int)(k * 7 % of) - (int)of / 2) / 512.0f;
}

static edgepv_status run(const edgepv_model *m, void *memory, void *arena, float *outputs,
                         const volatile uint32_t *cancel)
{
    tracker_state *s = memory;
    const float *input = arena;
    uint32_t next = 1 - s->now;

    (void)cancel;
    for (uint32_t k = 0; k < m->particles; k++, outputs += 3) {
        float value = input[k * 3], *to = &s->position[next][2 * k];
        const float *from = &s->position[s->now][2 * k];
        int alive = s->life[s->now][k] > 0;
        to[0] = alive ? from[0] + drift(k, 11) + (value > 0.6f ? 0.25f : 0.0f) : 0.0f;
        to[1] = alive ? from[1] + drift(k, 5) : 0.0f;
        s->life[next][k] = alive ? 1.0f : -1.0f;
        outputs[0] = to[0];
        outputs[1] = to[1];
        outputs[2] = alive && value > 0.4f ? 1.0f : 0.25f;
    }
    return EDGEPV_OK;
}

static void commit(const edgepv_model *m, void *state)
{
    tracker_state *s = state;

    (void)m;
    s->now = 1 - s->now;
}

static float *state_of(const edgepv_model *m, void *state, uint32_t index)
{
    tracker_state *s = state;

    (void)m;
    return index == 0 ? s->life[s->now] : index == 1 ? s->position[s->now] : NULL;
}

void toy_tracker_make(toy_tracker *made, uint32_t width, uint32_t height, uint32_t particles)
{
    edgepv_model *m = &made->model;

    memset(made, 0, sizeof *made);
    made->ports[0].name = "tracks";
    made->ports[0].rank = 2;
    made->ports[0].shape[0] = particles;
    made->ports[0].shape[1] = 3;
    made->ports[0].values = (size_t)3 * particles;
    m->size = sizeof *m;
    m->abi = EDGEPV_ABI;
    m->name = "tracker";
    m->digest = "";
    m->task = "tracking";
    m->width = width;
    m->height = height;
    m->channels = 3;
    m->rgb = 1;
    m->scale[0] = m->scale[1] = m->scale[2] = (float)(1.0 / 255.0);
    m->fps_num = m->fps_den = 1;
    m->warmup = m->chunk = 1;
    m->input.row_values = (size_t)width * 3;
    m->input.frame_values = m->input.row_values * height;
    m->output_count = 1;
    m->outputs = made->ports;
    m->output_values = made->ports[0].values;
    m->state_count = 2;
    m->state_bytes = sizeof(tracker_state);
    m->arena_bytes = m->input.frame_values * sizeof(float);
    m->reset = reset;
    m->run = run;
    m->commit = commit;
    m->state = state_of;
    m->particles = particles;
    m->life = 0;
    m->position = 1;
}

#include "toy.h"

#include <math.h>
#include <string.h>

#define SLOTS (TOY_DEPTH + 1u) /* one is spare: run writes there, commit makes it count */

typedef struct {
    float history[SLOTS][TOY_LABELS];
    float runs[2];
    uint32_t oldest, now;
} toy_state;

static const char *const names[TOY_LABELS] = {"left", "right", "none"};
static volatile int mood = TOY_WELL;

void toy_go(int how)
{
    mood = how;
}

size_t toy_size(void)
{
    return sizeof(toy);
}

static float at(const edgepv_model *m, const float *frame, size_t index) /* index: of (C, H, W) */
{
    size_t x = index % m->width, y = index / m->width % m->height, c = index / m->width / m->height;
    return frame[y * m->input.row_values + x * m->channels + c];
}

static void reset(const edgepv_model *m, void *state)
{
    (void)m;
    memset(state, 0, sizeof(toy_state));
}

static edgepv_status went_wrong(float *outputs, const volatile uint32_t *cancel)
{
    switch (mood) {
    case TOY_NAN:
        outputs[1] = NAN;
        return EDGEPV_OK;
    case TOY_INFINITY:
        outputs[TOY_LABELS] = -INFINITY;
        return EDGEPV_OK;
    case TOY_BROKEN:
        return EDGEPV_ENGINE;
    case TOY_UNTIL_CANCELLED:
        while (!*cancel)
            continue;
        return EDGEPV_CANCELLED;
    default:
        return EDGEPV_OK;
    }
}

static edgepv_status run(const edgepv_model *m, void *state, void *arena, float *outputs,
                         const volatile uint32_t *cancel)
{
    toy_state *s = state;
    size_t values = (size_t)m->channels * m->height * m->width;
    float *first = (float *)(void *)((uint8_t *)arena + m->input.offset);
    float *last = first + (m->chunk - 1) * m->input.frame_values;
    float *spare = s->history[(s->oldest + TOY_DEPTH) % SLOTS];

    for (size_t k = 0; k < TOY_LABELS; k++) {
        size_t probe = (k * 7 + 3) % values;
        spare[k] = at(m, last, probe);
        outputs[k] = at(m, first, probe) + spare[k];
        outputs[k] += s->history[s->oldest][k] / 2;
        outputs[k] += s->history[(s->oldest + 2) % SLOTS][k] / 4;
        outputs[k] += s->runs[s->now] / 8;
    }
    for (size_t i = 0; i < values; i++)
        outputs[TOY_LABELS + i] = at(m, last, i);
    s->runs[1 - s->now] = s->runs[s->now] + 1;
    if (m->chunk == 1) /* as a model whose later layers take that place */
        memset(arena, 0xff, m->arena_bytes);
    return went_wrong(outputs, cancel);
}

static void commit(const edgepv_model *m, void *state)
{
    toy_state *s = state;

    (void)m;
    s->oldest = (s->oldest + 1) % SLOTS;
    s->now = 1 - s->now;
}

static void set_ports(toy *made, const toy_options *o)
{
    edgepv_port *logits = &made->ports[0], *seen = &made->ports[1];

    memset(made->ports, 0, sizeof made->ports);
    logits->name = "logits";
    logits->rank = 1;
    logits->shape[0] = TOY_LABELS;
    logits->values = TOY_LABELS;
    seen->name = "seen";
    seen->rank = 3;
    seen->shape[0] = o->channels;
    seen->shape[1] = o->height;
    seen->shape[2] = o->width;
    seen->values = (size_t)o->channels * o->height * o->width;
    seen->offset = TOY_LABELS;
}

void toy_make(toy *made, const toy_options *o)
{
    edgepv_model *m = &made->model;

    memset(m, 0, sizeof *m);
    set_ports(made, o);
    m->size = sizeof *m;
    m->abi = EDGEPV_ABI;
    m->name = "toy";
    m->digest = "00ff";
    m->task = o->labels ? "classification" : "restoration";
    m->labels = names;
    m->label_count = o->labels;
    m->probabilities = o->probabilities;
    m->width = o->width;
    m->height = o->height;
    m->channels = o->channels;
    m->rgb = o->rgb;
    memcpy(m->scale, o->scale, sizeof m->scale);
    memcpy(m->shift, o->shift, sizeof m->shift);
    m->fps_num = 25;
    m->fps_den = 2;
    m->warmup = o->warmup;
    m->chunk = o->chunk;
    m->input.offset = 64;
    m->input.row_values = (size_t)o->width * o->channels + 5; /* a row, and a border as padded layers have it */
    m->input.frame_values = m->input.row_values * o->height + 3;
    m->output_count = 2;
    m->outputs = made->ports;
    m->output_values = TOY_LABELS + made->ports[1].values;
    m->state_count = 2;
    m->state_bytes = sizeof(toy_state);
    m->arena_bytes = 64 + o->chunk * m->input.frame_values * sizeof(float);
    m->reset = reset;
    m->run = run;
    m->commit = commit;
}

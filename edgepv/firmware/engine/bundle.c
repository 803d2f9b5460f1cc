/* bundle.c: manifest.json as C structs, of one variant; nothing is sized by a number that was not checked. */
#include "bundle.h"

#include <stdlib.h>
#include <string.h>

#define MOST_LABELS 65536u /* far more than the classes of any camera model */
#define ALIGN 16u          /* of what lies in a bundle's memory */
#define SAFE_BITS 7        /* weights of -64 to 64, whose sums fit 16 bits: see edgepv/base/optional.py */

const size_t edgepv_item_bytes[] = {4, 2, 1, 1, 4, 8};
static const char *const DTYPES[] = {"float32", "float16", "int8", "uint8", "int32", "int64"};

typedef struct
{ /* what the functions below share: the first fault is told, and all after it is of no account */
    edgepv_bundle *bundle;
    edgepv_why *why;
    int failed;
} reader;

static void fault(reader *r, const char *what, const char *where)
{
    r->failed = 1;
    edgepv_because(r->why, EDGEPV_INPUT, "manifest.json: %s%s%s. Do not use this bundle, or export it again",
                   where, *where ? " " : "", what);
}

/* Room in the bundle's memory, all 0; NULL and a fault if there is none. */
static void *room(reader *r, size_t count, size_t each)
{
    edgepv_bundle *b = r->bundle;
    size_t from = (b->used + ALIGN - 1) / ALIGN * ALIGN;
    if (r->failed) return NULL;
    if (from > b->room || (each && count > (b->room - from) / each)) {
        fault(r, "holds more than it has bytes for", "");
        return NULL;
    }
    b->used = from + count * each;
    memset(b->memory + from, 0, count * each);
    return b->memory + from;
}

/* A key's value; with need 0 it may be missing or null. Twice is a fault: one reader would take the other. */
static int get(reader *r, edgepv_json table, const char *key, int need, edgepv_json *value)
{
    int count = r->failed ? 0 : edgepv_json_find(table, key, value);
    if (count == 1 && (need || edgepv_json_kind(*value) != 'n')) return 1;
    if (!r->failed && (need || count > 1)) fault(r, count ? "is there twice" : "is missing", key);
    value->at = value->end = NULL;
    return 0;
}

static const char *text_of(reader *r, edgepv_json value, const char *what, size_t most)
{
    edgepv_bundle *b = r->bundle;
    if (r->failed) return "";
    ptrdiff_t length = edgepv_json_text(value, b->memory + b->used, b->room - b->used);
    if (length <= 0 || (size_t)length > most) {
        fault(r, "is no name", what);
        return "";
    }
    const char *text = b->memory + b->used;
    b->used += (size_t)length + 1;
    return text;
}

static const char *get_text(reader *r, edgepv_json table, const char *key)
{
    edgepv_json value;
    return get(r, table, key, 1, &value) ? text_of(r, value, key, EDGEPV_MOST_NAME) : "";
}

static uint32_t get_whole(reader *r, edgepv_json table, const char *key, int64_t low, int64_t high,
                          int64_t without)
{
    edgepv_json value;
    int64_t number = without;
    if (get(r, table, key, without < low, &value) && !edgepv_json_whole(value, low, high, &number)) {
        fault(r, "is no whole number in its range", key);
        number = low;
    }
    return r->failed ? (uint32_t)low : (uint32_t)number;
}

/* The place of a string in a list of words; the first if it is missing. */
static unsigned get_word(reader *r, edgepv_json table, const char *key, const char *const *words,
                         unsigned count)
{
    edgepv_json value;
    if (!get(r, table, key, 0, &value)) return 0;
    for (unsigned i = 0; i < count; i++)
        if (edgepv_json_is(value, words[i])) return i;
    fault(r, "has a value that this library does not know", key);
    return 0;
}

static uint32_t count_of(reader *r, edgepv_json list, const char *what, uint32_t most)
{
    edgepv_json_walk walk;
    edgepv_json key, value;
    uint32_t count = 0;
    if (r->failed) return 0;
    if (!edgepv_json_walk_of(list, &walk)) fault(r, "is no list or table", what);
    while (!r->failed && edgepv_json_next(&walk, &key, &value))
        if (++count > most) fault(r, "holds more than any bundle", what);
    return r->failed ? 0 : count;
}

/* shape and dtype of a tensor, and its bytes. most: values. */
static void read_tensor(reader *r, edgepv_json table, int64_t most, edgepv_tensor *tensor)
{
    edgepv_json list, key, value;
    edgepv_json_walk walk;
    int64_t axis, values = 1;
    tensor->name = get_text(r, table, "name");
    tensor->dtype = (edgepv_dtype)get_word(r, table, "dtype", DTYPES, sizeof DTYPES / sizeof *DTYPES);
    if (!get(r, table, "shape", 1, &list)) return;
    tensor->rank = count_of(r, list, "shape", EDGEPV_RANK);
    edgepv_json_walk_of(list, &walk);
    for (uint32_t i = 0; i < tensor->rank && edgepv_json_next(&walk, &key, &value); i++) {
        if (!edgepv_json_whole(value, 1, most / values, &axis)) {
            fault(r, "has a shape that makes no sense", tensor->name);
            return;
        }
        tensor->shape[i] = (uint32_t)axis;
        values *= axis;
    }
    uint64_t bytes = (uint64_t)values * edgepv_item_bytes[tensor->dtype];
    if (!tensor->rank || bytes > EDGEPV_MOST_BYTES) fault(r, "has a shape that makes no sense", tensor->name);
    tensor->bytes = (size_t)bytes;
}

/* How many of mean or std there are, each within low to high. Not given: 3 of what they are without. */
static uint32_t read_channels(reader *r, edgepv_json spec, const char *key, double low, double high,
                              double without, double numbers[3])
{
    edgepv_json list, name, value;
    edgepv_json_walk walk;
    for (int i = 0; i < 3; i++) numbers[i] = without;
    if (!get(r, spec, key, 0, &list)) return 3;
    uint32_t count = count_of(r, list, key, 3);
    edgepv_json_walk_of(list, &walk);
    for (uint32_t i = 0; i < count && edgepv_json_next(&walk, &name, &value); i++)
        if (!edgepv_json_number(value, &numbers[i]) || numbers[i] < low || numbers[i] > high)
            fault(r, "is out of its range", key);
    return count;
}

/* "30000/1001", "10/1" or 10. */
static void read_fps(reader *r, edgepv_json spec)
{
    edgepv_bundle *b = r->bundle;
    edgepv_json value;
    char text[48];
    char *at = text;
    unsigned long long parts[2] = {10, 1};
    if (get(r, spec, "fps", 0, &value)) {
        size_t length = (size_t)(value.end - value.at);
        if (edgepv_json_kind(value) == '0' && length < sizeof text) {
            memcpy(text, value.at, length);
            text[length] = 0;
        } else if (edgepv_json_text(value, text, sizeof text) < 0) {
            text[0] = 0;
        }
        for (int i = 0; i < 2; i++) {
            parts[i] = *at >= '0' && *at <= '9' ? strtoull(at, &at, 10) : 0;
            if (i == 0 && *at == 0) break;
            if (i == 0 && *at++ != '/') parts[0] = 0;
        }
        if (*at) parts[0] = 0;
    }
    if (!parts[0] || !parts[1] || parts[0] > UINT32_MAX || parts[1] > UINT32_MAX ||
        parts[0] / 1000 > parts[1] || parts[1] / 1000 > parts[0])
        fault(r, "is no frame rate of 1/1000 to 1000, as a whole number or a fraction of two", "fps");
    b->fps_num = (uint32_t)parts[0];
    b->fps_den = (uint32_t)parts[1];
}

static void read_labels(reader *r, edgepv_json spec)
{
    edgepv_bundle *b = r->bundle;
    edgepv_json list, key, value;
    edgepv_json_walk walk;
    if (!get(r, spec, "labels", 0, &list)) return;
    b->label_count = count_of(r, list, "labels", MOST_LABELS);
    b->labels = room(r, b->label_count, sizeof *b->labels);
    edgepv_json_walk_of(list, &walk);
    for (uint32_t i = 0; !r->failed && i < b->label_count && edgepv_json_next(&walk, &key, &value); i++)
        b->labels[i] = text_of(r, value, "a label", EDGEPV_MOST_NAME);
}

/* What the model answers: outputs, or the logits of its labels. */
static void read_answers(reader *r, edgepv_json spec)
{
    edgepv_bundle *b = r->bundle;
    edgepv_json list, key, value;
    edgepv_json_walk walk;
    uint32_t given =
        get(r, spec, "outputs", 0, &list) ? count_of(r, list, "outputs", EDGEPV_MOST_ANSWERS) : 0;
    b->answer_count = given ? given : 1;
    b->answers = room(r, b->answer_count, sizeof *b->answers);
    if (r->failed) return;
    if (!given) {
        b->answers[0].name = "logits";
        b->answers[0].rank = 2;
        b->answers[0].shape[0] = 1;
        b->answers[0].shape[1] = b->label_count;
        b->answers[0].bytes = b->label_count * sizeof(float);
        return;
    }
    edgepv_json_walk_of(list, &walk);
    for (uint32_t i = 0; !r->failed && i < given && edgepv_json_next(&walk, &key, &value); i++) {
        read_tensor(r, value, EDGEPV_MOST_VALUES, &b->answers[i]);
        if (b->answers[i].dtype != EDGEPV_FLOAT32 || b->answers[i].rank < 2 || b->answers[i].shape[0] != 1)
            fault(r, "is no answer of float32 to one frame", b->answers[i].name);
    }
}

static void read_spec(reader *r, edgepv_json spec)
{
    static const char *const colours[] = {"rgb", "bgr", "grey"}, *const scores[] = {"logits",
                                                                                    "probabilities"};
    static const char *const layouts[] = {"NCHW", "NCTHW"};
    edgepv_bundle *b = r->bundle;
    edgepv_json input;
    if (!get(r, spec, "input", 1, &input)) return;
    read_tensor(r, input, EDGEPV_MOST_VALUES, &b->input);
    unsigned clip = get_word(r, input, "layout", layouts, 2),
             colour = get_word(r, spec, "colour", colours, 3);
    const uint32_t *shape = b->input.shape;
    if (!r->failed && b->input.rank != (clip ? 5u : 4u))
        fault(r, "has a shape that is not of its layout", "input");
    b->channels = shape[1];
    b->height = shape[clip ? 3 : 2];
    b->width = shape[clip ? 4 : 3];
    b->frames = get_whole(r, spec, "frames", 1, EDGEPV_MOST_FRAMES, 1);
    b->rgb = colour == 0;
    b->probabilities = get_word(r, spec, "scores", scores, 2) == 1;
    if (r->failed) return;
    if (b->channels != (colour == 2 ? 1u : 3u) || b->height > EDGEPV_MOST_SIDE || b->width > EDGEPV_MOST_SIDE)
        fault(r, "is no picture of a camera", "input");
    if (b->input.dtype != EDGEPV_FLOAT32) fault(r, "is not float32", "input");
    if (b->streamed ? clip || shape[0] != b->chunk : !clip || shape[0] != 1 || shape[2] != b->frames)
        fault(r, "has not the frames of a step", "input");
    if (read_channels(r, spec, "mean", -10.0, 10.0, 0.0, b->mean) != b->channels ||
        read_channels(r, spec, "std", 1e-4, 10.0, 1.0, b->std) != b->channels)
        fault(r, "of the input do not fit its channels", "mean and std");
    if (get(r, spec, "before", 0, &input) && count_of(r, input, "before", EDGEPV_MOST_ANSWERS))
        fault(r, "is a chain that the C engine has not; edgepv run has it", "before");
    b->task = "classification";
    if (get(r, spec, "task", 0, &input)) b->task = text_of(r, input, "task", EDGEPV_MOST_NAME);
    read_fps(r, spec);
    read_labels(r, spec);
    read_answers(r, spec);
    if (!r->failed && !strcmp(b->task, "classification") &&
        (b->label_count < 2 || b->answers[0].bytes != b->label_count * sizeof(float)))
        fault(r, "are not those of its answer", "labels");
}

/* One state; its bytes with every row that a step may add are added to *bytes. */
static void read_state(reader *r, edgepv_json table, edgepv_state_spec *state, uint64_t *bytes)
{
    static const char *const updates[] = {"replace", "shift"};
    edgepv_json value;
    read_tensor(r, table, (int64_t)EDGEPV_MOST_BYTES, &state->in);
    state->out = state->in;
    state->out.name = get_text(r, table, "output");
    state->shift = get_word(r, table, "update", updates, 2) == 1;
    state->fresh = get_whole(r, table, "fresh", 1, EDGEPV_MOST_FRAMES, 1);
    state->period = get_whole(r, table, "period", 1, EDGEPV_MOST_FRAMES, 1);
    state->first = get_whole(r, table, "first", 0, EDGEPV_MOST_FRAMES, 0);
    if (get(r, table, "init", 0, &value) && !edgepv_json_number(value, &state->init))
        fault(r, "has no number as init", state->in.name);
    if (r->failed) return;
    int small = state->init >= -128.0 && state->init <= 127.0 &&
                (state->init >= 0.0 || state->in.dtype != EDGEPV_UINT8);
    if (state->in.dtype == EDGEPV_FLOAT16 ? state->init != 0.0 : state->in.dtype != EDGEPV_FLOAT32 && !small)
        fault(r, "begins with a value that this library does not write in its type", state->in.name);
    if (state->in.rank > 4 || state->in.bytes > EDGEPV_MOST_BYTES) {
        fault(r, "has a shape that makes no sense", state->in.name);
        return;
    }
    if (!state->shift) state->fresh = state->in.shape[0];
    uint64_t row = state->in.bytes / state->in.shape[0];
    uint64_t rows = state->fresh > state->in.shape[0] ? state->fresh : state->in.shape[0];
    *bytes += row * rows * state->period;
    if (row * rows > EDGEPV_MOST_BYTES || *bytes > EDGEPV_MOST_BYTES)
        fault(r, "is larger than a camera can carry", state->in.name);
    state->out.shape[0] = state->fresh;
    state->out.bytes = (size_t)row * state->fresh;
}

static void read_stream(reader *r, edgepv_json stream)
{
    edgepv_bundle *b = r->bundle;
    edgepv_json list, key, value;
    edgepv_json_walk walk;
    uint64_t bytes = 0;
    b->chunk = get_whole(r, stream, "chunk", 1, EDGEPV_MOST_FRAMES, 1);
    b->warmup = get_whole(r, stream, "warmup", 1, EDGEPV_MOST_FRAMES, 0);
    b->delay = get_whole(r, stream, "delay", 0, EDGEPV_MOST_FRAMES, 0);
    if (!get(r, stream, "states", 1, &list)) return;
    b->state_count = count_of(r, list, "states", EDGEPV_MOST_STATES);
    b->states = room(r, b->state_count, sizeof *b->states);
    edgepv_json_walk_of(list, &walk);
    for (uint32_t i = 0; !r->failed && i < b->state_count && edgepv_json_next(&walk, &key, &value); i++) {
        read_state(r, value, &b->states[i], &bytes);
        for (uint32_t j = 0; j < i; j++)
            if (!strcmp(b->states[j].in.name, b->states[i].in.name))
                fault(r, "is the name of two states", b->states[i].in.name);
    }
}

/* Tell a tensor of this name what the file calls it; 1 if it has it. A second name for one is a fault. */
static unsigned give_name(reader *r, edgepv_tensor *tensor, const char *name, const char *theirs)
{
    if (strcmp(tensor->name, name)) return 0;
    if (tensor->theirs) fault(r, "is named twice", name);
    tensor->theirs = theirs;
    return 1;
}

/* How the tensors that are fed (or else read) are called in the model's file. */
static void read_names(reader *r, edgepv_json variant, int fed)
{
    edgepv_bundle *b = r->bundle;
    const char *what = fed ? "inputs" : "outputs";
    edgepv_json table, key, value;
    edgepv_json_walk walk;
    if (!get(r, variant, what, 1, &table)) return;
    count_of(r, table, what, EDGEPV_MOST_STATES + EDGEPV_MOST_ANSWERS + 1);
    edgepv_json_walk_of(table, &walk);
    while (!r->failed && edgepv_json_next(&walk, &key, &value)) {
        const char *name = text_of(r, key, what, EDGEPV_MOST_NAME),
                   *theirs = text_of(r, value, name, EDGEPV_MOST_NAME);
        unsigned known = fed ? give_name(r, &b->input, name, theirs) : 0;
        for (uint32_t i = 0; i < b->state_count; i++)
            known += give_name(r, fed ? &b->states[i].in : &b->states[i].out, name, theirs);
        for (uint32_t i = 0; !fed && i < b->answer_count; i++)
            known += give_name(r, &b->answers[i], name, theirs);
        if (fed && !known) fault(r, "is no input of the model", name);
    }
}

static void check_names(reader *r)
{
    edgepv_bundle *b = r->bundle;
    const char *missing = b->input.theirs ? NULL : b->input.name;
    for (uint32_t i = 0; i < b->state_count; i++) {
        if (!strcmp(b->states[i].in.name, b->input.name))
            fault(r, "is the name of a state and of the input", b->input.name);
        if (!b->states[i].in.theirs) missing = b->states[i].in.name;
        if (!b->states[i].out.theirs && strcmp(b->states[i].out.name, b->input.name))
            missing = b->states[i].out.name;
    }
    for (uint32_t i = 0; i < b->answer_count; i++)
        if (!b->answers[i].theirs) missing = b->answers[i].name;
    if (missing) fault(r, "has no name in the model's file", missing);
}

/* The path of the model, of plain parts, and its digest, which one of the two lists of files has once. */
static void read_path(reader *r, edgepv_json variant)
{
    edgepv_bundle *b = r->bundle;
    edgepv_json files, key, value;
    edgepv_json_walk walk;
    int found = 0;
    if (!get(r, variant, "path", 1, &value)) return;
    b->path = text_of(r, value, "path", EDGEPV_MOST_PATH);
    if (!get(r, b->content, "files", 1, &files)) return;
    count_of(r, files, "files", EDGEPV_MOST_FILES);
    edgepv_json_walk_of(files, &walk);
    while (!r->failed && edgepv_json_next(&walk, &key, &value)) {
        char path[EDGEPV_MOST_PATH + 1];
        if (edgepv_json_text(key, path, sizeof path) < 0 || strcmp(path, b->path)) continue;
        found++;
        if (edgepv_json_text(value, b->sha256, sizeof b->sha256) != 64) fault(r, "has no SHA-256", b->path);
    }
    if (!r->failed && found != 1) fault(r, found ? "has two digests" : "has no digest in files", b->path);
}

static void read_variants(reader *r)
{
    edgepv_bundle *b = r->bundle;
    edgepv_json list, key, value;
    edgepv_json_walk walk;
    if (!get(r, b->content, "variants", 1, &list)) return;
    uint32_t count = count_of(r, list, "variants", EDGEPV_MOST_VARIANTS);
    edgepv_json_walk_of(list, &walk);
    while (!r->failed && b->variant_count < count && edgepv_json_next(&walk, &key, &value)) {
        uint32_t at = b->variant_count++;
        b->variants[at].json = value;
        b->variants[at].name = get_text(r, value, "name");
        b->variants[at].engine = get_text(r, value, "engine");
        if (!r->failed && !edgepv_plain_part(b->variants[at].name))
            fault(r, "cannot name a file", "a variant's name");
        for (uint32_t i = 0; i < at; i++)
            if (!strcmp(b->variants[i].name, b->variants[at].name))
                fault(r, "is there twice", b->variants[i].name);
    }
}

/* Of a tracker: its places, and the two states by which the host bears and ends what is in them. */
static void read_particles(reader *r, edgepv_json spec)
{
    edgepv_bundle *b = r->bundle;
    edgepv_json value;
    if (!get(r, spec, "particles", 0, &value) || strcmp(b->task, "tracking")) return;
    uint32_t count = get_whole(r, spec, "particles", 1, EDGEPV_MOST_PARTICLES, 0), found = 0;
    size_t each = count * sizeof(float);
    if (r->failed) return;
    for (uint32_t i = 0; i < b->state_count; i++) {
        const edgepv_tensor *in = &b->states[i].in;
        uint32_t width = !strcmp(in->name, "position") ? 2u : !strcmp(in->name, "life") ? 1u : 0u;
        if (!width) continue;
        *(width == 2u ? &b->position : &b->life) = i;
        found += in->dtype == EDGEPV_FLOAT32 && in->bytes == width * each;
    }
    const edgepv_tensor *tracks = &b->answers[0];
    if (found != 2 || tracks->rank != 3 || tracks->shape[1] != count || tracks->shape[2] < 3) {
        fault(r, "has not the states and the answer of a tracker", b->variant);
        return;
    }
    b->particles = count;
}

edgepv_status edgepv_read_manifest(const char *text, size_t bytes, edgepv_bundle *bundle, edgepv_why *why)
{
    edgepv_json whole, value;
    int64_t schema = 0;
    memset(bundle, 0, sizeof *bundle);
    if (!edgepv_json_check(text, bytes, &whole))
        return edgepv_because(why, EDGEPV_INPUT,
                              "manifest.json is not valid JSON. It may be truncated; copy it again");
    if (edgepv_json_find(whole, "schema", &value) != 1 ||
        !edgepv_json_whole(value, EDGEPV_SCHEMA, EDGEPV_SCHEMA, &schema))
        return edgepv_because(why, EDGEPV_INPUT,
                              "manifest.json has another schema than %d. Export again, or update edgepv",
                              EDGEPV_SCHEMA);
    /* each string takes no more bytes than its text, each label a pointer for at least four bytes of text */
    bundle->room = 4 * bytes + EDGEPV_MOST_STATES * sizeof(edgepv_state_spec) +
                   EDGEPV_MOST_ANSWERS * sizeof(edgepv_tensor) + 8 * ALIGN;
    bundle->memory = malloc(bundle->room);
    if (!bundle->memory) return edgepv_because(why, EDGEPV_MEMORY, "no memory to read the manifest");
    reader r = {bundle, why, 0};
    if (get(&r, whole, "content", 1, &bundle->content) && get(&r, whole, "measured", 1, &bundle->measured)) {
        bundle->name = get_text(&r, bundle->content, "name");
        bundle->digest = get_text(&r, whole, "digest");
        if (!r.failed && !edgepv_plain_part(bundle->name)) fault(&r, "cannot name a file", "name");
        if (!r.failed && (strlen(bundle->digest) != 64 || strspn(bundle->digest, "0123456789abcdef") != 64))
            fault(&r, "is no SHA-256", "digest");
        bundle->run = get_text(&r, bundle->measured, "run");
        read_variants(&r);
    }
    return r.failed ? EDGEPV_INPUT : EDGEPV_OK;
}

edgepv_status edgepv_read_variant(edgepv_bundle *bundle, const char *name, edgepv_why *why)
{
    edgepv_json variant = {NULL, NULL}, part;
    reader r = {bundle, why, 0};
    for (uint32_t i = 0; i < bundle->variant_count; i++)
        if (!strcmp(bundle->variants[i].name, name)) {
            variant = bundle->variants[i].json;
            bundle->variant = bundle->variants[i].name;
        }
    if (!variant.at)
        return edgepv_because(why, EDGEPV_INPUT, "the bundle has no variant '%s'. See: edgepv inspect", name);
    bundle->streamed = get(&r, variant, "stream", 0, &part);
    if (bundle->streamed) read_stream(&r, part);
    if (get(&r, variant, "spec", 1, &part)) {
        read_spec(&r, part);
        read_particles(&r, part);
    }
    if (!bundle->streamed) {
        bundle->warmup = bundle->frames;
        bundle->chunk = 1;
    }
    bundle->exact_sums = 1;
    if (get(&r, variant, "scheme", 0, &part))
        bundle->exact_sums = get_whole(&r, part, "weight_bits", 1, 64, 8) > SAFE_BITS;
    read_names(&r, variant, 1);
    read_names(&r, variant, 0);
    if (!r.failed) check_names(&r);
    read_path(&r, variant);
    return r.failed ? EDGEPV_INPUT : EDGEPV_OK;
}

void edgepv_free_bundle(edgepv_bundle *bundle)
{
    free(bundle->memory);
    memset(bundle, 0, sizeof *bundle);
}

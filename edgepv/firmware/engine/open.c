/* open.c: a bundle folder becomes a model, or one line says why it does not. */
#define _POSIX_C_SOURCE 200809L
#include "../c/edgepv_engine.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <locale.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

static const edgepv_back *const BACKS[] = {&edgepv_litert, &edgepv_onnxruntime}; /* the first is preferred */
enum { BACK_COUNT = sizeof BACKS / sizeof *BACKS };

edgepv_function edgepv_symbol(void *library, const char *name)
{
    void *found = library ? dlsym(library, name) : NULL;
    edgepv_function function = NULL;
    memcpy(&function, &found, sizeof function);
    return function;
}

static const edgepv_back *back_of(const char *engine)
{
    for (int i = 0; i < BACK_COUNT; i++)
        if (!strcmp(BACKS[i]->engine, engine)) return BACKS[i];
    return NULL;
}

/* An engine's library, at a path or where the system finds it; NULL if it is not there, or another's. */
static void *load_library(const edgepv_back *back, const char *path)
{
    void *library = dlopen(path ? path : back->library, RTLD_NOW | RTLD_LOCAL);
    return edgepv_symbol(library, back->symbol) ? library : NULL;
}

/* What was asked for, or the first variant whose engine is here: the chosen one, then by engine. */
static edgepv_status choose(edgepv_opened *o, const char *wanted, const char *path, void **library,
                            const char **name, edgepv_why *why)
{
    const edgepv_bundle *b = &o->bundle;
    const char *chosen = wanted ? wanted : b->run, *missing = NULL;
    for (int turn = 0; turn <= BACK_COUNT && !(wanted && turn); turn++)
        for (uint32_t i = 0; i < b->variant_count; i++) {
            int due = turn ? !strcmp(b->variants[i].engine, BACKS[turn - 1]->engine)
                           : !strcmp(b->variants[i].name, chosen);
            o->back = due ? back_of(b->variants[i].engine) : NULL;
            if (due && wanted && !o->back)
                return edgepv_because(why, EDGEPV_ENGINE,
                                      "variant %s is for engine %s; this library runs litert and onnxruntime",
                                      wanted, b->variants[i].engine);
            if (!o->back) continue;
            *name = b->variants[i].name;
            if ((*library = load_library(o->back, path))) return EDGEPV_OK;
            if (!missing) missing = o->back->library;
        }
    if (!wanted && !missing)
        return edgepv_because(why, EDGEPV_ENGINE,
                              "the bundle has no variant for litert or onnxruntime, which this library runs");
    if (!missing)
        return edgepv_because(why, EDGEPV_INPUT, "the bundle has no variant '%s'. See: edgepv inspect",
                              wanted);
    return edgepv_because(why, EDGEPV_ENGINE,
                          "%s is not found %s%s, or lacks its functions. Give the path of its library",
                          missing, path ? "at " : "where the system keeps libraries", path ? path : "");
}

/* The bundle's manifest, its signature checked first if a key is given, and the variant that is to run. */
static edgepv_status read_bundle(edgepv_opened *o, int folder, const char *variant, const char *path,
                                 const char *key, void **library, edgepv_why *why)
{
    char *text = NULL;
    const char *name = NULL;
    size_t bytes = 0;
    edgepv_status status =
        edgepv_read_file(folder, "manifest.json", EDGEPV_MOST_MANIFEST, EDGEPV_AHEAD, &text, &bytes, why);
    if (status == EDGEPV_OK && key)
        status = edgepv_check_signature(folder, key, text + EDGEPV_AHEAD, bytes, why);
    if (status == EDGEPV_OK) status = edgepv_read_manifest(text + EDGEPV_AHEAD, bytes, &o->bundle, why);
    if (status == EDGEPV_OK) status = choose(o, variant, path, library, &name, why);
    if (status == EDGEPV_OK) status = edgepv_read_variant(&o->bundle, name, why);
    free(text);
    return status;
}

/* The number of a file's output among those that are read, which it joins if it is new. */
static uint32_t read_port(edgepv_opened *o, const edgepv_tensor *tensor)
{
    for (uint32_t i = 0; i < o->ports.read_count; i++)
        if (!strcmp(o->read[i]->theirs, tensor->theirs)) return i;
    o->places[o->ports.read_count].ring = EDGEPV_NO_PORT;
    o->read[o->ports.read_count] = tensor;
    return o->ports.read_count++;
}

static int allocate(edgepv_opened *o)
{
    size_t states = o->bundle.state_count, answers = o->bundle.answer_count;
    o->fed = calloc(1 + states, sizeof *o->fed);
    o->read = calloc(answers + states, sizeof *o->read);
    o->rings = calloc(states + 1, sizeof *o->rings);
    o->places = calloc(answers + states, sizeof *o->places);
    o->answers = calloc(answers, sizeof *o->answers);
    o->outputs = calloc(answers, sizeof *o->outputs);
    return o->fed && o->read && o->rings && o->places && o->answers && o->outputs;
}

/* Which tensor goes where: inputs, outputs, and the state of each output. 0: two do not agree. */
static int connect_ports(edgepv_opened *o)
{
    edgepv_bundle *b = &o->bundle;
    o->fed[0] = &b->input;
    for (uint32_t i = 0; i < b->answer_count; i++) o->answers[i] = read_port(o, &b->answers[i]);
    for (uint32_t i = 0; i < b->state_count; i++) {
        edgepv_ring *ring = &o->rings[i];
        const edgepv_tensor *out = &b->states[i].out;
        ring->spec = &b->states[i];
        ring->read_port = strcmp(out->name, b->input.name) ? read_port(o, out) : EDGEPV_NO_PORT;
        o->fed[1 + i] = &b->states[i].in;
        const edgepv_tensor *written =
            ring->read_port == EDGEPV_NO_PORT ? &b->input : o->read[ring->read_port];
        if (written->dtype != out->dtype || written->bytes != out->bytes) return 0;
        if (ring->read_port == EDGEPV_NO_PORT || o->places[ring->read_port].ring != EDGEPV_NO_PORT) continue;
        o->places[ring->read_port].ring = i;
        ring->owner = 1;
    }
    o->ports.fed = o->fed;
    o->ports.read = o->read;
    o->ports.fed_count = 1 + b->state_count;
    o->ports.exact_sums = b->exact_sums;
    return 1;
}

/* What the core and its callers are told. */
static void describe(edgepv_opened *o)
{
    const edgepv_bundle *b = &o->bundle;
    edgepv_model *m = &o->model;
    m->size = sizeof *m;
    m->abi = EDGEPV_ABI;
    m->name = b->name;
    m->digest = b->digest;
    m->task = b->task;
    m->labels = b->labels;
    if (!strcmp(b->task, "classification")) m->label_count = b->label_count; /* others do not score them */
    m->probabilities = (uint32_t)b->probabilities;
    m->width = b->width;
    m->height = b->height;
    m->channels = b->channels;
    m->rgb = (uint32_t)b->rgb;
    for (uint32_t i = 0; i < b->channels; i++) { /* in the same steps as edgepv/data/frames.py */
        float std = (float)b->std[i];
        m->scale[i] = (float)(1.0 / 255.0) / std;
        m->shift[i] = (float)b->mean[i] / std;
    }
    m->fps_num = b->fps_num;
    m->fps_den = b->fps_den;
    m->warmup = b->warmup;
    m->chunk = b->chunk;
    m->delay = b->delay;
    m->output_count = b->answer_count;
    m->state_count = b->state_count;
    m->outputs = o->outputs;
    m->particles = b->particles;
    m->position = b->position;
    m->life = b->life;
    for (uint32_t i = 0; i < b->answer_count; i++) {
        edgepv_port *port = &o->outputs[i];
        port->name = b->answers[i].name;
        port->rank = b->answers[i].rank - 1;
        memcpy(port->shape, b->answers[i].shape + 1, port->rank * sizeof *port->shape);
        port->values = b->answers[i].bytes / sizeof(float);
        port->offset = m->output_values;
        m->output_values += port->values;
    }
}

edgepv_status edgepv_arrange(edgepv_opened *o, edgepv_why *why)
{
    if (!allocate(o))
        return edgepv_because(why, EDGEPV_MEMORY, "no memory for the model's %u states",
                              o->bundle.state_count);
    if (!connect_ports(o) || !edgepv_lay_out(o))
        return edgepv_because(why, EDGEPV_INPUT, "the states of variant %s do not fit together. Export again",
                              o->bundle.variant);
    describe(o);
    return EDGEPV_OK;
}

static edgepv_status open_engine(edgepv_opened *o, int folder, void *library, edgepv_why *why)
{
    const edgepv_bundle *b = &o->bundle;
    size_t bytes = 0;
    edgepv_status status = edgepv_read_file(folder, b->path, EDGEPV_MOST_FILE, 0, &o->file, &bytes, why);
    if (status != EDGEPV_OK) return status;
    if (!edgepv_has_sha256(o->file, bytes, b->sha256))
        return edgepv_because(why, EDGEPV_INPUT, "%s was changed or is damaged: its SHA-256 differs",
                              b->path);
    const unsigned char *data = (const unsigned char *)o->file;
    status = o->back == &edgepv_litert ? edgepv_vet_tflite(data, bytes, b->path, why)
                                       : edgepv_vet_onnx(data, bytes, b->path, why);
    if (status != EDGEPV_OK) return status;
    status = edgepv_arrange(o, why);
    if (status != EDGEPV_OK) return status;
    status = o->back->open(library, &o->ports, o->file, bytes, b->path, why, &o->engine);
    if (!o->back->keeps_bytes) {
        free(o->file);
        o->file = NULL;
    }
    return status;
}

/* The folder of a bundle, or -1. */
static int open_folder(const char *folder, edgepv_why *why)
{
    struct stat facts;
    int opened = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened >= 0) return opened;
    int there = !stat(folder, &facts);
    edgepv_because(why, EDGEPV_INPUT,
                   there ? "%s is no folder. Unpack a bundle's zip first" : "%s does not exist", folder);
    return -1;
}

edgepv_status edgepv_open(const char *folder, const char *variant, const char *library,
                          const char *public_key, edgepv_model **model, char *why_text, size_t why_bytes)
{
    edgepv_why why = {why_text, why_bytes};
    void *found = NULL;
    if (why_text && why_bytes) why_text[0] = 0;
    if (!model) return edgepv_because(&why, EDGEPV_INPUT, "edgepv_open needs a place for the model");
    *model = NULL;
    if (!folder) return edgepv_because(&why, EDGEPV_INPUT, "edgepv_open needs the folder of a bundle");
    if (sodium_init() < 0) return edgepv_because(&why, EDGEPV_INTERNAL, "libsodium cannot be started");
    int place = open_folder(folder, &why);
    if (place < 0) return EDGEPV_INPUT;
    edgepv_opened *o = calloc(1, sizeof *o);
    locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0); /* numbers with a point */
    edgepv_status status = EDGEPV_MEMORY;
    if (o && plain) {
        locale_t before = uselocale(plain);
        status = read_bundle(o, place, variant, library, public_key, &found, &why);
        uselocale(before);
        if (status == EDGEPV_OK) status = open_engine(o, place, found, &why);
    }
    if (plain) freelocale(plain);
    close(place);
    if (status == EDGEPV_OK)
        *model = &o->model;
    else if (o)
        edgepv_close(&o->model);
    return edgepv_because(&why, status, "%s", status == EDGEPV_MEMORY ? "no memory to open a bundle" : "");
}

const char *edgepv_variant(const edgepv_model *model)
{
    return ((const edgepv_opened *)model)->bundle.variant;
}

void edgepv_close(edgepv_model *model)
{
    edgepv_opened *o = (edgepv_opened *)(void *)model;
    if (!o) return;
    if (o->engine) o->back->close(o->engine);
    free(o->outputs);
    free(o->answers);
    free(o->places);
    free(o->rings);
    free(o->read);
    free(o->fed);
    free(o->file);
    edgepv_free_bundle(&o->bundle);
    free(o);
}

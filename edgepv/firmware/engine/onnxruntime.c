/* onnxruntime.c: ONNX Runtime by its C API, a table of functions whose order never changes. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define API 14u /* the oldest version that we ask for; later ones only add functions behind */

/* Places in OrtApi of what is called here. Source: onnxruntime_c_api.h, whose order is promised. */
enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    DISABLE_TELEMETRY = 6,
    CREATE_SESSION_FROM_ARRAY = 8,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_LOG_SEVERITY = 22,
    SET_OPTIMIZATION = 23,
    SET_INTRA_THREADS = 24,
    SET_INTER_THREADS = 25,
    INPUT_COUNT = 30,
    OUTPUT_COUNT = 31,
    INPUT_TYPE = 33,
    OUTPUT_TYPE = 34,
    INPUT_NAME = 36,
    OUTPUT_NAME = 37,
    CREATE_TENSOR = 49,
    TENSOR_INFO = 55,
    ELEMENT_TYPE = 60,
    DIMENSION_COUNT = 61,
    DIMENSIONS = 62,
    CREATE_CPU_MEMORY = 69,
    ALLOCATOR_FREE = 76,
    DEFAULT_ALLOCATOR = 78,
    RELEASE_ENV = 92,
    RELEASE_STATUS = 93,
    RELEASE_MEMORY = 94,
    RELEASE_SESSION = 95,
    RELEASE_VALUE = 96,
    RELEASE_TYPE = 98,
    RELEASE_OPTIONS = 100,
    ADD_CONFIG = 130
};

enum { FATAL_ONLY = 4, OPTIMIZE_ALL = 99, ARENA = 1, DEFAULT_MEMORY = 0 };

static const int ELEMENT[] = {1, 10, 3, 2, 6, 7}; /* ONNXTensorElementDataType, by our dtype */

typedef void ort;        /* any object of ONNX Runtime */
typedef void ort_status; /* NULL: all went well */
typedef struct {
    const edgepv_function *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
} api_base;

typedef ort_status *(*fn_create_env)(int severity, const char *id, ort **env);
typedef ort_status *(*fn_create)(ort **object);
typedef ort_status *(*fn_ask)(const ort *object, ort **answer);
typedef ort_status *(*fn_of_object)(ort *object);
typedef ort_status *(*fn_set)(ort *object, int value);
typedef ort_status *(*fn_config)(ort *options, const char *key, const char *value);
typedef ort_status *(*fn_create_session)(const ort *env, const void *bytes, size_t size, const ort *options,
                                         ort **session);
typedef ort_status *(*fn_count)(const ort *object, size_t *count);
typedef ort_status *(*fn_type)(const ort *session, size_t index, ort **type);
typedef ort_status *(*fn_name)(const ort *session, size_t index, ort *allocator, char **name);
typedef ort_status *(*fn_element)(const ort *info, int *element);
typedef ort_status *(*fn_dimensions)(const ort *info, int64_t *values, size_t count);
typedef ort_status *(*fn_free)(ort *allocator, void *memory);
typedef ort_status *(*fn_memory)(int allocator, int kind, ort **memory);
typedef ort_status *(*fn_tensor)(const ort *memory, void *data, size_t bytes, const int64_t *shape,
                                 size_t rank, int element, ort **value);
typedef ort_status *(*fn_run)(ort *session, const ort *options, const char *const *inputs,
                              const ort *const *fed, size_t fed_count, const char *const *outputs,
                              size_t read_count, ort **read);
typedef const char *(*fn_message)(const ort_status *status);
typedef void (*fn_release)(ort *object);

typedef struct {
    const edgepv_function *api;
    const edgepv_ports *ports;
    ort *env, *options, *session, *memory;
    const char **names; /* of what is fed, then of what is read */
} model;

/* Whether a call went well; otherwise its message is told and freed. */
static int good(const edgepv_function *api, ort_status *status, edgepv_why *why, const char *name)
{
    if (!status) return 1;
    char line[160];
    const char *message = ((fn_message)api[GET_ERROR_MESSAGE])(status);
    size_t length = strcspn(message, "\n");
    snprintf(line, sizeof line, "%.*s", (int)(length < sizeof line ? length : sizeof line - 1), message);
    if (why) edgepv_because(why, EDGEPV_ENGINE, "ONNX Runtime cannot load %s: %s", name, line);
    ((fn_release)api[RELEASE_STATUS])(status);
    return 0;
}

static void release(const model *m, unsigned how, ort *object)
{
    if (object) ((fn_release)m->api[how])(object);
}

static void close_model(void *opened)
{
    model *m = opened;
    if (!m) return;
    release(m, RELEASE_MEMORY, m->memory);
    release(m, RELEASE_SESSION, m->session);
    release(m, RELEASE_OPTIONS, m->options);
    release(m, RELEASE_ENV, m->env);
    free(m->names);
    free(m);
}

/* The same options as runtimes/engines/ort.py, so that both give the same answers. */
static int set_options(model *m, edgepv_why *why, const char *name)
{
    const edgepv_function *api = m->api;
    static const struct {
        unsigned place;
        int value;
    } numbers[] = {{SET_OPTIMIZATION, OPTIMIZE_ALL},
                   {SET_INTRA_THREADS, 1},
                   {SET_INTER_THREADS, 1},
                   {SET_LOG_SEVERITY, FATAL_ONLY}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!good(api, ((fn_set)api[numbers[i].place])(m->options, numbers[i].value), why, name)) return 0;
    fn_config config = (fn_config)api[ADD_CONFIG];
    /* this one changes answers: see BROKEN_OPTIMIZERS of ort.py */
    if (!good(api, config(m->options, "optimization.disable_specified_optimizers", "WeightBiasQuantization"),
              why, name))
        return 0;
    return !m->ports->exact_sums ||
           good(api, config(m->options, "session.x64quantprecision", "1"), why, name);
}

/* Whether a port of the file has the type and shape that the manifest says. */
static int same_type(const model *m, const ort *type, const edgepv_tensor *tensor)
{
    const edgepv_function *api = m->api;
    ort *info = NULL;
    int element = 0;
    size_t rank = 0;
    int64_t shape[EDGEPV_RANK];
    if (!good(api, ((fn_ask)api[TENSOR_INFO])(type, &info), NULL, "") || !info) return 0;
    if (!good(api, ((fn_element)api[ELEMENT_TYPE])(info, &element), NULL, "") ||
        element != ELEMENT[tensor->dtype])
        return 0;
    if (!good(api, ((fn_count)api[DIMENSION_COUNT])(info, &rank), NULL, "") || rank != tensor->rank) return 0;
    if (!good(api, ((fn_dimensions)api[DIMENSIONS])(info, shape, rank), NULL, "")) return 0;
    for (size_t i = 0; i < rank; i++)
        if (shape[i] != (int64_t)tensor->shape[i]) return 0;
    return 1;
}

/* Whether the file has a port of a tensor's name, type and shape. read: among its outputs. */
static int has_port(const model *m, const edgepv_tensor *tensor, int read, size_t count)
{
    const edgepv_function *api = m->api;
    ort *allocator = NULL, *type = NULL;
    int found = 0;
    if (!good(api, ((fn_create)api[DEFAULT_ALLOCATOR])(&allocator), NULL, "")) return 0;
    for (size_t i = 0; i < count && !found; i++) {
        char *name = NULL;
        if (!good(api, ((fn_name)api[read ? OUTPUT_NAME : INPUT_NAME])(m->session, i, allocator, &name), NULL,
                  ""))
            return 0;
        int same = !strcmp(name, tensor->theirs);
        good(api, ((fn_free)api[ALLOCATOR_FREE])(allocator, name), NULL, "");
        if (!same) continue;
        if (!good(api, ((fn_type)api[read ? OUTPUT_TYPE : INPUT_TYPE])(m->session, i, &type), NULL, ""))
            return 0;
        found = same_type(m, type, tensor);
        release(m, RELEASE_TYPE, type);
        break;
    }
    return found;
}

static edgepv_status check_ports(const model *m, const char *name, edgepv_why *why)
{
    size_t inputs = 0, outputs = 0;
    int asked = good(m->api, ((fn_count)m->api[INPUT_COUNT])(m->session, &inputs), why, name) &&
                good(m->api, ((fn_count)m->api[OUTPUT_COUNT])(m->session, &outputs), why, name);
    const edgepv_tensor *missing = NULL;
    for (uint32_t i = 0; asked && i < m->ports->fed_count; i++)
        if (!has_port(m, m->ports->fed[i], 0, inputs)) missing = m->ports->fed[i];
    for (uint32_t i = 0; asked && i < m->ports->read_count; i++)
        if (!has_port(m, m->ports->read[i], 1, outputs)) missing = m->ports->read[i];
    if (missing)
        return edgepv_because(why, EDGEPV_INPUT,
                              "%s has no '%s' of the type and shape that the manifest says. Export it again",
                              name, missing->theirs);
    if (!asked || inputs != m->ports->fed_count)
        return edgepv_because(why, EDGEPV_INPUT, "%s has inputs that nothing feeds. Export it again", name);
    return EDGEPV_OK;
}

static edgepv_status load(model *m, void *library, const void *bytes, size_t size, const char *name,
                          edgepv_why *why)
{
    const api_base *base = ((const api_base *(*)(void))edgepv_symbol(library, "OrtGetApiBase"))();
    m->api = base ? base->get_api(API) : NULL;
    if (!m->api)
        return edgepv_because(why, EDGEPV_ENGINE, "ONNX Runtime %s is too old: 1.%u or later is needed",
                              base ? base->get_version() : "", API);
    const edgepv_function *api = m->api;
    if (!good(api, ((fn_create_env)api[CREATE_ENV])(FATAL_ONLY, "edgepv", &m->env), why, name) ||
        !good(api, ((fn_of_object)api[DISABLE_TELEMETRY])(m->env), why, name) ||
        !good(api, ((fn_create)api[CREATE_SESSION_OPTIONS])(&m->options), why, name) ||
        !set_options(m, why, name) ||
        !good(api, ((fn_memory)api[CREATE_CPU_MEMORY])(ARENA, DEFAULT_MEMORY, &m->memory), why, name) ||
        !good(
            api,
            ((fn_create_session)api[CREATE_SESSION_FROM_ARRAY])(m->env, bytes, size, m->options, &m->session),
            why, name))
        return EDGEPV_ENGINE;
    return check_ports(m, name, why);
}

static edgepv_status open_model(void *library, const edgepv_ports *ports, const void *bytes, size_t size,
                                const char *name, edgepv_why *why, void **opened)
{
    /* unless this is set, ONNX Runtime 1.29 and later keeps an id below ~/.cache to report to its vendor */
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    model *m = calloc(1, sizeof *m);
    const char **names = calloc(ports->fed_count + ports->read_count, sizeof *names);
    if (!m || !names) {
        free(m);
        free(names);
        return edgepv_because(why, EDGEPV_MEMORY, "no memory to load %s", name);
    }
    m->ports = ports;
    m->names = names;
    for (uint32_t i = 0; i < ports->fed_count; i++) names[i] = ports->fed[i]->theirs;
    for (uint32_t i = 0; i < ports->read_count; i++) names[ports->fed_count + i] = ports->read[i]->theirs;
    edgepv_status status = load(m, library, bytes, size, name, why);
    if (status == EDGEPV_OK) {
        *opened = m;
    } else if (m->api) {
        close_model(m);
    } else {
        free(names);
        free(m);
    }
    return status;
}

/* A session of ONNX Runtime may be run by any number of threads, so every camera has the same one. */
static edgepv_status begin(void *opened, void **session)
{
    *session = opened;
    return EDGEPV_OK;
}

static void end(void *session)
{
    (void)session;
}

static edgepv_status wrap(void *session, const edgepv_tensor *tensor, void *memory, void **handle)
{
    const model *m = session;
    int64_t shape[EDGEPV_RANK];
    for (uint32_t i = 0; i < tensor->rank; i++) shape[i] = tensor->shape[i];
    return good(m->api,
                ((fn_tensor)m->api[CREATE_TENSOR])(m->memory, memory, tensor->bytes, shape, tensor->rank,
                                                   ELEMENT[tensor->dtype], handle),
                NULL, "")
               ? EDGEPV_OK
               : EDGEPV_MEMORY;
}

static void unwrap(void *session, void *handle)
{
    release(session, RELEASE_VALUE, handle);
}

/* ONNX Runtime has no flag of the caller's to look at: a step that has begun is not cancelled. */
static edgepv_status run(void *session, void *const *fed, void **read, const volatile uint32_t *cancel)
{
    const model *m = session;
    const edgepv_ports *ports = m->ports;
    (void)cancel;
    ort_status *status =
        ((fn_run)m->api[RUN])(m->session, NULL, m->names, (const ort *const *)fed, ports->fed_count,
                              m->names + ports->fed_count, ports->read_count, read);
    return good(m->api, status, NULL, "") ? EDGEPV_OK : EDGEPV_INTERNAL;
}

const edgepv_back edgepv_onnxruntime = {"onnxruntime",
                                        "libonnxruntime.so.1",
                                        "OrtGetApiBase",
                                        0,
                                        open_model,
                                        close_model,
                                        begin,
                                        end,
                                        wrap,
                                        unwrap,
                                        run};

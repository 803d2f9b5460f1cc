/* litert.c: LiteRT by its C API (CompiledModel), on the CPU with XNNPACK and one thread. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum { OK = 0, CPU = 1, SILENT = 4, HOST_ALIGN = 64 };
enum { ACCELERATORS_TAG = 24, SEVERITY_TAG = 25, INTEGER = 2 }; /* of an option of the environment */

static const int ELEMENT[] = {1, 10, 9, 3, 2, 4};  /* LiteRtElementType, by our dtype */
static const char THREADS[] = "num_threads = 1\n"; /* TOML, what LiteRT's own CPU options become */

typedef void lrt; /* any object of LiteRT */

typedef struct { /* LiteRtRankedTensorType, which LiteRT promises not to change */
    int element;
    struct {
        unsigned rank : 7, has_strides : 1;
        int32_t shape[8];
        uint32_t strides[8];
    } layout;
} tensor_type;

typedef struct { /* LiteRtEnvOption */
    int tag;
    struct {
        int type;
        union {
            int64_t number;
            const void *pointer;
        } is;
    } value;
} environment_option;

typedef struct { /* the functions that are called; the order is that of NAMES */
    int (*create_environment)(int count, const environment_option *options, lrt **environment);
    void (*destroy_environment)(lrt *environment);
    int (*create_model)(lrt *environment, const void *bytes, size_t size, lrt **model);
    void (*destroy_model)(lrt *model);
    int (*count_signatures)(lrt *model, size_t *count);
    int (*get_signature)(lrt *model, size_t index, lrt **signature);
    int (*count_inputs)(lrt *signature, size_t *count);
    int (*count_outputs)(lrt *signature, size_t *count);
    int (*input_name)(lrt *signature, size_t index, const char **name);
    int (*output_name)(lrt *signature, size_t index, const char **name);
    int (*input_tensor)(lrt *signature, size_t index, lrt **tensor);
    int (*output_tensor)(lrt *signature, size_t index, lrt **tensor);
    int (*get_type)(lrt *tensor, tensor_type *type);
    int (*create_options)(lrt **options);
    void (*destroy_options)(lrt *options);
    int (*set_accelerators)(lrt *options, int accelerators);
    int (*create_opaque)(const char *name, void *data, void (*destroy)(void *), lrt **opaque);
    int (*add_opaque)(lrt *options, lrt *opaque);
    int (*compile)(lrt *environment, lrt *model, lrt *options, lrt **compiled);
    void (*destroy_compiled)(lrt *compiled);
    int (*set_cancel)(lrt *compiled, void *data, bool (*cancelled)(void *));
    int (*wrap_memory)(const tensor_type *type, void *memory, size_t bytes, void (*destroy)(void *),
                       lrt **buffer);
    void (*destroy_buffer)(lrt *buffer);
    int (*run)(lrt *compiled, size_t signature, size_t inputs, lrt **fed, size_t outputs, lrt **read);
} functions;

static const char *const NAMES[] = {
    "LiteRtCreateEnvironment",
    "LiteRtDestroyEnvironment",
    "LiteRtCreateModelFromBuffer",
    "LiteRtDestroyModel",
    "LiteRtGetNumModelSignatures",
    "LiteRtGetModelSignature",
    "LiteRtGetNumSignatureInputs",
    "LiteRtGetNumSignatureOutputs",
    "LiteRtGetSignatureInputName",
    "LiteRtGetSignatureOutputName",
    "LiteRtGetSignatureInputTensorByIndex",
    "LiteRtGetSignatureOutputTensorByIndex",
    "LiteRtGetRankedTensorType",
    "LiteRtCreateOptions",
    "LiteRtDestroyOptions",
    "LiteRtSetOptionsHardwareAccelerators",
    "LiteRtCreateOpaqueOptions",
    "LiteRtAddOpaqueOptions",
    "LiteRtCreateCompiledModel",
    "LiteRtDestroyCompiledModel",
    "LiteRtSetCompiledModelCancellationFunction",
    "LiteRtCreateTensorBufferFromHostMemory",
    "LiteRtDestroyTensorBuffer",
    "LiteRtRunCompiledModel",
};

typedef struct {
    functions f;
    const edgepv_ports *ports;
    lrt *environment, *model;
    size_t
        *order; /* where each of our ports lies in the file's signature: the fed ones, then the read ones */
} model;

typedef struct {
    const model *m;
    lrt *compiled;
    const volatile uint32_t *cancel;
    lrt **fed, **read; /* in the file's order */
} session;

static void close_model(void *opened)
{
    model *m = opened;
    if (m->model) m->f.destroy_model(m->model);
    if (m->environment) m->f.destroy_environment(m->environment);
    free(m->order);
    free(m);
}

/* Whether a tensor of the file has the type and shape that the manifest says; it also proves our struct. */
static int same_type(const functions *f, lrt *found, const edgepv_tensor *wanted)
{
    tensor_type type;
    memset(&type, 0, sizeof type);
    if (f->get_type(found, &type) != OK || type.element != ELEMENT[wanted->dtype] ||
        type.layout.rank != wanted->rank)
        return 0;
    for (uint32_t i = 0; i < wanted->rank; i++)
        if (type.layout.shape[i] != (int32_t)wanted->shape[i]) return 0;
    return 1;
}

/* Where a port of ours lies among a signature's; 0 if there is none of its name, type and shape. */
static int find_port(const functions *f, lrt *signature, const edgepv_tensor *port, int read, size_t count,
                     size_t *at)
{
    for (*at = 0; *at < count; ++*at) {
        const char *name = NULL;
        lrt *tensor = NULL;
        if ((read ? f->output_name : f->input_name)(signature, *at, &name) != OK || !name) return 0;
        if (!strcmp(name, port->theirs))
            return (read ? f->output_tensor : f->input_tensor)(signature, *at, &tensor) == OK && tensor &&
                   same_type(f, tensor, port);
    }
    return 0;
}

static edgepv_status check_ports(model *m, const char *name, edgepv_why *why)
{
    const edgepv_ports *ports = m->ports;
    lrt *signature = NULL;
    size_t signatures = 0, inputs = 0, outputs = 0;
    if (m->f.count_signatures(m->model, &signatures) != OK || !signatures ||
        m->f.get_signature(m->model, 0, &signature) != OK || m->f.count_inputs(signature, &inputs) != OK ||
        m->f.count_outputs(signature, &outputs) != OK || inputs != ports->fed_count ||
        outputs != ports->read_count)
        return edgepv_because(
            why, EDGEPV_INPUT,
            "%s has %zu inputs and %zu outputs, the manifest says %u and %u. Export it again", name, inputs,
            outputs, ports->fed_count, ports->read_count);
    for (uint32_t i = 0; i < ports->fed_count + ports->read_count; i++) {
        int read = i >= ports->fed_count;
        const edgepv_tensor *port = read ? ports->read[i - ports->fed_count] : ports->fed[i];
        if (!find_port(&m->f, signature, port, read, read ? outputs : inputs, &m->order[i]))
            return edgepv_because(
                why, EDGEPV_INPUT,
                "%s has no '%s' of the type and shape that the manifest says. Export it again", name,
                port->theirs);
    }
    return EDGEPV_OK;
}

static edgepv_status load(model *m, void *library, const void *bytes, size_t size, const char *name,
                          edgepv_why *why)
{
    environment_option options[2];
    edgepv_function found[sizeof NAMES / sizeof *NAMES];
    memset(options, 0, sizeof options);
    options[0].tag = ACCELERATORS_TAG;
    options[0].value.is.number = CPU;
    options[1].tag = SEVERITY_TAG;
    options[1].value.is.number = SILENT;
    options[0].value.type = options[1].value.type = INTEGER;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (!(found[i] = edgepv_symbol(library, NAMES[i])))
            return edgepv_because(why, EDGEPV_ENGINE,
                                  "this LiteRT has no %s: 2.3 or a later one of its line is needed",
                                  NAMES[i]);
    memcpy(&m->f, found, sizeof m->f);
    if (m->f.create_environment(2, options, &m->environment) != OK)
        return edgepv_because(why, EDGEPV_ENGINE, "LiteRT cannot be started");
    if (m->f.create_model(m->environment, bytes, size, &m->model) != OK)
        return edgepv_because(why, EDGEPV_ENGINE, "LiteRT cannot load %s. Export it again", name);
    return check_ports(m, name, why);
}

static edgepv_status open_model(void *library, const edgepv_ports *ports, const void *bytes, size_t size,
                                const char *name, edgepv_why *why, void **opened)
{
    model *m = calloc(1, sizeof *m);
    size_t *order = calloc(ports->fed_count + ports->read_count, sizeof *order);
    if (!m || !order) {
        free(m);
        free(order);
        return edgepv_because(why, EDGEPV_MEMORY, "no memory to load %s", name);
    }
    m->ports = ports;
    m->order = order;
    edgepv_status status = load(m, library, bytes, size, name, why);
    if (status == EDGEPV_OK)
        *opened = m;
    else
        close_model(m);
    return status;
}

static bool cancelled(void *data)
{
    const session *s = data;
    return s->cancel && *s->cancel;
}

static void leave(void *data)
{
    (void)data; /* a text of ours that stays, or memory of the caller's */
}

static void end(void *begun)
{
    session *s = begun;
    if (s->compiled) s->m->f.destroy_compiled(s->compiled);
    free(s->fed);
    free(s);
}

static int compile(session *s)
{
    const functions *f = &s->m->f;
    lrt *options = NULL, *opaque = NULL;
    if (f->create_options(&options) != OK) return 0;
    int done = f->set_accelerators(options, CPU) == OK &&
               f->create_opaque("xnnpack", (void *)(uintptr_t)THREADS, leave, &opaque) == OK &&
               f->add_opaque(options, opaque) == OK &&
               f->compile(s->m->environment, s->m->model, options, &s->compiled) == OK &&
               f->set_cancel(s->compiled, s, cancelled) == OK;
    f->destroy_options(options);
    return done;
}

/* What LiteRT compiles has memory of its own to compute in, so every camera has one. */
static edgepv_status begin(void *opened, void **begun)
{
    const model *m = opened;
    session *s = calloc(1, sizeof *s);
    if (!s) return EDGEPV_MEMORY;
    s->m = m;
    s->fed = calloc(m->ports->fed_count + m->ports->read_count, sizeof *s->fed);
    if (!s->fed || !compile(s)) {
        end(s);
        return EDGEPV_ENGINE;
    }
    s->read = s->fed + m->ports->fed_count;
    *begun = s;
    return EDGEPV_OK;
}

static edgepv_status wrap(void *begun, const edgepv_tensor *tensor, void *memory, void **handle)
{
    const session *s = begun;
    tensor_type type;
    memset(&type, 0, sizeof type);
    type.element = ELEMENT[tensor->dtype];
    type.layout.rank = tensor->rank & 7u;
    for (uint32_t i = 0; i < tensor->rank; i++) type.layout.shape[i] = (int32_t)tensor->shape[i];
    if ((uintptr_t)memory % HOST_ALIGN) return EDGEPV_INTERNAL;
    return s->m->f.wrap_memory(&type, memory, tensor->bytes, leave, handle) == OK ? EDGEPV_OK : EDGEPV_MEMORY;
}

static void unwrap(void *begun, void *handle)
{
    const session *s = begun;
    s->m->f.destroy_buffer(handle);
}

static edgepv_status run(void *begun, void *const *fed, void **read, const volatile uint32_t *cancel)
{
    session *s = begun;
    const edgepv_ports *ports = s->m->ports;
    const size_t *order = s->m->order;
    for (uint32_t i = 0; i < ports->fed_count; i++) s->fed[order[i]] = fed[i];
    for (uint32_t i = 0; i < ports->read_count; i++) s->read[order[ports->fed_count + i]] = read[i];
    s->cancel = cancel;
    int status = s->m->f.run(s->compiled, 0, ports->fed_count, s->fed, ports->read_count, s->read);
    s->cancel = NULL;
    if (status == OK) return EDGEPV_OK;
    return cancel && *cancel ? EDGEPV_CANCELLED : EDGEPV_INTERNAL;
}

const edgepv_back edgepv_litert = {"litert",
                                   "libLiteRt.so",
                                   "LiteRtCreateCompiledModel",
                                   1,
                                   open_model,
                                   close_model,
                                   begin,
                                   end,
                                   wrap,
                                   unwrap,
                                   run};

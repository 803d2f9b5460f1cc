/* engine.h: the engines behind a bundle's model, which all do the same few things. Not for callers.
 *
 * An engine's library is opened while a model is (dlopen), and called through prototypes of our own: none of
 * its headers is needed to build this.
 */
#ifndef EDGEPV_ENGINE_BACK_H
#define EDGEPV_ENGINE_BACK_H

#include "bundle.h"

typedef struct { /* what the engine is fed and asked, in this order at every step */
    const edgepv_tensor *const *fed, *const *read;
    uint32_t fed_count, read_count;
    int exact_sums; /* integer sums that mean the same on every CPU: see edgepv/base/optional.py */
} edgepv_ports;

typedef struct {
    const char *engine, *library, *symbol; /* as manifests call it; its soname; a function that only it has */
    int keeps_bytes;                       /* it reads weights where they lie in the file's bytes */

    /* Load a model. name: the file's. ports have to stay until close, bytes where keeps_bytes says so. */
    edgepv_status (*open)(void *library, const edgepv_ports *ports, const void *bytes, size_t size,
                          const char *name, edgepv_why *why, void **model);
    void (*close)(void *model);

    /* One camera's own: what runs the model, and handles for memory that it sees, aligned by 64. */
    edgepv_status (*begin)(void *model, void **session);
    void (*end)(void *session);
    edgepv_status (*wrap)(void *session, const edgepv_tensor *tensor, void *memory, void **handle);
    void (*unwrap)(void *session, void *handle);

    /* Run once; a handle for each port. */
    edgepv_status (*run)(void *session, void *const *fed, void **read, const volatile uint32_t *cancel);
} edgepv_back;

extern const edgepv_back edgepv_litert, edgepv_onnxruntime;

/* A function of a library. ISO C has no cast from what dlsym gives. */
typedef void (*edgepv_function)(void);
edgepv_function edgepv_symbol(void *library, const char *name);

#endif

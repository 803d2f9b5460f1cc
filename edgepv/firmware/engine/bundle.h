/* bundle.h: a bundle folder, read as far as one variant of it needs. Not for callers.
 *
 * What is read comes from files that anyone may have written: every number has a limit here (that of Python's
 * reader unless said), every name is checked, and nothing is believed of a size.
 */
#ifndef EDGEPV_BUNDLE_H
#define EDGEPV_BUNDLE_H

#include "../c/edgepv_model.h"
#include "json.h"

#define EDGEPV_SCHEMA 1
#define EDGEPV_MOST_MANIFEST ((size_t)4 << 20) /* bytes; the largest of ours has 0.2 MiB */
#define EDGEPV_MOST_FILE ((size_t)2 << 30)     /* bytes of a model */
#define EDGEPV_MOST_VARIANTS 64u
#define EDGEPV_MOST_FILES 4096u
#define EDGEPV_MOST_FRAMES 4096               /* of a clip or a step */
#define EDGEPV_MOST_SIDE 8192                 /* px */
#define EDGEPV_MOST_VALUES ((int64_t)1 << 28) /* of one tensor */
#define EDGEPV_MOST_BYTES ((uint64_t)1 << 31) /* of a tensor, and of all states together */
#define EDGEPV_MOST_STATES 1024u              /* fewer than the writer's 4096: ours have up to 40 */
#define EDGEPV_MOST_ANSWERS 16u               /* ours have up to 2 */
#define EDGEPV_MOST_PARTICLES 1024
#define EDGEPV_MOST_NAME 800u  /* bytes: 200 letters of up to 4 */
#define EDGEPV_MOST_PATH 1024u /* bytes of a path in the bundle */
#define EDGEPV_RANK 5u         /* axes of a tensor, with that of the batch or the rows */

typedef struct { /* where the one line about a failure goes; text may be NULL */
    char *text;
    size_t bytes;
} edgepv_why;

/* Write the line, unless one stands there, and return status. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
edgepv_status edgepv_because(edgepv_why *why, edgepv_status status, const char *format, ...);

typedef enum {
    EDGEPV_FLOAT32,
    EDGEPV_FLOAT16,
    EDGEPV_INT8,
    EDGEPV_UINT8,
    EDGEPV_INT32,
    EDGEPV_INT64
} edgepv_dtype;
extern const size_t edgepv_item_bytes[]; /* by dtype */

typedef struct {
    const char *name, *theirs; /* in the manifest, in the model's file */
    edgepv_dtype dtype;
    uint32_t rank, shape[EDGEPV_RANK];
    size_t bytes;
} edgepv_tensor;

typedef struct { /* see StateSpec in docs/schema/manifest.json */
    edgepv_tensor in, out;
    int shift; /* 0: replaced whole */
    uint32_t fresh, period, first;
    double init;
} edgepv_state_spec;

typedef struct {
    char *memory; /* holds all that the others point to; freed with the bundle */
    size_t used, room;
    edgepv_json content, measured;
    struct {
        const char *name, *engine;
        edgepv_json json;
    } variants[EDGEPV_MOST_VARIANTS];
    uint32_t variant_count;
    const char *name, *digest, *run, *task, *variant, *path; /* run: the variant chosen when it was made */
    char sha256[65];                                         /* of the model's file */
    const char **labels;
    uint32_t label_count, state_count, answer_count;
    int probabilities, rgb, streamed, exact_sums;
    uint32_t frames, warmup, chunk, delay, width, height, channels, fps_num, fps_den;
    uint32_t particles, position, life; /* of a tracker: its places, and which of its states those are */
    double mean[3], std[3];
    edgepv_tensor input;
    edgepv_state_spec *states;
    edgepv_tensor *answers;
} edgepv_bundle;

/* Bytes of a plain file below a folder; every part of the path has to be plain too: no link, no pipe.
 * ahead: room in front of the bytes that is left free. The caller frees *memory. */
edgepv_status edgepv_read_file(int folder, const char *path, size_t most, size_t ahead, char **memory,
                               size_t *bytes, edgepv_why *why);

/* Whether a name is one plain part of a path: no separator, no control character, not hidden. */
int edgepv_plain_part(const char *name);

/* EDGEPV_SIGNATURE unless manifest.sig of the folder signs these bytes with the key in a PEM file.
 * manifest: with EDGEPV_AHEAD bytes of room in front, which are written to. */
#define EDGEPV_AHEAD 64u
edgepv_status edgepv_check_signature(int folder, const char *public_key, char *manifest, size_t bytes,
                                     edgepv_why *why);

/* Whether bytes have this SHA-256, in hexadecimal. */
int edgepv_has_sha256(const void *data, size_t bytes, const char *hex);

/* The two parts of a manifest, of a schema that is known, and the names of its variants. */
edgepv_status edgepv_read_manifest(const char *text, size_t bytes, edgepv_bundle *bundle, edgepv_why *why);

/* All that running a variant needs. Numbers are read with the "C" locale. */
edgepv_status edgepv_read_variant(edgepv_bundle *bundle, const char *variant, edgepv_why *why);

void edgepv_free_bundle(edgepv_bundle *bundle);

/* EDGEPV_INPUT if a model's file could make its engine read outside of it. name: the file's. */
edgepv_status edgepv_vet_onnx(const unsigned char *data, size_t bytes, const char *name, edgepv_why *why);
edgepv_status edgepv_vet_tflite(const unsigned char *data, size_t bytes, const char *name, edgepv_why *why);

#endif

/* edgepv.h: a streamed video model, stepped frame by frame. C99.
 *
 * The caller owns all memory: ask edgepv_need how much, give it to edgepv_begin. Nothing is allocated, read,
 * written or printed behind its back, and no thread is started. A model is constant and may be shared by any
 * number of threads; a session is one camera's and belongs to one thread at a time.
 */
#ifndef EDGEPV_H
#define EDGEPV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEPV_ABI 1 /* raised only when a program built against an older header would break */

typedef struct edgepv_model edgepv_model;
typedef struct edgepv_session edgepv_session;

typedef enum { /* 0 to 14: the exit codes of the command line */
    EDGEPV_OK = 0,
    EDGEPV_INTERNAL = 1,
    EDGEPV_INPUT = 2,      /* a frame, a format or an argument that is none */
    EDGEPV_PARITY = 5,     /* golden answers are not reproduced */
    EDGEPV_ENGINE = 7,     /* the engine that the bundle needs is not here */
    EDGEPV_SIGNATURE = 9,  /* not signed, or not by this key */
    EDGEPV_MEMORY = 20,    /* less memory, or less aligned, than edgepv_need says */
    EDGEPV_VERSION = 21,   /* a model or a struct of another ABI */
    EDGEPV_NOT_FINITE = 22,/* the model answered NaN or infinity; the states are as before the frame */
    EDGEPV_CANCELLED = 23  /* edgepv_cancel was called; the states are as before the frame */
} edgepv_status;

typedef enum { EDGEPV_BGR24 = 1, EDGEPV_RGB24, EDGEPV_NV12, EDGEPV_GRAY8 } edgepv_format;

typedef struct { /* what does not change while a session lasts: tables are made once */
    uint32_t size; /* sizeof(edgepv_camera) */
    uint32_t width, height; /* 1 to 16384 pixels; even for NV12 */
    uint32_t format; /* an edgepv_format */
} edgepv_camera;

typedef struct { /* borrowed for one call */
    uint32_t size;
    const uint8_t *plane[2]; /* NV12: luma and interleaved chroma; else the first alone */
    uint32_t stride[2];      /* bytes from one row to the next */
    uint64_t pts_ns;         /* handed through */
    uint32_t missed;         /* frames, at the model's rate, lost since the one before */
} edgepv_frame;

typedef struct {
    uint32_t size;
    int32_t label;      /* of a classifier, else -1 */
    float score;        /* of that label, 0 to 1 */
    uint32_t valid;     /* 0 until the model has seen a full window */
    uint32_t restarted; /* 1 if the states were forgotten right before this frame */
    uint32_t missed;    /* frames lost within what this answer looks back on */
    uint64_t index;     /* frames since the states were last forgotten */
    uint64_t pts_ns;
} edgepv_answer;

typedef struct {
    uint32_t size, abi;
    const char *name, *digest, *task; /* digest: of the bundle's content, hexadecimal */
    uint32_t labels, outputs, states;
    uint32_t warmup, chunk, delay;    /* in frames; see edgepv inspect */
    uint32_t width, height, channels; /* of what the model sees */
    uint32_t fps_num, fps_den;
} edgepv_info;

uint32_t edgepv_abi(void);
const char *edgepv_text(edgepv_status status); /* one line of English */

edgepv_status edgepv_inform(const edgepv_model *model, edgepv_info *info);
const char *edgepv_label(const edgepv_model *model, uint32_t label); /* NULL for one that is none */

/* The bytes a session takes, exactly, and how they must be aligned. camera: NULL for a session that is only fed
 * tensors. */
edgepv_status edgepv_need(const edgepv_model *model, const edgepv_camera *camera, size_t *bytes, size_t *align);
edgepv_status edgepv_begin(const edgepv_model *model, const edgepv_camera *camera, void *memory, size_t bytes,
                           edgepv_session **session);
/* Answer to one frame. A frame that is refused changes nothing. Where a step fails, the frame is as if it had not
 * been, but for this: what edgepv_output told is gone, and if frame->missed is the model's warm-up or more, all
 * before it is forgotten first. Nothing of the frame is kept after the call. */
edgepv_status edgepv_step(edgepv_session *session, const edgepv_frame *frame, edgepv_answer *answer);

/* The same for a camera that scales and normalises by itself: one frame (C, H, W) as the model takes it. */
edgepv_status edgepv_step_tensor(edgepv_session *session, const float *input, size_t values, uint32_t missed,
                                 edgepv_answer *answer);

/* Set one state before the next step: values in the order and shape of the bundle's spec, counted as there. For a
 * host that places particles by itself. A model whose states do not lie in its own memory refuses it. */
edgepv_status edgepv_write(edgepv_session *session, uint32_t state, const float *data, size_t values);

/* What the last step answered, in the order and shape of the bundle's spec; valid until the next step. */
edgepv_status edgepv_output(const edgepv_session *session, uint32_t output, const float **data, size_t *values);

/* Scores of all labels, softmax of logits or the probabilities that they are. */
edgepv_status edgepv_scores(const edgepv_session *session, const float **data, size_t *values);

/* Of a tracker: the number of the particle in each row of its first output, -1 for none. None is given twice. */
edgepv_status edgepv_ids(const edgepv_session *session, const int32_t **ids, size_t *count);

void edgepv_reset(edgepv_session *session);  /* forget every frame: the camera was away */
void edgepv_cancel(edgepv_session *session); /* end the running step soon; the one call for another thread */
void edgepv_end(edgepv_session *session);    /* the memory is the caller's again */

#ifdef __cplusplus
}
#endif
#endif

/* model.h: an opened bundle, and where each thing of a session lies in its memory. Not for callers. */
#ifndef EDGEPV_ENGINE_MODEL_H
#define EDGEPV_ENGINE_MODEL_H

#include "engine.h"

#define EDGEPV_NO_PORT UINT32_MAX

/* One state in a session's memory. Rows are written one behind the other into a buffer that is longer than
 * needed, and the view that the engine reads moves along; only at its end are rows copied to the front. A
 * state that a step replaces has two places, used in turn. One with a period is that many buffers (lanes).
 * The same as Memory in edgepv/stream/step.py, but with places aligned for LiteRT. */
typedef struct {
    const edgepv_state_spec *spec;
    int whole;                   /* a step replaces all rows: two places in turn */
    int direct;                  /* every place is aligned, so the engine reads and writes there itself */
    uint32_t positions;          /* of the view in a lane */
    size_t row;                  /* bytes */
    size_t half;                 /* of a whole one: bytes from one place to the other */
    size_t lane;                 /* bytes from one lane to the next */
    size_t first_lane;           /* number of its first lane among those of all states */
    size_t offset;               /* in the session's memory, as the two that follow */
    size_t view_copy, slot_copy; /* where not direct: aligned places that the engine sees instead */
    size_t handles;     /* its first: of the views of each lane, then of the slots; or of the two copies */
    uint32_t read_port; /* its output; EDGEPV_NO_PORT: the frames that were fed */
    int owner;          /* it is the state whose slot that output is written to */
} edgepv_ring;

typedef struct {   /* where one output of the file is written */
    uint32_t ring; /* in the slot of this state; EDGEPV_NO_PORT: in a buffer of its own */
    size_t offset; /* of that buffer in the session's memory */
    size_t handle;
} edgepv_read_place;

typedef struct {
    edgepv_model model; /* first: the core has only this */
    edgepv_bundle bundle;
    char *file; /* the bytes of the model's file, where the engine needs them */
    const edgepv_back *back;
    void *engine;
    edgepv_ports ports;
    const edgepv_tensor **fed, **read; /* the input, then the states; every output once */
    edgepv_ring *rings;                /* of the states */
    edgepv_read_place *places;         /* of the outputs */
    uint32_t *answers;                 /* the output that each answer is */
    edgepv_port *outputs;
    size_t lanes, handles;
    size_t positions_at, handles_at, input_at, window_at; /* in the session's memory */
} edgepv_opened;

/* Connect the tensors of a variant that was read, lay out its sessions' memory, and describe the model. */
edgepv_status edgepv_arrange(edgepv_opened *opened, edgepv_why *why);

/* Lay out a session's memory and give the model the functions that step it. 0: it would be too large. */
int edgepv_lay_out(edgepv_opened *opened);

#endif

/* edgepv_model.h: what makes a model, generated or read from a bundle, to edgepv_core.c. Not for callers.
 *
 * A step is two calls, so that one that fails leaves everything as it was: run computes, and writes new
 * states only where no older one that is still needed lies; commit makes them count.
 */
#ifndef EDGEPV_MODEL_H
#define EDGEPV_MODEL_H

#include "edgepv.h"

#define EDGEPV_ALIGN 64u /* bytes: of state, arena and outputs */
#define EDGEPV_MOST_RANK 5u

typedef struct {
    const char *name;
    uint32_t rank, shape[EDGEPV_MOST_RANK]; /* without the batch axis */
    size_t values;
    size_t offset; /* floats from the first output */
} edgepv_port;

typedef struct { /* where run wants its frames: channels innermost, float, one after another */
    size_t offset;       /* bytes into the arena; a multiple of sizeof(float) */
    size_t row_values;   /* floats from one row to the next, width * channels or more */
    size_t frame_values; /* floats from one frame of a chunk to the next */
} edgepv_place;

struct edgepv_model {
    uint32_t size, abi;
    const char *name, *digest, *task;
    const char *const *labels;             /* of a classifier, whose first output is what it says of each */
    uint32_t label_count, probabilities; /* probabilities: 1 where the first output is no logits but those */
    uint32_t width, height, channels, rgb; /* rgb: 1 for red first, 0 for blue first; grey has one channel */
    float scale[3], shift[3];              /* by channel as the model orders them: byte * scale - shift */
    uint32_t fps_num, fps_den, warmup, chunk, delay;
    edgepv_place input;
    uint32_t output_count, state_count;
    const edgepv_port *outputs;
    size_t output_values; /* floats of all outputs */
    size_t state_bytes, arena_bytes;
    const void *data; /* the maker's own */

    void (*reset)(const edgepv_model *model, void *state);
    /* Compute the answer to the chunk that lies at input in the arena. cancel: looked at between layers. Where
     * chunk is above 1, the frames at input are left as they are: a step that fails is made again from them. */
    edgepv_status (*run)(const edgepv_model *model, void *state, void *arena, float *outputs,
                         const volatile uint32_t *cancel);
    void (*commit)(const edgepv_model *model, void *state);
    /* The values of one state that the next step will read, in the order of the spec; NULL if they do not
     * lie so. Trackers write positions and lives there. */
    float *(*state)(const edgepv_model *model, void *state, uint32_t index);
    /* Of an engine only, else NULL: what a session holds outside its memory. */
    edgepv_status (*begin)(const edgepv_model *model, void *state);
    void (*end)(const edgepv_model *model, void *state);
    /* Of the task "tracking", whose births the core decides: its places, and which states are "position" (places, 2)
     * and "life" (places, 1). Its first output is (places, 3 or more): x, y first, visibility last. */
    uint32_t particles, position, life;
    /* Fill a state with values in the order of the spec; EDGEPV_INPUT if there are not that many. NULL: states cannot
     * be written as a whole. */
    edgepv_status (*write)(const edgepv_model *model, void *state, uint32_t index, const float *values, size_t count);
};

#endif

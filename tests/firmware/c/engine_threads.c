/* engine_threads.c: sessions of one model in threads of their own, at once, for the tests.
 *
 *     engine_threads BUNDLE LIBRARY
 *
 * Each session is stepped over frames of its own, alone and then beside others; ends with EDGEPV_PARITY if
 * one of them answers otherwise then.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgepv_engine.h"

enum { SESSIONS = 3, FRAMES = 30, MOST_ANSWERS = 64 };

typedef struct {
    const edgepv_model *model;
    uint32_t seed;
    float answers[FRAMES][MOST_ANSWERS];
    edgepv_status status;
} camera;

static void make_frame(uint32_t *random, float *frame, size_t values)
{
    for (size_t i = 0; i < values; i++) {
        *random = *random * 1664525u + 1013904223u;
        frame[i] = (float)(*random >> 8) / 8388608.0f - 1.0f;
    }
}

static edgepv_status watch(camera *c, edgepv_session *session, float *frame, size_t values)
{
    uint32_t random = c->seed;
    for (int t = 0; t < FRAMES; t++) {
        edgepv_answer answer = {.size = sizeof answer};
        const float *data;
        size_t count;
        make_frame(&random, frame, values);
        edgepv_status status = edgepv_step_tensor(session, frame, values, 0, &answer);
        if (status == EDGEPV_OK) status = edgepv_output(session, 0, &data, &count);
        if (status != EDGEPV_OK) return status;
        memcpy(c->answers[t], data, (count < MOST_ANSWERS ? count : MOST_ANSWERS) * sizeof *data);
    }
    return EDGEPV_OK;
}

static void *run(void *started)
{
    camera *c = started;
    edgepv_info info = {.size = sizeof info};
    edgepv_session *session = NULL;
    size_t bytes = 0, align = 0;
    void *memory = NULL;
    c->status = edgepv_inform(c->model, &info);
    if (c->status == EDGEPV_OK) c->status = edgepv_need(c->model, NULL, &bytes, &align);
    size_t values = (size_t)info.channels * info.width * info.height;
    float *frame = malloc(values * sizeof *frame);
    if (c->status == EDGEPV_OK && (!frame || posix_memalign(&memory, align, bytes)))
        c->status = EDGEPV_MEMORY;
    if (c->status == EDGEPV_OK) c->status = edgepv_begin(c->model, NULL, memory, bytes, &session);
    if (c->status == EDGEPV_OK) c->status = watch(c, session, frame, values);
    edgepv_end(session);
    free(memory);
    free(frame);
    return NULL;
}

static edgepv_status compare(const edgepv_model *model)
{
    static camera alone[SESSIONS], beside[SESSIONS];
    pthread_t threads[SESSIONS];
    for (uint32_t i = 0; i < SESSIONS; i++) {
        alone[i].model = beside[i].model = model;
        alone[i].seed = beside[i].seed = i + 1;
        run(&alone[i]);
    }
    for (int i = 0; i < SESSIONS; i++)
        if (pthread_create(&threads[i], NULL, run, &beside[i])) return EDGEPV_MEMORY;
    for (int i = 0; i < SESSIONS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < SESSIONS; i++) {
        if (alone[i].status != EDGEPV_OK) return alone[i].status;
        if (beside[i].status != EDGEPV_OK) return beside[i].status;
        if (memcmp(alone[i].answers, beside[i].answers, sizeof alone[i].answers)) return EDGEPV_PARITY;
        if (i && !memcmp(beside[i].answers, beside[0].answers, sizeof beside[0].answers))
            return EDGEPV_PARITY;
    }
    return EDGEPV_OK;
}

int main(int argc, char **argv)
{
    char why[EDGEPV_LINE];
    edgepv_model *model = NULL;
    if (argc != 3) return EDGEPV_INPUT;
    edgepv_status status = edgepv_open(argv[1], NULL, argv[2], NULL, &model, why, sizeof why);
    if (status == EDGEPV_OK) status = compare(model);
    if (!model) fprintf(stderr, "%s\n", why);
    edgepv_close(model);
    return (int)status;
}

/* engine_replay.c: a bundle, run by libedgepv-engine over frames from a file, for the tests.
 *
 *     engine_replay BUNDLE VARIANT|- LIBRARY|- KEY|- [FRAMES WIDTH HEIGHT COUNT ANSWERS]
 *
 * FRAMES: COUNT pictures BGR24, one after another. ANSWERS: every output of every step, as floats.
 * Prints what the model says of itself, or the line why it is none; exits with the status.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgepv_engine.h"

void before_steps(void); /* of malloc_count.c, where that is linked in */
void after_steps(void);
#if !defined(COUNTED)
void before_steps(void)
{
}
void after_steps(void)
{
}
#endif

static const char *or_none(const char *word)
{
    return strcmp(word, "-") ? word : NULL;
}

static edgepv_status replay(edgepv_session *session, const edgepv_info *info, edgepv_camera camera,
                            uint32_t count, FILE *frames, FILE *answers, unsigned char *picture)
{
    edgepv_frame frame = {sizeof frame, {picture, NULL}, {3 * camera.width, 0}, 0, 0};
    edgepv_answer answer = {.size = sizeof answer};
    size_t bytes = (size_t)3 * camera.width * camera.height, values;
    const float *data;
    for (uint32_t i = 0; i < count; i++) {
        if (fread(picture, 1, bytes, frames) != bytes) return EDGEPV_INPUT;
        before_steps();
        edgepv_status status = edgepv_step(session, &frame, &answer);
        after_steps();
        if (status != EDGEPV_OK) return status;
        printf("frame %llu label %d score %.9g valid %u\n", (unsigned long long)answer.index, answer.label,
               (double)answer.score, answer.valid);
        for (uint32_t k = 0; k < info->outputs; k++) {
            status = edgepv_output(session, k, &data, &values);
            if (status != EDGEPV_OK) return status;
            fwrite(data, sizeof *data, values, answers);
        }
    }
    return EDGEPV_OK;
}

static edgepv_status run(const edgepv_model *model, char **argv)
{
    edgepv_info info = {.size = sizeof info};
    edgepv_session *session = NULL;
    size_t bytes = 0, align = 0;
    edgepv_status status = edgepv_inform(model, &info);
    if (status != EDGEPV_OK) return status;
    printf("name %s variant %s task %s digest %s\n", info.name, edgepv_variant(model), info.task,
           info.digest);
    printf("labels %u outputs %u states %u warmup %u chunk %u delay %u size %ux%ux%u fps %u/%u\n",
           info.labels, info.outputs, info.states, info.warmup, info.chunk, info.delay, info.channels,
           info.height, info.width, info.fps_num, info.fps_den);
    for (uint32_t i = 0; i < info.labels; i++) printf("label %s\n", edgepv_label(model, i));
    if (!argv[5]) return EDGEPV_OK;
    edgepv_camera camera = {sizeof camera, (uint32_t)atoi(argv[6]), (uint32_t)atoi(argv[7]), EDGEPV_BGR24};
    status = edgepv_need(model, &camera, &bytes, &align);
    if (status != EDGEPV_OK) return status;
    void *memory = NULL;
    unsigned char *picture = malloc((size_t)3 * camera.width * camera.height);
    FILE *frames = fopen(argv[5], "rb"), *answers = fopen(argv[9], "wb");
    if (posix_memalign(&memory, align, bytes) || !picture || !frames || !answers) return EDGEPV_MEMORY;
    memset(memory, 0xA5, bytes); /* whatever lay there before */
    status = edgepv_begin(model, &camera, memory, bytes, &session);
    for (int round = 0; round < 2 && status == EDGEPV_OK;
         round++) { /* a session that was reset answers the same */
        rewind(frames);
        status = replay(session, &info, camera, (uint32_t)atoi(argv[8]), frames, answers, picture);
        edgepv_reset(session);
    }
    edgepv_end(session);
    fclose(frames);
    fclose(answers);
    free(picture);
    free(memory);
    return status;
}

int main(int argc, char **argv)
{
    char why[EDGEPV_LINE];
    edgepv_model *model = NULL;
    if (argc != 5 && argc != 10) return EDGEPV_INPUT;
    edgepv_status status =
        edgepv_open(argv[1], or_none(argv[2]), or_none(argv[3]), or_none(argv[4]), &model, why, sizeof why);
    if (status != EDGEPV_OK) {
        fprintf(stderr, "%s\n", why);
        return (int)status;
    }
    status = run(model, argv);
    if (status != EDGEPV_OK) fprintf(stderr, "%s\n", edgepv_text(status));
    edgepv_close(model);
    return (int)status;
}

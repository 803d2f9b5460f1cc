/* engine_replay.c: a bundle, run by libedgepv-engine over frames from a file, for the tests.
 *
 *     engine_replay BUNDLE VARIANT|- LIBRARY|- KEY|- [FRAMES WIDTH HEIGHT COUNT ANSWERS [broken]]
 *
 * FRAMES: COUNT pictures BGR24, one after another. ANSWERS: every output of every step, as floats, twice: the
 * session is reset in between. broken: the second time a frame that is not finite comes before each of them.
 * Prints what the model says of itself, or the line why it is none; exits with the status.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
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

typedef struct {
    edgepv_session *session;
    edgepv_info info;
    edgepv_camera camera;
    FILE *frames, *answers;
    unsigned char *picture;
    float *broken; /* a frame that is not finite, or NULL */
} job;

static edgepv_status fail(const job *j)
{
    edgepv_answer answer = {.size = sizeof answer};
    size_t values = (size_t)j->info.channels * j->info.width * j->info.height;
    edgepv_status status = edgepv_step_tensor(j->session, j->broken, values, 0, &answer);
    return status == EDGEPV_NOT_FINITE ? EDGEPV_OK : EDGEPV_PARITY;
}

static edgepv_status step(const job *j)
{
    edgepv_frame frame = {sizeof frame, {j->picture, NULL}, {3 * j->camera.width, 0}, 0, 0};
    edgepv_answer answer = {.size = sizeof answer};
    const float *data;
    size_t values;
    before_steps();
    edgepv_status status = edgepv_step(j->session, &frame, &answer);
    after_steps();
    if (status != EDGEPV_OK) return status;
    printf("frame %llu label %d score %.9g valid %u\n", (unsigned long long)answer.index, answer.label,
           (double)answer.score, answer.valid);
    for (uint32_t k = 0; k < j->info.outputs && status == EDGEPV_OK; k++) {
        status = edgepv_output(j->session, k, &data, &values);
        if (status == EDGEPV_OK) fwrite(data, sizeof *data, values, j->answers);
    }
    return status;
}

static edgepv_status replay(const job *j, uint32_t count, int broken)
{
    size_t bytes = (size_t)3 * j->camera.width * j->camera.height;
    edgepv_status status = EDGEPV_OK;
    rewind(j->frames);
    for (uint32_t i = 0; i < count && status == EDGEPV_OK; i++) {
        if (fread(j->picture, 1, bytes, j->frames) != bytes) return EDGEPV_INPUT;
        if (broken) status = fail(j);
        if (status == EDGEPV_OK) status = step(j);
    }
    edgepv_reset(j->session);
    return status;
}

static void tell(const edgepv_model *model, const edgepv_info *info)
{
    printf("name %s variant %s task %s digest %s\n", info->name, edgepv_variant(model), info->task,
           info->digest);
    printf("labels %u outputs %u states %u warmup %u chunk %u delay %u size %ux%ux%u fps %u/%u\n",
           info->labels, info->outputs, info->states, info->warmup, info->chunk, info->delay, info->channels,
           info->height, info->width, info->fps_num, info->fps_den);
    for (uint32_t i = 0; i < info->labels; i++) printf("label %s\n", edgepv_label(model, i));
}

static edgepv_status run(const edgepv_model *model, char **argv, int broken)
{
    job j = {.info = {.size = sizeof j.info}};
    size_t bytes = 0, align = 0;
    void *memory = NULL;
    edgepv_status status = edgepv_inform(model, &j.info);
    if (status != EDGEPV_OK) return status;
    tell(model, &j.info);
    if (!argv[5]) return EDGEPV_OK;
    j.camera.size = sizeof j.camera;
    j.camera.width = (uint32_t)atoi(argv[6]);
    j.camera.height = (uint32_t)atoi(argv[7]);
    j.camera.format = EDGEPV_BGR24;
    status = edgepv_need(model, &j.camera, &bytes, &align);
    if (status != EDGEPV_OK) return status;
    size_t values = (size_t)j.info.channels * j.info.width * j.info.height;
    j.picture = malloc((size_t)3 * j.camera.width * j.camera.height);
    j.broken = malloc(values * sizeof *j.broken);
    j.frames = fopen(argv[5], "rb");
    j.answers = fopen(argv[9], "wb");
    if (posix_memalign(&memory, align, bytes) || !j.picture || !j.broken || !j.frames || !j.answers)
        return EDGEPV_MEMORY;
    memset(memory, 0xA5, bytes); /* whatever lay there before */
    for (size_t i = 0; i < values; i++) j.broken[i] = (float)NAN;
    status = edgepv_begin(model, &j.camera, memory, bytes, &j.session);
    if (status == EDGEPV_OK) status = replay(&j, (uint32_t)atoi(argv[8]), 0);
    if (status == EDGEPV_OK) status = replay(&j, (uint32_t)atoi(argv[8]), broken);
    edgepv_end(j.session);
    fclose(j.frames);
    fclose(j.answers);
    free(j.broken);
    free(j.picture);
    free(memory);
    return status;
}

int main(int argc, char **argv)
{
    char why[EDGEPV_LINE];
    edgepv_model *model = NULL;
    if (argc != 5 && argc != 10 && argc != 11) return EDGEPV_INPUT;
    edgepv_status status =
        edgepv_open(argv[1], or_none(argv[2]), or_none(argv[3]), or_none(argv[4]), &model, why, sizeof why);
    if (status != EDGEPV_OK) {
        fprintf(stderr, "%s\n", why);
        return (int)status;
    }
    status = run(model, argv, argc == 11);
    if (status != EDGEPV_OK) fprintf(stderr, "%s\n", edgepv_text(status));
    edgepv_close(model);
    return (int)status;
}

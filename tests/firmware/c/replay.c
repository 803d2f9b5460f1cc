/* replay.c: frames of the file in.bin through a session of a toy model, answers into out.bin. All of the file is read
 * before the session begins and all is written after its end, so what happens between is the core's alone. */
#if !defined(__arm__) || defined(__linux__)
#define _POSIX_C_SOURCE 200809L
#endif
#include "toy.h"
#include "toy_tracker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_IN 400000u
#define MOST_OUT 2000000u

typedef struct {
    toy_options options;
    uint32_t particles; /* of a tracker of the size that options say; 0 for the toy that they describe */
    edgepv_camera camera;
    uint32_t frames, plane_bytes[2], row_bytes;
} header;

typedef struct {
    int32_t status;
    edgepv_answer answer;
    float scores[TOY_LABELS];
} record; /* and behind it the values of all outputs, and the numbers of particles */

#if defined(__arm__) && !defined(__linux__)
#define LARGE __attribute__((section(".more"), aligned(64)))
static uint8_t pool[1u << 20] LARGE;
#else
#define LARGE
#endif
static uint8_t in[MOST_IN] LARGE, out[MOST_OUT] LARGE;
static toy plain;
static toy_tracker tracker;

#ifdef COUNT_MALLOC /* glibc: who calls any of these */
#include <errno.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static unsigned allocations;
void *malloc(size_t bytes)
{
    allocations++;
    return __libc_malloc(bytes);
}
void *calloc(size_t count, size_t bytes)
{
    allocations++;
    return __libc_calloc(count, bytes);
}
void *realloc(void *old, size_t bytes)
{
    allocations++;
    return __libc_realloc(old, bytes);
}
#else
static unsigned allocations;
#endif

static void *aligned(size_t bytes, size_t align)
{
#if defined(__arm__) && !defined(__linux__)
    return bytes <= sizeof pool && align <= 64 ? pool : NULL;
#else
    void *memory = NULL;
    return posix_memalign(&memory, align, bytes) == 0 ? memory : NULL;
#endif
}

/* A copy that ends where its memory does, so that sanitizers and valgrind see what reads on. */
static const uint8_t *exactly(const uint8_t *from, size_t bytes)
{
#if defined(__arm__) && !defined(__linux__)
    return bytes > 0 ? from : NULL;
#else
    uint8_t *copy = malloc(bytes);
    return copy == NULL ? NULL : memcpy(copy, from, bytes);
#endif
}

static size_t put(size_t at, const void *data, size_t bytes)
{
    if (at + bytes > MOST_OUT)
        exit(3);
    memcpy(out + at, data, bytes);
    return at + bytes;
}

static size_t tell(size_t at, edgepv_session *session, edgepv_status status, const edgepv_answer *answer)
{
    record r;
    const float *data;
    const int32_t *ids;
    size_t values;

    memset(&r, 0, sizeof r);
    r.status = (int32_t)status;
    if (status == EDGEPV_OK)
        r.answer = *answer;
    if (edgepv_scores(session, &data, &values) == EDGEPV_OK)
        memcpy(r.scores, data, values * sizeof *data);
    at = put(at, &r, sizeof r);
    for (uint32_t k = 0; k < 2; k++)
        if (edgepv_output(session, k, &data, &values) == EDGEPV_OK)
            at = put(at, data, values * sizeof *data);
    if (edgepv_ids(session, &ids, &values) == EDGEPV_OK)
        at = put(at, ids, values * sizeof *ids);
    return at;
}

static size_t replay(edgepv_session *session, const header *h, const uint8_t *from)
{
    edgepv_answer answer;
    edgepv_frame frame;
    size_t at = 0;

    memset(&answer, 0, sizeof answer);
    memset(&frame, 0, sizeof frame);
    answer.size = sizeof answer;
    frame.size = sizeof frame;
    for (uint32_t k = 0; k < h->frames; k++) {
        for (uint32_t p = 0; p < 2; from += h->plane_bytes[p], p++) {
            frame.plane[p] = from;
            frame.stride[p] = h->row_bytes;
        }
        frame.pts_ns = k;
        frame.missed = k % 4 == 2 ? k / 4 : 0;
        toy_go(k % 6 == 5 ? TOY_NAN : TOY_WELL);
        at = tell(at, session, edgepv_step(session, &frame, &answer), &answer);
        if (k == 8)
            edgepv_reset(session);
    }
    return at;
}

int main(void)
{
    FILE *file = fopen("in.bin", "rb");
    header h;
    size_t bytes, align, written, read;
    edgepv_session *session;

    if (file == NULL || (read = fread(in, 1, MOST_IN, file)) <= sizeof h)
        return 2;
    fclose(file);
    memcpy(&h, in, sizeof h);
    const edgepv_model *model = h.particles > 0 ? &tracker.model : &plain.model;
    toy_make(&plain, &h.options);
    toy_tracker_make(&tracker, h.options.width, h.options.height, h.particles);
    if (edgepv_need(model, &h.camera, &bytes, &align) != EDGEPV_OK)
        return 4;
    const uint8_t *frames = exactly(in + sizeof h, read - sizeof h);
    void *memory = aligned(bytes, align);
    unsigned before = allocations;
    if (edgepv_begin(model, &h.camera, memory, bytes, &session) != EDGEPV_OK)
        return 5;
    written = replay(session, &h, frames);
    edgepv_end(session);
    unsigned after = allocations;
    file = fopen("out.bin", "wb");
    if (file == NULL || fwrite(out, 1, written, file) != written || fclose(file) != 0)
        return 6;
    printf("allocations %u of %u\n", after - before, after);
#if !defined(__arm__) || defined(__linux__)
    free(memory);
    free((void *)(uintptr_t)frames);
#endif
    return 0;
}

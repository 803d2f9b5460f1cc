/* firmware_soak.c: many frames through edgepv_step, and whether anything changes with time.
 *
 * Frames of noise come again after PERIOD of them, in all COUNT, so answers must too, to the bit, once the model has
 * seen a full window; and a session that was reset must answer as it did at first. Compiled with -DMODEL=, the symbol
 * of a model whose states do not look back further than a period. Prints one JSON object; ends with 0, or with a
 * status of edgepv.h. The malloc of the whole program is this file's (glibc), so that those of the C library count.
 */
#include "edgepv_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PERIOD 500u
#define GUARD 4096u /* bytes before and behind the session's memory that nobody may write */

extern const edgepv_model MODEL;
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t each);
extern void *__libc_realloc(void *memory, size_t bytes);

static int stepping;
static uint64_t asked;

void *malloc(size_t bytes)
{
    asked += (uint64_t)stepping;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t each)
{
    asked += (uint64_t)stepping;
    return __libc_calloc(count, each);
}

void *realloc(void *memory, size_t bytes)
{
    asked += (uint64_t)stepping;
    return __libc_realloc(memory, bytes);
}

static long resident_kib(void)
{
    char line[128];
    long kib = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r"); /* VmRSS is only counted about */

    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "Rss: %ld", &kib) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return kib;
}

static void draw(uint32_t number, uint8_t *pixels, size_t bytes)
{
    uint64_t x = 0x9e3779b97f4a7c15u * (number + 1u); /* xorshift64, Marsaglia 2003 */

    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(pixels + i, &x, 8);
    }
}

static edgepv_status answer_to(edgepv_session *session, uint32_t number, uint8_t *pixels, float *kept)
{
    const edgepv_camera camera = {sizeof camera, MODEL.width, MODEL.height, EDGEPV_BGR24};
    edgepv_frame frame = {sizeof frame, {pixels, NULL}, {3 * camera.width, 0}, 0, 0};
    edgepv_answer answer;

    draw(number, pixels, (size_t)3 * camera.width * camera.height);
    memset(&answer, 0, sizeof answer);
    answer.size = sizeof answer;
    stepping = 1;
    edgepv_status status = edgepv_step(session, &frame, &answer);
    for (uint32_t i = 0; status == EDGEPV_OK && i < MODEL.output_count; i++) {
        const float *data;
        size_t values;
        status = edgepv_output(session, i, &data, &values);
        memcpy(kept + MODEL.outputs[i].offset, data, values * sizeof *data);
    }
    stepping = 0;
    return status;
}

static int untouched(const uint8_t *guard)
{
    for (size_t i = 0; i < GUARD; i++)
        if (guard[i] != 0xa5)
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    const edgepv_camera camera = {sizeof camera, MODEL.width, MODEL.height, EDGEPV_BGR24};
    const uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 3 * PERIOD;
    const size_t each = MODEL.output_values * sizeof(float);
    uint64_t different = 0, restarted = 0;
    size_t bytes, align;
    edgepv_session *session;
    long before = 0;

    if (edgepv_need(&MODEL, &camera, &bytes, &align) != EDGEPV_OK)
        return EDGEPV_INPUT;
    void *taken = NULL;
    if (posix_memalign(&taken, align, bytes + 2 * GUARD) != 0)
        return EDGEPV_MEMORY;
    uint8_t *memory = taken;
    uint8_t *pixels = malloc((size_t)3 * MODEL.width * MODEL.height);
    char *first = calloc(PERIOD, each), *steady = calloc(PERIOD, each);
    float *got = malloc(each);
    if (pixels == NULL || first == NULL || steady == NULL || got == NULL)
        return EDGEPV_MEMORY;
    memset(memory, 0xa5, bytes + 2 * GUARD);
    edgepv_status status = edgepv_begin(&MODEL, &camera, memory + GUARD, bytes, &session);
    for (uint64_t n = 0; status == EDGEPV_OK && n < count; n++) {
        size_t at = (size_t)(n % PERIOD) * each;
        status = answer_to(session, (uint32_t)(n % PERIOD), pixels, got);
        if (n < PERIOD)
            memcpy(first + at, got, each);
        else if (n < 2 * PERIOD)
            memcpy(steady + at, got, each);
        else
            different += memcmp(steady + at, got, each) != 0;
        if (n == PERIOD || n == 2 * PERIOD) /* the first time takes memory by itself */
            before = resident_kib();
    }
    long after = resident_kib();
    edgepv_reset(session);
    for (uint32_t n = 0; status == EDGEPV_OK && n < PERIOD; n++) {
        status = answer_to(session, n, pixels, got);
        restarted += memcmp(first + n * each, got, each) != 0;
    }
    edgepv_end(session);
    printf("{\"frames\": %" PRIu64 ", \"period\": %u, \"different\": %" PRIu64 ", \"different_after_reset\": %" PRIu64
           ", \"mallocs\": %" PRIu64 ", \"resident_kib\": [%ld, %ld], \"guards_whole\": %s}\n",
           count, PERIOD, different, restarted, asked, before, after,
           untouched(memory) && untouched(memory + GUARD + bytes) ? "true" : "false");
    return (int)status;
}

/* mallocs.c: how often a step of a compiled model asks the heap for memory. Called with the path of its shared object;
 * prints the calls of all steps after the first few, and how many steps those were. A program's own malloc comes before
 * the C library's, for every shared object in it. */
#include "edgepv.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define WARM 4
#define STEPS 32

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
static unsigned long calls;

void *malloc(size_t bytes)
{
    calls++;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    calls++;
    return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    calls++;
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    calls++;
    return __libc_memalign(align, bytes);
}

int posix_memalign(void **place, size_t align, size_t bytes)
{
    calls++;
    *place = __libc_memalign(align, bytes);
    return *place ? 0 : ENOMEM;
}

int main(int count, char **words)
{
    void *object = count == 2 ? dlopen(words[1], RTLD_NOW) : NULL;
    const edgepv_model *(*compiled)(void);
    edgepv_status (*inform)(const edgepv_model *, edgepv_info *);
    edgepv_status (*need)(const edgepv_model *, const edgepv_camera *, size_t *, size_t *);
    edgepv_status (*begin)(const edgepv_model *, const edgepv_camera *, void *, size_t, edgepv_session **);
    edgepv_status (*step)(edgepv_session *, const float *, size_t, uint32_t, edgepv_answer *);
    edgepv_info info = {sizeof info};
    edgepv_answer answer = {sizeof answer};
    edgepv_session *session;
    size_t bytes, align, values;
    unsigned long before = 0;
    float *frame;
    void *memory;

    if (object == NULL)
        return 1;
    *(void **)&compiled = dlsym(object, "edgepv_compiled");
    *(void **)&inform = dlsym(object, "edgepv_inform");
    *(void **)&need = dlsym(object, "edgepv_need");
    *(void **)&begin = dlsym(object, "edgepv_begin");
    *(void **)&step = dlsym(object, "edgepv_step_tensor");
    if (!compiled || !inform || !need || !begin || !step)
        return 1;
    if (inform(compiled(), &info) || need(compiled(), NULL, &bytes, &align))
        return 1; /* a tracker takes no tensors */
    values = (size_t)info.channels * info.height * info.width;
    frame = calloc(values, sizeof *frame);
    memory = __libc_memalign(align, bytes);
    if (!frame || !memory || begin(compiled(), NULL, memory, bytes, &session))
        return 1;
    for (int i = 0; i < WARM + STEPS; i++) {
        before = i == WARM ? calls : before;
        if (step(session, frame, values, 0, &answer))
            return 1;
    }
    printf("%lu %d\n", calls - before, STEPS);
    return 0;
}

/* malloc_count.c: what the files of one program take of the heap while it steps; linked with -Wl,--wrap=malloc and
 * the others. Shared libraries call their own malloc and are not counted. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static int stepping;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t each);
void *__real_realloc(void *memory, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t each);
void *__wrap_realloc(void *memory, size_t bytes);
void before_steps(void);
void after_steps(void);

static void count(void)
{
    if (!stepping) return;
    fprintf(stderr, "the heap was asked while a step ran\n");
    abort();
}

void before_steps(void)
{
    stepping = 1;
}

void after_steps(void)
{
    stepping = 0;
}

void *__wrap_malloc(size_t bytes)
{
    count();
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t number, size_t each)
{
    count();
    return __real_calloc(number, each);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    count();
    return __real_realloc(memory, bytes);
}

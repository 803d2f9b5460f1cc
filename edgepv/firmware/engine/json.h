/* json.h: JSON read where it lies, by one check of the whole text and cursors after that. No memory is taken.
 *
 * A text is taken that Python's reader of manifests takes: UTF-8, no half of a surrogate pair, at most
 * EDGEPV_MOST_DEPTH lists and tables in each other, whole numbers of at most EDGEPV_MOST_DIGITS digits.
 */
#ifndef EDGEPV_JSON_H
#define EDGEPV_JSON_H

#include <stddef.h>
#include <stdint.h>

#define EDGEPV_MOST_DEPTH 100u /* far more than ours */
#define EDGEPV_MOST_DIGITS 20u /* 64 bits */

typedef struct { /* one value, from its first byte to the one behind its last */
    const char *at, *end;
} edgepv_json;

typedef struct { /* the values of a list or a table, one after another */
    const char *at, *end;
    int table;
} edgepv_json_walk;

/* Whether bytes are one JSON text; then value is what it holds. All below want a value of such a text. */
int edgepv_json_check(const char *text, size_t bytes, edgepv_json *value);

/* '{', '[', '"', '0' for a number, 't', 'f', 'n', 'N' for NaN, 'I' for an infinity; 0 for none. */
char edgepv_json_kind(edgepv_json value);

/* Whether a value is a list or a table, which the walk then goes through. */
int edgepv_json_walk_of(edgepv_json value, edgepv_json_walk *walk);

/* The next value, and its key in a table; 0 at the end. */
int edgepv_json_next(edgepv_json_walk *walk, edgepv_json *key, edgepv_json *value);

/* How often a table has a key: 0, 1, or 2 for more. value: the last of them. */
int edgepv_json_find(edgepv_json table, const char *key, edgepv_json *value);

/* Whether a string says this. */
int edgepv_json_is(edgepv_json string, const char *text);

/* A string without its escapes, and a 0 behind it: how many bytes without that 0, or -1 if it is no string,
 * does not fit into room, or holds a 0 itself. */
ptrdiff_t edgepv_json_text(edgepv_json string, char *into, size_t room);

/* A whole number within low to high; 0 for anything else. */
int edgepv_json_whole(edgepv_json number, int64_t low, int64_t high, int64_t *value);

/* A number or an infinity; 0 for anything else. The numeric locale has to be "C". */
int edgepv_json_number(edgepv_json number, double *value);

#endif

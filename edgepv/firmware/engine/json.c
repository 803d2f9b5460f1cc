#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_LETTERS 64u /* of a number that is read: a double that is written out whole has 24 */
#define MOST_KEY 48u     /* bytes of the longest key that is looked for, and more */

static const char *blank(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

static int hex4(const char *at, const char *end, uint32_t *unit)
{
    if (end - at < 4) return 0;
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10u
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A') + 10u
                                                : 16u;
        if (digit > 15u) return 0;
        *unit = *unit * 16u + digit;
    }
    return 1;
}

/* The letter that an escape stands for. at: behind its backslash. Returns what follows it, or NULL. */
static const char *escaped(const char *at, const char *end, uint32_t *letter)
{
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    uint32_t low;
    if (at == end) return NULL;
    const char *known = *at && *at != 'u' ? strchr(names, *at) : NULL;
    if (known) {
        *letter = (uint32_t)meant[known - names];
        return at + 1;
    }
    if (*at != 'u' || !hex4(at + 1, end, letter)) return NULL;
    at += 5;
    if (*letter < 0xD800u || *letter > 0xDFFFu) return at;
    if (*letter > 0xDBFFu || end - at < 6 || at[0] != '\\' || at[1] != 'u' || !hex4(at + 2, end, &low))
        return NULL;
    if (low < 0xDC00u || low > 0xDFFFu) return NULL;
    *letter = 0x10000u + ((*letter - 0xD800u) << 10) + (low - 0xDC00u);
    return at + 6;
}

/* Behind the letter at a place, in plain UTF-8: no long form, no surrogate, none beyond U+10FFFF; or NULL. */
static const char *utf8(const char *at, const char *end)
{
    const unsigned char *byte = (const unsigned char *)at;
    size_t more = byte[0] < 0x80u   ? 0u
                  : byte[0] < 0xC2u ? 9u
                  : byte[0] < 0xE0u ? 1u
                  : byte[0] < 0xF0u ? 2u
                                    : 3u;
    if (more == 9u || byte[0] > 0xF4u || (size_t)(end - at) <= more) return NULL;
    for (size_t i = 1; i <= more; i++)
        if ((byte[i] & 0xC0u) != 0x80u) return NULL;
    if (byte[0] == 0xE0u && byte[1] < 0xA0u) return NULL;
    if (byte[0] == 0xEDu && byte[1] > 0x9Fu) return NULL;
    if (byte[0] == 0xF0u && byte[1] < 0x90u) return NULL;
    if (byte[0] == 0xF4u && byte[1] > 0x8Fu) return NULL;
    return at + 1 + more;
}

/* Behind the string that begins at a place, or NULL. */
static const char *string_end(const char *at, const char *end)
{
    uint32_t letter;
    if (at == end || *at != '"') return NULL;
    at++;
    while (at && at < end && *at != '"') {
        if ((unsigned char)*at < 0x20u) return NULL;
        at = *at == '\\' ? escaped(at + 1, end, &letter) : utf8(at, end);
    }
    return at && at < end ? at + 1 : NULL;
}

static const char *digits(const char *at, const char *end)
{
    const char *first = at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    return at == first ? NULL : at;
}

static const char *number_end(const char *at, const char *end)
{
    const char *first = at < end && *at == '-' ? at + 1 : at;
    at = digits(first, end);
    if (!at || (*first == '0' && at - first > 1)) return NULL;
    int whole = 1;
    size_t length = (size_t)(at - first);
    if (at < end && *at == '.') {
        whole = 0;
        at = digits(at + 1, end);
    }
    if (at && at < end && (*at == 'e' || *at == 'E')) {
        whole = 0;
        at++;
        if (at < end && (*at == '+' || *at == '-')) at++;
        at = digits(at, end);
    }
    return whole && length > EDGEPV_MOST_DIGITS ? NULL : at;
}

/* Behind the value that begins at a place and is no list or table, or NULL. */
static const char *scalar_end(const char *at, const char *end)
{
    static const char *const words[] = {"true", "false", "null", "NaN", "Infinity", "-Infinity"};
    if (at == end) return NULL;
    if (*at == '"') return string_end(at, end);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(end - at) >= length && !memcmp(at, words[i], length)) return at + length;
    }
    return number_end(at, end);
}

/* Behind a key and its colon, or NULL. */
static const char *key_end(const char *at, const char *end)
{
    at = string_end(blank(at, end), end);
    if (!at) return NULL;
    at = blank(at, end);
    return at < end && *at == ':' ? at + 1 : NULL;
}

/* Behind the value that begins at a place, or NULL. Depth is kept in an array, not on the stack. */
static const char *value_end(const char *at, const char *end)
{
    char close[EDGEPV_MOST_DEPTH];
    size_t depth = 0;
    for (;;) {
        int opened = 0;
        at = blank(at, end);
        if (at < end && (*at == '{' || *at == '[')) {
            if (depth == EDGEPV_MOST_DEPTH) return NULL;
            close[depth++] = *at == '{' ? '}' : ']';
            at = blank(at + 1, end);
            opened = at == end || *at != close[depth - 1];
        } else {
            at = scalar_end(at, end);
        }
        if (!at) return NULL;
        if (!opened) { /* a value has ended: so may those around it */
            while (depth && (at = blank(at, end)) < end && *at == close[depth - 1]) {
                depth--;
                at++;
            }
            if (!depth) return at;
            if (at == end || *at != ',') return NULL;
            at++;
        }
        if (close[depth - 1] == '}' && !(at = key_end(at, end))) return NULL;
    }
}

int edgepv_json_check(const char *text, size_t bytes, edgepv_json *value)
{
    const char *end = text + bytes;
    if (bytes >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3)) text += 3; /* an editor's mark of UTF-8 */
    value->at = blank(text, end);
    value->end = value_end(value->at, end);
    return value->end && blank(value->end, end) == end;
}

char edgepv_json_kind(edgepv_json value)
{
    if (!value.at || value.at >= value.end) return 0;
    char c = *value.at;
    if (c == '-' && value.end - value.at > 1 && value.at[1] == 'I') return 'I';
    return c == '-' || (c >= '0' && c <= '9') ? '0' : c;
}

int edgepv_json_walk_of(edgepv_json value, edgepv_json_walk *walk)
{
    char kind = edgepv_json_kind(value);
    walk->table = kind == '{';
    walk->at = walk->end = NULL;
    if (kind != '{' && kind != '[') return 0;
    walk->at = value.at + 1;
    walk->end = value.end - 1;
    return 1;
}

int edgepv_json_next(edgepv_json_walk *walk, edgepv_json *key, edgepv_json *value)
{
    const char *at = blank(walk->at, walk->end);
    if (at >= walk->end) return 0;
    key->at = key->end = at;
    if (walk->table) {
        if (!(key->end = string_end(at, walk->end)) || !(at = key_end(at, walk->end))) return 0;
        at = blank(at, walk->end);
    }
    value->at = at;
    if (!(value->end = value_end(at, walk->end))) return 0;
    at = blank(value->end, walk->end);
    walk->at = at < walk->end ? at + 1 : at;
    return 1;
}

int edgepv_json_find(edgepv_json table, const char *key, edgepv_json *value)
{
    edgepv_json_walk walk;
    edgepv_json name, one;
    int found = 0;
    value->at = value->end = NULL;
    if (edgepv_json_kind(table) != '{' || !edgepv_json_walk_of(table, &walk)) return 0;
    while (edgepv_json_next(&walk, &name, &one))
        if (edgepv_json_is(name, key)) {
            *value = one;
            found += found < 2;
        }
    return found;
}

int edgepv_json_is(edgepv_json string, const char *text)
{
    char plain[MOST_KEY + 1];
    ptrdiff_t length = edgepv_json_text(string, plain, sizeof plain);
    return length >= 0 && !strcmp(plain, text);
}

static size_t encode(uint32_t letter, char *into)
{
    size_t more = letter < 0x80u ? 0 : letter < 0x800u ? 1 : letter < 0x10000u ? 2 : 3;
    static const unsigned char lead[] = {0x00, 0xC0, 0xE0, 0xF0};
    for (size_t i = more; i > 0; i--, letter >>= 6) into[i] = (char)(0x80u | (letter & 0x3Fu));
    into[0] = (char)(lead[more] | letter);
    return more + 1;
}

ptrdiff_t edgepv_json_text(edgepv_json string, char *into, size_t room)
{
    size_t used = 0;
    if (edgepv_json_kind(string) != '"') return -1;
    const char *at = string.at + 1, *end = string.end - 1;
    while (at < end) {
        char letters[4];
        size_t count = 1;
        letters[0] = *at;
        if (*at == '\\') {
            uint32_t letter;
            if (!(at = escaped(at + 1, end, &letter))) return -1;
            count = encode(letter, letters);
        } else {
            at++;
        }
        if (!letters[0] || used + count >= room) return -1;
        memcpy(into + used, letters, count);
        used += count;
    }
    if (used >= room) return -1;
    into[used] = 0;
    return (ptrdiff_t)used;
}

int edgepv_json_whole(edgepv_json number, int64_t low, int64_t high, int64_t *value)
{
    if (edgepv_json_kind(number) != '0') return 0;
    const char *at = number.at;
    int minus = *at == '-';
    uint64_t size = 0;
    for (at += minus; at < number.end; at++) {
        if (*at < '0' || *at > '9' || size > (uint64_t)INT64_MAX / 10u) return 0;
        size = size * 10u + (uint64_t)(*at - '0');
        if (size > (uint64_t)INT64_MAX) return 0;
    }
    *value = minus ? -(int64_t)size : (int64_t)size;
    return low <= *value && *value <= high;
}

int edgepv_json_number(edgepv_json number, double *value)
{
    char letters[MOST_LETTERS + 1];
    size_t length = (size_t)(number.end - number.at);
    char kind = edgepv_json_kind(number);
    if ((kind != '0' && kind != 'I' && kind != 'N') || length > MOST_LETTERS) return 0;
    memcpy(letters, number.at, length);
    letters[length] = 0;
    *value = strtod(letters, NULL); /* it knows the words for infinity too */
    return !isnan(*value);
}

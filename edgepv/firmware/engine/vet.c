/* vet.c: a model that could make its engine read outside of its file is refused before the engine sees it. */
#include <string.h>

#include "bundle.h"

#define DEEPEST 90u          /* messages inside each other; protobuf itself reads 100 */
#define MOST_FIELDS 2000000u /* of one file: a bound on the time that a hostile one can take */

enum { VARINT, FIXED64, LEN, FIXED32 = 5 }; /* wire types. Source: protobuf.dev/programming-guides/encoding */
enum { MODEL, TRAINING, GRAPH, FUNCTION, NODE, ATTRIBUTE, SPARSE, TENSOR, NONE };
enum {
    IR_VERSION = 1,
    OP_TYPE = 4,
    EXTERNAL_DATA = 13,
    DATA_LOCATION = 14
}; /* field numbers of onnx.proto */

typedef struct {
    unsigned char message, field, inner;
} place;

static const place PLACES[] = {
    /* where messages hold tensors. Source: onnx.proto */
    {MODEL, 7, GRAPH},       {MODEL, 20, TRAINING},     {MODEL, 25, FUNCTION},  {TRAINING, 1, GRAPH},
    {TRAINING, 2, GRAPH},    {GRAPH, 1, NODE},          {GRAPH, 5, TENSOR},     {GRAPH, 15, SPARSE},
    {FUNCTION, 7, NODE},     {FUNCTION, 11, ATTRIBUTE}, {NODE, 5, ATTRIBUTE},   {ATTRIBUTE, 5, TENSOR},
    {ATTRIBUTE, 6, GRAPH},   {ATTRIBUTE, 10, TENSOR},   {ATTRIBUTE, 11, GRAPH}, {ATTRIBUTE, 22, SPARSE},
    {ATTRIBUTE, 23, SPARSE}, {SPARSE, 1, TENSOR},       {SPARSE, 2, TENSOR},
};

typedef struct {
    uint64_t number;
    unsigned kind;
    size_t at, end; /* of its bytes */
} field;

static unsigned inner_of(unsigned message, uint64_t number)
{
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++)
        if (PLACES[i].message == message && PLACES[i].field == number) return PLACES[i].inner;
    return NONE;
}

/* Behind the variable-length integer at a place; 0 if it is none. */
static size_t varint(const unsigned char *data, size_t at, size_t end, uint64_t *value)
{
    *value = 0;
    for (unsigned i = 0; i < 10 && at < end; i++, at++) {
        *value |= (uint64_t)(data[at] & 0x7Fu) << (7u * i);
        if (!(data[at] & 0x80u)) return at + 1;
    }
    return 0;
}

/* The field at a place of a message that ends at end; 0 if it is no protobuf. */
static int next_field(const unsigned char *data, size_t at, size_t end, field *found)
{
    uint64_t tag, size;
    if (!(at = varint(data, at, end, &tag))) return 0;
    found->number = tag >> 3;
    found->kind = (unsigned)(tag & 7u);
    found->at = at;
    if (found->kind == VARINT) {
        if (!(found->end = varint(data, at, end, &size))) return 0;
    } else if (found->kind == LEN) {
        if (!(found->at = varint(data, at, end, &size)) || size > end - found->at) return 0;
        found->end = found->at + (size_t)size;
    } else if (found->kind == FIXED64 || found->kind == FIXED32) {
        size_t width = found->kind == FIXED64 ? 8u : 4u;
        if (width > end - at) return 0;
        found->end = at + width;
    } else {
        return 0;
    }
    return found->number > 0 && found->number < (uint64_t)1 << 29;
}

/* Whether a field of a TensorProto places its values outside of the file. */
static int outside(const unsigned char *data, const field *found)
{
    if (found->number == EXTERNAL_DATA) return 1;
    if (found->number != DATA_LOCATION) return 0;
    if (found->kind != VARINT) return 1;
    for (size_t at = found->at; at < found->end; at++)
        if (data[at] & 0x7Fu) return 1;
    return 0;
}

/* What is wrong with one field, or NULL. */
static const char *wrong(const unsigned char *data, unsigned message, unsigned inner, const field *found)
{
    static const char context[] = "EPContext"; /* a node whose engine lies in a file that it names */
    if (inner != NONE && found->kind != LEN) return "it is no ONNX message";
    if (message == MODEL && found->number == IR_VERSION && found->kind != VARINT)
        return "it is no ONNX message";
    if (message == TENSOR && outside(data, found)) return "it keeps its weights in another file";
    if (message == NODE && found->number == OP_TYPE && found->end - found->at == sizeof context - 1 &&
        !memcmp(data + found->at, context, sizeof context - 1))
        return "an EPContext node names another file";
    return NULL;
}

static const char *walk_onnx(const unsigned char *data, size_t bytes)
{
    struct {
        unsigned message;
        size_t end;
    } open[DEEPEST + 1];
    size_t depth = 0, at = 0;
    uint32_t left = MOST_FIELDS;
    field found;
    open[0].message = MODEL;
    open[0].end = bytes;
    for (;;) {
        while (at == open[depth].end)
            if (!depth--) return NULL;
        if (!left-- || !next_field(data, at, open[depth].end, &found))
            return "it is no protobuf, or truncated";
        unsigned inner = inner_of(open[depth].message, found.number);
        const char *reason = wrong(data, open[depth].message, inner, &found);
        if (reason) return reason;
        at = inner == NONE ? found.end : found.at;
        if (inner == NONE) continue;
        if (depth == DEEPEST) return "its messages are nested too deep";
        open[++depth].message = inner;
        open[depth].end = found.end;
    }
}

edgepv_status edgepv_vet_onnx(const unsigned char *data, size_t bytes, const char *name, edgepv_why *why)
{
    const char *reason = NULL;
    if (bytes >= 8 && (!memcmp(data + 4, "ORTM", 4) || !memcmp(data + 4, "TFL3", 4)))
        reason = "it is a flatbuffer"; /* engines take such bytes for a file of another format */
    if (!reason) reason = walk_onnx(data, bytes);
    if (!reason) return EDGEPV_OK;
    return edgepv_because(why, EDGEPV_INPUT, "%s cannot be opened safely: %s. Export it again", name, reason);
}

static int u16(const unsigned char *data, size_t bytes, size_t at, size_t *value)
{
    if (at > bytes || bytes - at < 2) return 0;
    *value = (size_t)data[at] | (size_t)data[at + 1] << 8;
    return 1;
}

static int u32(const unsigned char *data, size_t bytes, size_t at, uint32_t *value)
{
    if (at > bytes || bytes - at < 4) return 0;
    *value = (uint32_t)data[at] | (uint32_t)data[at + 1] << 8 | (uint32_t)data[at + 2] << 16 |
             (uint32_t)data[at + 3] << 24;
    return 1;
}

/* LiteRT checks every offset itself when it is given bytes (its flatbuffer verifier); what it would still
 * follow are external buffers, which slots 8 and 9 of the Model table list. Source: schema.fbs of LiteRT. */
edgepv_status edgepv_vet_tflite(const unsigned char *data, size_t bytes, const char *name, edgepv_why *why)
{
    uint32_t root, back;
    size_t size, slot = 0, vtable = 0;
    int sound = bytes >= 8 && !memcmp(data + 4, "TFL3", 4) && u32(data, bytes, 0, &root) &&
                u32(data, bytes, root, &back);
    if (sound) { /* the offset to a vtable is signed, and subtracted */
        int64_t at = (int64_t)root - (int64_t)(int32_t)back;
        sound = at >= 0 && (uint64_t)at < bytes && u16(data, bytes, (size_t)at, &size);
        vtable = (size_t)at;
    }
    if (!sound)
        return edgepv_because(why, EDGEPV_INPUT, "%s cannot be opened safely: it is no TFLite flatbuffer",
                              name);
    for (size_t i = 8; i <= 9 && !slot; i++)
        if (4 + 2 * i + 2 <= size && !u16(data, bytes, vtable + 4 + 2 * i, &slot)) slot = 1;
    if (!slot) return EDGEPV_OK;
    return edgepv_because(why, EDGEPV_INPUT,
                          "%s cannot be opened safely: its weights are in another file. Export it again",
                          name);
}

/* fuzz_reader.c: what libFuzzer gives to the readers of libedgepv-engine. See fuzz_reader.py.
 *
 * The first byte says which reader takes the rest: O an ONNX file, T a TFLite file, else a manifest, of which
 * every variant is read and laid out.
 */
#include <stdlib.h>
#include <string.h>

#include "edgepv_engine.h"
#include "model.h"

static void read_variants(const char *text, size_t bytes)
{
    char line[EDGEPV_LINE] = "";
    edgepv_why why = {line, sizeof line};
    uint32_t count = 1;
    for (uint32_t i = 0; i < count; i++) { /* each in a bundle of its own, as edgepv_open does it */
        edgepv_opened *opened = calloc(1, sizeof *opened);
        if (!opened) abort();
        if (edgepv_read_manifest(text, bytes, &opened->bundle, &why) == EDGEPV_OK) {
            count = opened->bundle.variant_count;
            if (i < count &&
                edgepv_read_variant(&opened->bundle, opened->bundle.variants[i].name, &why) == EDGEPV_OK)
                edgepv_arrange(opened, &why);
        }
        edgepv_close(&opened->model);
    }
    if (strlen(line) >= sizeof line || strpbrk(line, "\n\r")) abort(); /* one line, whatever it tells of */
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    edgepv_why none = {NULL, 0};
    if (!size) return 0;
    if (data[0] == 'O')
        edgepv_vet_onnx(data + 1, size - 1, "model.onnx", &none);
    else if (data[0] == 'T')
        edgepv_vet_tflite(data + 1, size - 1, "model.tflite", &none);
    else
        read_variants((const char *)data + 1, size - 1);
    return 0;
}

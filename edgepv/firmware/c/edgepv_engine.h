/* edgepv_engine.h: a bundle folder, opened as a model that edgepv.h steps. POSIX; libedgepv-engine.so.
 *
 * For models that no C is generated for: LiteRT or ONNX Runtime computes, opened with dlopen from the library
 * that their own packages hold. Memory is taken in edgepv_open and edgepv_begin, and by the engine while it
 * runs; by this library never in between.
 */
#ifndef EDGEPV_ENGINE_H
#define EDGEPV_ENGINE_H

#include "edgepv.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEPV_LINE 256 /* bytes that hold most lines about a failure */

/* Open a bundle folder. A zip has to be unpacked first.
 *
 * variant: its name; NULL for the one chosen when the bundle was made, or where its engine is not here, the
 * first one of LiteRT, then of ONNX Runtime.
 * library: path of libLiteRt.so or libonnxruntime.so; NULL to look for it as the system does for any library.
 * public_key: path of an Ed25519 key in PEM (edgepv keygen). With it, nothing is read before the signature of
 * the manifest is found to be good. With or without, every file that is opened has the manifest's SHA-256.
 * why: room for one line that says what went wrong, or NULL.
 *
 * EDGEPV_INPUT: no bundle, or one that is broken or hostile. EDGEPV_SIGNATURE, EDGEPV_ENGINE (its library is
 * not here, or too old), EDGEPV_MEMORY. Then *model is NULL.
 */
edgepv_status edgepv_open(const char *folder, const char *variant, const char *library,
                          const char *public_key, edgepv_model **model, char *why, size_t why_bytes);

const char *edgepv_variant(const edgepv_model *model); /* the name of the variant that was opened */

/* End every session first. The engine's library stays loaded: it may have left threads or thread data. */
void edgepv_close(edgepv_model *model);

#ifdef __cplusplus
}
#endif
#endif

/* toy.h: a model that a reader can check by hand, behind edgepv_model.h. Its NumPy twin is tests/toy_core.py.
 *
 * Of each label it looks at one value of the first and of the last frame of a chunk ("probe"), and keeps the last
 * three rows of probes and how often it ran:
 *     logits = first probe + last probe + history[0] / 2 + history[2] / 4 + runs / 8
 * Its second output is the last frame as it was given, (C, H, W).
 */
#ifndef TOY_H
#define TOY_H

#include "edgepv_model.h"

#define TOY_LABELS 3u
#define TOY_DEPTH 3u

typedef struct {
    uint32_t width, height, channels, rgb, chunk, warmup, labels, probabilities;
    float scale[3], shift[3];
} toy_options;

typedef struct {
    edgepv_model model;
    edgepv_port ports[2];
} toy;

enum { TOY_WELL, TOY_NAN, TOY_INFINITY, TOY_BROKEN, TOY_UNTIL_CANCELLED }; /* how its next runs go */

size_t toy_size(void);
void toy_make(toy *made, const toy_options *options);
void toy_go(int how);

#endif

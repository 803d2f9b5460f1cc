/* toy_tracker.h: a tracker whose particles drift, jump and fade by rules that a reader can check by hand. */
#ifndef TOY_TRACKER_H
#define TOY_TRACKER_H

#include "edgepv_model.h"

typedef struct {
    edgepv_model model;
    edgepv_port ports[1];
} toy_tracker;

size_t toy_tracker_size(void);
void toy_tracker_make(toy_tracker *made, uint32_t width, uint32_t height, uint32_t particles);

#endif

/* toy_library.c: the toy model as a compiled model, as the element's property "library" takes it. TOY_OPTIONS: what
 * stands in a toy_options. */
#include "toy.h"

const edgepv_model *edgepv_compiled(void);

const edgepv_model *edgepv_compiled(void)
{
    static const toy_options options = {TOY_OPTIONS};
    static toy made;

    if (made.model.size == 0)
        toy_make(&made, &options);
    return &made.model;
}

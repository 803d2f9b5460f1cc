"""Particle operators: small torch modules to build particle models from, each of which converts.

``pv_graph`` and ``pv_track`` are built from some of them, examples/particles.py from all. A particle is
(position, velocity, scale, feature, visibility). Four kinds of operator work on K of them:

* ``decompose``: a frame into particles, at the granularity of a pixel, a patch, a region or the frame;
* ``describe``: what a particle looks like, by colour, texture, edges, shape and learned features;
* ``interact``: what particles do to each other, and where that moves them;
* ``reconstruct``: particles back into a frame.

One convention runs through all of it:

* a position is (x, y) in image heights, from the top left corner: y in [0, 1], x in [0, W / H], the same
  unit along both axes, so distances mean the same in every direction. A velocity is in image heights per
  frame, a scale in image heights;
* a map of h x w cells is flattened row by row into M = h * w, and cell m has its centre at ``grid(h, w)[m]``;
* masks (N, K, M) say how much of each cell belongs to each particle;
* ``alive`` (N, K) is the visibility: 1 for a particle, 0 for an empty place. An empty place owns no cell,
  neither sends nor feels anything, so K places of which k live compute what k places compute.

No weight depends on K: one set of weights serves any number of particles. K, and the size of the map, are
fixed in an exported graph. Everything in a step is at most 4-D and made of operators that ONNX Runtime,
OpenVINO, LiteRT and TensorRT's parser all take; norms are spelled out in operators that old parsers know.
"""

__all__ = ["decompose", "describe", "interact", "reconstruct"]

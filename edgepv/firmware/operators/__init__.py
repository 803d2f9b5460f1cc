"""Firmware operators: one file for each, or for those that are much alike, from a node to layers of C."""

__all__ = ["codes", "convolution", "matrix", "pointwise", "pool", "reduction", "resize", "shape", "softmax"]

"""One file for each operator, or for operators that are much alike: from a node to a step of C."""

__all__ = ["convolution", "matrix", "pointwise", "pool", "reduction", "resize", "shape", "softmax"]

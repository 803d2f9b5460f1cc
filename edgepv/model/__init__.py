"""A trained model as its owner has it: the spec, the builder, the weights, and the module they make.

What was done to it is recorded.
"""

__all__ = ["boxes", "builder", "checkpoint", "naming", "provenance", "spec", "surgery", "training", "weights"]

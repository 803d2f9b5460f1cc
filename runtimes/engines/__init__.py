"""One file for each engine: a variant's file in, a callable that answers out.

Each imports its library when it opens.
"""

__all__ = ["eager", "litert", "native", "null", "ort", "ort_trt", "ov", "trt"]

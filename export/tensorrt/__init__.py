"""ONNX files as NVIDIA's builder takes them: opsets, float16, Q/DQ pairs, rules, the plan for trtexec.

Each is for the TensorRT of one device; nothing here needs a GPU.
"""

__all__ = [
    "bias",
    "finders",
    "form",
    "fp16",
    "graph",
    "kit",
    "layers",
    "opset",
    "parser",
    "plan",
    "rewrite",
    "rules",
    "spread",
]

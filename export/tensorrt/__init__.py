"""ONNX files as NVIDIA's builder takes them, for each TensorRT: opsets, float16, Q/DQ pairs, a table of
rules, the plan for trtexec. Nothing here needs a GPU.
"""

__all__ = ["form", "fp16", "graph", "layers", "opset", "parser", "plan", "rules"]

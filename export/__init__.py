"""The packing room: a model and a target in, that target's files out, with a parity check."""

__all__ = [
    "audit",
    "cost",
    "for_cpu",
    "for_firmware",
    "for_jetson",
    "for_mobile",
    "for_null",
    "from_onnx",
    "half",
    "islands",
    "onnx_module",
    "parity",
    "plain",
    "probes",
    "request",
    "sums",
    "tensorrt",
    "to_onnx",
    "to_tflite",
]

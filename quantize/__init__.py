"""The compression room: pruning and quantization steps; a model in, a smaller model out.

One file per step, one frozen dataclass ``Step`` per file: its fields are its options, calling it does
the work and returns a new value. Nothing is edited in place.
"""

__all__ = [
    "dead_channels",
    "finetune",
    "int8_litert",
    "int8_onnx",
    "int8_openvino",
    "low_rank",
    "mixed",
    "prune",
    "qat",
    "ranges",
    "sensitivity",
    "sparsity",
]

"""The compression room: pruning and quantization steps; a model in, a smaller model out.

One file per step, one frozen dataclass ``Step`` per file: see ``step``, the contract of all of them.
"""

__all__ = [
    "dead_channels",
    "equalise",
    "equalise_litert",
    "finetune",
    "fold",
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
    "step",
    "stream_tune",
]

"""The stream room: clip models become per-frame models, exactly, and are stepped over frames.

    convert(module, spec) -> StreamModel      a clip model as a step with explicit states
    flatten(module, spec) -> FlatModel        the same clip model without Conv3D, rank 4 at most
    Stepper, roll                             feed frames one by one and carry the states

Importing this loads no torch; ``convert`` and ``flatten`` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgepv.stream.step import (
    Infer,
    KeepsStates,
    Memory,
    Stepper,
    Tensors,
    by_file_names,
    copied,
    in_units_of,
    roll,
)

if TYPE_CHECKING:
    from edgepv.stream.rewrite import FlatModel, NotStreamableError, StreamModel, convert, flatten

__all__ = [
    "FlatModel",
    "Infer",
    "KeepsStates",
    "Memory",
    "NotStreamableError",
    "Stepper",
    "StreamModel",
    "Tensors",
    "by_file_names",
    "convert",
    "copied",
    "flatten",
    "in_units_of",
    "roll",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from edgepv.stream import rewrite

        return getattr(rewrite, name)
    raise AttributeError(f"module 'edgepv.stream' has no attribute '{name}'")

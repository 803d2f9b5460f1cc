"""The torch original as an engine: the row every other variant is compared to. Never in a bundle."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepv.base.optional import need, plain_attention
from edgepv.stream import Tensors
from edgepv.types import ModelSpec, StreamSpec


class EagerEngine:
    """Calls the module's ``step`` (or ``forward`` for a clip model) in torch eager mode."""

    def __init__(self, module: Any, spec: ModelSpec, stream: StreamSpec | None) -> None:
        self._torch = need("torch", extra="compress")
        from edgepv.stream import StreamModel

        step = getattr(module, "step", module) if stream else module
        self._call = module.recorded() if isinstance(module, StreamModel) else step
        states = stream.states if stream else ()
        self._names = [spec.input.name, *(s.name for s in states)]
        fresh = dict.fromkeys(s.output for s in states if s.output != spec.input.name)
        self._outputs = [*(a.name for a in spec.answers), *fresh]

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once on the number of threads torch was told."""
        torch = self._torch
        with torch.inference_mode(), plain_attention():
            result = self._call(*(torch.from_numpy(np.array(inputs[n])) for n in self._names))
        values = result if isinstance(result, tuple | list) else (result,)
        return {name: np.array(value.numpy()) for name, value in zip(self._outputs, values)}

    def close(self) -> None:
        """Nothing to free."""

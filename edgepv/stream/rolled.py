"""A clip model over a long video, answering as its stream does, with gradients: what a stream is trained by.

The stream's answer to a clip is that of the module as it was written, run on more frames than the clip has:
real ones stand where the clip's ends showed padding. So the module itself is trained, in its own operators,
and what is converted afterwards is what was trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgepv.errors import UsageError
from edgepv.stream.rewrite import convert
from edgepv.stream.untouched import UnfitError, Untouched
from edgepv.types import ModelSpec


class Rolled:
    """A clip module asked about clips inside a long video, each with all frames its stream sees of it.

    module: in eval mode. spec: of its clips. stride: frames from one clip that is answered to the next.

    Raises NotStreamableError as ``convert`` does, UsageError for a module whose stream sees no more than its
    window, remembers for ever, is approximate, or is not what the module answers on a longer video.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        model = convert(module, spec)
        stream = model.stream
        if stream.exactness == "approximate":
            raise UsageError(f"{spec.name}: its stream is approximate, because {stream.because[0]}")
        if stream.receptive_field is None or not stream.edges:
            why = "remembers for ever" if stream.receptive_field is None else "answers what its window does"
            raise UsageError(f"{spec.name}: its stream {why}, so there is nothing to tune")
        try:
            self._module = Untouched(module, spec.input.shape)
            shape = (spec.frames, *(spec.input.shape[i] for i in (1, 3, 4)))
            self._module.answers(torch.randn(shape, generator=torch.Generator().manual_seed(0)), [0])
        except UnfitError as e:
            raise UsageError(f"{spec.name}: its stream cannot be tuned: {e}") from e
        self.stride = self._module.stride
        self._behind = model.due + 1
        self._first = math.ceil((stream.receptive_field - self._behind) / self.stride)

    def frames(self, count: int) -> int:
        """How many frames of a video it takes to answer so many clips."""
        return (self._first + count - 1) * self.stride + self._behind

    def begins(self, frames: int) -> list[int]:
        """The first frames of the clips that are answered in a video of so many frames."""
        last = (frames - self._behind) // self.stride
        return [q * self.stride for q in range(self._first, last + 1)]

    def answers(self, video: Tensor) -> Tensor:
        """(clips, classes): the answers to a video (N, C, H, W), for the clips that begin with ``begins``."""
        at = [begin // self.stride for begin in self.begins(len(video))]
        return torch.cat(self._module.rolled(video, at))

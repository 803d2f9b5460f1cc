"""What a target's builder is given, and what it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgepv.errors import DeviceError, EdgepvError, EngineError, told
from edgepv.stream import Tensors
from edgepv.types import Checkpoint, Variant


class Work(Protocol):
    """Runs one cached step: ``make`` writes files into a folder and describes the variant."""

    def __call__(
        self,
        name: str,
        options: dict[str, Any],
        source: Variant,
        tools: tuple[str, ...],
        make: Callable[[Path], Variant],
    ) -> Variant:
        """The variant of the finished step, from the cache if its inputs are known."""


@dataclass(frozen=True)
class BuildRequest:
    """One target's order.

    base: the float ONNX of the model, at ``folder / base.path``. flat, flat_checkpoint: a clip model once
    more without Conv3D and with four dimensions at most; some engines are faster or only run with it.
    checkpoint: None if the user gave an ONNX file. feeds: calibration inputs with rolled states; empty when
    nothing is to be quantized. only: the name of the one variant wanted, None for all. grown: states whose
    values grow for ever. precisions: what may be built. work: runs a step through the cache and puts its
    files in ``folder``. compress: calls a quantization step by its name, with what the target fixes of its
    options and what the user asked for. failed: variant name -> why it could not be made, see ``attempt``.
    target: its name, for builders of several.
    """

    base: Variant
    flat: Variant | None
    folder: Path
    checkpoint: Checkpoint | None
    flat_checkpoint: Checkpoint | None
    feeds: Sequence[Tensors]
    calibration_digest: str
    precisions: tuple[str, ...]
    work: Work
    compress: Callable[[str, dict[str, Any], Variant, str], Variant]
    say: Callable[[str], None]
    only: str | None = None
    grown: tuple[str, ...] = ()
    target: str = ""
    failed: dict[str, EdgepvError] = field(default_factory=dict)

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Make the variant ``name``: whatever is raised goes to ``failed``, and the others are made."""
        try:
            yield
        except Exception as e:
            self.failed[name] = reason(e)

    def wants(self, name: str, precision: str) -> bool:
        """Whether the variant of this name is to be made."""
        if precision == "int8" and not self.feeds and self.base.precision != "int8":
            return False
        return precision in self.precisions and self.only in (None, name)

    @property
    def bases(self) -> tuple[Variant, ...]:
        """Every float ONNX there is to choose from; the flat one has FLAT in its names."""
        return (self.base, self.flat) if self.flat else (self.base,)


def reason(error: Exception) -> EdgepvError:
    """Why a variant was not made, whatever a converter or an engine raised."""
    if isinstance(error, EdgepvError):
        return error
    line, code = told(error)
    kind = DeviceError if code == DeviceError.exit_code else EngineError
    return kind(line.removeprefix("internal error: ")[:MOST_SAID])


MOST_SAID = 400
"""Characters of what a converter raised."""
EVEN = "model-even{}.onnx"
"""The float file that an INT8 one is made of, its channels equally loud; of the flat form, with FLAT."""
FLAT = "-r4"
"""Ends the names of what was made from the flat clip model (rank 4)."""


@dataclass(frozen=True)
class BuildResult:
    """A builder's result: variants to run, other files for the bundle, and what a person must know.

    failed: variant name -> why it could not be made; ``BuildRequest.attempt`` fills it. The rest of the
    bundle stands without it. floats: the fp32 files that the others were made of, asked for or not: an
    engine that computes those wrongly computes nothing rightly. evidence: names of variants that are examined
    for what they prove of others and do not go into the bundle. settle: called with the names of the variants
    that passed their exam, and of the one that runs, before the files of the others go: what is written of
    them depends on it.
    """

    variants: tuple[Variant, ...]
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    floats: tuple[Variant, ...] = ()
    evidence: tuple[str, ...] = ()
    settle: Callable[[Collection[str], str], None] | None = None

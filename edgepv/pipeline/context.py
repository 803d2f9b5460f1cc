"""One run: its options, its console, and steps and modules that are made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.cache import cached
from edgepv.base.console import Console
from edgepv.base.files import digest
from edgepv.base.machine import versions
from edgepv.model.checkpoint import build
from edgepv.pipeline.options import Options
from edgepv.types import Checkpoint

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class RunContext:
    """One run of the line: its options, its console, and the modules that were built in it."""

    options: Options
    console: Console
    modules: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    def module(self, checkpoint: Checkpoint) -> nn.Module:
        """``build(checkpoint)``, once in a run, for those who run it; who changes or traces one builds it.

        A user's module may keep what its forward() computed, and a trace would leave it tensors without
        values. One that was made to step keeps nothing, and may be traced too.
        """
        key = _identity(checkpoint)
        if key not in self.modules:
            self.modules[key] = build(checkpoint)
        return self.modules[key]

    def keep(self, checkpoint: Checkpoint, module: nn.Module) -> None:
        """``module`` is what ``build(checkpoint)`` would make."""
        self.modules[_identity(checkpoint)] = module

    def step(
        self, name: str, key: dict[str, Any], tools: tuple[str, ...], make: Callable[[Path], Any]
    ) -> tuple[Path, Any]:
        """(folder, result) of one cached step; equal keys and tool versions are computed once."""
        folder, result, hit = cached(
            {"step": name, **key, "tools": versions(("edgepv", "numpy", *tools))}, make
        )
        self.console.say(f"{name}: {'read from the cache' if hit else 'done'}")
        return folder, result


def _identity(checkpoint: Checkpoint) -> str:
    """Digest of what makes a module: where its weights lie and how they came to be does not."""
    return digest([checkpoint.builder, checkpoint.sha256, checkpoint.spec, checkpoint.rewrite])

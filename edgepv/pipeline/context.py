"""One run: its options, its console, and steps that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepv.base.cache import cached
from edgepv.base.console import Console
from edgepv.base.machine import versions
from edgepv.pipeline.options import Options


@dataclass(frozen=True)
class RunContext:
    """One run of the line: its options and its console."""

    options: Options
    console: Console

    def step(
        self, name: str, key: dict[str, Any], tools: tuple[str, ...], make: Callable[[Path], Any]
    ) -> tuple[Path, Any]:
        """(folder, result) of one cached step; equal keys and tool versions are computed once."""
        folder, result, hit = cached(
            {"step": name, **key, "tools": versions(("edgepv", "numpy", *tools))}, make
        )
        self.console.say(f"{name}: {'read from the cache' if hit else 'done'}")
        return folder, result

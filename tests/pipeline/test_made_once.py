"""What a run has made it does not make again: the step of a clip model, and modules that are only run."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Tiny

from edgepv import stream
from edgepv.base.console import Console
from edgepv.errors import UsageError
from edgepv.model import checkpoint as checkpoints
from edgepv.pipeline import run as pipeline_run
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.options import Options
from edgepv.pipeline.prepare import prepare
from edgepv.pipeline.source import gather, load

pytestmark = pytest.mark.slow


def noted(function: Callable[..., Any], calls: list[object]) -> Callable[..., Any]:
    """``function``, which adds to ``calls`` what it returns."""

    def call(*arguments: Any, **more: Any) -> Any:
        calls.append(function(*arguments, **more))
        return calls[-1]

    return call


def test_a_clip_model_is_converted_once_and_its_modules_are_shared(
    tiny_clip: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[object] = []
    built: list[object] = []
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path))
    monkeypatch.setattr(stream, "convert", noted(stream.convert, converted))
    monkeypatch.setattr(checkpoints, "new_module", noted(checkpoints.new_module, built))
    weights, spec = str(tiny_clip.weights), str(tiny_clip.spec)
    options = Options(tiny_clip.model, weights=weights, spec=spec, precision="fp32")
    context, source = RunContext(options, Console(quiet=True)), load(options)
    first = prepare(context, source, gather(options, source.spec))
    # loaded, probed, folded, converted, run; and once more to count the weights of what was converted
    assert (len(converted), len(built)) == (1, 6)
    assert first.lowered.checkpoint is not None
    assert context.module(first.lowered.checkpoint) is converted[0]

    again = prepare(RunContext(options, Console(quiet=True)), source, gather(options, source.spec))
    assert again.lowered.base == first.lowered.base
    assert (len(converted), len(built)) == (2, 9)  # of a run that reads the cache: nothing outlives a run


def test_modules_that_no_target_runs_are_gone_when_targets_are_packed(
    tiny_clip: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[weakref.ref[object]] = []
    alive: list[int] = []

    def noted_weakly(*arguments: Any, **more: Any) -> Any:
        module = made(*arguments, **more)
        built.append(weakref.ref(module))
        return module

    def packed(*_: object) -> None:
        gc.collect()
        alive.append(sum(one() is not None for one in built))
        raise UsageError("enough is known")

    made = checkpoints.new_module
    monkeypatch.setattr(checkpoints, "new_module", noted_weakly)
    monkeypatch.setattr(pipeline_run, "_bundled", packed)
    weights, spec = str(tiny_clip.weights), str(tiny_clip.spec)
    options = Options(tiny_clip.model, out=str(tmp_path / "b"), weights=weights, spec=spec, precision="fp32")
    with pytest.raises(UsageError, match="enough is known"):
        pipeline_run.export(options, Console(quiet=True))
    assert len(built) > 2 and alive == [1]  # the original, which is timed beside every target's files

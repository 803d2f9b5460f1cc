"""The target's builder is called, with the cache and the quantization steps at hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from edgepv.base.files import digest
from edgepv.base.registry import resolve
from edgepv.errors import EdgepvError, UsageError, retold
from edgepv.export.request import BuildRequest, BuildResult
from edgepv.model.provenance import record
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import Ready
from edgepv.pipeline.lower import lower
from edgepv.quantize.step import Calibration, step_named
from edgepv.types import Target, Variant, decode, encode


@dataclass(frozen=True)
class _Workshop:
    """The cache and the quantization steps, as a target's builder uses them. models: where its files go."""

    context: RunContext
    model: Ready
    target: Target
    models: Path

    def work(
        self,
        name: str,
        options: dict[str, Any],
        source: Variant,
        tools: tuple[str, ...],
        make: Callable[[Path], Variant],
        version: int = 1,
    ) -> Variant:
        """See ``edgepv.export.request.Work``."""
        checkpoint, calibration = self.model.lowered.checkpoint, self.model.calibration
        key = {
            "target": self.target.name,
            "options": options,
            "version": version,
            "source": digest(source),
            "weights": checkpoint.sha256 if checkpoint else None,
            "rewrite": digest(checkpoint.rewrite) if checkpoint and checkpoint.rewrite else None,
            "feeds": calibration.digest if calibration else None,
        }
        folder, result = self.context.step(name, key, tools, lambda tmp: encode(make(tmp)))
        variant = decode(Variant, result)
        for path in folder.glob(f"{Path(variant.path).stem}.*"):
            shutil.copyfile(path, self.models / path.name)
        step = record(name, options, {source.path: source.sha256}, {variant.path: variant.sha256}, tools)
        return replace(variant, steps=(*source.steps, replace(step, version=version)))

    def compress(self, name: str, fixed: dict[str, Any], source: Variant, file: str) -> Variant:
        """The quantization step of that name, with what the target fixes of its options; see BuildRequest."""
        options, calibration = self.context.options, self.model.calibration
        step = step_named(name).of(options.steps, options.seed, **fixed)
        assert calibration
        aid = Calibration(self.models, self.model.feeds, calibration.digest, calibration.last)
        return self.work(
            f"int8 {Path(file).stem}",
            {name: encode(value) for name, value in vars(step).items()},
            source,
            step.tools,
            lambda tmp: step(source, tmp / file, aid),
            step.version,
        )


def run_builder(
    context: RunContext, model: Ready, target: Target, base: Variant, models: Path
) -> BuildResult:
    """Call the target's builder with the cache and the quantization room at hand."""
    wanted, shop = context.options.precision, _Workshop(context, model, target, models)
    request = BuildRequest(
        base=base,
        flat=_flat_base(context, model, models),
        folder=models,
        checkpoint=model.lowered.checkpoint,
        flat_checkpoint=model.lowered.flat,
        feeds=model.feeds,
        calibration_digest=model.calibration.digest if model.calibration else "",
        precisions=target.precisions if wanted == "auto" else (wanted,),
        work=shop.work,
        compress=shop.compress,
        say=context.console.say,
        only=context.options.variant,
        grown=model.grown,
        target=target.name,
    )
    built: BuildResult = resolve(target.builder)(request)
    if built.variants:
        return replace(built, failed={**built.failed, **{n: str(e) for n, e in request.failed.items()}})
    if request.failed:
        nothing_made(target.name, request.failed)
    unmade = f"{wanted} is not possible on this machine"
    if request.only:
        unmade = f"there is no variant '{request.only}' of this model; export without --variant lists all"
    why = next(iter(built.failed.values()), unmade)
    raise UsageError(f"{target.name}: nothing could be made. {why}")


def nothing_made(target: str, failed: Mapping[str, EdgepvError]) -> NoReturn:
    """Raise the first of the reasons, as an error of its kind, with the names of all that failed."""
    first = next(iter(failed.values()))
    raise retold(first, f"{target}: nothing could be made ({', '.join(failed)}). {first}") from first


def _flat_base(context: RunContext, model: Ready, models: Path) -> Variant | None:
    """The flat form of a clip model, lowered beside the other; None for a step, and where it has none."""
    from edgepv.stream import NotStreamableError

    if model.lowered.flat is None:
        return None
    try:
        flat, folder = lower(context, model.lowered.source, model.lowered.flat)
    except NotStreamableError as e:
        context.console.say(f"no flat form: {e.why}")
        return None
    shutil.copyfile(folder / flat.path, models / "model-r4.onnx")
    return replace(flat, path="model-r4.onnx")

"""Everything ``edgepv export`` can be asked for, and what is refused before work begins."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgepv import bundle
from edgepv.base.files import refuse_out
from edgepv.base.optional import present
from edgepv.base.registry import resolve
from edgepv.base.tasks import TASKS
from edgepv.errors import TargetUnavailableError, UsageError, unknown
from edgepv.export.for_cpu import refuse_bf16
from edgepv.export.request import FLAT
from edgepv.types import ModelSpec, Target

STREAM = ("auto", "window", "off")


@dataclass(frozen=True)
class Options:
    """Everything `edgepv export` was asked for, resolved; the plan that --dry-run prints.

    stream: "auto" turns a clip model into a step where that is exact (or its approximation is known),
    "window" keeps the clip model and lets the host hold its frames, "off" also leaves its graph as it is.
    every: new frames per step. size: height and width of the frames, None for what the model was trained on.
    particles: how many particles the model follows, None for what it was trained with.
    prune: share of channels to cut, one for all layers or one for each stage; importance, scope, multiple:
    how (see edgepv.quantize.prune). low_rank: share of the weights' energy that split layers keep, None for
    whole layers. tune_epochs: of fine-tuning on the training clips; None: 6 after either, if there are such.
    qat: epochs of training under INT8 rounding; ranges: how INT8 ranges are set (see edgepv.quantize.ranges).
    variant: the one variant to make, None for all there are. keep_float: how many of the most sensitive
    layers an INT8 ONNX keeps in float.
    max_drop: points (or dB, of a restorer) that INT8 and pruning together may cost. gate: whether the user
    set it (then too few clips to tell is an error). latency_ms: p99 limit on this machine, None for none.
    min_sqnr: dB that the logits of an INT8 ONNX must reach, with its most sensitive layers in float.
    """

    model: str = "pv-conv-small"
    targets: tuple[str, ...] = ("cpu",)
    out: str = "bundle"
    weights: str | None = None
    spec: str | None = None
    clips: str | None = None
    prune: tuple[float, ...] = ()
    importance: Literal["magnitude", "taylor", "group"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    multiple: int = 8
    low_rank: float | None = None
    tune_epochs: int | None = None
    qat: int = 0
    ranges: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    stream: str = "auto"
    every: int = 1
    size: int | None = None
    particles: int | None = None
    precision: str = "auto"
    variant: str | None = None
    keep_float: int = 0
    max_drop: float = 1.0
    gate: bool = False
    latency_ms: float | None = None
    min_sqnr: float | None = None
    seed: int = 0
    force: bool = False
    trust_pickle: bool = False


MOST_PIXELS = 4096
MOST_COUNT = 10_000
"""Largest height and width of frames that a model may be given."""


def zip_of(folder: Path) -> Path:
    """Where the zip of a bundle folder lies: beside it."""
    return folder.with_name(folder.name + ".zip")


def shares(prune: Sequence[float]) -> str:
    """The shares of channels as ``--prune`` takes them."""
    return ",".join(f"{share:g}" for share in prune)


def bundle_folder(options: Options, target: str) -> Path:
    """Where a target's bundle goes: ``out`` itself for one target, ``out/target`` for several."""
    out = Path(os.path.normpath(Path.cwd() / options.out))
    folder = out if len(options.targets) == 1 else out / target
    return (
        folder.relative_to(Path.cwd())
        if folder.is_relative_to(Path.cwd()) and folder != Path.cwd()
        else folder
    )


def check_options(options: Options, targets: Sequence[Target]) -> None:
    """Raise for anything that can be refused before work begins."""
    for target in targets:
        if options.precision not in ("auto", *target.precisions):
            raise UsageError(
                f"{target.name} has no precision '{options.precision}'. It has auto, "
                f"{', '.join(target.precisions)}"
            )
        _refuse_unmakeable(options, target)
        folder = bundle_folder(options, target.name)
        refuse_out(folder)
        for path in (folder, zip_of(folder)):
            refuse_out(path)
            if path.exists() and not options.force:
                raise UsageError(f"{path} already exists. Choose another --out, or replace it with --force")
            if path.exists() and not bundle.is_bundle(path):
                raise UsageError(f"{path} exists and is not a bundle; --force replaces bundles only")
        for module, extra in target.needs_build:
            if not present(module):
                raise TargetUnavailableError(
                    f"packing for {target.name} needs {module}. Run: pip install 'edgepv[{extra}]'"
                )
    if options.precision == "bf16" or "-bf16" in (options.variant or ""):
        refuse_bf16()
    _refuse_huge(options)
    if not 0 <= options.max_drop <= 100:
        raise UsageError(
            f"--max-drop {options.max_drop:g}: give points of accuracy, or dB of a restorer, 0 or more"
        )
    if not all(0 <= share < 1 for share in options.prune):
        raise UsageError(f"--prune {shares(options.prune)}: give the share of channels to remove, like 0.25")
    if options.low_rank is not None and not 0 < options.low_rank <= 1:
        raise UsageError(f"--low-rank {options.low_rank:g}: give the share of energy to keep, like 0.9")
    if options.multiple < 1 or min(options.tune_epochs or 0, options.qat) < 0:
        raise UsageError("--multiple must be above 0, --tune-epochs and --qat not below")
    if options.keep_float < 0:
        raise UsageError(f"--keep-float {options.keep_float}: give a number of layers, 0 or more")
    if options.stream not in STREAM:
        raise UsageError(unknown("--stream", options.stream, STREAM))
    if options.every < 1:
        raise UsageError(f"--every {options.every}: give a number of frames above 0")
    if options.size is not None and (not 32 <= options.size <= MOST_PIXELS or options.size % 16):
        raise UsageError(f"--size {options.size}: give a multiple of 16 from 32 to {MOST_PIXELS}")
    if options.particles is not None and options.particles < 1:
        raise UsageError(f"--particles {options.particles}: give a number above 0")
    if options.min_sqnr is not None and not 0 < options.min_sqnr < math.inf:
        raise UsageError(f"--min-sqnr {options.min_sqnr:g}: give decibels above 0, like 30")
    _refuse_unheeded(options)
    if options.latency_ms is not None and not 0 < options.latency_ms < math.inf:
        raise UsageError(f"--latency-ms {options.latency_ms:g}: give a time above 0")
    if options.clips and not Path(options.clips).is_dir():
        raise UsageError(f"{options.clips} is not a folder. --clips wants a folder of video clips")


def _refuse_unmakeable(options: Options, target: Target) -> None:
    """Raise UsageError for what the options tell of a target that cannot be made: no work is begun then."""
    if target.torch_only and options.model.lower().endswith(".onnx"):
        raise UsageError(
            f"{target.name} is converted from torch, and {options.model} is an ONNX file. Leave it out "
            "of --target, or give the builder: file.py:builder --weights w.safetensors --spec spec.toml"
        )
    if options.latency_ms is not None and target.status != Target.status:
        raise UsageError(f"--latency-ms: {target.name} is not timed on this host. Measure on the device")
    known = getattr(resolve(target.builder.partition(":")[0]), "VARIANTS", ())
    if options.variant and known and options.variant.removesuffix(FLAT) not in known:
        raise UsageError(f"{target.name}: {unknown('variant', options.variant, known)}")
    if options.variant and known and options.precision not in ("auto", options.variant.split("-")[1]):
        raise UsageError(
            f"--variant {options.variant} is none of --precision {options.precision}. Leave one out"
        )


def _refuse_huge(options: Options) -> None:
    """Raise UsageError for a count that is none of frames, channels, layers, particles or epochs."""
    counts = {
        "--every": options.every,
        "--multiple": options.multiple,
        "--tune-epochs": options.tune_epochs,
        "--qat": options.qat,
        "--keep-float": options.keep_float,
        "--particles": options.particles,
    }
    for name, count in counts.items():
        if count is not None and count > MOST_COUNT:
            raise UsageError(f"{name} {count}: give a number up to {MOST_COUNT}")


def _refuse_unheeded(options: Options) -> None:
    """Raise UsageError for an option of cpu's INT8 where nothing is made for cpu."""
    given = {
        "--keep-float": options.keep_float > 0,
        "--min-sqnr": options.min_sqnr is not None,
        "--ranges": options.ranges != "minmax",
    }
    wanted = [name for name, there in given.items() if there]
    if wanted and "cpu" not in options.targets:
        raise UsageError(
            f"{wanted[0]} is heeded by INT8 for cpu only, and --target is {','.join(options.targets)}. "
            "Leave it out, or add cpu"
        )


def max_drop(options: Options, spec: ModelSpec) -> float:
    """What a variant may lose: points of accuracy, or dB of a restorer's pictures."""
    usual = TASKS.find(spec.task).max_drop
    return options.max_drop if options.gate or usual is None else usual

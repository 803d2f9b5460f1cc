"""Everything ``edgepv export`` can be asked for, and what is refused before work begins."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from edgepv.base.files import refuse_out
from edgepv.base.optional import present
from edgepv.base.options import option, options_of
from edgepv.base.registry import resolve
from edgepv.base.tasks import TASKS
from edgepv.errors import TargetUnavailableError, UsageError, unknown
from edgepv.quantize.step import option_named, step_named, step_options, variant_options
from edgepv.targets import targets as all_targets
from edgepv.types import Before, ModelSpec, Target, decode

MOST_PIXELS = 4096
"""Largest height and width of frames that a model may be given."""

PREFERENCES = ("speed", "size", "memory")
"""What ``edgepv.metrics.choice`` can choose by."""


@dataclass(frozen=True)
class Options:
    """Everything `edgepv export` was asked for, resolved; the plan that --dry-run prints.

    steps: what compression steps were asked for, by their options' keys, without defaults (see
    ``edgepv.quantize.step``). gate: whether ``max_drop`` was set; then too few clips to tell is an error.
    """

    model: str = "pv-c3d-valid"
    targets: tuple[str, ...] = ("cpu",)
    out: str = option(
        "bundle",
        "new folder for the bundle; an existing one is never "
        "overwritten (default: bundle); with several targets, one sub-folder each",
        metavar="DIR",
    )
    weights: str | None = None
    spec: str | None = None
    clips: str | None = option(
        None,
        "clips that train, set INT8 ranges and judge: one folder "
        "per label, or manifest.csv; needed for INT8 of your own model, and for --prune",
        metavar="DIR",
    )
    footage: str | None = option(
        None,
        "video without labels like what the camera will see: half of its files may be learnt from where no "
        "labels are needed, on the others the answers that change are counted",
        metavar="DIR",
    )
    steps: dict[str, Any] = field(default_factory=dict)
    stream: str = option(
        "auto",
        "a clip model as: auto, a step over new frames where its operators allow it, else a window; "
        "window, the host holds the frames; off, a window and the graph as it is (default: auto)",
        metavar="HOW",
        choices=("auto", "window", "off"),
    )
    every: int = option(
        1,
        "new frames per step of a streamed model, and per answer (default: 1)",
        metavar="N",
        check=lambda n: n >= 1,
        hint="give a number of frames above 0",
    )
    size: int | None = option(
        None,
        "height and width of the frames (default: what the model was trained on); smaller is faster",
        metavar="PIXELS",
        check=lambda n: 32 <= n <= MOST_PIXELS and not n % 16,
        hint=f"give a multiple of 16 from 32 to {MOST_PIXELS}",
        most=math.inf,
    )
    particles: int | None = option(
        None,
        "how many particles the model follows (default: what it was trained with); fewer are faster",
        metavar="K",
        check=lambda n: n >= 1,
        hint="give a number above 0",
    )
    precision: str = option(
        "auto",
        "auto, fp32, bf16, fp16 or int8; auto measures all of the "
        "target's and keeps the fastest that passes (default: auto)",
        metavar="P",
    )
    variant: str | None = option(
        None, "make this one only, like openvino-int8 (default: all)", metavar="NAME"
    )
    max_drop: float = option(
        1.0,
        "accuracy that may be lost, in points, of a restorer in dB; a loss that is sure is exit code 3; "
        "when given, too few clips to tell, or none of a label, is exit code 6 (default: 1, a restorer 0.3)",
        metavar="POINTS",
        check=lambda points: 0 <= points <= 100,
        hint="give points of accuracy, or dB of a restorer, 0 or more",
    )
    gate: bool = False
    latency_ms: float | None = option(
        None,
        "largest p99 of the chosen variant on this machine; too few calls or a machine too busy to tell is "
        "exit code 6",
        metavar="MS",
        check=lambda ms: 0 < ms < math.inf,
        hint="give a time above 0",
    )
    before: str = option(
        "none",
        "what is done to a picture before the model sees it: clahe (local contrast), denoise, both with a "
        "comma; auto tries each and keeps one only if labelled clips are surely answered better (default: "
        "none)",
        metavar="CHAIN",
        check=lambda text: text in ("none", "auto") or not set(text.split(",")) - set(get_args(Before)),
        hint=f"give none, auto, or some of {', '.join(get_args(Before))}",
    )
    robustness: int = option(
        8,
        "held-out clips on which the float model and the variant that runs are shown low light, blur, JPEG "
        "and noise; 0: none (default: 8)",
        metavar="CLIPS",
        check=lambda n: n >= 0,
        hint="give a number of clips, 0 for none",
    )
    prefer: str = option(
        "speed",
        "of the variants that keep the gates, the one that runs: speed, float unless another is surely "
        "faster; size, the smallest file; memory, the least of it at its peak (default: speed)",
        metavar="WHAT",
        choices=PREFERENCES,
    )
    seed: int = 0
    force: bool = False
    trust_pickle: bool = False


def options_from(data: Mapping[str, Any], where: str) -> Options:
    """The options of a ``--config`` file and the command line, by their keys.

    Raises UsageError, naming ``where``, for an unknown key or a wrong type.
    """
    ours = {f.name for f in fields(Options)} - {"steps"}
    theirs = step_options()
    for key in data:
        if key not in ours | set(theirs):
            raise UsageError(f"{where}: {unknown('key', key, ours | set(theirs))}")
    given = {key: theirs[key].decoded(value, where) for key, value in data.items() if key in theirs}
    asked = {key: v for key, v in given.items() if theirs[key].asks or v != theirs[key].default}
    own = {key: value for key, value in data.items() if key in ours}
    return decode(Options, {**own, "steps": asked}, where=where)


def zip_of(folder: Path) -> Path:
    """Where the zip of a bundle folder lies: beside it."""
    return folder.with_name(folder.name + ".zip")


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
        _refuse_unmakeable(options, target)
        _refuse_taken(options, target)
        for module, extra in target.needs_build:
            if not present(module):
                raise TargetUnavailableError(
                    f"packing for {target.name} needs {module}. Run: pip install 'edgepv[{extra}]'"
                )
    if options.precision == "bf16" or "-bf16" in (options.variant or ""):
        from edgepv.export.for_cpu import refuse_bf16

        refuse_bf16()
    for one in options_of(Options):
        one.refuse(getattr(options, one.key))
    for key, value in options.steps.items():
        option_named(key).refuse(value)
    _refuse_unheeded(options, targets)
    if options.steps.get("stream_tune") and options.stream != "auto":
        raise UsageError(
            f"--stream-tune is for a stream, --stream {options.stream} makes none. Leave one out"
        )
    labelled = "labelled video, or pictures with boxes or masks (docs/tasks.md)"
    _refuse_no_folder("--clips", options.clips, labelled)
    _refuse_no_folder("--footage", options.footage, "video, or pictures for a detector, without labels")


def _refuse_no_folder(flag: str, given: str | None, wanted: str) -> None:
    """Raise UsageError for an option that names no folder, or nothing, as a variable that is not set does."""
    if given == "":
        raise UsageError(f"{flag} is empty. Give it a folder of {wanted}, or leave it out")
    if given is not None and not Path(given).is_dir():
        raise UsageError(f"{given} is not a folder. {flag} wants a folder of {wanted}")


def _refuse_taken(options: Options, target: Target) -> None:
    """Raise UsageError for a bundle's folder or zip that cannot be written, or holds something else."""
    from edgepv.bundle import is_bundle

    folder = bundle_folder(options, target.name)
    refuse_out(folder)
    for path in (folder, zip_of(folder)):
        refuse_out(path)
        if path.exists() and not options.force:
            raise UsageError(f"{path} already exists. Choose another --out, or replace it with --force")
        if path.exists() and not is_bundle(path):
            raise UsageError(f"{path} exists and is not a bundle; --force replaces bundles only")


def _refuse_unmakeable(options: Options, target: Target) -> None:
    """Raise UsageError for what the options tell of a target that cannot be made: no work is begun then."""
    from edgepv.export.request import FLAT

    if options.precision not in ("auto", *target.precisions):
        raise UsageError(
            f"{target.name} has no precision '{options.precision}'. It has auto, "
            f"{', '.join(target.precisions)}"
        )
    if options.latency_ms is not None and target.status != Target.status:
        raise UsageError(f"--latency-ms: {target.name} is not timed on this host. Measure on the device")
    refuse_chain(() if options.before == "none" else (options.before,), target)
    known = getattr(_builder_file(target), "VARIANTS", ())
    if options.variant and known and options.variant.removesuffix(FLAT) not in known:
        raise UsageError(f"{target.name}: {unknown('variant', options.variant, known)}")
    if options.variant and known and options.precision not in ("auto", options.variant.split("-")[1]):
        raise UsageError(
            f"--variant {options.variant} is none of --precision {options.precision}. Leave one out"
        )


def refuse_chain(chain: Sequence[str], target: Target) -> None:
    """Raise UsageError for a chain before the model on a target whose code has none."""
    if chain and not getattr(_builder_file(target), "CHAIN", True):
        raise UsageError(
            f"before {', '.join(chain)}: on {target.name} nothing comes before the model. Leave it out, or "
            "choose another target"
        )


def steps_of(target: Target) -> Mapping[str, str]:
    """Variant -> the step that makes it, as the target's builder says."""
    made_by: Mapping[str, str] = getattr(_builder_file(target), "STEPS", {})
    return made_by


def _builder_file(target: Target) -> Any:
    return resolve(target.builder.partition(":")[0])


def _heeded(target: Target) -> set[str]:
    """Keys of the options of steps that the target's builder calls."""
    return {o.key for name in set(steps_of(target).values()) for o in options_of(step_named(name))}


def _refuse_unheeded(options: Options, targets: Sequence[Target]) -> None:
    """Raise UsageError for an option of INT8 that none of the targets has."""
    for one in variant_options():
        if one.key in options.steps and not any(one.key in _heeded(target) for target in targets):
            able = " and ".join(name for name, other in all_targets().items() if one.key in _heeded(other))
            raise UsageError(
                f"{one.flag} is heeded by INT8 for {able} only, and --target is "
                f"{','.join(options.targets)}. Leave it out, or add {able}"
            )


def typed(options: Options) -> str:
    """The command line that these options are from; those at their defaults are left out."""
    words = ["edgepv", "export", options.model, "--target", ",".join(options.targets)]
    plain = Options(model=options.model)
    for name in ("weights", "spec"):
        words += [f"--{name}", value] if (value := getattr(options, name)) else []
    for one in options_of(Options):
        value, given = getattr(options, one.field), one.field == "max_drop" and options.gate
        words += one.words(value) if given or value != getattr(plain, one.field) else []
    for key, value in options.steps.items():
        words += option_named(key).words(value)
    words += ["--seed", str(options.seed)] if options.seed else []
    return shlex.join([*words, *(["--trust-pickle"] if options.trust_pickle else [])])


def max_drop(options: Options, spec: ModelSpec) -> float:
    """What a variant may lose: points of accuracy, or dB of a restorer's pictures."""
    usual = TASKS.find(spec.task).max_drop
    return options.max_drop if options.gate or usual is None else usual

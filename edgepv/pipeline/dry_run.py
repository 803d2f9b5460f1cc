"""What an export would do, checked as far as that is possible without doing it."""

from __future__ import annotations

from edgepv.base.tasks import TASKS
from edgepv.pipeline.compress import chain_of
from edgepv.pipeline.options import Options, bundle_folder, check_options, max_drop, steps_of
from edgepv.pipeline.source import gather, load
from edgepv.quantize.step import checkpoint_steps, step_named
from edgepv.targets import target as find_target
from edgepv.types import ModelSpec


def plan(options: Options) -> dict[str, object]:
    """What ``export`` would do, checked as far as that is possible without doing it."""
    targets = [find_target(name) for name in options.targets]
    check_options(options, targets)
    source = load(options)
    clips = gather(options, source.spec)
    wanted = {t.name: t.precisions if options.precision == "auto" else (options.precision,) for t in targets}
    made_by = dict.fromkeys(name for target in targets for name in steps_of(target).values())
    return {
        "model": source.spec.name,
        "weights": source.sha256,
        "clips": f"{clips.origin}: {len(clips.train)} train, {len(clips.calibration)} calibration, "
        f"{len(clips.held_out)} held out",
        **{kind.name: "off" for kind in checkpoint_steps()},
        **{step.name: step.told() for step in chain_of(options, source, clips)},
        "stream": _stream_plan(options, source.spec),
        "precisions": "; ".join(f"{name}: {', '.join(p)}" for name, p in wanted.items()),
        **{name: step for name in made_by if (step := step_named(name).of(options.steps).told())},
        "gate": f"at most {max_drop(options, source.spec):g} {_unit(source.spec)}; too few clips to tell is "
        + ("exit code 6" if options.gate else "reported only"),
        "latency": f"p99 at most {options.latency_ms:g} ms" if options.latency_ms else "no limit",
        "prefer": options.prefer,
        "seed": options.seed,
        "bundles": ", ".join(str(bundle_folder(options, t.name)) for t in targets),
        **({"notes": "; ".join(clips.notes)} if clips.notes else {}),
    }


def _unit(spec: ModelSpec) -> str:
    return TASKS.find(spec.task).unit


def _stream_plan(options: Options, spec: ModelSpec) -> str:
    if spec.input.layout != "NCTHW":
        return "not needed: the model eats single frames"
    if options.stream == "auto":
        return f"a step over {options.every} new frames if every operator allows it, else a window"
    return {"window": "off: the host keeps a window", "off": "off: the graph stays as it is"}[options.stream]

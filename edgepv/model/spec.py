"""The TOML that describes a user's model, read strictly: every range is checked before work begins."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

from edgepv.base.files import MOST_LETTERS, check_part, read_toml
from edgepv.base.tasks import TASKS, task_of
from edgepv.errors import UsageError, unknown
from edgepv.model.boxes import check_boxes
from edgepv.types import ModelSpec, StreamSpec, decode, encode

MAX_STATE_BYTES = 1 << 31  # of all states; a device has to hold them beside the model
MOST_PARTICLES = 1024  # pairs of them, which a model compares, grow with the square
MOST_FRAMES = 4096  # of a clip or a step; over two minutes at 30 a second
MOST_STATES = 4096  # of a step; a bound on a hostile spec
MOST_SIDE = 8192  # px
MOST_LABELS = 255  # a mask has a byte for each px, of which 255 means that it is not judged
MOST_VALUES = 1 << 28  # of one input: 1 GiB as float32


def read_spec(path: Path) -> ModelSpec:
    """ModelSpec from a TOML file. Raises UsageError for bad TOML or a key nobody knows."""
    data = read_toml(path, wanted="--spec wants the TOML file that describes the model")
    for table, task in (("boxes", "detection"), ("masks", "segmentation")):
        if table in data and "task" not in data:
            raise UsageError(
                f'{path.name} has [{table}] and no task. Write task = "{task}" above its first table'
            )
    if "metric" not in data and data.get("task") in TASKS.names():
        data["metric"] = TASKS.find(data["task"]).metric
    spec = decode(ModelSpec, _grey_defaults(data), where=path.name)
    check_spec(spec, path.name)
    return spec


def as_toml(spec: ModelSpec) -> str:
    """A spec as ``read_spec`` reads it."""
    data = {k: v for k, v in encode(spec).items() if v is not None and v != []}
    tables = {k: v for k, v in data.items() if isinstance(v, dict)}
    lists = {k: v for k, v in data.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    lines = [_toml_line(k, v) for k, v in data.items() if k not in tables and k not in lists]
    for name, table in tables.items():
        lines += _toml_table(name, table)
    for name, rows in lists.items():
        for row in rows:
            lines += ["", f"[[{name}]]", *(_toml_line(k, v) for k, v in row.items())]
    return "\n".join(lines) + "\n"


def _toml_table(name: str, table: dict[str, Any]) -> list[str]:
    """A table, and the tables in it; what is None or empty is left out, which means the same."""
    inner = {k: v for k, v in table.items() if isinstance(v, dict) and v}
    plain = {k: v for k, v in table.items() if v is not None and v not in ([], {}) and k not in inner}
    lines = ["", f"[{name}]", *(_toml_line(k, v) for k, v in plain.items())]
    for key, value in inner.items():
        lines += ["", f"[{name}.{key}]", *(_toml_line(json.dumps(k), v) for k, v in value.items())]
    return lines


def _toml_line(key: str, value: Any) -> str:
    """``key = value``; strings, numbers, true, false and lists of them are written alike in JSON and TOML."""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")


def _grey_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """The same table, with colour, mean and std of one channel where the input has one and none are given."""
    shape = data["input"].get("shape") if isinstance(data.get("input"), dict) else None
    if not isinstance(shape, list) or shape[1:2] != [1]:
        return data
    return {"colour": "grey", "mean": [0.0], "std": [1.0], **data}


def check_spec(spec: ModelSpec, where: str, *, chunk: int = 1) -> None:
    """Raise UsageError for a spec that contradicts itself or that no camera and no model can have.

    chunk: frames of one step.
    """
    shape, layout = spec.input.shape, spec.input.layout
    if spec.task not in TASKS.names():
        raise UsageError(f"{where}: {unknown('task', spec.task, TASKS.names())}")
    task = task_of(spec)
    _check_names(spec, where)
    if layout not in ("NCHW", "NCTHW") or len(shape) != len(layout) or shape[0] != chunk:
        raise UsageError(
            f"{where}: input shape {shape} does not fit layout {layout}. Use (1, C, H, W) as NCHW for "
            "a per-frame model, (1, C, T, H, W) as NCTHW for a clip model"
        )
    if layout == "NCHW" and shape[1] == 3 * spec.frames > 3:
        raise UsageError(
            f"{where}: {spec.frames} frames stacked in {shape[1]} channels: give the input as (1, 3, "
            f"{spec.frames}, H, W), layout NCTHW, and stack them in the builder's forward(): "
            "x.transpose(1, 2).flatten(1, 2)"
        )
    _check_channels(spec, where)
    if min(spec.std) <= 0 or spec.fps <= 0 or spec.frames < 1:
        raise UsageError(f"{where}: std, fps and frames must be above 0")
    _check_ranges(spec, where)
    if layout == "NCTHW" and shape[2] != spec.frames:
        raise UsageError(f"{where}: frames = {spec.frames}, but the clip input has T = {shape[2]}")
    if spec.degrade is not None and not task.shows:
        raise UsageError(f"{where}: degrade is for restoration, the task is {spec.task}. Leave one out")
    if spec.before and (task.shows or len(set(spec.before)) != len(spec.before)):
        wanted = (
            "give none to a restorer, whose pictures are compared with the clean ones"
            if task.shows
            else "give each once"
        )
        raise UsageError(f"{where}: before = {list(spec.before)}: {wanted}")
    if task.classifies and (len(spec.labels) < 2 or len(set(spec.labels)) != len(spec.labels)):
        raise UsageError(f"{where}: labels must be at least two different names")
    if task.finds != (spec.boxes is not None):
        missing = "is missing: it says how the answer is read" if task.finds else "is for detection"
        raise UsageError(f"{where}: [boxes] {missing}; the task is {spec.task}. See docs/spec.md")
    what = "a box may hold" if task.finds else "may stand at a place"
    if (task.finds or task.segments) and len(set(spec.labels)) != max(1, len(spec.labels)):
        raise UsageError(f"{where}: labels must name what {what}: one name or more, all different")
    _check_masks(spec, where)
    if spec.metric != task.metric:
        raise UsageError(f"{where}: {spec.task} is judged by {task.metric}, not by {spec.metric}")
    check_answers(spec, where)


def _check_masks(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for ``[masks]`` of another task, or that no answer can be read by."""
    segments, masks = task_of(spec).segments, spec.masks
    if segments and len(spec.labels) > MOST_LABELS:
        raise UsageError(f"{where}: {len(spec.labels)} labels; a mask can hold {MOST_LABELS}")
    if masks is None:
        return
    if not segments:
        raise UsageError(f"{where}: [masks] is for segmentation, the task is {spec.task}. Leave one out")
    for what, value, high in (("score", masks.score, 1), ("pad", masks.pad, 255)):
        if not 0 <= value <= high:
            raise UsageError(f"{where}: masks: {what} is {value:g}; give 0 to {high}")
    if masks.background and len(spec.labels) < 2:
        raise UsageError(
            f"{where}: masks.background with one label: where it is not is background by itself. Leave it out"
        )


def _check_channels(spec: ModelSpec, where: str) -> None:
    """Raise UsageError unless the input has the channels of a camera, and colour, mean and std fit them."""
    channels = spec.input.shape[1]
    if min(spec.input.shape) < 1 or channels not in (1, 3):
        raise UsageError(
            f"{where}: the input needs 3 colour channels, or 1 of grey or infrared; it has shape "
            f"{spec.input.shape}"
        )
    if not len(spec.mean) == len(spec.std) == channels:
        raise UsageError(
            f"{where}: {len(spec.mean)} means and {len(spec.std)} stds; an input of {channels} channels "
            f"needs {channels} of each"
        )
    if (spec.colour == "grey") != (channels == 1):
        raise UsageError(
            f"{where}: colour is {spec.colour}, the input has {channels} channels. One channel is grey, "
            "three are rgb or bgr"
        )


def _check_names(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for a name that cannot be read: empty, too long, or with control characters.

    Also if that of the spec, which becomes part of paths, cannot name a file.
    """
    check_part(spec.name, f"{where}: name")
    named = {"input name": spec.input.name}
    named |= {f"label {i + 1}": label for i, label in enumerate(spec.labels)}
    named |= {f"name of output {i + 1}": out.name for i, out in enumerate(spec.outputs)}
    for what, text in named.items():
        if not text.strip() or not text.isprintable() or len(text) > MOST_LETTERS:
            raise UsageError(
                f"{where}: {what} is {text[:40]!r}; give 1 to {MOST_LETTERS} letters on one line, "
                "without control characters"
            )


def _check_ranges(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for the first number of a spec beyond its sensible range, naming the range."""
    height, width = spec.input.shape[-2:]
    ranges: list[tuple[str, float | Fraction, float | Fraction, float | Fraction]] = [
        *(("mean (of pixels in [0, 1])", v, -10, 10) for v in spec.mean),
        *(("std (of pixels in [0, 1])", v, 1e-4, 10) for v in spec.std),
        ("fps", spec.fps, Fraction(1, 1000), 1000),
        ("frames", spec.frames, 1, MOST_FRAMES),
        ("the input's height", height, 1, MOST_SIDE),
        ("the input's width", width, 1, MOST_SIDE),
        ("the number of the input's values", prod(spec.input.shape), 1, MOST_VALUES),
    ]
    if spec.particles is not None:
        ranges.append(("particles", spec.particles, 1, MOST_PARTICLES))
    for what, value, low, high in ranges:
        if not low <= value <= high:
            told = (f"{float(x):g}" if isinstance(x, Fraction | float) else x for x in (value, low, high))
            raise UsageError("{}: {} is {}; give {} to {}".format(where, what, *told))


def check_answers(spec: ModelSpec, where: str) -> None:
    """Raise UsageError if the outputs of a spec are not what its task answers with."""
    shape, names = spec.answer.shape, [a.name for a in spec.answers]
    for out in spec.answers:
        if not out.shape or min(out.shape) < 1 or prod(out.shape) > MOST_VALUES:
            raise UsageError(
                f"{where}: output '{out.name}' of shape {out.shape} is none that a model can give"
            )
    task = task_of(spec)
    wanted = (spec.answer.name if task.finds else task.answer, task.shape(spec))
    if (spec.answer.name, shape) != wanted or len(set(names)) != len(names):
        raise UsageError(
            f"{where}: a model for {spec.task} answers first with '{wanted[0]}' {wanted[1]}, the spec says "
            f"'{spec.answer.name}' {shape}. Correct outputs (and particles, for a tracker); see docs/spec.md"
        )
    if task.per_frame and spec.input.layout != "NCHW":
        raise UsageError(f"{where}: only a per-frame model (NCHW) may be for {spec.task}")
    if task.finds:
        check_boxes(spec, where)
    _check_lag(spec, where)
    _check_degrade(spec, where)


def _check_degrade(spec: ModelSpec, where: str) -> None:
    """Raise UsageError if a restorer's answer has not the size that undoes what ``degrade`` does."""
    if spec.degrade is None:
        return
    (high, wide), (height, width) = spec.answer.shape[-2:], spec.input.shape[-2:]
    factor = high // height
    fits = (high, wide) == (factor * height, factor * width)
    wanted = {"noise-25": factor == 1, "half": factor == 2, "downscale": factor > 1, "nothing": factor == 1}[
        spec.degrade
    ]
    if not (fits and wanted):
        size = {
            "noise-25": "the size",
            "nothing": "the size",
            "half": "twice the size",
            "downscale": "a whole multiple of the size",
        }
        raise UsageError(
            f"{where}: degrade = '{spec.degrade}' wants an image of {size[spec.degrade]} of the input; it "
            f"is {high} x {wide} of {height} x {width}. Correct the shapes, or leave degrade out: then the "
            "model is compared with the original alone"
        )


def _check_lag(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for a lag of what shows no picture, or that lies outside of the clip."""
    if spec.lag and not task_of(spec).shows:
        raise UsageError(f"{where}: lag is for restoration, the task is {spec.task}. Leave one out")
    if not 0 <= spec.lag < spec.frames:
        raise UsageError(
            f"{where}: lag is {spec.lag}; of {spec.frames} frames give 0 (the picture shows the newest) to "
            f"{spec.frames - 1} (the oldest)"
        )


def check_stream(spec: ModelSpec, stream: StreamSpec | None, where: str) -> None:
    """Raise UsageError for states that no host can carry."""
    if stream is None:
        return
    names = [s.name for s in stream.states]
    if len(set(names)) != len(names) or spec.input.name in names:
        raise UsageError(f"{where}: two states have one name, or a state has the input's")
    states = stream.states
    steps = [stream.chunk, stream.warmup, stream.delay + 1]
    steps += [n for s in states for n in (s.fresh, s.period, s.first + 1)]
    sound = min(steps) >= 1 and max(steps) <= MOST_FRAMES and len(states) <= MOST_STATES
    sound = sound and all(1 <= len(s.shape) <= 4 and min(s.shape) >= 1 for s in states)
    if not sound or sum(s.bytes * max(1, s.fresh // s.shape[0]) for s in states) > MAX_STATE_BYTES:
        raise UsageError(f"{where}: the states' shapes, periods or frame counts make no sense")


def at_size(spec: ModelSpec, size: int) -> ModelSpec:
    """The same model for frames of ``size`` x ``size``."""
    shape = (*spec.input.shape[:-2], size, size)
    return replace(spec, name=f"{spec.name}-{size}", input=replace(spec.input, shape=shape))


def with_particles(spec: ModelSpec, count: int) -> ModelSpec:
    """The same model with ``count`` particles. Raises UsageError if it follows none, or cannot so many."""
    if spec.particles is None:
        raise UsageError(f"{spec.name} follows no particles: leave --particles out")
    if not 1 <= count <= MOST_PARTICLES:
        raise UsageError(f"--particles {count}: give 1 to {MOST_PARTICLES}; pairs grow with the square")
    outputs = tuple(
        replace(out, shape=(1, count, *out.shape[2:])) if out.layout == "NKC" else out for out in spec.outputs
    )
    return replace(spec, name=f"{spec.name}-k{count}", particles=count, outputs=outputs)

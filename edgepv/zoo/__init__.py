"""The built-in trained models: what there is, and the checkpoint of each.

    checkpoint("pv-conv-small")           the small model, trained to see fights
    checkpoint("pv-conv-nano-handwash")   the nano model, trained on steps of hand washing

Importing this module loads no heavy library. Training, scores and cards are in the sibling modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgepv.base.files import read_json, sha256
from edgepv.errors import UsageError, unknown
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, decode

__all__ = [
    "DEMO_CLIP",
    "DETECTORS",
    "INDEX",
    "MODELS",
    "ONNX",
    "SCENES",
    "TASKS",
    "Entry",
    "alarm",
    "checkpoint",
    "cross_validated",
    "detector",
    "full_names",
    "names",
    "parse",
    "spec",
    "tested_on",
]

HERE = Path(__file__).resolve().parent
INDEX = HERE / "weights" / "index.json"
DETECTORS = HERE / "detectors"
DEMO_CLIP = HERE / "clips" / "demo" / "fs_fi005.mp4"

_STEPS = tuple(f"Step_{n}_{side}" for n in (4, 5, 6, 7) for side in ("Left", "Right"))

TASKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fight": ("fight", "no_fight"),
        "interact": ("handshake", "hug", "kick", "point", "punch", "push"),
        "handwash": ("Step_1", "Step_2_Left", "Step_2_Right", "Step_3", *_STEPS),
    }
)
"""Labels of every task the zoo has weights for, in the order of the model's outputs."""

SCENES = ("background", "moving", "shadow")
"""What stands where in the rendered scenes of the folder of that name, which segmenters learn from."""


@dataclass(frozen=True)
class Entry:
    """One architecture. builder: dotted name of a function that returns the torch module.

    size: height of the input frames; a classifier's and a tracker's are square. tasks: those there are
    weights for; none for a model that knows one only. clip: whether it eats whole clips of 16 frames and
    knows no step of its own. trainer: the module that trains it, ``python -m TRAINER``.
    """

    builder: str
    summary: str
    size: int
    tasks: tuple[str, ...] = tuple(TASKS)
    default_task: str = "fight"
    clip: bool = False
    trainer: str = "edgepv.zoo.training.classifiers"


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "pv-conv-nano": Entry(
            "edgepv.zoo.pv_conv:nano", "causal mobile video net, 41 k parameters, 96 x 96", 96
        ),
        "pv-conv-small": Entry(
            "edgepv.zoo.pv_conv:small", "causal mobile video net, 0.30 M parameters, 128 x 128", 128
        ),
        "pv-c3d": Entry(
            "edgepv.zoo.pv_c3d:small",
            "classic Conv3D clip net, 3.8 M parameters, 16 frames of 112 x 112",
            112,
            ("handwash",),
            "handwash",
            clip=True,
        ),
        "pv-c3d-valid": Entry(
            "edgepv.zoo.pv_c3d:valid",
            "Conv3D clip net without padding in time, 3.8 M parameters, 16 frames of 112 x 112",
            112,
            ("fight",),
            clip=True,
        ),
        "pv-graph-nano": Entry(
            "edgepv.zoo.pv_graph:nano",
            "particles that interact, 16 of them, 96 x 96",
            96,
            ("fight", "interact"),
            trainer="edgepv.zoo.training.graph",
        ),
        "pv-graph-small": Entry(
            "edgepv.zoo.pv_graph:small",
            "particles that interact, 16 of them, 128 x 128",
            128,
            ("fight", "interact"),
            trainer="edgepv.zoo.training.graph",
        ),
        "pv-track-nano": Entry(
            "edgepv.zoo.pv_track:nano",
            "online tracker of 32 points, 128 x 128",
            128,
            (),
            "",
            trainer="edgepv.zoo.training.track",
        ),
        "pv-track-small": Entry(
            "edgepv.zoo.pv_track:small",
            "online tracker of 64 points, 192 x 192",
            192,
            (),
            "",
            trainer="edgepv.zoo.training.track",
        ),
        "pv-restore-nano": Entry(
            "edgepv.zoo.pv_restore:nano",
            "recurrent restorer of video, 320 x 180",
            180,
            ("denoise", "x2"),
            "denoise",
            trainer="edgepv.zoo.training.restore",
        ),
        "pv-restore-small": Entry(
            "edgepv.zoo.pv_restore:small",
            "recurrent restorer of video, 640 x 360 (x2: 320 x 180)",
            360,
            ("denoise", "x2"),
            "denoise",
            trainer="edgepv.zoo.training.restore",
        ),
        "pv-seg-nano": Entry(
            "edgepv.zoo.pv_seg:nano",
            "recurrent segmenter of what moves and of shadows, 0.11 M parameters, 192 x 128",
            128,
            (),
            "",
            trainer="edgepv.zoo.training.segment",
        ),
        "pv-particle-nano": Entry(
            "edgepv.zoo.pv_particle:nano",
            "a frame as 48 particles that move, and painted of them again, 128 x 96",
            96,
            (),
            "",
            trainer="edgepv.zoo.training.particle",
        ),
    }
)

TESTED_ON: Mapping[str, str] = MappingProxyType(
    {
        "fight": "cameras that did not train",
        "interact": "other sequences at the two places that trained",
        "handwash": "other takes at the one sink that trained",
        "track": "renders; photographs are harder, see its card",
        "restore": "four films, one of them smooth",
        "seg": "renders over other footage, of other shapes",
        "particle": "cameras and films that did not train",
    }
)
"""What the held-out clips of a task, or of a kind of model without tasks, show."""


def tested_on(name: str) -> str:
    """What the held-out clips show that a model's figure was measured on."""
    model, task = parse(name)
    return TESTED_ON.get(task) or TESTED_ON[model.split("-")[1]]


def alarm(name: str, folder: Path = HERE / "cards") -> tuple[str, float] | None:
    """(label, threshold) of the alarm that training chose for a model; None where it chose none.

    name: of any model's spec. folder: of the cards' figures.
    """
    path = folder / f"{name}.json"
    point = read_json(path)["test"].get("alarm") if path.is_file() else None
    return (point["label"], point["threshold"]) if point else None


def cross_validated(name: str, folder: Path = HERE / "cards") -> dict[str, Any] | None:
    """A model's grouped cross-validation, as ``zoo.training.crossval`` wrote it; None where there is none.

    folder: of the results. In it: "value", top-1 of all "n" clips; "per_fold", top-1 of each; "epochs" of
    each stage of training.
    """
    model, task = parse(name)
    path = folder / f"crossval-{model}.json"
    if not path.is_file():
        return None
    data = read_json(path)
    result, plans = data["tasks"][task], [plan for plan in data["recipe"].values() if isinstance(plan, dict)]
    return {
        "value": result["accuracy"]["value"],
        "n": result["accuracy"]["n"],
        "per_fold": result["per_fold"],
        "epochs": [sum(n for n, _ in plan["sizes"]) for plan in plans],
    }


def names() -> tuple[str, ...]:
    """Every name ``checkpoint`` takes: the short ones, then one per model and task."""
    return (*MODELS, *(n for n in full_names() if n not in MODELS))


def full_names() -> tuple[str, ...]:
    """The names that say the task too, where a model has several: one for each file of weights."""
    pairs = [(m, t) for m, entry in MODELS.items() for t in entry.tasks or ("",)]
    return tuple(f"{m}-{t}" if t else m for m, t in pairs)


def parse(name: str) -> tuple[str, str]:
    """(model, task) of a name. Raises UsageError for a name that is not in ``names``."""
    if name not in names():
        raise UsageError(unknown("model", name, (*names(), *ONNX)))
    if name in MODELS:
        return name, MODELS[name].default_task
    model, _, task = name.rpartition("-")
    return model, task


ONNX: Mapping[str, str] = MappingProxyType({"person-detector": "person.onnx"})
"""Detectors by others that ship as ONNX files in ``DETECTORS``, with NAME.toml beside each: its spec."""


def detector(name: str) -> tuple[Path, Path] | None:
    """(ONNX file, spec) of a detector that ships under this name; None for any other name."""
    return (DETECTORS / ONNX[name], DETECTORS / f"{name}.toml") if name in ONNX else None


def spec(model: str, task: str) -> ModelSpec:
    """What a classifier trained for ``task`` eats and answers: RGB at 10 fps, 16 frames per answer."""
    size, clip = MODELS[model].size, MODELS[model].clip
    frame = TensorSpec("frame", (1, 3, size, size), "NCHW")
    return ModelSpec(
        name=f"{model}-{task}",
        input=TensorSpec("clip", (1, 3, 16, size, size), "NCTHW") if clip else frame,
        labels=TASKS[task],
        frames=16,
        fps=Fraction(10),
        colour="rgb",
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    )


def checkpoint(name: str) -> Checkpoint:
    """The trained weights shipped under ``name``.

    Raises UsageError if the name is unknown, has no weights in this installation, or if the file
    is not the one the index was written for.
    """
    model, task = parse(name)
    index = read_json(INDEX)
    full = f"{model}-{task}" if task else model
    if full not in index:
        raise UsageError(
            f"{full} has no weights in this installation. Train it: python -m {MODELS[model].trainer} --help"
        )
    row = index[full]
    weights = HERE / row["weights"]
    if not weights.is_file() or sha256(weights) != row["sha256"]:
        raise UsageError(f"{weights} is missing or is not the file the index describes. Install edgepv again")
    return Checkpoint(str(weights), row["sha256"], row["builder"], decode(ModelSpec, row["spec"]))

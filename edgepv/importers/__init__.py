"""Checkpoints of the libraries that the field trains with, made into builder, weights and spec.

Each net of ours is one file of plain torch here, written after its paper, with the library's names of layers;
a copy of it becomes the user's builder. A net of ``LIBRARY`` is built by the library itself.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgepv.base.files import refuse_out, whole_folder, write_text
from edgepv.base.optional import present
from edgepv.errors import TargetUnavailableError, UsageError, unknown
from edgepv.model.checkpoint import build, made_plain, new_module
from edgepv.model.naming import fitted
from edgepv.model.spec import as_toml, check_spec
from edgepv.model.weights import WeightsFile, addressed, first_line, read, save
from edgepv.types import Checkpoint, ModelSpec, TensorSpec

__all__ = [
    "FILES",
    "KINETICS",
    "LIBRARY",
    "NETS",
    "Imported",
    "Net",
    "find",
    "import_model",
    "read_labels",
    "source",
]

HERE = Path(__file__).parent
FILES = ("model.py", "weights.safetensors", "spec.toml")
COUNT = 400
KINETICS = HERE / "kinetics400.txt"
"""The labels of Kinetics-400 in the order of all who train on it: by alphabet. Source: Kay et al. 2017, CC BY
4.0."""

GREY = ((0.45,) * 3, (0.225,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS_PIXELS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


@dataclass(frozen=True)
class Net:
    """A net and what it is shown. source: "file:function" here, or "module:function" of the library.

    frames, size (px), fps: of its clips. pixels: mean and std of pixels in [0, 1]. note: what a person must
    know.
    """

    source: str
    frames: int
    size: int
    fps: Fraction
    pixels: tuple[tuple[float, ...], tuple[float, ...]]
    note: str = ""


SEGMENTS = (
    "frames were spread over whole clips in training, here taken for 10 s: set fps in spec.toml to the "
    "frames per second of yours"
)

NETS: Mapping[str, Net] = {
    "torchvision:r3d_18": Net("video_resnet:r3d_18", 16, 112, Fraction(15), KINETICS_PIXELS),
    "torchvision:mc3_18": Net("video_resnet:mc3_18", 16, 112, Fraction(15), KINETICS_PIXELS),
    "torchvision:r2plus1d_18": Net("video_resnet:r2plus1d_18", 16, 112, Fraction(15), KINETICS_PIXELS),
    "torchvision:s3d": Net("s3d:s3d", 128, 224, Fraction(15), KINETICS_PIXELS),
    "pytorchvideo:x3d_xs": Net("x3d:x3d", 4, 160, Fraction(30, 12), GREY),
    "pytorchvideo:x3d_s": Net("x3d:x3d", 13, 160, Fraction(30, 6), GREY),
    "pytorchvideo:x3d_m": Net("x3d:x3d", 16, 224, Fraction(30, 5), GREY),
    "pytorchvideo:x3d_l": Net("x3d:x3d_l", 16, 312, Fraction(30, 5), GREY),
    "pytorchvideo:slow_r50": Net("resnet3d:slow_r50", 8, 224, Fraction(30, 8), GREY),
    "pytorchvideo:c2d_r50": Net("resnet3d:c2d_r50", 8, 224, Fraction(30, 8), GREY),
    "pytorchvideo:i3d_r50": Net("resnet3d:i3d_r50", 8, 224, Fraction(30, 8), GREY),
    "pytorchvideo:r2plus1d_r50": Net("resnet3d:r2plus1d_r50", 16, 224, Fraction(30, 4), GREY),
    "pytorchvideo:slowfast_r50": Net("resnet3d:slowfast_r50", 32, 224, Fraction(15), GREY),
    "pytorchvideo:slowfast_r101": Net("resnet3d:slowfast_r101", 32, 224, Fraction(15), GREY),
    "mmaction2:tsn_r50": Net("resnet_segments:tsn_r50", 8, 224, Fraction(8, 10), IMAGENET, SEGMENTS),
    "mmaction2:tsm_r50": Net("resnet_segments:tsm_r50", 8, 224, Fraction(8, 10), IMAGENET, SEGMENTS),
    "mmaction2:i3d_r50": Net("resnet_inflated:i3d_r50", 32, 224, Fraction(15), IMAGENET),
    "mmaction2:slowonly_r50": Net("resnet_inflated:slowonly_r50", 8, 224, Fraction(30, 8), IMAGENET),
}
"""Nets of ours, by the name of the library whose weights they take and its name for them."""

VIDEO = "torchvision.models.video"
LIBRARY: Mapping[str, Net] = {
    "torchvision:mvit_v1_b": Net(f"{VIDEO}:mvit_v1_b", 16, 224, Fraction(15, 2), GREY),
    "torchvision:mvit_v2_s": Net(f"{VIDEO}:mvit_v2_s", 16, 224, Fraction(15, 2), GREY),
    "torchvision:swin3d_t": Net(f"{VIDEO}:swin3d_t", 32, 224, Fraction(15), IMAGENET),
    "torchvision:swin3d_s": Net(f"{VIDEO}:swin3d_s", 32, 224, Fraction(15), IMAGENET),
    "torchvision:swin3d_b": Net(f"{VIDEO}:swin3d_b", 32, 224, Fraction(15), IMAGENET),
}
"""Nets that the library itself must build."""

ELSEWHERE: Mapping[str, str] = {
    "movinet": "a builder that returns MoViNet(_C.MODEL.MoViNetA0, causal=False, num_classes=N)",
    "transformers": "a builder whose module calls the model of the library and returns its logits alone",
    "timm": "a builder whose module calls timm.create_model's net for each frame",
    "slowfast": "a builder with SlowFast's build_model(cfg)",
    "mmaction": "mmaction2:ARCH",
}
"""Other families -> what to give instead."""

OWN = "For any other net write a builder and a spec of your own: docs/spec.md"


@dataclass(frozen=True)
class Imported:
    """What was written. notes: what was done to the weights, and what must be known of the spec."""

    folder: str
    spec: ModelSpec
    notes: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """Arguments of the command line that name the model."""
        builder, weights, spec = (f"{self.folder}/{name}" for name in FILES)
        return [f"{builder}:build", "--weights", weights, "--spec", spec]


def import_model(
    name: str, weights: Path, out: Path, *, labels: Path | None, trust_pickle: bool, force: bool
) -> Imported:
    """Write ``out`` with builder, weights and spec of a checkpoint; it appears whole or not at all.

    name: "FAMILY:ARCH". labels: a file with one label a line, or JSON. Raises UsageError for a name nobody
    knows, for weights that are not exactly this net's, and for labels that do not fit their number;
    TargetUnavailableError where the library that must build the net is not installed.
    """
    net = find(name)
    _refuse_folder(out, force)
    path, chosen = addressed(weights)
    contents = read(path, trust_pickle=trust_pickle)
    with whole_folder(out, replace=force) as tmp:
        write_text(tmp / "model.py", source(name, net, COUNT))
        builder = f"{tmp / 'model.py'}:build"
        module = made_plain(new_module(builder, _spec(name, net, [str(i) for i in range(COUNT)])))
        fit = fitted(contents, module, chosen=chosen, file=str(path), builder=name)
        classes = _classes(fit.state, module.state_dict(), str(path), name)
        names, note = _labels(labels, contents, classes)
        spec = _spec(name, net, names)
        check_spec(spec, name)
        write_text(tmp / "model.py", source(name, net, classes))
        write_text(tmp / "spec.toml", as_toml(spec))
        module = new_module(builder, spec)
        module.load_state_dict(fit.state)
        digest = save(module, tmp / "weights.safetensors")
        build(Checkpoint(str(tmp / "weights.safetensors"), digest, builder, spec))
        shutil.rmtree(tmp / "__pycache__", ignore_errors=True)  # what Python leaves beside a file it imports
    loaded = f"weights: {'; '.join(fit.notes)}" if fit.notes else ""
    return Imported(str(out), spec, tuple(n for n in (loaded, note, net.note) if n))


def find(name: str) -> Net:
    """The net of a name. Raises UsageError with the ones that are known, or what to do instead."""
    if name in NETS:
        return NETS[name]
    family, _, arch = name.partition(":")
    if name in LIBRARY:
        if not present(family):
            raise TargetUnavailableError(
                f"{name} is built by {family} itself, which is not installed. Install the {family} that "
                f"fits your torch: pip install {family}"
            )
        try:
            importlib.import_module(LIBRARY[name].source.partition(":")[0])
        except Exception as e:  # a torchvision for another torch dies in its own ways
            raise TargetUnavailableError(
                f"{family} is installed and cannot be imported ({first_line(e)}). Install the {family} that "
                "fits your torch"
            ) from e
        return LIBRARY[name]
    if family in ELSEWHERE:
        raise UsageError(f"weights of {family} are not imported. Give {ELSEWHERE[family]}: docs/import.md")
    families: dict[str, list[str]] = {}
    for known in (*NETS, *LIBRARY):
        families.setdefault(known.partition(":")[0], []).append(known.partition(":")[2])
    if family not in families:
        what = unknown("library", family, families)
        raise UsageError(f"{what} A name is LIBRARY:NET, like torchvision:r3d_18. {OWN}")
    raise UsageError(f"{unknown(f'net of {family}', arch, families[family])} {OWN}")


def source(name: str, net: Net, classes: int) -> str:
    """The text of the user's builder: a function without arguments.

    It holds a copy of our file, or calls the library.
    """
    file, _, function = net.source.partition(":")
    told = f'    """{name}, with the labels of spec.toml."""\n'
    if name in NETS:
        text = (HERE / f"{file}.py").read_text(encoding="utf-8")
        head = f"def build(num_classes: int = {classes}) -> nn.Module:\n{told}"
        return f"{text}\n\n{head}    return {function}(num_classes)\n"
    return (
        f'"""{name}, built by the library itself."""\n\nfrom {file} import {function}\n\n\n'
        f"def build(num_classes: int = {classes}):\n{told}    return {function}(num_classes=num_classes)\n"
    )


def _spec(name: str, net: Net, labels: Sequence[str]) -> ModelSpec:
    shape = (1, 3, net.frames, net.size, net.size)
    return ModelSpec(
        name.partition(":")[2],
        TensorSpec("clip", shape, "NCTHW"),
        tuple(labels),
        frames=net.frames,
        fps=net.fps,
        mean=net.pixels[0],
        std=net.pixels[1],
    )


def _classes(state: dict[str, Any], own: dict[str, Any], file: str, name: str) -> int:
    """How many labels the weights are for. Raises UsageError if any other shape than the head's differs."""
    head = next(k for k in reversed(list(own)) if own[k].ndim > 1 and own[k].shape[0] == COUNT)
    of_head = (head, head.replace("weight", "bias"))
    odd = [k for k in own if own[k].shape != state[k].shape and k not in of_head]
    odd += [head] if state[head].shape[1:] != own[head].shape[1:] else []
    if odd:
        shapes = [tuple(v[odd[0]].shape) for v in (state, own)]
        raise UsageError(
            f"{file} is not {name}: {len(odd)} of {len(own)} weights differ in shape, '{odd[0]}' is "
            f"{shapes[0]} there and {shapes[1]} in the net. Give the name of the net it was trained as"
        )
    return len(state[head])


def _labels(file: Path | None, contents: WeightsFile, classes: int) -> tuple[Sequence[str], str]:
    """(labels, what to say of them): those given, those in the checkpoint, Kinetics', or numbers."""
    if file is not None:
        names = read_labels(file)
        if len(names) != classes:
            raise UsageError(
                f"--labels {file} names {len(names)}, the weights are for {classes}. Name each one once"
            )
        return names, ""
    if len(contents.labels) == classes:
        return contents.labels, "labels are those in the checkpoint"
    if classes == COUNT:
        names = KINETICS.read_text(encoding="utf-8").splitlines()
        return names, "400 labels: taken for Kinetics-400's; other ones: --labels FILE"
    names = [f"label {i}" for i in range(classes)]
    return (
        names,
        f"the file does not name its {classes} labels: write them into spec.toml, or give --labels FILE",
    )


def read_labels(file: Path) -> list[str]:
    """Labels in the order of the logits.

    The file has one a line, a JSON list, or a JSON object of label -> number or back. Raises UsageError for
    anything else.
    """
    from edgepv.base.files import parse_json

    if not file.is_file():
        raise UsageError(f"{file} does not exist. --labels wants a text file with one label a line")
    data = file.read_bytes()
    if not data.lstrip().startswith((b"[", b"{")):
        try:
            lines = data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as e:
            raise UsageError(f"{file} is not UTF-8 text ({e.reason}). Save it as UTF-8") from e
        return [line.strip() for line in lines if line.strip()]
    labels = parse_json(data, file)
    if isinstance(labels, dict):
        pairs = [(k, v) if isinstance(v, int) else (v, k) for k, v in labels.items()]
        if not all(str(number).isdecimal() for _, number in pairs):
            raise UsageError(f"{file} gives no number to each label. Write one label a line instead")
        labels = [label for label, _ in sorted(pairs, key=lambda pair: int(pair[1]))]
    if not all(isinstance(label, str) for label in labels):
        raise UsageError(f"{file} holds other values than labels. Write one label a line instead")
    return [label.strip('" ') for label in labels]


def _refuse_folder(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise UsageError(f"{out} already exists. Choose another --out, or replace it with --force")
    if out.exists() and (not out.is_dir() or {p.name for p in out.iterdir()} - {*FILES, "__pycache__"}):
        raise UsageError(f"{out} holds other things than an earlier import; --force replaces those only")
    refuse_out(out)

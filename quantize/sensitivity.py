"""Which layer pays: each convolution quantized alone, or each group of channels cut alone.

Everything else stays as it was. Source of the method: the per-layer analysis of Wu et al. 2020, "Integer
Quantization for Deep Learning Inference", section 6.1; for cutting, Li et al. 2017, "Pruning Filters for
Efficient ConvNets", section 3.2, with the groups of Fang et al. 2023, "DepGraph".
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.late import np
from edgepv.base.optional import need, ort_session
from edgepv.base.tasks import task_of
from edgepv.data.calibration import filling
from edgepv.data.frames import hold_last, model_frames
from edgepv.errors import ModelError, UsageError
from edgepv.model.checkpoint import build
from edgepv.model.surgery import splittable
from edgepv.quantize.int8_onnx import (
    CONVOLUTIONS,
    preprocess,
    refuse_zero_states,
    state_overrides,
)
from edgepv.quantize.prune import clip_example, never_cut, refuse_changed, silence
from edgepv.quantize.ranges import Method, of_model
from edgepv.stream import Stepper, Tensors, by_file_names, roll
from edgepv.types import Checkpoint, ModelSpec, Variant

if TYPE_CHECKING:
    from edgepv.types import LayerSensitivity

STEPS = 32
"""Frames of a video, after the warm-up, whose answers are compared: more of one video say the same."""
Track = Callable[[Sequence[str], str], Iterable[str]]


def per_layer(
    base: Variant,
    folder: Path,
    feeds: Sequence[Tensors],
    probes: Sequence[Tensors],
    track: Track = lambda names, what: names,
    truth: Sequence[int] | None = None,
    ranges: Method = "minmax",
) -> tuple[LayerSensitivity, ...]:
    """What INT8 of each convolution alone does to the answers, the most sensitive first.

    feeds: graph inputs with rolled states, which set the ranges once for all layers, by the method
    ``ranges``; probes: others, which set no range, on which answers are compared. track: shows progress over
    the layers' names. truth: the label of each probe's clip, for the points of top-1 that are lost.
    Raises UsageError if a state was zero in every feed, ModelError if there is no convolution.
    """
    refuse_zero_states(base, feeds)
    with tempfile.TemporaryDirectory() as scratch:
        clean = Path(scratch) / "clean.onnx"
        preprocess(folder / base.path, clean)
        names = convolutions(clean)
        if not names:
            raise ModelError(f"{base.spec.name} has no convolution: there is nothing to quantize")
        table = _ranges(clean, by_file_names(base, feeds), ranges)
        overrides = state_overrides(clean, base, feeds, ranges)
        theirs = by_file_names(base, probes)
        wanted = answers_of(clean, base, theirs)
        classes = task_of(base.spec).classifies
        rows = []
        for name in track([*names], "quantizing one layer at a time"):
            alone = Path(scratch) / "alone.onnx"
            _one(clean, alone, name, table, overrides)
            rows.append(_compared(name, "in INT8", wanted, answers_of(alone, base, theirs), truth, classes))
    return tuple(sorted(rows, key=lambda layer: layer.sqnr_db))


def convolutions(path: Path) -> list[str]:
    """Names of a file's convolutions, in the order they run."""
    import onnx

    return [n.name for n in onnx.load(path).graph.node if n.op_type in CONVOLUTIONS]


def _ranges(path: Path, feeds: Sequence[Tensors], method: Method) -> Any:
    """Least and largest value of every tensor, as the quantizer wants them."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

    spans = of_model(path, feeds, method)
    table = {name: (np.float32(low), np.float32(high)) for name, (low, high) in spans.items()}
    return TensorsData(CalibrationMethod.MinMax, table)


def _one(path: Path, out: Path, node: str, table: Any, overrides: dict[str, Any]) -> None:
    """The model with one convolution between Q/DQ pairs."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    # a model that is marked as inferred is not saved under a name from the system's clock file
    model = load_model_with_shape_infer(path)
    touched = {t for n in model.graph.node if n.name == node for t in (*n.input, *n.output)}
    quantizer = QDQQuantizer(
        model,
        True,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        table,
        [node],
        [],
        list(CONVOLUTIONS),
        {"TensorQuantOverrides": {name: one for name, one in overrides.items() if name in touched}},
    )
    quantizer.quantize_model()
    onnx.save(quantizer.model.model, out)


def answers_of(path: Path, base: Variant, feeds: Sequence[Tensors]) -> np.ndarray:
    """(n, values) for n feeds by the file's names, by ONNX Runtime; logits of a classifier."""
    session, name = ort_session(path), base.outputs[base.spec.answer.name]
    return np.concatenate([session.run([name], feed)[0].reshape(1, -1) for feed in feeds])


def rolled_answers(path: Path, variant: Variant, clips: Sequence[Path]) -> np.ndarray:
    """(n, values) valid answers of a file to videos, with the states that it wrote, by ONNX Runtime."""
    session, spec, outputs = ort_session(path), variant.spec, variant.outputs

    def infer(feeds: Tensors) -> Tensors:
        theirs = {variant.inputs[name]: value for name, value in feeds.items()}
        return dict(zip(outputs, session.run([*outputs.values()], theirs), strict=True))

    stepper, rows = Stepper(infer, spec, variant.stream), []
    for clip in clips:
        shown = model_frames(clip, spec)
        for _, answers in roll(stepper, shown[filling(len(shown), stepper.warmup)][: stepper.warmup + STEPS]):
            if stepper.valid:
                rows.append(answers[spec.answer.name].reshape(1, -1).copy())
    return np.concatenate(rows)


def _compared(
    name: str,
    change: str,
    wanted: np.ndarray,
    got: np.ndarray,
    truth: Sequence[int] | None,
    classes: bool = True,
) -> LayerSensitivity:
    """classes: whether the answers are logits, of which the largest is the answer."""
    from edgepv.metrics.margins import margin_drop, margins
    from edgepv.metrics.stats import sqnr_db
    from edgepv.types import LayerSensitivity

    if not classes:
        return LayerSensitivity(name, sqnr_db(wanted, got), None, len(wanted), change)
    before, after = wanted.argmax(1), got.argmax(1)
    drop = None
    if truth is not None:
        drop = margin_drop(margins(wanted, truth), margins(got, truth), max_drop=0.0)
    changed = float((before != after).mean())
    return LayerSensitivity(name, sqnr_db(wanted, got), changed, len(wanted), change, drop)


def per_group(
    checkpoint: Checkpoint,
    clips: Sequence[np.ndarray],
    truth: Sequence[int] | None = None,
    ratio: float = 0.5,
    track: Track = lambda names, what: names,
) -> tuple[LayerSensitivity, ...]:
    """What cutting ``ratio`` of the channels of one group alone does to the logits, the most sensitive first.

    A group is named after the layers that lose channels together. The weakest channels go (by the norm of
    all weights that go with them), nothing is fine-tuned, and the answers are those of the clip form to the
    first ``frames`` frames of each clip. clips: (T, C, H, W) float32 each. truth: their labels.
    Raises UsageError if the model cannot be traced, has no clip form, addresses its channels by number, or
    nothing can be cut.
    """
    if not 0 < ratio < 1:
        raise UsageError(f"cutting {ratio:g} of a group: give a share between 0 and 1, like 0.5")
    module = build(checkpoint).requires_grad_(True)
    change, spec = f"cut by {ratio:.0%}", checkpoint.spec
    with _named_failures(spec):
        groups = {group.name: group for group in _groups(module, spec, ratio)}
        wanted = _clip_logits(module, spec, clips)
    rows = []
    for name in track([*groups], "cutting one group at a time"):
        with _named_failures(spec):
            got = _clip_logits(_without(module, spec, groups[name]), spec, clips)
        if got.shape == wanted.shape:  # else the group was the answer itself
            rows.append(_compared(name, change, wanted, got, truth))
    if not rows:
        raise UsageError(f"{spec.name} has no group of channels that could be cut by {ratio:.0%}")
    return tuple(sorted(rows, key=lambda layer: layer.sqnr_db))


@contextlib.contextmanager
def _named_failures(spec: ModelSpec) -> Iterator[None]:
    """The tracer fails in as many ways as models are written: one line of it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as e:
        line = (str(e).splitlines() or [""])[0][:200]
        raise ModelError(f"{spec.name} cannot be cut group by group: {type(e).__name__}: {line}") from e


@dataclass(frozen=True)
class _Group:
    """Channels that can only be cut together. indices: of the outputs of ``root``; the rest follows."""

    name: str
    root: str
    indices: tuple[int, ...]


def _groups(module: Any, spec: ModelSpec, ratio: float) -> Iterable[_Group]:
    """Every group and the weakest ``ratio`` of its channels; what feeds the answer is left out."""
    tp = need("torch_pruning", extra="compress")
    names = {m: name for name, m in module.named_modules()}
    pruner = tp.pruner.BasePruner(
        module,
        (clip_example(spec),),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=never_cut(module, spec),
        num_heads={},
        pruning_ratio_dict={},
        in_channel_groups={},
        out_channel_groups={},
    )
    for group in pruner.step(interactive=True):
        cut = {dep.target.module for dep, _ in group if pruner.DG.is_out_channel_pruning_fn(dep.handler)}
        layers = [n for m, n in names.items() if m in cut and splittable(m)]
        root = names[group[0].dep.target.module]
        yield _Group(" + ".join(layers) or root, root, tuple(group[0].idxs))


def _without(module: Any, spec: ModelSpec, group: _Group) -> Any:
    """A copy of ``module`` without the channels of one group.

    Raises UsageError if that changed what the other channels compute.
    """
    tp = need("torch_pruning", extra="compress")
    small, silenced = copy.deepcopy(module), copy.deepcopy(module)
    graph = tp.DependencyGraph().build_dependency(small, example_inputs=(clip_example(spec),))
    root = small.get_submodule(group.root)
    cut = graph.get_pruner_of_module(root).prune_out_channels
    pruning = graph.get_pruning_group(root, cut, list(group.indices))
    silence(silenced, small, pruning)
    pruning.prune()
    refuse_changed(silenced, small, spec)
    return small


def _clip_logits(module: Any, spec: ModelSpec, clips: Sequence[np.ndarray]) -> np.ndarray:
    """(n, classes): the clip form on the beginning of each clip; a short one holds its last frame."""
    import torch

    rows = []
    with torch.no_grad():
        for clip in clips:
            window = hold_last(clip, spec.frames)[: spec.frames].transpose(1, 0, 2, 3)
            rows.append(module(torch.from_numpy(np.ascontiguousarray(window)[None])).numpy())
    return np.concatenate(rows)

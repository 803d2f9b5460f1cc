"""Does an artifact compute what the original computes? And if not, where does it part?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.base.engines import ENGINES
from edgepv.base.optional import litert_feeds, ort_options, ort_session
from edgepv.base.registry import resolve
from edgepv.metrics.stats import sqnr_db
from edgepv.stream import Tensors
from edgepv.types import Parity, Verdict, WorstClip

if TYPE_CHECKING:
    from onnx import ModelProto

WORST = 5  # clips named in a report
MIN_FRAMES = 32  # below this a ratio of powers says more about the frames than about the artifact


def compare(
    reference: np.ndarray,
    got: np.ndarray,
    *,
    min_sqnr_db: float,
    saturation: float | None = None,
    classes: bool = True,
) -> Parity:
    """Parity of answers (n, values) over the same n frames of real video; classes: whether they are logits.

    fail: SQNR below the target's promise. inconclusive: fewer than ``MIN_FRAMES`` frames.
    """
    sqnr = sqnr_db(reference, got)
    verdict: Verdict = "pass" if sqnr >= min_sqnr_db else "fail"
    if verdict == "pass" and len(reference) < MIN_FRAMES:
        verdict = "inconclusive"
    return Parity(
        max_abs=float(np.abs(reference - got).max()),
        sqnr_db=sqnr,
        agreement=_agreement(reference, got) if classes else None,
        frames=len(reference),
        min_sqnr_db=min_sqnr_db,
        verdict=verdict,
        saturation=saturation,
    )


def compare_clips(
    reference: Sequence[np.ndarray],
    got: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    min_sqnr_db: float,
    saturation: float | None = None,
    classes: bool = True,
) -> Parity:
    """Parity of answers (frames, values) per clip: ``compare`` over all, and what only whole clips show."""
    wanted, answered = np.concatenate(list(reference)), np.concatenate(list(got))
    whole = compare(wanted, answered, min_sqnr_db=min_sqnr_db, saturation=saturation, classes=classes)
    clips = [
        WorstClip(name, sqnr_db(a, b), _agreement(a, b) if classes else None)
        for name, a, b in zip(names, reference, got, strict=True)
    ]
    worst = sorted(clips, key=lambda c: (c.agreement or 0.0, c.sqnr_db))[:WORST]
    flicker = (_flicker(reference), _flicker(got)) if classes else None
    return replace(whole, slope=slope(wanted, answered), flicker=flicker, worst=tuple(worst))


def _agreement(reference: np.ndarray, got: np.ndarray) -> float:
    return float((reference.argmax(1) == got.argmax(1)).mean())


def slope(reference: np.ndarray, got: np.ndarray) -> tuple[float, float] | None:
    """Least and largest slope over the outputs that move; None if none does, or an answer is not finite."""
    x, y = (np.asarray(v, np.float64) - np.mean(v, axis=0, dtype=np.float64) for v in (reference, got))
    power = (x**2).sum(0)
    moves = power > 1e-9 * max(float(power.max()), 1e-300)
    slopes = (x * y).sum(0)[moves] / power[moves]
    return (float(slopes.min()), float(slopes.max())) if slopes.size and np.isfinite(slopes).all() else None


def _flicker(clips: Sequence[np.ndarray]) -> float:
    changes = sum(int((c.argmax(1)[1:] != c.argmax(1)[:-1]).sum()) for c in clips)
    return changes / max(1, sum(len(c) - 1 for c in clips))


def first_divergence(
    base: Path,
    other: Path,
    engine: str,
    feeds: Sequence[Tensors],
    base_feeds: Sequence[Tensors] | None = None,
    *,
    min_sqnr_db: float,
) -> str | None:
    """The first node, in graph order, whose output falls below ``min_sqnr_db`` against the float graph.

    Both files are read as ``engine`` reads them. Tensors are paired by name, which the converters and
    quantizers keep; ``base`` is a file of the engine's own where it renames them. base_feeds: its inputs
    where ``other`` has its states in other units; then a channel that differs by one factor does not diverge.
    None if no paired tensor diverges, or where nobody can look inside.
    """
    place = ENGINES.find(engine).tensors
    if place is None:
        return None
    read = resolve(place)
    wanted, got = read(base, base_feeds or feeds), read(other, feeds)
    for name, value in wanted.items():
        tensor = got.get(f"{name}_DequantizeLinear_Output", got.get(name))  # a Relu may live in its Q
        if tensor is not None and tensor.shape == value.shape:
            ratio = sqnr_db(value, _in_units_of(value, tensor) if base_feeds else tensor)
            if ratio < min_sqnr_db:
                return f"{name} ({ratio:.1f} dB)"
    return None


def _in_units_of(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    """A picture (n, 1, C, ...) with every channel brought to its like by the factor that fits best."""
    if got.ndim < 4:
        return got
    over = tuple(i for i in range(got.ndim) if i != 2)
    power = (got * got).sum(over, keepdims=True, dtype=np.float64)
    factor = (wanted * got).sum(over, keepdims=True, dtype=np.float64) / np.maximum(power, 1e-30)
    brought: np.ndarray = got * np.maximum(factor, 0)
    return brought


def onnx_tensors(path: Path, feeds: Sequence[Tensors]) -> dict[str, np.ndarray]:
    """Every float tensor of an ONNX graph, in graph order, stacked over the feeds; none of another file."""
    import onnx

    if path.suffix != ".onnx":
        return {}
    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output if name]
    return run_with_outputs(model, names, feeds)


def run_with_outputs(
    model: ModelProto, names: Sequence[str], feeds: Sequence[Tensors]
) -> dict[str, np.ndarray]:
    """Run an ONNX model with extra tensors as outputs; float ones come back stacked over the feeds."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    present = {o.name for o in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    session = ort_session(probe.SerializeToString(), ort_options(rewrites="none"))
    rows = [session.run(list(names), feed) for feed in feeds]
    stacked = {n: np.stack([row[i] for row in rows]) for i, n in enumerate(names)}
    return {n: v for n, v in stacked.items() if v.dtype in (np.float32, np.float16)}


def litert_tensors(path: Path, feeds: Sequence[Tensors]) -> dict[str, np.ndarray]:
    """Every tensor of a .tflite in operator order, dequantized, stacked over the feeds.

    feeds are by the file's own argument names.
    """
    rows: dict[str, list[np.ndarray]] = {}
    for feed in feeds:
        for name, value, scale, zero in litert_values(path, feed):
            real = (value.astype(np.float32) - zero) * scale if scale else value
            rows.setdefault(name, []).append(real)
    return {n: np.stack(v) for n, v in rows.items() if len({x.shape for x in v}) == 1}


def litert_values(path: Path, feed: Tensors) -> list[tuple[str, np.ndarray, float, int]]:
    """(name, raw values, scale or 0, zero point) of every operator output after one run."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    runner(**litert_feeds(runner, feed))
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    values = []
    for op in interpreter._get_ops_details():
        for index in op["outputs"]:
            d = details[index]
            scale, zero = d["quantization"]
            values.append((_short(d["name"]), interpreter.get_tensor(index).copy(), float(scale), int(zero)))
    return values


def _short(name: str) -> str:
    """The end of a LiteRT tensor name: it strings together the scopes of everything fused into it."""
    scopes = [part for part in name.split(";") if "/" in part or not part.isdigit()]
    number = name.rpartition(";")[2]
    return "/".join(scopes[-1].split("/")[-2:]) + (f";{number}" if number.isdigit() else "")


def saturation(path: Path, feeds: Sequence[Tensors]) -> float | None:
    """Share of 8-bit activation codes that stand at an end of their range, one measure for both engines.

    A value beyond its range is silently moved to the end. The largest value that calibration saw stands there
    rightly, and so does what a layer itself limits (ReLU6), so more than what was clipped. An end that means
    zero is not counted, as that is a ReLU at rest.
    feeds are by the file's own names. None if the file holds no activation codes we can read.
    """
    if path.suffix == ".onnx":
        return _onnx_saturation(path, feeds)
    if path.suffix == ".tflite":
        return _litert_saturation(path, feeds)
    return None


def _onnx_saturation(path: Path, feeds: Sequence[Tensors]) -> float | None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    constants = {i.name: i for i in model.graph.initializer}
    quantizers = [
        n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants
    ]
    if not quantizers:
        return None
    values = run_with_outputs(model, sorted({n.input[0] for n in quantizers}), feeds)
    ends = total = 0
    for node in quantizers:
        scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
        zero = numpy_helper.to_array(constants[node.input[2]])
        limits = np.iinfo(zero.dtype)
        if scale.ndim or node.input[0] not in values:
            continue
        codes = np.rint(values[node.input[0]].astype(np.float32) / scale) + float(zero)
        ends += _at_an_end(np.clip(codes, limits.min, limits.max), int(zero), limits)
        total += codes.size
    return ends / total if total else None


def _litert_saturation(path: Path, feeds: Sequence[Tensors]) -> float | None:
    ends = total = 0
    for feed in feeds:
        for _, value, scale, zero in litert_values(path, feed):
            if value.dtype == np.int8 and scale:
                ends += _at_an_end(value, zero, np.iinfo(np.int8))
                total += value.size
    return ends / total if total else None


def _at_an_end(codes: np.ndarray, zero: int, limits: np.iinfo[Any]) -> int:
    """How many codes are the lowest or the highest there is, without an end that is the zero point."""
    return sum(int((codes == end).sum()) for end in (limits.min, limits.max) if end != zero)

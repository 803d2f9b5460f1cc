"""Whether the ``[boxes]`` of a spec and its answers fit each other, and its layers hard to round."""

from __future__ import annotations

from pathlib import Path

from edgepv.errors import UsageError, unknown
from edgepv.types import BoxSpec, ModelSpec, TensorSpec

MOST_STRIDE = 256  # px; a cell as large as most models' whole input
MOST_LEVELS = 16  # strides, and anchors of one; a bound on a hostile spec
MOST_BOXES = 10_000  # said of one picture


def _how(spec: ModelSpec) -> BoxSpec:
    assert spec.boxes is not None, "a detector has [boxes]"
    return spec.boxes


def check_boxes(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for a detector whose boxes could not be read from what it answers."""
    how = _how(spec)
    _check_numbers(how, where)
    for label in how.score_of:
        if label not in spec.labels:
            raise UsageError(f"{where}: boxes.score_of: {unknown('label', label, spec.labels)}")
    if (how.coding != "decoded") != bool(how.strides) or (how.coding == "anchors") != bool(how.anchors):
        raise UsageError(
            f"{where}: boxes.coding = '{how.coding}': grid wants strides, anchors wants strides and anchors, "
            "decoded wants neither"
        )
    if how.anchors and len(how.anchors) != len(how.strides):
        raise UsageError(f"{where}: {len(how.strides)} strides and anchors for {len(how.anchors)} of them")
    if how.variances is not None and how.coding != "anchors":
        raise UsageError(f"{where}: boxes.variances are for coding = 'anchors'. Leave one out")
    _check_outputs(spec, where)


def _check_numbers(how: BoxSpec, where: str) -> None:
    """Raise UsageError for the first number beyond its range, naming the range."""
    levels = [len(how.strides), len(how.anchors), *(len(one) for one in how.anchors)]
    ranges: list[tuple[str, float, float, float]] = [
        *(("a stride", stride, 1, MOST_STRIDE) for stride in how.strides),
        *(("the number of strides or anchors", count, 0, MOST_LEVELS) for count in levels),
        *(("a side of an anchor", side, 1e-3, 1e6) for one in how.anchors for pair in one for side in pair),
        *(("a variance", v, 1e-6, 1e3) for v in how.variances or ()),
        ("pad", how.pad, 0, 255),
        *(("score", v, 0, 1) for v in (how.score, *how.score_of.values())),
        ("nms", how.nms, 0, 1),
        ("most", how.most, 1, MOST_BOXES),
    ]
    for what, value, low, high in ranges:
        if not low <= value <= high:
            raise UsageError(f"{where}: boxes: {what} is {value:g}; give {low:g} to {high:g}")


def _check_outputs(spec: ModelSpec, where: str) -> None:
    """Raise UsageError unless the outputs have the rows and values that the coding reads."""
    count, answers = _how(spec).values(len(spec.labels)), spec.answers
    widths: list[tuple[int, ...]] = [(4,), (count,) if len(answers) == 2 else (1,)]
    if len(answers) == 1:
        widths = [(4 + count, 5 + count)]
    rows = {_rows(answer, widths[min(i, len(widths) - 1)]) for i, answer in enumerate(answers)}
    shapes = ", ".join(f"'{a.name}' {a.shape}" for a in answers)
    if len(answers) > 3 or len(rows) != 1 or None in rows:
        raise UsageError(
            f"{where}: a detector of {len(spec.labels)} labels answers (1, N, {4 + count}), or one more for "
            f"an objectness, or boxes (1, N, 4) and scores (1, N, {count}), or boxes, scores (1, N) and "
            f"labels (1, N); the spec says {shapes}. Correct outputs, labels or boxes.background"
        )
    there, needed = rows.pop(), _how(spec).cells(*spec.input.shape[-2:])
    if needed and there != needed:
        height, width = spec.input.shape[-2:]
        strides = ", ".join(map(str, _how(spec).strides))
        raise UsageError(
            f"{where}: {shapes} has {there} rows; strides {strides} of an input of {height} x {width} have "
            f"{needed}. Correct strides, anchors or shapes"
        )


def _rows(answer: TensorSpec, widths: tuple[int, ...]) -> int | None:
    """How many rows an answer has; None where it has none of such a width."""
    if len(answer.shape) == 2:
        return answer.shape[1] if widths == (1,) else None
    rows = answer.in_rows(widths)
    return None if rows is None else answer.shape[1 if rows else 2]


def uneven_layers(model_path: Path) -> tuple[str, ...]:
    """The first convolution of a detector, and those by channel, which stay float.

    Their channels are differently loud, one scale is all that there is for them, and behind SiLU, as
    detectors have it, nothing can be made even (``edgepv.quantize.equalise``). With them in INT8 YOLOX-nano
    lost 76 of 78.5 points of AP50; with those by channel alone in float 29; with both, what 82 pictures
    cannot tell from none. They are few products, a channel each.
    """
    import onnx

    graph = onnx.load(model_path).graph
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    layers = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose")]
    single = [n for n in layers if shapes.get(n.input[1], (1, 0))[1] == 1 < shapes[n.input[1]][0]]
    return tuple(dict.fromkeys(n.name for n in (*layers[:1], *single)))

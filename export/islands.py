"""What an INT8 artifact still does in float, and what it spends on going back and forth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from edgepv.base.optional import ort_options, ort_session
from edgepv.types import Island

Runs: TypeAlias = Literal["int8", "float", "convert", "move"]
CALLS = 10  # of the profiled session, whose times are averaged
KERNEL = "_kernel_time"  # what ONNX Runtime's profile appends to the name of a node
MOVES = {
    *(
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Pad",
        "Gather",
        "Identity",
        "Cast",
    ),
    *("Concat", "Concatenation", "Split", "Slice", "StridedSlice", "Pack", "Unpack", "Shape", "Range"),
    *("Constant", "Const", "Input", "Output", "Parameter", "Result", "Reorder"),
}
CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "QUANTIZE", "DEQUANTIZE", "Convert", "FakeQuantize"}
FUSED = ("QuantizeLinear", "/fq_")  # in the name of an OpenVINO subgraph that only converts


@dataclass(frozen=True)
class Node:
    """One operator as the engine runs it. us: microseconds of one call, None if the engine does not tell."""

    name: str
    kind: str
    runs: Runs
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    us: float | None


@dataclass(frozen=True)
class Float:
    """The islands, the largest share of time first, and the conversions: how many, and their share."""

    islands: tuple[Island, ...]
    conversions: int
    conversions_share: float | None


def grouped(nodes: Sequence[Node]) -> Float:
    """Float operators that feed each other are one island; conversions and mere moves join nothing."""
    total = sum(n.us for n in nodes if n.us is not None) if any(n.us is not None for n in nodes) else None

    def share(members: Iterable[Node]) -> float | None:
        return None if not total else sum(n.us or 0.0 for n in members) / total

    home: dict[str, list[Node]] = {}
    groups: list[list[Node]] = []
    for node in (n for n in nodes if n.runs == "float"):
        near = [home[t] for t in node.inputs if t in home]
        mine = near[0] if near else []
        if not near:
            groups.append(mine)
        for other in near[1:]:
            if other is not mine:
                mine.extend(other)
                groups = [g for g in groups if g is not other]
                home = {t: mine if g is other else g for t, g in home.items()}
        mine.append(node)
        home |= dict.fromkeys(node.outputs, mine)
    islands = [Island(g[0].name, tuple(n.kind for n in g), share(g)) for g in groups]
    changes = [n for n in nodes if n.runs == "convert"]
    return Float(
        tuple(sorted(islands, key=lambda i: (-(i.share or 0), -len(i.operators)))),
        len(changes),
        share(changes),
    )


def _runs(kind: str, integer: bool) -> Runs:
    if kind in CONVERSIONS:
        return "convert"
    if kind in MOVES:
        return "move"
    return "int8" if integer else "float"


def optimised(path: Path, folder: Path, *, timed: bool) -> tuple[Any, dict[str, float]]:
    """(the graph ONNX Runtime makes of the file, microseconds of each node in a call on zeros, if timed)."""
    import onnx

    options = ort_options(exact_sums=False)  # the times are of interest here, not the numbers
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.enable_profiling = timed
    options.profile_file_prefix = str(folder / "profile")
    session = ort_session(path, options)
    return onnx.load(folder / "optimised.onnx").graph, _times(session) if timed else {}


def _times(session: Any) -> dict[str, float]:
    times: dict[str, float] = {}
    for event in profiled(session):
        name = event["name"].removesuffix(KERNEL)
        times[name] = times.get(name, 0.0) + event["dur"] / CALLS
    return times


def profiled(session: Any) -> list[dict[str, Any]]:
    """What a session that is profiled says of its kernels in ``CALLS`` calls on zeros; ends its profile."""
    inputs = {i.name: (i.shape, i.type.removeprefix("tensor(").rstrip(")")) for i in session.get_inputs()}
    feeds = {n: np.zeros(s, np.float32 if kind == "float" else kind) for n, (s, kind) in inputs.items()}
    for _ in range(CALLS):
        session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return [e for e in events if e.get("cat") == "Node" and e.get("name", "").endswith(KERNEL)]


def of_onnxruntime(graph: Any, times: dict[str, float]) -> Float:
    """From what ``optimised`` returns."""
    return grouped(
        [
            Node(
                n.name,
                n.op_type,
                _runs(n.op_type, n.op_type.startswith("QLinear") or n.op_type.endswith("Integer")),
                tuple(n.input),
                tuple(n.output),
                times.get(n.name, 0.0),
            )
            for n in graph.node
        ]
    )


def of_openvino(compiled: Any) -> Float:
    """From OpenVINO's runtime model after ten calls on zeros; compiled with PERF_COUNT."""
    request = compiled.create_infer_request()
    feeds = {port: np.zeros(list(port.shape), port.element_type.to_dtype()) for port in compiled.inputs}
    for _ in range(CALLS):
        request.infer(feeds)
    nodes = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        kind, precision, us = (
            str(info[k].astype(str)) if k in info else ""
            for k in ("layerType", "runtimePrecision", "execTimeMcs")
        )
        integer = precision.lower() in ("i8", "u8")
        name = op.get_friendly_name()
        sources = tuple(v.get_node().get_friendly_name() for v in op.input_values())
        took = float(us) if us.replace(".", "", 1).isdigit() else 0.0
        converts = kind in ("Subgraph", "Eltwise") and any(part in name for part in FUSED)
        runs: Runs = "convert" if converts else _runs(kind, integer)
        nodes.append(Node(name, kind, runs, sources, (name,), took))
    return grouped(nodes)


def of_litert(interpreter: Any) -> Float:
    """From the operators and tensor types of the .tflite; its interpreter tells no times."""
    types = {d["index"]: d["dtype"].__name__ for d in interpreter.get_tensor_details()}
    nodes = []
    for i, op in enumerate(interpreter._get_ops_details()):
        kind = op["op_name"]
        data = [int(t) for t in op["inputs"] if int(t) >= 0]
        integer = bool(data) and types.get(data[0]) != "float32"
        sources, results = (tuple(str(int(t)) for t in op[side]) for side in ("inputs", "outputs"))
        title = kind.title().replace("_", "")
        runs = _runs(kind if kind in CONVERSIONS else title, integer)
        nodes.append(Node(f"{kind}_{i}", title, runs, sources, results, None))
    return grouped(nodes)

"""A float .tflite gets the channels that ``equalise`` gave the float ONNX of the same model.

LiteRT's converter starts from torch, so its file never saw them. Both files hold the same layers: one is
found by what its weights are, and takes those it has in the equalised ONNX. Nothing else is written.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepv.base.channels import EXACT_DB, PROOFS
from edgepv.base.files import sha256, whole_file
from edgepv.base.late import np
from edgepv.base.optional import litert_feeds, litert_interpreter, need
from edgepv.errors import ParityError, UsageError
from edgepv.quantize.int8_onnx import preprocess
from edgepv.quantize.step import Calibration, VariantStep
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Variant

OUTPUT_AXIS = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": -1, "CONV_3D": -1}
"""Operator -> the axis of its weights that counts what it writes; inputs of one output are the last axis, or
there are none (depthwise). ONNX has (O, I, ...) for all of them."""
SAME = 1e-4
"""Of the largest: weights that differ by less are equal. Batch norms are folded by two tools, in float32."""


@dataclass(frozen=True)
class Step(VariantStep):
    """The file given, equalised; its ``state_scales`` must be those of the equalised ONNX already.

    plain, even: file names of the float ONNX and of the equalised one. digest: of the latter.
    """

    name = "equalise-litert"
    tools = ("onnx", "onnxruntime", "ai-edge-litert")

    plain: str = ""
    even: str = ""
    digest: str = ""

    def work(self, given: Variant, out: Path, aid: Calibration) -> Variant:
        """Write every weight and bias that ``even`` has and ``plain`` has otherwise.

        Raises UsageError for a layer that the file does not have in that form, ParityError if the result does
        not compute what ``given`` does.
        """
        file = TfliteWeights(bytearray((aid.folder / given.path).read_bytes()))
        for change in _changes(aid.folder / self.plain, aid.folder / self.even):
            file.write(change)
        with whole_file(out) as tmp:
            tmp.write_bytes(file.content)
            result = replace(given, path=out.name, sha256=sha256(tmp))
            _refuse_unlike(aid.folder / given.path, tmp, result, aid.feeds[:PROOFS])
        return result

    def ensures(self, given: Variant, result: Variant) -> None:
        """The file is still in float, of the same model."""
        if (result.spec, result.stream, result.precision) != (given.spec, given.stream, given.precision):
            raise UsageError("the model is another one: its spec, its states or its precision changed")


@dataclass(frozen=True)
class Change:
    """One convolution before and after: weights (O, K, I), for K places of its kernel, and biases (O,)."""

    name: str
    weights: tuple[np.ndarray, np.ndarray]
    biases: tuple[np.ndarray, np.ndarray]


def _changes(plain: Path, even: Path) -> list[Change]:
    """Every convolution whose weights differ between two ONNX files of the same nodes."""
    import onnx
    from onnx import numpy_helper

    with tempfile.TemporaryDirectory() as scratch:
        preprocess(plain, Path(scratch) / "clean.onnx")  # what ``equalise`` started from
        models = onnx.load(Path(scratch) / "clean.onnx"), onnx.load(even)
    before, after = ({i.name: numpy_helper.to_array(i) for i in m.graph.initializer} for m in models)
    found = []
    for node in models[1].graph.node:
        if node.op_type != "Conv" or node.input[1] not in before:
            continue
        sides = [
            (_as_rows(np.moveaxis(side[node.input[1]], 1, -1), 0), *(side[name] for name in node.input[2:3]))
            for side in (before, after)
        ]
        if not all(map(np.array_equal, *sides)):
            none = np.zeros(len(sides[0][0]), np.float32)
            (w0, b0), (w1, b1) = ((*side, none)[:2] for side in sides)
            found.append(Change(node.name, (w0, w1), (b0, b1)))
    return found


def _as_rows(weights: np.ndarray, axis: int) -> np.ndarray:
    """(O, ..., I) as (O, the rest), with ``axis`` the one that counts outputs."""
    rows = np.moveaxis(weights, axis, 0)
    return rows.reshape(len(rows), -1)


class TfliteWeights:
    """The layers of a float .tflite that have weights, written in place.

    content: the file. A buffer is a view of it, so its length and all else stay.
    """

    def __init__(self, content: bytearray) -> None:
        """Raises TargetUnavailableError without ai-edge-litert."""
        need("ai_edge_litert", extra="mobile")
        from ai_edge_litert import schema_py_generated as schema

        self.content = content
        model = schema.Model.GetRootAs(content)
        names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
        self._layers: list[tuple[np.ndarray, int, np.ndarray | None]] = []
        graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
        used = Counter(
            graph.Tensors(i).Buffer()
            for graph in graphs
            for op in map(graph.Operators, range(graph.OperatorsLength()))
            for i in op.InputsAsNumpy()
            if i >= 0
        )

        def values(graph: Any, tensor: int) -> np.ndarray | None:
            """The constant's values; None for what is computed, shared, or not in float32."""
            one = graph.Tensors(tensor)
            raw = model.Buffers(one.Buffer()).DataAsNumpy()
            if isinstance(raw, int) or one.Type() != schema.TensorType.FLOAT32 or used[one.Buffer()] > 1:
                return None
            constant: np.ndarray = raw.view(np.float32).reshape(one.ShapeAsNumpy())
            return constant

        for graph in graphs:
            for op in map(graph.Operators, range(graph.OperatorsLength())):
                code = model.OperatorCodes(op.OpcodeIndex())
                kind = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
                inputs = op.InputsAsNumpy().tolist()
                if kind in OUTPUT_AXIS and (weights := values(graph, inputs[1])) is not None:
                    bias = values(graph, inputs[2]) if len(inputs) > 2 and inputs[2] >= 0 else None
                    self._layers.append((weights, OUTPUT_AXIS[kind], bias))

    def write(self, change: Change) -> None:
        """Put the later values in the place of the earlier. Raises UsageError where those are not found."""
        for weights, axis, bias in self._layers:
            known = np.zeros(len(change.biases[0])) if bias is None else bias
            if _alike(_as_rows(weights, axis), change.weights[0]) and _alike(known, change.biases[0]):
                rows = np.moveaxis(weights, axis, 0)
                rows[...] = change.weights[1].reshape(rows.shape)
                if bias is not None:
                    bias[...] = change.biases[1]
                return
        raise UsageError(f"LiteRT's file has no layer with the weights of '{change.name}'")


def _alike(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether two arrays have one shape and values that differ by float rounding only."""
    return some.shape == others.shape and bool(
        np.abs(some - others).max(initial=0) <= SAME * np.abs(others).max(initial=0)
    )


def _refuse_unlike(before: Path, after: Path, result: Variant, feeds: Sequence[Tensors]) -> None:
    """Raise ParityError unless two files answer alike, the states of ``after`` in the units of ``result``."""
    from edgepv.metrics.stats import sqnr_db

    runners = [litert_interpreter()(str(p), num_threads=1).get_signature_runner() for p in (before, after)]
    states = {s.output: s.name for s in (result.stream.states if result.stream else ())}
    for plain, even in zip(
        by_file_names(replace(result, state_scales={}), feeds), by_file_names(result, feeds), strict=True
    ):
        wanted, got = (run(**litert_feeds(run, f)) for run, f in zip(runners, (plain, even), strict=True))
        for name, theirs in result.outputs.items():
            factors = np.array(result.state_scales.get(states.get(name, ""), (1.0,)), np.float32)
            own = got[theirs] / factors.reshape(-1, *(1,) * (got[theirs].ndim - 2))
            if sqnr_db(wanted[theirs], own) < EXACT_DB:
                raise ParityError(f"with its channels equalised LiteRT's file answers another '{name}'")

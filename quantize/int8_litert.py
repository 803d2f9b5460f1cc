"""INT8 for LiteRT with ai-edge-quantizer, on rolled states, float at both ends.

Two recipes, because neither is best everywhere (measured on video nets):
"full" runs every operator in INT8 that has a fast integer kernel; the few that fall out of XNNPACK or
crash in integers (FRAGILE) stay float;
"conv" quantizes convolutions and linear layers only.
"""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgepv.base.files import sha256, whole_file
from edgepv.base.late import np
from edgepv.base.optional import litert_feeds, litert_interpreter, need
from edgepv.errors import EngineError, ModelError
from edgepv.quantize.int8_onnx import refuse_zero_states
from edgepv.quantize.ranges import linked
from edgepv.quantize.step import Calibration, VariantStep
from edgepv.stream import by_file_names
from edgepv.types import QuantScheme, Variant

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
PICTURE_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL")
ENDS = ("INPUT", "OUTPUT")
MOVES = ("RESHAPE", "TRANSPOSE", "PAD", "PADV2", "MAX_POOL_2D", "SLICE", "STRIDED_SLICE", "SPLIT")
FRAGILE = (
    "HARD_SWISH",
    "DIV",
    "SOFTMAX",
    "RSQRT",
    "SQUARED_DIFFERENCE",
    "BATCH_MATMUL",
    "SQRT",
    "RELU",
)


@dataclass(frozen=True)
class Step(VariantStep):
    """Static INT8: int8 activations (min-max ranges), int8 per-channel weights.

    grown: states that grow for ever, beyond any range: what works with them stays in float.
    """

    name = "int8-litert"
    tools = ("ai-edge-quantizer", "ai-edge-litert")

    recipe: Literal["conv", "full"] = "full"
    grown: tuple[str, ...] = ()

    def requires(self, given: Variant, aid: Calibration) -> None:
        """Raise UsageError if a state was zero in every feed."""
        refuse_zero_states(given, aid.feeds)

    def work(self, given: Variant, out: Path, aid: Calibration) -> Variant:
        """Quantize the file of ``given``, and run it once.

        Raises UsageError with the tool's reason if it refuses the model or the result does not run.
        """
        from safetensors.numpy import save_file

        need("ai_edge_quantizer", extra="compress")
        theirs = by_file_names(given, aid.feeds)
        states, ends = given.stream.states if given.stream else (), {**given.inputs, **given.outputs}
        with whole_file(out) as tmp, tempfile.TemporaryDirectory() as scratch:
            orders = Path(scratch) / "feeds.safetensors"
            save_file({f"{i}|{n}": v for i, f in enumerate(theirs) for n, v in f.items()}, orders)
            from edgepv.base.isolated import call

            call(
                "edgepv.quantize.int8_litert:work",
                tool="ai-edge-quantizer",
                source=str(aid.folder / given.path),
                feeds=str(orders),
                recipe=self.recipe,
                out=str(tmp),
                states=[(given.inputs[s.name], ends[s.output]) for s in states if s.dtype == "float32"],
                grown=[(given.inputs[s.name], ends[s.output]) for s in states if s.name in self.grown],
                uneven=given.spec.boxes is not None,
            )
        scheme = QuantScheme(
            "ai-edge-quantizer",
            "int8 per-tensor",
            "int8 per-channel",
            aid.digest,
            len(aid.feeds),
            FRAGILE if self.recipe == "full" else ("all but convolutions",),
        )
        return replace(
            given,
            name=f"litert-int8-{self.recipe}",
            precision="int8",
            path=out.name,
            sha256=sha256(out),
            scheme=scheme,
        )


def work(
    source: str,
    feeds: str,
    recipe: str,
    out: str,
    states: Sequence[tuple[str, str]],
    grown: Sequence[tuple[str, str]] = (),
    uneven: bool = False,
) -> None:
    """Subprocess side: calibrate, quantize, write, and run once.

    states: (input, what it is fed from) of every state of real numbers, by the names of the file's signature;
    grown: of those that grow for ever. uneven: whether the first convolution and those by channel stay float.
    """
    from ai_edge_quantizer import quantizer
    from safetensors.numpy import load_file

    rows: dict[int, dict[str, np.ndarray]] = {}
    for key, value in load_file(feeds).items():
        i, _, name = key.partition("|")
        rows.setdefault(int(i), {})[name] = value
    runner = litert_interpreter()(source, num_threads=1).get_signature_runner()
    rows = {i: litert_feeds(runner, row) for i, row in rows.items()}
    floats = [*float_scopes(source), *endless_scopes(source, grown)]
    recipe_list = _recipe(recipe, [*floats, *(uneven_scopes(source) if uneven else ())])
    tool = quantizer.Quantizer(source, recipe_list)
    ranges = _ranges(source, recipe_list, [rows[i] for i in sorted(rows)], states)
    if not ranges:
        raise ModelError("ai-edge-quantizer found no layer of a kind that it quantizes")
    result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    result.export_model(out, overwrite=True)
    interpreter = litert_interpreter()(out, num_threads=1)
    interpreter.allocate_tensors()
    answer = interpreter.get_signature_runner()(**next(iter(rows.values())))
    if not all(np.isfinite(v).all() for v in answer.values()):
        raise EngineError("the INT8 model answers values that are not finite")


def _ranges(
    source: str, recipe: Any, rows: list[dict[str, np.ndarray]], states: Sequence[tuple[str, str]]
) -> Any:
    """True minimum and maximum of every tensor.

    The tool's own default is a moving average over the feeds, which clipped a sixth of the logits.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    tool = calibrator.Calibrator(
        Path(source).read_bytes(), num_threads=1, qsv_update_func=qsv_utils.min_max_update
    )
    tool.calibrate({"serving_default": rows}, manager)
    return _one_range_per_state(source, tool.get_model_qsvs(), states)


def _one_range_per_state(source: str, ranges: Any, states: Sequence[tuple[str, str]]) -> Any:
    """Give a state's input, the tensor it is fed from, and their concatenation one range.

    Then a value that stays in the state is requantized to itself. Where they differ, the tool puts a
    requantization between them and hands that out as the model's output, without data. Operators that
    only move values carry the range along.
    """
    interpreter = litert_interpreter()(source, num_threads=1)
    names = {d["index"]: d["name"] for d in interpreter.get_tensor_details()}
    runner = interpreter.get_signature_runner()
    ends = {n: d["index"] for n, d in runner.get_input_details().items()}
    fed = {n: d["index"] for n, d in runner.get_output_details().items()}
    links = [(ends[a], {**ends, **fed}[b]) for a, b in states]
    for op in interpreter._get_ops_details():
        first, *rest = (int(i) for i in op["inputs"] if i in names)
        out = int(op["outputs"][0])
        if op["op_name"] == "CONCATENATION":
            links += [(i, out) for i in (first, *rest)]
        elif op["op_name"] in MOVES:
            links.append((first, out))
    for group in linked(links, {ends[a] for a, _ in states}):
        joint = [ranges[names[i]] for i in group if "min" in ranges.get(names[i], {})]
        for edge, pick in (("min", np.minimum), ("max", np.maximum)) if joint else ():
            value = functools.reduce(pick, [r[edge] for r in joint])
            for r in joint:
                r[edge] = value
    return ranges


def _recipe(name: str, floats: Sequence[str]) -> Any:
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.recipe import AlgorithmName

    operators = qtyping.TFLOperationName
    manager = recipe_manager.RecipeManager()
    chosen = CONVOLUTIONS if name == "conv" else ("ALL_SUPPORTED",)
    kept = () if name == "conv" else (*ENDS, *FRAGILE)
    for op in chosen:
        manager.add_static_config(
            regex=".*",
            operation_name=getattr(operators, op),
            activation_num_bits=8,
            weight_num_bits=8,
            algorithm_key=AlgorithmName.MIN_MAX_UNIFORM_QUANT,
        )
    for op in kept:
        manager.add_quantization_config(
            regex=".*",
            operation_name=getattr(operators, op),
            algorithm_key=AlgorithmName.NO_QUANTIZE,
        )
    for scope in floats:
        manager.add_quantization_config(
            regex=scope, operation_name=operators.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    return manager.get_quantization_recipe()


def float_scopes(path: str) -> list[str]:
    """A pattern for each operator that holds one value per channel; see ``int8_onnx.float_nodes``.

    Also for each matrix product that no convolution needs any more: a soft-argmax is one, and in eight bits
    it cost pv-track-nano a third of its delta-avg. LiteRT keeps channels last: (1, H, W, C).
    """
    interpreter = litert_interpreter()(path, num_threads=1)
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    patterns = []
    needed: set[int] = set()
    for op in reversed(interpreter._get_ops_details()):
        outputs = [details[i] for i in op["outputs"] if i in details]
        shapes = [tuple(d["shape"]) for d in outputs]
        wanted = op["op_name"] in PICTURE_CONVOLUTIONS or needed & set(map(int, op["outputs"]))
        if wanted:
            needed |= set(map(int, op["inputs"]))
        vector = all(len(s) < 4 or s[1:3] == (1, 1) for s in shapes)
        if outputs and (vector or (not wanted and op["op_name"] in PRODUCTS)):
            patterns += [f"^{re.escape(d['name'])};" for d in outputs]
    return patterns


def uneven_scopes(path: str) -> list[str]:
    """A pattern for the first convolution and each by channel, see ``edgepv.model.boxes.uneven_layers``."""
    interpreter = litert_interpreter()(path, num_threads=1)
    names = {d["index"]: d["name"] for d in interpreter.get_tensor_details()}
    layers = [op for op in interpreter._get_ops_details() if op["op_name"] in PICTURE_CONVOLUTIONS]
    kept = [*layers[:1], *(op for op in layers if op["op_name"] == "DEPTHWISE_CONV_2D")]
    return [f"^{re.escape(names[i])};" for op in kept for i in op["outputs"] if i in names]


def endless_scopes(path: str, grown: Sequence[tuple[str, str]]) -> list[str]:
    """A pattern for each operator that works with a state that grows for ever, until a layer with weights.

    grown: (input, what it is fed from) by the names of the file's signature.
    """
    if not grown:
        return []
    interpreter = litert_interpreter()(path, num_threads=1)
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    runner = interpreter.get_signature_runner()
    ends = {**runner.get_input_details(), **runner.get_output_details()}
    tensors = {ends[name]["index"] for pair in grown for name in pair}
    patterns = []
    for op in interpreter._get_ops_details():
        inputs, outputs = (set(map(int, op[side])) for side in ("inputs", "outputs"))
        if op["op_name"] not in CONVOLUTIONS and (tensors & inputs or tensors & outputs):
            tensors |= outputs
            patterns += [f"^{re.escape(details[i]['name'])};" for i in outputs if i in details]
    return patterns

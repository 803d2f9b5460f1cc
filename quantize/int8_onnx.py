"""INT8 for CPUs: ONNX Q/DQ with uint8 activations and int8 per-channel weights (u8s8).

ONNX Runtime and OpenVINO both run this one file in integers. Signed activations are several times
slower in ONNX Runtime on x86; TensorRT wants the signed form, which the jetson target writes itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.errors import UsageError
from edgepv.files import sha256, whole_file
from edgepv.optional import need
from edgepv.stream import Tensors
from edgepv.types import QuantScheme, Variant


@dataclass(frozen=True)
class Step:
    """Static post-training quantization with onnxruntime.quantization.

    per_channel: one weight scale per output channel. keep_float: nodes left in float.
    """

    per_channel: bool = True
    keep_float: tuple[str, ...] = ()

    def __call__(
        self, base: Variant, folder: Path, feeds: Sequence[Tensors], calibration_digest: str, out: Path
    ) -> Variant:
        """Quantize ``folder / base.path`` to ``out``.

        feeds: graph inputs with rolled states (see calibration.rolled_feeds). Raises UsageError if a
        state was zero in every feed: such ranges drift, so they are refused.
        """
        refuse_zero_states(base, feeds)
        with tempfile.TemporaryDirectory() as scratch, whole_file(out) as tmp:
            clean = Path(scratch) / "clean.onnx"
            preprocess(folder / base.path, clean)
            kept = (*self.keep_float, *float_tail(clean, base))
            _quantize(clean, tmp, feeds, kept, state_overrides(clean, base, feeds), self.per_channel)
        scheme = QuantScheme(
            "onnxruntime", "uint8 per-tensor", "int8 per-channel", calibration_digest, len(feeds), kept
        )
        return replace(
            base, name="onnx-int8", precision="int8", path=out.name, sha256=sha256(out), scheme=scheme
        )


def refuse_zero_states(base: Variant, feeds: Sequence[Tensors]) -> None:
    """Raise UsageError unless every state is non-zero somewhere in the feeds."""
    for state in base.stream.states if base.stream else ():
        if not any(feed[state.name].any() for feed in feeds):
            raise UsageError(
                f"state '{state.name}' is zero in every calibration input; INT8 ranges would drift. "
                "Calibrate on states rolled over real clips"
            )


def preprocess(source: Path, out: Path) -> None:
    """Fold batch norm and constants, infer shapes: what every static quantizer wants first."""
    need("onnxruntime", extra="compress")
    from onnxruntime.quantization import quant_pre_process

    quant_pre_process(str(source), str(out), skip_symbolic_shape=True)


def state_overrides(
    model_path: Path, base: Variant, feeds: Sequence[Tensors]
) -> dict[str, list[dict[str, Any]]]:
    """One range for a state's input, its output, and the concat between them.

    With equal scales on both sides a value that stays in the state is requantized to itself, so an
    error cannot grow from frame to frame.
    """
    import onnx

    model = onnx.load(model_path)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for state in base.stream.states if base.stream else ():
        low = min(float(feed[state.name].min()) for feed in feeds)
        high = max(float(feed[state.name].max()) for feed in feeds)
        entry = {"rmin": np.float32(min(low, 0.0)), "rmax": np.float32(max(high, 0.0))}
        names = {base.inputs[state.name], base.outputs[state.output]}
        for node in model.graph.node:
            if node.op_type == "Concat" and base.inputs[state.name] in node.input:
                names |= {*node.input, *node.output}
        overrides |= {name: [dict(entry)] for name in names}
    return overrides


def float_tail(model_path: Path, base: Variant) -> tuple[str, ...]:
    """Nodes after the last convolution: pooling over time and the head, a millionth of the work.

    Eight bits there cost accuracy and save nothing, so they stay float.
    """
    import onnx

    nodes = list(onnx.load(model_path).graph.node)
    heavy: set[str] = set()
    for node in reversed(nodes):
        feeds_conv = any(name in heavy for name in node.output)
        if node.op_type in ("Conv", "ConvTranspose") or feeds_conv:
            heavy |= set(node.input)
    return tuple(
        n.name
        for n in nodes
        if n.op_type not in ("Conv", "ConvTranspose")
        and not any(name in heavy for name in n.output)
        and not _only_fed_by_conv(n, nodes)
    )


def _only_fed_by_conv(node: Any, nodes: Sequence[Any]) -> bool:
    """An activation right behind a convolution is folded into it and must stay in integers."""
    makers = {name: n.op_type for n in nodes for name in n.output}
    return node.op_type in ("Relu", "Clip") and makers.get(node.input[0]) == "Conv"


class _Reader:
    """Hands the feeds to onnxruntime's calibrator, by the names inside the file."""

    def __init__(self, feeds: Sequence[Tensors]) -> None:
        self._feeds: Iterator[Tensors] = iter(feeds)

    def get_next(self) -> Tensors | None:
        return next(self._feeds, None)


def _quantize(
    clean: Path,
    out: Path,
    feeds: Sequence[Tensors],
    kept: Sequence[str],
    overrides: dict[str, Any],
    per_channel: bool,
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(clean),
        str(out),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=per_channel,
        nodes_to_exclude=list(kept),
        extra_options={"TensorQuantOverrides": overrides},
    )

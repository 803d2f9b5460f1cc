"""Which layer pays for INT8: each convolution quantized alone, everything else in float.

Source of the method: the per-layer analysis of Wu et al. 2020, "Integer Quantization for Deep Learning
Inference", section 6.1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.errors import UsageError
from edgepv.optional import need
from edgepv.quantize.int8_onnx import CONVOLUTIONS, Reader, preprocess, refuse_zero_states, state_overrides
from edgepv.stats import sqnr_db
from edgepv.stream import Tensors, by_file_names
from edgepv.types import LayerSensitivity, Variant

Track = Callable[[Sequence[str], str], Iterable[str]]


def per_layer(
    base: Variant,
    folder: Path,
    feeds: Sequence[Tensors],
    probes: Sequence[Tensors],
    track: Track = lambda names, what: names,
) -> tuple[LayerSensitivity, ...]:
    """What INT8 of each convolution alone does to the logits, the most sensitive first.

    feeds: graph inputs with rolled states, which set the ranges once for all layers; probes: others, of clips
    that set no range, on which logits are compared. track: shows progress over the layers' names.
    Raises UsageError if a state was zero in every feed, or there is no convolution.
    """
    refuse_zero_states(base, feeds)
    with tempfile.TemporaryDirectory() as scratch:
        clean = Path(scratch) / "clean.onnx"
        preprocess(folder / base.path, clean)
        names = _convolutions(clean)
        if not names:
            raise UsageError(f"{base.spec.name} has no convolution: there is nothing to quantize")
        ranges = _ranges(clean, by_file_names(base, feeds))
        overrides = state_overrides(clean, base, feeds)
        theirs = by_file_names(base, probes)
        wanted = logits_of(clean, base, theirs)
        found = []
        for name in track([*names], "quantizing one layer at a time"):
            alone = Path(scratch) / "alone.onnx"
            _one(clean, alone, name, ranges, overrides)
            found.append(_compared(name, wanted, logits_of(alone, base, theirs)))
    return tuple(sorted(found, key=lambda layer: layer.sqnr_db))


def _convolutions(path: Path) -> list[str]:
    import onnx

    return [n.name for n in onnx.load(path).graph.node if n.op_type in CONVOLUTIONS]


def _ranges(path: Path, feeds: Sequence[Tensors]) -> Any:
    """Least and largest value of every tensor, seen once."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as scratch:
        calibrator = create_calibrator(
            path,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(Reader(feeds))
        return calibrator.compute_data()


def _one(path: Path, out: Path, node: str, ranges: Any, overrides: dict[str, Any]) -> None:
    """The model with one convolution between Q/DQ pairs."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load(path)
    touched = {t for n in model.graph.node if n.name == node for t in (*n.input, *n.output)}
    quantizer = QDQQuantizer(
        model,
        True,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges,
        [node],
        [],
        list(CONVOLUTIONS),
        {"TensorQuantOverrides": {name: one for name, one in overrides.items() if name in touched}},
    )
    quantizer.quantize_model()
    onnx.save(quantizer.model.model, out)


def logits_of(path: Path, base: Variant, feeds: Sequence[Tensors]) -> np.ndarray:
    """(n, classes) for n feeds by the file's names, by ONNX Runtime."""
    ort = need("onnxruntime", extra="compress")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([opened.run([base.outputs["logits"]], feed)[0] for feed in feeds])


def _compared(name: str, wanted: np.ndarray, got: np.ndarray) -> LayerSensitivity:
    changed = float((wanted.argmax(1) != got.argmax(1)).mean())
    return LayerSensitivity(name, sqnr_db(wanted, got), changed, len(wanted))

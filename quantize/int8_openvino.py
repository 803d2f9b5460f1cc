"""INT8 for OpenVINO by NNCF post-training quantization; writes OpenVINO's own .xml and .bin."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepv.console import hush
from edgepv.files import sha256
from edgepv.optional import need
from edgepv.quantize.int8_onnx import is_vector, refuse_zero_states
from edgepv.stream import Tensors, by_file_names
from edgepv.types import QuantScheme, Variant


@dataclass(frozen=True)
class Step:
    """NNCF on an OpenVINO model. preset: "performance" (symmetric) or "mixed" (asymmetric where signed)."""

    preset: str = "mixed"

    def __call__(
        self, base: Variant, folder: Path, feeds: Sequence[Tensors], calibration_digest: str, out: Path
    ) -> Variant:
        """Quantize ``folder / base.path`` to ``out`` (.xml, with a .bin beside it)."""
        refuse_zero_states(base, feeds)
        ov = need("openvino", extra="compress")
        nncf = need("nncf", extra="compress")
        # NNCF's default range is a mean over the feeds; it clips what few frames show
        estimators = importlib.import_module("nncf.quantization.range_estimator")
        model = ov.convert_model(str(folder / base.path))
        kept = float_nodes(model)
        with hush():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(by_file_names(base, feeds)),
                subset_size=len(feeds),
                preset=nncf.QuantizationPreset(self.preset),
                ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX
                ),
            )
        _settle_names(quantized)
        ov.save_model(quantized, str(out), compress_to_fp16=False)
        scheme = QuantScheme(
            "nncf", "uint8/int8", "int8 per-channel", calibration_digest, len(feeds), tuple(kept)
        )
        return replace(
            base,
            name="openvino-int8-nncf",
            engine="openvino",
            precision="int8",
            path=out.name,
            sha256=sha256(out),
            scheme=scheme,
        )


def float_nodes(model: Any) -> list[str]:
    """Operators that hold one value per channel; see ``int8_onnx.float_nodes``."""
    return [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() not in ("Constant", "Parameter", "Result")
        and all(is_vector(tuple(o.get_shape())) for o in op.outputs())
    ]


def _settle_names(model: Any) -> None:
    """Number the operators that OpenVINO named by a counter of this process: equal models, equal bytes."""
    for i, op in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", op.get_friendly_name()):
            op.set_friendly_name(f"{op.get_type_name()}_{i}")

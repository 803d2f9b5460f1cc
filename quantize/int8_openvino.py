"""INT8 for OpenVINO by NNCF post-training quantization; writes OpenVINO's own .xml and .bin."""

from __future__ import annotations

import importlib
import re
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgepv.base.files import sha256
from edgepv.base.optional import SAFE_BITS, need
from edgepv.base.quiet import hush
from edgepv.errors import UsageError, unknown
from edgepv.quantize import int8_onnx
from edgepv.quantize.int8_onnx import blends, is_vector, refuse_zero_states
from edgepv.quantize.ranges import PERCENTILE, RANGES, Method, check_method
from edgepv.quantize.step import Calibration, VariantStep
from edgepv.stream import by_file_names
from edgepv.types import QuantScheme, Variant

if TYPE_CHECKING:
    import openvino as ov

BIASES = ("fast", "accurate", "none")


@dataclass(frozen=True)
class Step(VariantStep):
    """NNCF on an OpenVINO model; writes an .xml, with a .bin beside it.

    Activations are symmetric, asymmetric where signed. Of the ways to set ranges NNCF has no "entropy", and
    takes "percentile" of each feed alone.
    bias: how the mean error that rounding leaves in a channel is taken out of its bias: by the means of the
    float model's tensors ("fast"), layer by layer on the quantized model ("accurate"), or not ("none").
    """

    name = "int8-openvino"
    version = 2
    tools = ("openvino", "nncf", "onnx")

    ranges: Method = field(default="minmax", metadata=RANGES)
    bias: Literal["fast", "accurate", "none"] = "fast"

    def requires(self, given: Variant, aid: Calibration) -> None:
        """Raise UsageError if a state was zero in every feed, or for an option that NNCF does not have."""
        if self.bias not in BIASES:
            raise UsageError(unknown("bias correction", self.bias, BIASES))
        refuse_zero_states(given, aid.feeds)

    def work(self, given: Variant, out: Path, aid: Calibration) -> Variant:
        """Quantize the file of ``given``."""
        import onnx

        ov = need("openvino", extra="compress")
        nncf = need("nncf", extra="compress")
        estimator = _estimator(self.ranges)
        model = ov.convert_model(str(aid.folder / given.path))
        source = aid.folder / given.path
        behind = set(int8_onnx.float_nodes(source))
        ours = (*blends(source, given), *(n for n in onnx.load(source).graph.node if n.name in behind))
        kept = float_nodes(model, {name for node in ours for name in node.output})
        with hush():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(by_file_names(given, aid.feeds)),
                subset_size=len(aid.feeds),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
                fast_bias_correction=self.bias == "fast",
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE,  # seven bits: see int8_onnx
                    activations_range_estimator_params=estimator,
                    disable_bias_correction=self.bias == "none",
                ),
            )
        _settle_names(quantized)
        ov.save_model(quantized, str(out), compress_to_fp16=False)
        scheme = QuantScheme(
            tool="nncf",
            activations="uint8/int8",
            weights="int8 per-channel",
            calibration_digest=aid.digest,
            calibration_feeds=len(aid.feeds),
            kept_float=tuple(kept),
            weight_bits=SAFE_BITS,
        )
        return replace(
            given,
            name="openvino-int8-nncf",
            engine="openvino",
            precision="int8",
            path=out.name,
            sha256=sha256(out),
            scheme=scheme,
        )


def _estimator(method: Method) -> Any:
    """NNCF's parameters for a range estimator: the extremes over the feeds, of all values or of a quantile.

    Its own default is a mean over the feeds, which clips what few frames show.
    """
    check_method(method)
    if method == "entropy":
        raise UsageError(
            "NNCF sets no INT8 ranges by entropy. It has minmax, percentile and mse; entropy is there for "
            "the ONNX Runtime INT8"
        )
    r = importlib.import_module("nncf.quantization.range_estimator")
    if method != "percentile":
        known = r.RangeEstimatorParametersSet
        return known.MINMAX if method == "minmax" else known.HISTOGRAM
    quantile, tail = r.StatisticsType.QUANTILE, 1 - PERCENTILE / 100
    ends = [
        r.StatisticsCollectorParameters(quantile, over, quantile_outlier_prob=tail)
        for over in (r.AggregatorType.MIN, r.AggregatorType.MAX)
    ]
    return r.RangeEstimatorParameters(*ends)


def float_nodes(model: ov.Model, blended: Set[str] = frozenset()) -> list[str]:
    """Operators that hold one value per channel or make a ``blended`` tensor; see ``int8_onnx``."""
    return [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() not in ("Constant", "Parameter", "Result")
        and all(is_vector(tuple(o.get_shape())) or o.get_names() & blended for o in op.outputs())
    ]


def _settle_names(model: Any) -> None:
    """Number the operators that OpenVINO named by a counter of this process: equal models, equal bytes."""
    for i, op in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", op.get_friendly_name()):
            op.set_friendly_name(f"{op.get_type_name()}_{i}")

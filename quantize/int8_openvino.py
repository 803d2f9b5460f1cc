"""INT8 for OpenVINO by NNCF post-training quantization; writes OpenVINO's own .xml and .bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgepv.console import hush
from edgepv.files import sha256
from edgepv.optional import need
from edgepv.quantize.int8_onnx import refuse_zero_states
from edgepv.stream import Tensors
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
        model = ov.convert_model(str(folder / base.path))
        with hush():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(feeds)),
                subset_size=len(feeds),
                preset=nncf.QuantizationPreset(self.preset),
            )
        ov.save_model(quantized, str(out), compress_to_fp16=False)
        scheme = QuantScheme("nncf", "uint8/int8", "int8 per-channel", calibration_digest, len(feeds))
        return replace(
            base,
            name="openvino-int8-nncf",
            engine="openvino",
            precision="int8",
            path=out.name,
            sha256=sha256(out),
            scheme=scheme,
        )

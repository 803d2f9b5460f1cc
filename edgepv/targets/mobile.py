"""Phones and small boards: LiteRT (TFLite) with XNNPACK."""

from edgepv.types import Target

TARGET = Target(
    name="mobile",
    summary="phone or small board with LiteRT (TFLite)",
    precisions=("fp32", "int8"),
    engines=("litert",),
    builder="edgepv.export.for_mobile:build",
    min_sqnr_db={"fp32": 80.0, "int8": 10.0},
    needs_build=(("torch", "compress"), ("litert_torch", "compress"), ("ai_edge_quantizer", "compress")),
    needs_run=(("ai_edge_litert", "mobile"),),
)

"""No device at all: answers after a programmed delay. Walks the whole path without hardware."""

from edgepv.types import Target

TARGET = Target(
    name="null",
    summary="no hardware: answers the first label after a programmed delay (for tests)",
    precisions=("fp32",),
    engines=("null",),
    builder="edgepv.export.for_null:build",
    min_sqnr_db={},
    needs_build=(("torch", "compress"), ("onnx", "compress")),
    status="no hardware",
)

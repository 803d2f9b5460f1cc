"""Cameras and microcontrollers that are programmed in C: the step as sources, compiled and checked here."""

from edgepv.types import Target

TARGET = Target(
    name="firmware",
    summary="the step as C that needs no library and no malloc, for Linux and microcontrollers",
    precisions=("fp32", "int8"),
    engines=("native",),
    builder="edgepv.export.for_firmware:build",
    min_sqnr_db={"fp32": 80.0, "int8": 10.0},
    needs_build=(("torch", "compress"), ("onnx", "compress"), ("onnxruntime", "compress")),
    needs_run=(("onnx", "native"),),
)

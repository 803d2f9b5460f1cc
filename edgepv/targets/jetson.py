"""NVIDIA Jetson: explicit Q/DQ ONNX for TensorRT. The engine is built on the device, never here."""

from edgepv.types import Target

TARGET = Target(
    name="jetson",
    summary="NVIDIA Jetson with TensorRT 8.5 to 11; checked on this host, built on the device",
    precisions=("fp32", "fp16", "int8"),
    engines=("tensorrt",),
    builder="edgepv.export.for_jetson:build",
    min_sqnr_db={"fp32": 80.0, "fp16": 40.0, "int8": 10.0},
    needs_build=(("torch", "compress"), ("onnx", "compress"), ("onnxruntime", "compress")),
    needs_run=(("onnxruntime", "jetson"),),
    status="host-checked",
)

"""Linux CPUs, x86-64 and arm64: ONNX Runtime, OpenVINO, and the model's own C where it can be compiled."""

from edgepv.types import Target

TARGET = Target(
    name="cpu",
    summary="Linux CPU with ONNX Runtime, OpenVINO or C of its own, whichever measures faster",
    precisions=("fp32", "bf16", "int8"),
    engines=("onnxruntime", "openvino", "native"),
    builder="edgepv.export.for_cpu:build",
    min_sqnr_db={"fp32": 80.0, "bf16": 25.0, "int8": 10.0},
    needs_build=(("torch", "compress"), ("onnx", "compress"), ("nncf", "compress")),
    needs_run=(("onnxruntime", "cpu"), ("openvino", "cpu")),
)

"""The nouns of edgepv: frozen values that travel between the rooms, and their JSON form.

Unknown is None.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepv.types.artifact import (
        Checkpoint,
        Deadline,
        EngineSpec,
        QuantScheme,
        Rung,
        StepRecord,
        Target,
        Variant,
    )
    from edgepv.types.bench import BenchResult, BenchRow, BenchSetup, CameraLoad, ColdStart, LoadGenCheck
    from edgepv.types.boxes import BoxSpec
    from edgepv.types.codec import Json, decode, encode
    from edgepv.types.masks import MaskSpec
    from edgepv.types.measured import (
        Accuracy,
        Audit,
        Baseline,
        ClassScore,
        ConvPlan,
        Counted,
        Curve,
        DeviceFacts,
        Estimate,
        Flips,
        Island,
        Latency,
        LayerSensitivity,
        LiveRun,
        MachineLoad,
        Measurement,
        OperatingPoint,
        PairedDrop,
        PairedTime,
        Parity,
        Peaks,
        Proof,
        Ratio,
        Report,
        Robustness,
        Slice,
        Verdict,
        WorstClip,
    )
    from edgepv.types.spec import (
        Before,
        DType,
        Layout,
        Metric,
        ModelSpec,
        Rewrite,
        Scores,
        StateSpec,
        StreamProof,
        StreamSpec,
        Task,
        TensorSpec,
    )
    from edgepv.types.task import TaskSpec

__all__ = [
    "Accuracy",
    "Audit",
    "Baseline",
    "Before",
    "BenchResult",
    "BenchRow",
    "BenchSetup",
    "BoxSpec",
    "CameraLoad",
    "Checkpoint",
    "ClassScore",
    "ColdStart",
    "ConvPlan",
    "Counted",
    "Curve",
    "DType",
    "Deadline",
    "DeviceFacts",
    "EngineSpec",
    "Estimate",
    "Flips",
    "Island",
    "Json",
    "Latency",
    "LayerSensitivity",
    "Layout",
    "LiveRun",
    "LoadGenCheck",
    "MachineLoad",
    "MaskSpec",
    "Measurement",
    "Metric",
    "ModelSpec",
    "OperatingPoint",
    "PairedDrop",
    "PairedTime",
    "Parity",
    "Peaks",
    "Proof",
    "QuantScheme",
    "Ratio",
    "Report",
    "Rewrite",
    "Robustness",
    "Rung",
    "Scores",
    "Slice",
    "StateSpec",
    "StepRecord",
    "StreamProof",
    "StreamSpec",
    "Target",
    "Task",
    "TaskSpec",
    "TensorSpec",
    "Variant",
    "Verdict",
    "WorstClip",
    "decode",
    "encode",
]

_FILES = ("codec", "boxes", "masks", "spec", "task", "artifact", "measured", "bench")
"""What others of them import stands first."""


def __getattr__(name: str) -> Any:
    """A noun; its file is imported when one of its names is asked for: few commands want all of them."""
    for file in _FILES if name in __all__ else ():
        found = vars(importlib.import_module(f"{__name__}.{file}"))
        if name in found:
            globals()[name] = found[name]
            return found[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

"""The nouns of edgepv: frozen values that travel between the rooms, and their JSON form.

Unknown is None.
"""

from __future__ import annotations

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
from edgepv.types.codec import Json, decode, encode
from edgepv.types.measured import (
    Accuracy,
    Audit,
    ClassScore,
    ConvPlan,
    Counted,
    DeviceFacts,
    Flips,
    Island,
    Latency,
    LayerSensitivity,
    Measurement,
    PairedDrop,
    Parity,
    Proof,
    Report,
    Verdict,
    WorstClip,
)
from edgepv.types.spec import (
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
    "Checkpoint",
    "ClassScore",
    "ConvPlan",
    "Counted",
    "DType",
    "Deadline",
    "DeviceFacts",
    "EngineSpec",
    "Flips",
    "Island",
    "Json",
    "Latency",
    "LayerSensitivity",
    "Layout",
    "Measurement",
    "Metric",
    "ModelSpec",
    "PairedDrop",
    "Parity",
    "Proof",
    "QuantScheme",
    "Report",
    "Rewrite",
    "Rung",
    "Scores",
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

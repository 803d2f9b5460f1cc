"""A whole bundle without torch or device, in milliseconds: the null engine and two golden frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgepv import bundle
from edgepv.base.files import sha256, write_text
from edgepv.bundle.golden import place_of
from edgepv.bundle.manifest import Content, Measured
from edgepv.types import ModelSpec, TensorSpec, Variant


def write_null_bundle(
    folder: Path,
    *,
    name: str = "net",
    delays_ms: str = "[0.0]",
    golden: tuple[float, float] = (1.0, 0.0),
    surprise: float | None = None,
) -> Path:
    """A bundle whose engine answers "fight" after the given delays; another name is another digest.

    golden: the recorded logits. The null engine always answers (1, 0), so others fail the replay.
    surprise: what was recorded of a model that answers one too; the engine's is 0.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    write_text(folder / "models" / "delays.json", delays_ms)
    logits = np.tile(np.array(golden, np.float32), (2, 1))
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    tensors: dict[str, np.ndarray] = {"frames": frames, "torch": logits, "null": logits}
    names = ["logits"]
    spec = ModelSpec(name, TensorSpec("clip", (1, 3, 2, 8, 8), "NCTHW"), ("fight", "no_fight"), frames=2)
    if surprise is not None:
        names.append("surprise")
        spec = replace(spec, outputs=(spec.answer, TensorSpec("surprise", (1, 1), "NC")))
        said = np.full((2, 1), surprise, np.float32)
        tensors |= {place_of(who, "surprise"): said for who in ("torch", "null")}
    save_file(tensors, folder / bundle.GOLDEN)
    variant = Variant(
        name="null",
        engine="null",
        precision="fp32",
        form="window",
        path="models/delays.json",
        sha256=sha256(folder / "models" / "delays.json"),
        spec=spec,
        stream=None,
        inputs={"clip": "clip"},
        outputs={name: name for name in names},
    )
    content = Content(
        name=name,
        target="null",
        spec=spec,
        stream=None,
        preprocessing="resize",
        postprocessing="softmax",
        calibration_digest=None,
        steps=(),
        variants=(variant,),
        golden={"frames": 2},
        files=bundle.digests(folder, [bundle.GOLDEN, "models/delays.json"]),
    )
    bundle.write(folder, content, Measured("null", "no hardware", "pass", ()))
    return folder

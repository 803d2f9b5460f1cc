"""A bundle as Python 3.8 reads it, with numpy alone: what an engine needs of the manifest, and the goldens.

``edgepv.bundle`` checks a bundle whole and needs a newer Python. The digests of what is read are compared
here too, and the arithmetic of frames is that of ``edgepv.data.frames``; a test holds them together.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.errors import UsageError

MANIFEST, GOLDEN, MEASURED = "manifest.json", "golden.safetensors", "measured.json"
PLAN, COMMANDS = "precision_plan.json", "build.sh"
SCHEMA = 1
"""Of the manifests that this reads, as in edgepv/bundle/manifest.py."""
VALUES = 4096
"""Values that are kept of one golden answer, as in edgepv/bundle/golden.py."""
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""Share of the answers' own size by which a replay may differ, as in edgepv/bundle/golden.py."""
GREY = (3735, 19235, 9798)
"""OpenCV's weights of blue, green and red in grey, in units of 2 ** -15."""
DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8"}
"""Names of types in a safetensors file, and in numpy."""


@dataclass(frozen=True)
class State:
    """One state; see ``edgepv.types.StateSpec``, which has the same fields."""

    name: str
    output: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    update: str = "replace"
    init: float = 0.0
    fresh: int = 1
    period: int = 1
    first: int = 0


@dataclass(frozen=True)
class Model:
    """One variant of a bundle, as far as an engine needs it; see ``edgepv.types.Variant``.

    frame: (name, shape) of the input. answers: name -> shape, the one it is judged by first. inputs, outputs:
    our tensor name -> the name in the file. frames: how many frames a clip has. chunk: new frames a step.
    """

    name: str
    path: str
    sha256: str
    precision: str
    frame: tuple[str, tuple[int, ...]]
    answers: dict[str, tuple[int, ...]]
    states: tuple[State, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]
    labels: tuple[str, ...]
    scores: str
    colour: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frames: int
    chunk: int
    warmup: int
    streamed: bool

    @property
    def int8(self) -> bool:
        """Whether the file has Q/DQ."""
        return self.precision == "int8"

    @property
    def strong(self) -> bool:
        """Whether its types are the file's own: it is in float16 inside, for TensorRT 10.12 and later."""
        return self.precision == "fp16" or self.name.endswith("-fp16")


def model_of(variant: dict[str, Any]) -> Model:
    """A model from the JSON form of a variant, as a manifest has it."""
    spec, stream = variant["spec"], variant["stream"]
    answers = spec["outputs"] or [{"name": "logits", "shape": [1, len(spec["labels"])]}]
    names = State.__dataclass_fields__
    states = [
        State(**{**{k: s[k] for k in names}, "shape": tuple(s["shape"])})
        for s in (stream or {"states": ()})["states"]
    ]
    return Model(
        name=variant["name"],
        path=variant["path"],
        sha256=variant["sha256"],
        precision=variant["precision"],
        frame=(spec["input"]["name"], tuple(spec["input"]["shape"])),
        answers={a["name"]: tuple(a["shape"]) for a in answers},
        states=tuple(states),
        inputs=dict(variant["inputs"]),
        outputs=dict(variant["outputs"]),
        labels=tuple(spec["labels"]),
        scores=spec["scores"],
        colour=spec["colour"],
        mean=tuple(spec["mean"]),
        std=tuple(spec["std"]),
        frames=spec["frames"],
        chunk=stream["chunk"] if stream else 1,
        warmup=stream["warmup"] if stream else spec["frames"],
        streamed=stream is not None,
    )


class Bundle:
    """A bundle's folder, whose files are read with their digests. Raises UsageError if it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            raise UsageError(f"{folder} is no bundle folder: it has no {MANIFEST}. Unpack a zip first")
        try:
            data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            schema = data["schema"]
            self.content, self.measured = data["content"], data["measured"]
            self.digest = str(data["digest"])
            self.models = [model_of(v) for v in self.content["variants"] if v["engine"] == "tensorrt"]
            self.target = str(self.content["target"])
        except (ValueError, KeyError, TypeError) as e:
            raise UsageError(
                f"{folder / MANIFEST} is damaged ({type(e).__name__}: {e}). Copy the bundle again"
            ) from e
        if schema != SCHEMA:
            raise UsageError(
                f"{folder / MANIFEST} has schema {schema}, and this reads {SCHEMA}. Use its own kit.pyz"
            )
        canonical = json.dumps(self.content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest() != self.digest:
            raise UsageError(f"{folder / MANIFEST} was changed after it was written: digests differ")
        if not self.models:
            raise UsageError(f"{folder} has no file for TensorRT. Export it with --target jetson")

    def checked(self, name: str) -> bytes:
        """The bytes of a file, equal to their digest. Raises UsageError otherwise."""
        wanted = {**self.measured["files"], **self.content["files"]}.get(name)
        path = self.folder / name
        if wanted is None or path.is_symlink() or not path.is_file():
            raise UsageError(
                f"{self.folder}: {name} is missing, a link, or not in the manifest. Copy the bundle again"
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != wanted:
            raise UsageError(f"{self.folder}: {name} was changed or is damaged: its SHA-256 differs")
        return data

    def has(self, name: str) -> bool:
        """Whether the manifest lists a file."""
        return name in self.content["files"] or name in self.measured["files"]

    def check(self) -> int:
        """Compare every file with its digest; returns how many there are."""
        names = {**self.measured["files"], **self.content["files"]}
        for name in names:
            self.checked(name)
        return len(names)

    def model(self, name: str) -> Model:
        """The model called so. Raises UsageError with those there are."""
        for model in self.models:
            if model.name == name:
                return model
        raise UsageError(f"unknown variant '{name}'. Known: {', '.join(m.name for m in self.models)}")

    def recorded(self, model: Model) -> dict[str, np.ndarray]:
        """Golden "frames" (N, H, W, 3) uint8, and answers (N, values) of "torch" and of the model, "own"."""
        tensors = safetensors(self.checked(GOLDEN), GOLDEN)
        places = {"frames": f"{model.name}/frames", "torch": f"{model.name}/torch", "own": model.name}
        found = {key: tensors.get(place, tensors.get(key)) for key, place in places.items()}
        missing = [key for key, value in found.items() if value is None]
        if missing:
            raise UsageError(f"{GOLDEN} holds no '{missing[0]}' for {model.name}. Export the bundle again")
        return {key: value for key, value in found.items() if value is not None}

    def refused(self, model: Model) -> str:
        """Why the machine that made the bundle would not ship this model; "" if it would, or did not say."""
        if not self.has(MEASURED):
            return ""
        for row in json.loads(self.checked(MEASURED))["rows"]:
            drop = row.get("drop") or {}
            if row["variant"] == model.name and (row.get("blocked") or drop.get("verdict") == "fail"):
                return str(row.get("blocked") or "it failed its accuracy gate where the bundle was made")
        return ""

    def plan(self) -> list[dict[str, Any]]:
        """Rows of precision_plan.json, "node" and "precision"; none where the bundle has no plan."""
        rows: list[dict[str, Any]] = json.loads(self._beside(PLAN) or b"[]")
        return rows

    def half(self, model: Model) -> bool:
        """Whether a weakly typed build of a model may use float16 in any layer.

        The build commands that the exporter wrote ask for it only where the net in float16 passed its exam.
        """
        lines = self._beside(COMMANDS).decode("utf-8", "replace").splitlines()
        file = model.path.rpartition("/")[2]
        return any(f"--onnx={file} " in line and "--fp16" in line for line in lines)

    def _beside(self, name: str) -> bytes:
        """A file beside the models, by its own name; nothing where there is none."""
        path = next((n for n in self.content["files"] if n.rpartition("/")[2] == name), None)
        return self.checked(path) if path else b""


def safetensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file by name. Raises UsageError if it is none.

    Source: the format's page at huggingface.co/docs/safetensors; eight bytes of length, JSON, then the
    numbers.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        return {
            key: np.frombuffer(body[slice(*row["data_offsets"])], DTYPES[row["dtype"]]).reshape(row["shape"])
            for key, row in header.items()
            if key != "__metadata__"
        }
    except (ValueError, KeyError, TypeError) as e:
        raise UsageError(
            f"{name} is no safetensors file ({type(e).__name__}: {e}). Copy the bundle again"
        ) from e


def preprocess(frame: np.ndarray, model: Model) -> np.ndarray:
    """A frame (h, w, 3) uint8 BGR of the model's size as (1, C, h, w) float32; see ``edgepv.data.frames``.

    Raises UsageError for another size: only OpenCV resizes, and the caller has it or not.
    """
    wanted = (*model.frame[1][-2:], 3)
    if frame.shape != wanted or frame.dtype != np.uint8:
        raise UsageError(
            f"a frame must be {wanted} uint8 BGR here, got {frame.shape} {frame.dtype}. Resize it first"
        )
    if model.colour == "rgb":
        frame = frame[:, :, ::-1]
    elif model.colour == "grey":
        blue, green, red = (frame[:, :, i].astype(np.int32) * weight for i, weight in enumerate(GREY))
        frame = ((blue + green + red + (1 << 14)) >> 15).astype(np.uint8)[:, :, None]
    scale = np.float32(1 / 255) / np.asarray(model.std, np.float32)
    shift = np.asarray(model.mean, np.float32) / np.asarray(model.std, np.float32)
    return np.ascontiguousarray((frame * scale - shift).transpose(2, 0, 1)[None], np.float32)


def limit(recorded: dict[str, np.ndarray], model: Model, kind: str) -> float:
    """Largest rmse against the recorded answers, in their unit; the rule of ``edgepv.bundle.golden``.

    INT8: half of what quantization itself changed, so that a float engine does not pass for an INT8 one.
    kind: what the engine computes in; a float32 file whose engine may use float16 has float16's tolerance.
    """
    share = TOLERANCE[kind] * rmse(recorded["torch"], 0.0)
    if not model.int8:
        return share
    return 0.5 * rmse(recorded["own"], recorded["torch"]) or share


def sampled(answer: np.ndarray) -> np.ndarray:
    """An answer as the goldens keep it: (1, values), a spread sample of a large one."""
    row = answer.reshape(1, -1)
    return row[:, :: -(-row.shape[1] // VALUES)]


def rmse(a: np.ndarray, b: Any) -> float:
    """Root mean square difference; infinite where it is no number."""
    value = float(np.sqrt(((np.asarray(a, np.float64) - b) ** 2).mean()))
    return value if math.isfinite(value) else math.inf

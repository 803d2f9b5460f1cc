"""A camera's picture as the tensor that a model takes, and a restorer's answer as a picture again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.data.before import chained
from edgepv.data.boxes import placed
from edgepv.data.degrade import SIGMA, noisy, rounded, smaller
from edgepv.data.video import open_video, taken
from edgepv.errors import UsageError
from edgepv.types import ModelSpec


def check_frame(frame: np.ndarray) -> None:
    """Raise UsageError unless ``frame`` is (H, W, 3) uint8 with at least one pixel."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise UsageError(
            f"a frame must be (H, W, 3) uint8 BGR, got {frame.shape} {frame.dtype}. Convert it first"
        )


def preprocess(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """One camera frame as the model wants it.

    frame: (H, W, 3) uint8 BGR. Returns (1, C, h, w) float32: the whole frame resized with area
    interpolation, see ``at_model_size``, the spec's chain, colour order or grey (OpenCV's BGR2GRAY) and
    (x / 255 - mean) / std from the spec.
    """
    frame = chained(at_model_size(frame, spec), spec)
    if spec.colour == "rgb":
        frame = frame[:, :, ::-1]
    elif spec.colour == "grey":
        frame = in_grey(frame)[:, :, :1]
    scale = np.float32(1 / 255) / np.asarray(spec.std, np.float32)
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray((frame * scale - shift).transpose(2, 0, 1)[None], np.float32)


def at_model_size(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A camera frame (H, W, 3) uint8 resized to what the model takes, (h, w, 3) uint8.

    The aspect is not kept, but where the spec says that pictures are padded, see ``ModelSpec.fit``.
    """
    cv2 = need("cv2", extra="cpu")
    height, width = spec.input.shape[-2:]
    check_frame(frame)
    if frame.shape[:2] == (height, width):
        return frame
    left, top, wide, tall = placed(spec, frame.shape[:2])
    resized: np.ndarray = frame
    if frame.shape[:2] != (tall, wide):
        resized = cv2.resize(frame, (wide, tall), interpolation=cv2.INTER_AREA)
    if spec.fit is None or (tall, wide) == (height, width):
        return resized
    padded = np.full((height, width, 3), spec.fit.pad, np.uint8)
    padded[top : top + tall, left : left + wide] = resized
    return padded


def in_grey(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 BGR without its colour: three equal channels."""
    cv2 = need("cv2", extra="cpu")
    grey: np.ndarray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return np.repeat(grey[:, :, None], 3, 2)


def pictures(spec: ModelSpec, rows: np.ndarray) -> np.ndarray:
    """A restorer's answers (T, C, H, W) as pictures (T, H, W, 3), uint8 BGR; grey ones in three channels."""
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (spec.mean, spec.std))
    plain: np.ndarray = np.rint(np.clip(rows * std + mean, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    if spec.colour == "grey":
        return np.repeat(plain, 3, -1)
    return plain[..., ::-1] if spec.colour == "rgb" else plain


def model_frames(path: Path, spec: ModelSpec, most: int | None = None) -> np.ndarray:
    """A clip as the model sees it: (T, C, h, w) float32, at its frame rate, degraded for a restorer."""
    frames = degraded(clean_frames(path, spec, most), spec)
    return np.concatenate([preprocess(frame, spec) for frame in frames])


def clean_frames(
    path: Path,
    spec: ModelSpec,
    most: int | None = None,
    *,
    doubt: Callable[[str], None] = lambda why: None,
) -> list[np.ndarray]:
    """Frames (h, w, 3) uint8 BGR at the model's rate, of the size that it takes.

    For a restorer they have the size of its answer, and are as colourless as that, where it is known what it
    undoes. Nothing else of the video is held in memory, and after ``most`` frames no more is read. doubt: is
    told of a video that may not be whole or whose rate is not known.

    Raises UsageError like ``edgepv.data.video.open_video``.
    """
    cv2 = need("cv2", extra="cpu")
    height, width = (spec.input if spec.degrade is None else spec.answer).shape[-2:]
    frames: list[np.ndarray] = []
    before, small = -1, np.empty(0, np.uint8)
    with open_video(path) as video:
        for frame in taken(video, spec.fps):
            if frame.index != before and spec.fit is not None:
                small = at_model_size(frame.pixels, spec)
            elif frame.index != before:
                small = cv2.resize(frame.pixels, (width, height), interpolation=cv2.INTER_AREA)
            before = frame.index
            frames.append(small)
            if len(frames) == most:
                break
    if video.doubt:
        doubt(video.doubt[1])
    return [in_grey(f) for f in frames] if spec.degrade and spec.colour == "grey" else frames


def shrunk(frame: np.ndarray, spec: ModelSpec, most: int) -> np.ndarray:
    """A camera frame as it is, or at the model's size if it has more than ``most`` times its pixels."""
    height, width = spec.input.shape[-2:]
    if frame.shape[0] * frame.shape[1] <= most * height * width:
        return frame
    return at_model_size(frame, spec)


def within(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame (H, W, 3) whose longer side is at most so many px."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return frame
    cv2 = need("cv2", extra="cpu")
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    small: np.ndarray = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return small


def degraded(frames: list[np.ndarray], spec: ModelSpec) -> list[np.ndarray]:
    """Clean frames as a camera with the spec's fault would deliver them, uint8; the same at every call."""
    if spec.degrade in ("half", "downscale"):
        factor = spec.answer.shape[-1] // spec.input.shape[-1]
        return [smaller(frame, factor) for frame in frames]
    if spec.degrade == "noise-25":
        rng = np.random.default_rng(0)
        return [np.rint(255 * rounded(noisy(f, SIGMA, rng))).astype(np.uint8) for f in frames]
    return frames


def hold_last(frames: np.ndarray, count: int) -> np.ndarray:
    """A clip (T, ...) with its last frame repeated until it has ``count`` frames; longer: unchanged."""
    missing = count - len(frames)
    return frames if missing <= 0 else np.concatenate([frames, frames[-1:].repeat(missing, 0)])

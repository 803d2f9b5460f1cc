"""Rendered motion: pictures that move over each other along known paths, so every point's track is exact.

A clip is a background and one or two occluders cut from other pictures. Each is a plane that drifts, turns,
grows and tilts along its own smooth path, a homography per frame. Light changes over time; blur, noise and
JPEG blocks are added as cameras add them. The tracks come from the homographies, never from the pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgepv.base.optional import need
from edgepv.errors import UsageError

STILLS = 360
"""So many of the grey stills are for training; those after them are held out."""

VIDEOS = {
    "train": (("stream/vtest.avi", 100), ("clips/carphone_pristine.mp4", 20), ("vid4_lossless/walk.mkv", 4)),
    "test": (("vid4_lossless/city.mkv", 8), ("clips/bikes.mp4", 25)),
}
"""Videos whose every n-th frame serves as a picture, by split."""


@dataclass(frozen=True)
class Scene:
    """What to render.

    size: pixels, height and width. frames: of the clip. points: tracks wanted. occluders: most there may be;
    at least one is drawn. speed: (slowest, fastest) typical motion, image heights per frame, drawn on a
    logarithmic scale. late: share of the points that are born after the first frame. period: None, or the
    number of frames after which all motion turns back, so that the clip goes to and fro. harsh: scales
    light change, blur and noise; 0 leaves the pixels clean.
    """

    size: int = 128
    frames: int = 24
    points: int = 32
    occluders: int = 2
    speed: tuple[float, float] = (0.002, 0.04)
    late: float = 0.3
    period: int | None = None
    harsh: float = 1.0


@dataclass(frozen=True)
class Rendered:
    """A clip and its truth.

    frames: (T, S, S, 3) uint8 RGB. points: (N, T, 2) float32 (x, y) in image heights, exact also where a
    point is hidden or outside. occluded: (N, T) bool, hidden or outside. birth: (N,) int, the frame each
    point was chosen in, where it is visible.
    """

    frames: np.ndarray
    points: np.ndarray
    occluded: np.ndarray
    birth: np.ndarray


@dataclass(frozen=True)
class Layer:
    """A plane that moves through a scene.

    picture (h, w, 3) uint8, cover (h, w) float32 in [0, 1] or None for all of it, and the homographies (T, 3,
    3) from its pixels to the frame's; pixel centres are at whole numbers.
    """

    picture: np.ndarray
    cover: np.ndarray | None
    to_frame: np.ndarray


def read_pictures(data: Path, split: Literal["train", "test"]) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB to render with; the two splits share neither a still nor a video.

    data: the folder with stills/, clips/ and so on. Raises UsageError if it has no stills.
    """
    cv2 = need("cv2", extra="cpu")
    files = sorted((data / "stills" / "train400_gray180").glob("*.png"))
    if not files:
        raise UsageError(f"{data} has no stills/train400_gray180. --data wants the folder of natural video")
    if split == "train":
        files = files[:STILLS] + sorted((data / "davis_car-shadow" / "JPEGImages").rglob("*.jpg"))[::4]
    else:
        files = files[STILLS:] + sorted((data / "stills" / "set12_gray").glob("*.png"))
    pictures = [cv2.imread(str(f))[..., ::-1].copy() for f in files]
    for name, every in VIDEOS[split]:
        pictures += _frames_of(data / name, every)
    return pictures


def _frames_of(path: Path, every: int) -> list[np.ndarray]:
    """Every n-th frame of a video, (H, W, 3) uint8 RGB."""
    cv2 = need("cv2", extra="cpu")
    capture = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    index = 0
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames
        if index % every == 0:
            frames.append(frame[..., ::-1].copy())
        index += 1


def render(rng: np.random.Generator, pictures: Sequence[np.ndarray], scene: Scene) -> Rendered:
    """One random clip of ``scene`` and its exact tracks."""
    speed = float(np.exp(rng.uniform(*np.log(scene.speed))))
    layers = [_background(rng, pictures, scene, speed)]
    for _ in range(int(rng.integers(1, scene.occluders + 1))):
        own = float(np.exp(rng.uniform(*np.log(scene.speed))))
        layers.append(_occluder(rng, pictures, scene, own))
    frames = as_filmed(rng, compose(layers, scene.size), scene.harsh)
    born = _births(rng, scene)
    points, occluded = np.zeros((scene.points, scene.frames, 2)), np.ones((scene.points, scene.frames), bool)
    for frame in np.unique(born):
        which = np.flatnonzero(born == frame)
        start = choose(rng, frames[frame], len(which))
        points[which], occluded[which] = follow(layers, start, int(frame), scene.size)
    return Rendered(frames, ((points + 0.5) / scene.size).astype(np.float32), occluded, born)


def _births(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """(points,) the frame each is chosen in: the first, or for some of them one later frame."""
    later = int(rng.integers(1, max(2, scene.frames // 2)))
    return np.where(rng.random(scene.points) < scene.late, min(later, scene.frames - 1), 0)


def wander(rng: np.random.Generator, frames: int, count: int) -> np.ndarray:
    """(frames, count) smooth random walks from 0, each moving by about 1 per frame.

    The velocity is a constant and three sine waves with periods of 8 to 80 frames.
    """
    t = np.arange(frames)[:, None, None]
    period = np.exp(rng.uniform(np.log(8), np.log(80), (1, 3, count)))
    phase = rng.uniform(0, 2 * np.pi, (1, 3, count))
    weight = rng.normal(0, 0.7, (1, 3, count))
    velocity = (weight * np.sin(2 * np.pi * t / period + phase)).sum(1) + rng.normal(0, 0.4, (1, count))
    return np.cumsum(velocity, 0) - velocity[:1]


def planes(
    rng: np.random.Generator, scene: Scene, side: int, place: np.ndarray, zoom: float, speed: float
) -> np.ndarray:
    """Homographies (T, 3, 3) that carry a picture of side x side pixels through the frames.

    place: (2,), where its centre starts, in image heights. zoom: frame pixels per picture pixel at the start.
    speed: image heights per frame.
    """
    moving = scene.period or scene.frames
    walk = wander(rng, moving, 8) * speed
    if rng.random() < 0.3:
        walk[1:, :2] += rng.normal(0, min(0.3 * speed, 0.006), (moving - 1, 2))
    walk[:, :2] = 0.6 * np.tanh(walk[:, :2] / 0.6)
    turn = rng.uniform(-0.4, 0.4) + 0.5 * walk[:, 2]
    grow = zoom * np.exp(0.6 * np.tanh(0.7 * walk[:, 3]))
    bent = 0.25 * np.tanh(walk[:, 4:8] * np.array([1.0, 1.0, 0.8, 0.8]))
    warps = np.stack([_plane(place + w[:2], a, g, b) for w, a, g, b in zip(walk, turn, grow, bent)])
    unit = np.array([[1, 0, -(side - 1) / 2], [0, 1, -(side - 1) / 2], [0, 0, scene.size]]) / scene.size
    pixels = np.array([[scene.size, 0, -0.5], [0, scene.size, -0.5], [0, 0, 1]])
    return (pixels @ warps @ unit)[to_and_fro(scene.frames, moving)]


def to_and_fro(frames: int, moving: int) -> np.ndarray:
    """(frames,) places on a path of ``moving`` frames, gone to and fro: 0, 1, 2, 1, 0, 1, ... for 3."""
    t = np.arange(frames) % max(1, 2 * moving - 2)
    return np.minimum(t, 2 * moving - 2 - t)


def _plane(place: np.ndarray, turn: float, grow: float, bent: np.ndarray) -> np.ndarray:
    """(3, 3): grow, shear by bent[:2], turn, tilt by bent[2:], move to ``place``."""
    c, s = np.cos(turn), np.sin(turn)
    linear = grow * np.array([[c, -s], [s, c]]) @ np.array([[1 + bent[0], bent[1]], [0, 1 - bent[0]]])
    tilt = np.eye(3)
    tilt[2, :2] = bent[2:]
    move = np.eye(3)
    move[:2, 2] = place
    flat = np.eye(3)
    flat[:2, :2] = linear
    return move @ tilt @ flat


def picture(rng: np.random.Generator, pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """(side, side, 3): a random square of a random picture, turned, mirrored, and tinted if it is grey."""
    cv2 = need("cv2", extra="cpu")
    source = pictures[int(rng.integers(len(pictures)))]
    least = min(source.shape[:2])
    edge = int(rng.uniform(0.7, 1.0) * least) if least < 300 else int(rng.uniform(0.3, 0.8) * least)
    y, x = (int(rng.integers(n - edge + 1)) for n in source.shape[:2])
    kind = cv2.INTER_AREA if edge > side else cv2.INTER_CUBIC
    square = cv2.resize(source[y : y + edge, x : x + edge], (side, side), interpolation=kind)
    square = np.rot90(square, int(rng.integers(4)))
    if rng.random() < 0.5:
        square = square[:, ::-1]
    if np.array_equal(square[..., 0], square[..., 2]) and rng.random() < 0.8:
        square = _tinted(rng, square)
    return np.ascontiguousarray(square)


def _tinted(rng: np.random.Generator, grey: np.ndarray) -> np.ndarray:
    """A grey picture with a random tone curve in each channel."""
    ramp = np.arange(256) / 255
    curves = [255 * rng.uniform(0.6, 1.1) * ramp ** np.exp(rng.normal(0, 0.35)) for _ in range(3)]
    return np.stack([c.clip(0, 255).astype(np.uint8)[grey[..., i]] for i, c in enumerate(curves)], -1)


def _background(
    rng: np.random.Generator, pictures: Sequence[np.ndarray], scene: Scene, speed: float
) -> Layer:
    side = round(1.5 * scene.size)
    zoom = float(rng.uniform(0.8, 1.1))
    return Layer(
        picture(rng, pictures, side),
        None,
        planes(rng, scene, side, np.array([0.5, 0.5]), zoom, speed),
    )


def _occluder(rng: np.random.Generator, pictures: Sequence[np.ndarray], scene: Scene, speed: float) -> Layer:
    side = round(scene.size * float(rng.uniform(0.3, 0.8)))
    place = rng.uniform(0.0, 1.0, 2)
    return Layer(picture(rng, pictures, side), blob(rng, side), planes(rng, scene, side, place, 1.0, speed))


def blob(rng: np.random.Generator, side: int) -> np.ndarray:
    """(side, side) float32 in [0, 1]: a random round shape with a soft edge, clear of the border."""
    cv2 = need("cv2", extra="cpu")
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    waves = [rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)]
    radius = np.exp(np.sum(waves, 0))
    radius *= (side / 2 - 3) / radius.max()
    outline = np.stack([np.cos(angle), np.sin(angle)], -1) * radius[:, None] + (side - 1) / 2
    shape = np.zeros((side, side), np.float32)
    cv2.fillPoly(shape, [np.rint(outline * 16).astype(np.int32)], 1.0, cv2.LINE_8, 4)
    return np.asarray(cv2.GaussianBlur(shape, (0, 0), 0.7), np.float32)


def compose(layers: Sequence[Layer], size: int) -> np.ndarray:
    """(T, size, size, 3) uint8: the layers drawn over each other, the first at the bottom.

    Beyond its border the first layer is mirrored, the others are not there.
    """
    cv2 = need("cv2", extra="cpu")
    frames = []
    for t in range(len(layers[0].to_frame)):
        mirrored = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
        frame = cv2.warpPerspective(layers[0].picture, layers[0].to_frame[t], (size, size), **mirrored)
        for layer in layers[1:]:
            above = cv2.warpPerspective(layer.picture, layer.to_frame[t], (size, size), **mirrored)
            cover = cv2.warpPerspective(layer.cover, layer.to_frame[t], (size, size))[..., None]
            frame = (frame + cover * (above.astype(np.float32) - frame) + 0.5).astype(np.uint8)
        frames.append(frame)
    return np.stack(frames)


def carried(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) through homographies (..., 3, 3) of the same leading axes."""
    x = np.concatenate([points, np.ones_like(points[..., :1])], -1)[..., None]
    y = (homography @ x)[..., 0]
    return np.asarray(y[..., :2] / y[..., 2:])


def covered(layer: Layer, frame: int | slice, points: np.ndarray) -> np.ndarray:
    """Whether points of the frame, (N, 2) or with a slice (N, T, 2) in pixels, lie under ``layer``."""
    cv2 = need("cv2", extra="cpu")
    if layer.cover is None or not len(points):
        return np.ones(points.shape[:-1], bool)
    at = carried(np.linalg.inv(layer.to_frame[frame]), points).astype(np.float32)
    at = at.reshape(len(points), -1, 2)
    cover = cv2.remap(layer.cover, np.ascontiguousarray(at), None, cv2.INTER_LINEAR)
    return np.asarray(cover > 0.5).reshape(points.shape[:-1])


def follow(layers: Sequence[Layer], start: np.ndarray, born: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tracks of points seen at ``start`` (N, 2), pixels, in frame ``born``.

    Returns (points (N, T, 2) in pixels, occluded (N, T)). A point belongs to the topmost layer there.
    """
    points = np.zeros((len(start), len(layers[0].to_frame), 2))
    hidden = np.zeros(points.shape[:2], bool)
    free = np.ones(len(start), bool)
    for index in reversed(range(len(layers))):
        mine = np.flatnonzero(free & covered(layers[index], born, start))
        free[mine] = False
        at = carried(np.linalg.inv(layers[index].to_frame[born]), start[mine])
        points[mine] = carried(layers[index].to_frame, at[:, None])
        for above in layers[index + 1 :]:
            hidden[mine] |= covered(above, slice(None), points[mine])
    outside = ((points < -0.5) | (points > size - 0.5)).any(-1)
    return points, hidden | outside


def choose(rng: np.random.Generator, frame: np.ndarray, count: int) -> np.ndarray:
    """(count, 2) points of a frame (S, S, 3) in pixels: three of five at corners, the rest anywhere."""
    cv2 = need("cv2", extra="cpu")
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    features = cv2.goodFeaturesToTrack(grey, 4 * count, 0.02, 4)
    corners = np.zeros((0, 2)) if features is None else rng.permutation(np.asarray(features).reshape(-1, 2))
    anywhere = rng.uniform(2, len(frame) - 3, (count, 2))
    chosen = corners[: round(0.6 * count)]
    return rng.permutation(np.concatenate([chosen, anywhere])[:count])


def as_filmed(rng: np.random.Generator, frames: np.ndarray, harsh: float) -> np.ndarray:
    """What light and a camera do to clean frames; ``harsh`` 0 gives them back."""
    cv2 = need("cv2", extra="cpu")
    if harsh == 0:
        return frames
    light = 0.5 * harsh * np.tanh(wander(rng, len(frames), 2) * np.exp(rng.uniform(-6.5, -2.5)))
    blur = rng.uniform(0.3, 1.0) * harsh if rng.random() < 0.4 else 0.0
    noise = harsh * np.exp(rng.uniform(np.log(0.5), np.log(12)))
    quality = int(rng.integers(25, 90)) if rng.random() < 0.3 else None
    ramp = np.arange(256) / 255
    spoilt = []
    for frame, (gain, gamma) in zip(frames, light):
        seen = cv2.GaussianBlur(frame, (0, 0), blur) if blur else frame
        curve = (255 * np.exp(gain) * ramp ** np.exp(gamma)).astype(np.float32)
        grain = rng.standard_normal(frame.shape, dtype=np.float32) * np.float32(noise)
        seen = np.clip(curve[seen] + grain, 0, 255).astype(np.uint8)
        spoilt.append(seen if quality is None else _recoded(seen, quality))
    return np.stack(spoilt)


def _recoded(frame: np.ndarray, quality: int) -> np.ndarray:
    """The frame after JPEG at ``quality`` 0 to 100."""
    cv2 = need("cv2", extra="cpu")
    _, code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))


def batch(clips: Iterable[Rendered]) -> dict[str, Any]:
    """Clips of one scene side by side: arrays by the name of the field, with a first axis of clips."""
    clips = list(clips)
    return {name: np.stack([getattr(c, name) for c in clips]) for name in Rendered.__dataclass_fields__}

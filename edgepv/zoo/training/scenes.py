"""Rendered scenes with exact masks: things that move before a background, and the shadows they cast.

A scene is a picture that stands still or drifts slowly, as it is before a fixed camera, with things cut from
other pictures pasted into it: some stand, and are background; some move, and are not. Light, blur, noise and
JPEG blocks are those of ``motion``. The mask comes from the covers that were drawn, never from the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edgepv.base.optional import need
from edgepv.zoo.training.motion import as_filmed, blob, picture

BACKGROUND, MOVING, SHADOW = range(3)
"""What a mask says of a place."""
SIDE = 64
"""Height and width of the covers that things are cut with, before they are scaled."""


@dataclass(frozen=True)
class Scene:
    """What to render.

    height, width: of the frames, px. frames: of the clip. things: most that move; a tenth of the clips has
    none. size: (least, largest) height of a thing, and speed: (slowest, fastest), in image heights, per
    frame; both are drawn on a logarithmic scale. drift: chance that the camera is not fixed.
    """

    height: int = 96
    width: int = 96
    frames: int = 12
    things: int = 3
    size: tuple[float, float] = (0.12, 0.7)
    speed: tuple[float, float] = (0.01, 0.08)
    drift: float = 0.2


@dataclass(frozen=True)
class Drawn:
    """A clip and its truth. frames: (T, H, W, 3) uint8 RGB. masks: (T, H, W) uint8."""

    frames: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class _Thing:
    """Something that may move. texture (s, s, 3), cover (s, s) in [0, 1], places (T, 2, 3): to the frame."""

    texture: np.ndarray
    cover: np.ndarray
    places: np.ndarray


def _round(rng: np.random.Generator) -> np.ndarray:
    return blob(rng, SIDE)


def _angular(rng: np.random.Generator) -> np.ndarray:
    """A polygon of 3 to 7 corners around the middle."""
    count = int(rng.integers(3, 8))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count)) if count > 4 else np.arange(count) * 2 * np.pi / count
    radius = rng.uniform(0.55, 0.95, (count, 1)) * SIDE / 2
    return _filled([np.stack([np.cos(angle), np.sin(angle)], 1) * radius + SIDE / 2])


def _person(rng: np.random.Generator) -> np.ndarray:
    """Head, trunk, arms and legs, standing."""
    lean, stride = rng.uniform(-3, 3), rng.uniform(2, 9)
    head, hip, chest = (32 + lean, 9), (32, 36), (32 + lean, 19)
    limbs = [(chest, hip, 13), (hip, (32 - stride, 60), 6), (hip, (32 + stride, 60), 6)]
    limbs += [(chest, (32 + side * rng.uniform(7, 12), 37), 4) for side in (-1, 1)]
    return _filled([_ellipse(head, (5.5, 6.5)), *(_limb(*limb) for limb in limbs)])


def _vehicle(rng: np.random.Generator) -> np.ndarray:
    """A low body with a cabin on it and two wheels, seen from the side."""
    left, right = rng.uniform(12, 22), rng.uniform(42, 52)
    body = np.array([[4, 34], [60, 34], [60, 47], [4, 47]], float)
    cabin = np.array([[left, 34], [left + 6, 22], [right - 6, 22], [right, 34]], float)
    return _filled([body, cabin, *(_ellipse((x, 47), (5.5, 5.5)) for x in (16, 48))])


SHAPES: Mapping[str, tuple[Callable[[np.random.Generator], np.ndarray], ...]] = MappingProxyType(
    {"train": (_round, _angular), "test": (_person, _vehicle)}
)
"""How things are cut, by split: those that test are cut otherwise than those that train."""


def _ellipse(centre: tuple[float, float], radius: tuple[float, float]) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * radius + centre


def _limb(start: tuple[float, float], end: tuple[float, float], wide: float) -> np.ndarray:
    """A straight bar from one place to another."""
    way = np.subtract(end, start)
    across = np.array([-way[1], way[0]]) / np.linalg.norm(way) * wide / 2
    return np.array([start + across, end + across, end - across, start - across])


def _filled(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """(SIDE, SIDE) float32 in [0, 1]: these outlines together, with a soft edge."""
    cv2 = need("cv2", extra="cpu")
    cover = np.zeros((SIDE, SIDE), np.float32)
    for outline in outlines:
        cv2.fillPoly(cover, [np.rint(outline * 16).astype(np.int32)], 1.0, cv2.LINE_8, 4)
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.7), np.float32)


def woven(rng: np.random.Generator, side: int = 128) -> np.ndarray:
    """A picture (side, side, 3) rendered by code: noise of several sizes between two colours, or stripes."""
    cv2 = need("cv2", extra="cpu")
    one, other = rng.uniform(0, 255, (2, 3))
    if rng.random() < 0.3:
        x, y = np.meshgrid(np.arange(side), np.arange(side))
        turn, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(6), np.log(60)))
        share = 0.5 + 0.5 * np.sin(2 * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / period)
    else:
        share = np.zeros((side, side))
        for cells in (2, 4, 8, 16, 32):
            noise = rng.standard_normal((cells, cells)).astype(np.float32)
            share += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC) / cells**0.5
        share = (share - share.min()) / np.ptp(share)
    return np.asarray(one + share[..., None] * (other - one), np.uint8)


def render(
    rng: np.random.Generator,
    pictures: Sequence[np.ndarray],
    scene: Scene,
    shapes: str,
    places: Sequence[np.ndarray] = (),
) -> Drawn:
    """One random clip of ``scene`` and its masks.

    pictures: (H, W, 3) uint8 RGB. shapes: which of ``SHAPES`` things are cut by. places: pictures that what
    stands behind is one of; none: any, or one rendered by code.
    """
    behind = _background(rng, pictures, scene, shapes, places)
    count = 0 if rng.random() < 0.1 else int(rng.integers(1, scene.things + 1))
    things = [_thing(rng, pictures, scene, shapes, moves=True) for _ in range(count)]
    shade = rng.uniform(0.35, 0.75) if rng.random() < 0.7 else None
    fall = np.array([[1.0, rng.uniform(-0.9, 0.9)], [0.0, rng.uniform(0.15, 0.6)]])
    frames, masks = [], []
    for t in range(scene.frames):
        frame, mask = behind[t].astype(np.float32), np.full(behind.shape[1:3], BACKGROUND, np.uint8)
        if shade is not None:
            frame, mask = _shaded(frame, mask, [(one.cover, one.places[t]) for one in things], fall, shade)
        for one in things:
            frame, cover = _laid(frame, one, t)
            mask[cover > 0.5] = MOVING
        frames.append(frame.astype(np.uint8))
        masks.append(mask)
    return Drawn(as_filmed(rng, np.stack(frames), float(rng.uniform(0.2, 1.0))), np.stack(masks))


def _background(
    rng: np.random.Generator,
    pictures: Sequence[np.ndarray],
    scene: Scene,
    shapes: str,
    places: Sequence[np.ndarray],
) -> np.ndarray:
    """(T, H, W, 3) uint8: a picture with things that stand in it, seen by a camera that may drift."""
    cv2 = need("cv2", extra="cpu")
    wide = max(scene.height, scene.width) + 16
    square = picture(rng, places, wide) if places else texture(rng, pictures, wide)
    still = square[: scene.height + 16, : scene.width + 16].astype(np.float32)
    for _ in range(int(rng.integers(0, 4))):
        still, _cover = _laid(still, _thing(rng, pictures, scene, shapes, moves=False), 0)
    way = np.zeros((scene.frames, 2))
    if rng.random() < scene.drift:
        way = np.arange(scene.frames)[:, None] * rng.normal(0, 0.4, 2)
    way += rng.normal(0, 0.15, way.shape) if rng.random() < 0.3 else 0.0
    moves = [np.array([[1, 0, -8 + x], [0, 1, -8 + y]]) for x, y in way]
    size = (scene.width, scene.height)
    still = still.astype(np.uint8)
    return np.stack([cv2.warpAffine(still, m, size, borderMode=cv2.BORDER_REFLECT_101) for m in moves])


def texture(rng: np.random.Generator, pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """(side, side, 3) uint8 of a picture, or rendered by code; one in four is given another colour."""
    square = picture(rng, [woven(rng)] if rng.random() < 0.3 else pictures, side)
    if rng.random() < 0.25:
        return np.asarray(np.clip(square * rng.uniform(0.4, 1.5, 3), 0, 255), np.uint8)
    return square


def _thing(
    rng: np.random.Generator, pictures: Sequence[np.ndarray], scene: Scene, shapes: str, *, moves: bool
) -> _Thing:
    """Something cut from a picture, with its places in every frame."""
    choices = SHAPES[shapes]
    cover = choices[int(rng.integers(len(choices)))](rng)
    tall = scene.height * float(np.exp(rng.uniform(*np.log(scene.size))))
    places = _places(rng, scene, tall, moves)
    return _Thing(texture(rng, pictures, SIDE), cover, places)


def _places(rng: np.random.Generator, scene: Scene, tall: float, moves: bool) -> np.ndarray:
    """(T, 2, 3): affine maps from a cover to the frame, along a path that bends a little and never stops."""
    t = np.arange(scene.frames) - scene.frames * rng.uniform(0, 1)
    speed = scene.height * float(np.exp(rng.uniform(*np.log(scene.speed)))) if moves else 0.0
    angle = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.02) * t
    sway = rng.uniform(0, 0.15) * np.sin(2 * np.pi * t / rng.uniform(6, 20) + rng.uniform(0, 2 * np.pi))
    grow = tall / SIDE * np.exp(rng.normal(0, 0.01) * t) if moves else np.full(len(t), tall / SIDE)
    middle = rng.uniform(0.1, 0.9, 2) * [scene.width, scene.height]
    path = middle + (t * speed)[:, None] * np.stack([np.cos(angle), 0.6 * np.sin(angle)], 1)
    lean = sway if moves else np.zeros_like(sway)
    stretch = rng.uniform(0.7, 1.3)
    maps = np.zeros((len(t), 2, 3))
    maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 1] = grow * stretch, grow * lean, grow
    maps[:, :, 2] = path - (maps[:, :, :2] * (SIDE / 2)).sum(2)
    return maps


def _laid(frame: np.ndarray, one: _Thing, t: int) -> tuple[np.ndarray, np.ndarray]:
    """(the frame with a thing on it, float32; where it is (H, W) in [0, 1])."""
    cv2 = need("cv2", extra="cpu")
    size = frame.shape[1::-1]
    cover = cv2.warpAffine(one.cover, one.places[t], size)
    shown = cv2.warpAffine(one.texture, one.places[t], size, borderMode=cv2.BORDER_REFLECT_101)
    return frame + cover[..., None] * (shown - frame), cover


def _shaded(
    frame: np.ndarray,
    mask: np.ndarray,
    covers: Sequence[tuple[np.ndarray, np.ndarray]],
    fall: np.ndarray,
    shade: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The frame and mask with the shadows of these covers: each falls from the foot of its cover.

    fall: (2, 2) what the sun makes of an upright thing. shade: share of the light that is left.
    """
    cv2 = need("cv2", extra="cpu")
    size = frame.shape[1::-1]
    dark = np.zeros(frame.shape[:2], np.float32)
    for cover, place in covers:
        foot = place @ [SIDE / 2, 0.93 * SIDE, 1.0]
        down = np.concatenate([fall @ place[:, :2], np.zeros((2, 1))], 1)
        down[:, 2] = foot - down[:, :2] @ [SIDE / 2, 0.93 * SIDE]
        dark = np.maximum(dark, cv2.GaussianBlur(cv2.warpAffine(cover, down, size), (0, 0), 0.8))
    mask = np.where(dark > 0.5, SHADOW, mask).astype(np.uint8)
    return frame * (1 - (1 - shade) * dark[..., None]), mask

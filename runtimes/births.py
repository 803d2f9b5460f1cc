"""Birth and death of particles, decided on the host and written into two states of the model.

A tracker follows a fixed number of places. Which of them hold a particle is the host's to say, in the
state ``life``: 2 for a particle born now at its ``position``, 1 for one that goes on, -1 for an empty place.
After each frame ``Births`` looks at what the model answered, empties the places of particles that were lost,
and fills empty ones with corners of the picture that nobody follows yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepv.base.optional import need
from edgepv.errors import UsageError

BORN, GOING, EMPTY = 2.0, 1.0, -1.0
"""What ``life`` says at the start of a step."""

LOOK = 192
"""Height, in pixels, of the picture in which corners are looked for."""


@dataclass(frozen=True)
class Policy:
    """When particles die and where they are born. Lengths are in image heights, times in frames.

    seen: a visibility above this counts as seen. patience: frames not seen before a particle dies. margin:
    how far outside the frame it may go. jump: the fastest it may move while seen; more is a mistake. touch:
    of two seen particles closer than this the younger dies. apart: least distance of a new one from all
    others and from the border. every: frames between two looks for new ones. quality: least strength
    of a corner, as a share of the strongest.
    """

    seen: float = 0.5
    patience: int = 12
    margin: float = 0.02
    jump: float = 0.15
    touch: float = 0.008
    apart: float = 0.06
    every: int = 5
    quality: float = 0.02


@dataclass(frozen=True)
class Followed:
    """A living particle.

    Its place in the model, its id, how many frames it has been followed, where it is (x, y) in image heights,
    and its visibility in [0, 1].
    """

    place: int
    id: int
    age: int
    position: tuple[float, float]
    visibility: float


class Births:
    """Bears and kills the particles of a model with ``count`` places. An id is never given twice.

    aspect: width / height of the frames the model sees. limit: most particles alive at once, None for all
    places. Raises UsageError if there is no place, or a limit above the places.
    """

    def __init__(
        self, count: int, *, aspect: float = 1.0, policy: Policy | None = None, limit: int | None = None
    ) -> None:
        self._limit = count if limit is None else limit
        if count < 1 or not 0 < self._limit <= count:
            raise UsageError(f"{self._limit} particles in {count} places: give 1 to {count}")
        self._count, self._aspect, self._policy = count, aspect, policy or Policy()
        self.reset()

    def reset(self) -> None:
        """Forget all particles and begin anew at the next frame; ids go on where they were."""
        self._next = getattr(self, "_next", 0)
        self._frames = 0
        self._ids = np.full(self._count, -1)
        self._age = np.zeros(self._count, int)
        self._unseen = np.zeros(self._count, int)
        self._tracks = np.zeros((self._count, 3), np.float32)

    @property
    def ids(self) -> np.ndarray:
        """(count,) the id of the particle in each place, -1 where there is none."""
        return self._ids.copy()

    @property
    def followed(self) -> tuple[Followed, ...]:
        """The particles that the model has followed through at least one frame, by place."""
        old = np.flatnonzero((self._ids >= 0) & (self._age > 0))
        return tuple(
            Followed(
                int(k),
                int(self._ids[k]),
                int(self._age[k]),
                (float(self._tracks[k, 0]), float(self._tracks[k, 1])),
                float(self._tracks[k, 2]),
            )
            for k in old
        )

    def update(self, tracks: np.ndarray | None, frame: np.ndarray) -> dict[str, np.ndarray]:
        """What to write into the model's states before its next step, by name; empty to leave them alone.

        tracks: (1, count, 3 or more), what the model answered to ``frame``: x, y in image heights first,
        the visibility last; None before the first step. frame: (H, W, 3) uint8, BGR, as the model saw it but
        of any size. Returns "position" (1, count, 2) and "life" (1, count, 1), float32.
        Raises UsageError if there are not ``count`` tracks.
        """
        changed = tracks is None
        if tracks is not None:
            changed = self._bury(self._checked(tracks))
        born = np.zeros(0, int)
        if self._frames % self._policy.every == 0:
            born = self._bear(frame)
        self._frames += 1
        if not changed and not len(born):
            return {}
        life = np.where(self._ids >= 0, GOING, EMPTY).astype(np.float32)
        life[born] = BORN
        return {"position": self._tracks[None, :, :2].copy(), "life": life[None, :, None]}

    def _checked(self, tracks: np.ndarray) -> np.ndarray:
        """(count, 3) of x, y, visibility."""
        if tracks.ndim != 3 or tracks.shape[:2] != (1, self._count) or tracks.shape[2] < 3:
            raise UsageError(f"expected tracks (1, {self._count}, 3), got {tracks.shape}")
        return tracks[0][:, [0, 1, -1]].astype(np.float32)

    def _bury(self, tracks: np.ndarray) -> bool:
        """Take the model's answer and empty the places of those who died; whether anybody did."""
        living = self._ids >= 0
        moved = np.linalg.norm(tracks[:, :2] - self._tracks[:, :2], axis=1)
        seen = tracks[:, 2] > self._policy.seen
        self._unseen = np.where(seen, 0, self._unseen + 1)
        self._age += living
        self._tracks = np.where(living[:, None], tracks, self._tracks).astype(np.float32)
        dead = ~np.isfinite(tracks).all(1)
        dead |= self._unseen >= self._policy.patience
        dead |= seen & (moved > self._policy.jump)
        dead |= self._outside(tracks[:, :2], self._policy.margin)
        dead &= living
        dead |= self._touching(living & seen & ~dead)
        self._tracks[dead] = 0
        self._ids[dead] = -1
        return bool(dead.any())

    def _outside(self, at: np.ndarray, margin: float) -> np.ndarray:
        """(n,) whether points (n, 2) lie more than ``margin`` outside the frame."""
        size = np.array([self._aspect, 1.0])
        return np.asarray(((at < -margin) | (at > size + margin)).any(1))

    def _touching(self, those: np.ndarray) -> np.ndarray:
        """(count,) who dies because an older one of ``those`` is at the same spot."""
        at = self._tracks[:, :2]
        close = np.linalg.norm(at[:, None] - at[None], axis=-1) < self._policy.touch
        older = self._ids[None] < self._ids[:, None]
        return np.asarray((close & older & those[None] & those[:, None]).any(1))

    def _bear(self, frame: np.ndarray) -> np.ndarray:
        """Fill empty places with new corners; the places filled."""
        empty = np.flatnonzero(self._ids < 0)
        wanted = min(len(empty), self._limit - int((self._ids >= 0).sum()))
        if wanted <= 0:
            return np.zeros(0, int)
        corners = self._corners(frame)
        taken = self._tracks[self._ids >= 0, :2]
        for point in corners:
            if wanted <= 0:
                break
            if len(taken) and np.linalg.norm(taken - point, axis=1).min() < self._policy.apart:
                continue
            taken = np.concatenate([taken, point[None]])
            place = empty[0]
            empty = empty[1:]
            wanted -= 1
            self._tracks[place] = (*point, 1.0)
            self._ids[place], self._age[place], self._unseen[place] = self._next, 0, 0
            self._next += 1
        return np.flatnonzero((self._ids >= 0) & (self._age == 0))

    def _corners(self, frame: np.ndarray) -> np.ndarray:
        """(n, 2) corners of a picture in image heights, the strongest first, away from the border.

        Source: Shi & Tomasi 1994, "Good Features to Track".
        """
        cv2 = need("cv2", extra="cpu")
        size = (max(8, round(LOOK * self._aspect)), LOOK)
        grey = cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
        apart = self._policy.apart
        corners = cv2.goodFeaturesToTrack(grey, 4 * self._count, self._policy.quality, apart * LOOK)
        if corners is None:
            return np.zeros((0, 2), np.float32)
        at = ((np.asarray(corners).reshape(-1, 2) + 0.5) / LOOK).astype(np.float32)
        return at[~self._outside(at, -apart)]

"""Point tracking measured: ``python benchmarks/track.py --data DIR``, results in benchmarks/track.json.

Trackers: pv-track-nano and -small; OpenCV's pyramidal Lucas-Kanade from frame to frame, at the same two
sizes and at 256 px; the same at 256 px with a Kalman filter that carries a point through what hides it; and a
point that does not move. Clips: rendered from pictures no training has seen; photographs moved by known
homographies; real videos, there and back; scenes that go to and fro for 1,000 frames. All errors are in
pixels of a frame 256 high. Intervals are 95 % bootstrap intervals over clips.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import measured_at
import numpy as np
import torch

from edgepv.export.to_onnx import lower
from edgepv.model.checkpoint import build, from_files
from edgepv.quantize import int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.runtimes.births import BORN, EMPTY, GOING
from edgepv.stream import Stepper
from edgepv.types import TensorSpec, Variant
from edgepv.zoo import HERE as ZOO
from edgepv.zoo.training import track as tt
from edgepv.zoo.training.motion import Rendered, Scene, read_pictures, render

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "natural"
SIZE = 256
PLACES = 64
Tracker = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(frames (T, 256, 256, 3) RGB, start (N, 2) image heights, birth (N,)) -> tracks (T, N, 3)."""

LK = {
    "winSize": (21, 21),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01),
}
BACK = 1.0
"""Pixels that a point may miss its start by, tracked there and back, and still count as seen."""


def shrunk(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames (T, H, W, 3) at size x size."""
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack([cv2.resize(f, (size, size), interpolation=cv2.INTER_AREA) for f in frames])


class Learned:
    """A trained pv-track as it is shipped: a float ONNX file in ONNX Runtime, written to as a host does.

    Places that no point needs stay empty. ``fed`` collects what the engine was fed, if it is a list.
    """

    def __init__(self, variant: Variant, folder: Path) -> None:
        self.variant, self.engine = variant, open_engine(variant, folder)
        self.fed: list[dict[str, np.ndarray]] | None = None

    def __call__(self, frames: np.ndarray, start: np.ndarray, birth: np.ndarray) -> np.ndarray:
        """Tracks (T, N, 3) of points born at ``start`` (N, 2) in the frames ``birth`` (N,)."""
        spec = self.variant.spec
        stepper = Stepper(self.engine.infer, spec, self.variant.stream)
        position = np.zeros((1, PLACES, 2), np.float32)
        life = np.full((1, PLACES, 1), EMPTY, np.float32)
        found = []
        for now, frame in enumerate(tt.normalised(shrunk(frames, spec.input.shape[-1])).numpy()):
            new = np.flatnonzero(birth == now)
            if len(new):
                position[0, new], life[0, new] = start[new], BORN
                stepper.write("position", position)
                stepper.write("life", life)
            given = stepper.feeds(frame[None])
            assert given is not None
            if self.fed is not None:
                self.fed.append({name: np.array(value) for name, value in given.items()})
            tracks = stepper.run(given)["tracks"].copy()
            found.append(tracks[0, : len(start)])
            position, life[0, new] = tracks[..., :2].copy(), GOING
        return np.stack(found)


def learned(name: str, weights: Path, folder: Path) -> Learned:
    """The tracker ``name``, lowered into ``folder`` with ``PLACES`` places."""
    answers = (TensorSpec("tracks", (1, PLACES, 3), "NKC"),)
    what = replace(tt.spec(name), outputs=answers, particles=PLACES)
    builder = f"edgepv.zoo.pv_track:{tt.RECIPES[name].builder.__name__}"
    source = from_files(builder, weights / f"{name}.safetensors", what, trust_pickle=False)
    return Learned(lower(build(source), what, folder / f"{name}.onnx"), folder)


def grey(frames: np.ndarray) -> list[np.ndarray]:
    """Frames without colour."""
    return [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]


def flow(
    one: np.ndarray, two: np.ndarray, at: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lucas-Kanade of points (N, 2), pixels, from one picture to the next, begun at ``guess``.

    Returns (where they are, whether the way back ends where it began).
    """
    old, first = (np.ascontiguousarray(p[:, None], np.float32) for p in (at, guess))
    new, ok, _ = cv2.calcOpticalFlowPyrLK(
        one, two, old, first.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **LK
    )
    back, fine, _ = cv2.calcOpticalFlowPyrLK(
        two, one, new, old.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **LK
    )
    good = (ok[:, 0] == 1) & (fine[:, 0] == 1) & (np.linalg.norm(back - old, axis=-1)[:, 0] < BACK)
    size = np.array(two.shape[::-1])
    return new[:, 0], good & ((new[:, 0] > -0.5) & (new[:, 0] < size - 0.5)).all(1)


def lucas_kanade(size: int) -> Tracker:
    """OpenCV's pyramidal Lucas-Kanade from frame to frame, on frames of ``size``."""

    def track(frames: np.ndarray, start: np.ndarray, birth: np.ndarray) -> np.ndarray:
        pictures = grey(shrunk(frames, size))
        at = start * size - 0.5
        seen = np.ones(len(start), bool)
        found = []
        for now, picture in enumerate(pictures):
            going = birth < now
            if going.any():
                new, good = flow(pictures[now - 1], picture, at[going], at[going])
                at[going], seen[going] = new, good
            found.append(np.concatenate([(at + 0.5) / size, seen[:, None]], 1))
        return np.stack(found)

    return track


class Kalman:
    """Constant-velocity filters of N points along both axes; positions in pixels, times in frames.

    Source: Kalman 1960; the acceleration is white noise of ``shake`` pixels per frame squared, a measured
    position is off by ``blur`` pixels.
    """

    def __init__(self, at: np.ndarray, shake: float = 0.5, blur: float = 0.3) -> None:
        self.state = np.concatenate([at, np.zeros_like(at)], 1).reshape(-1, 2, 2).transpose(0, 2, 1).copy()
        self.cover = np.tile(np.diag([blur**2, 25.0]), (len(at), 1, 1))
        self.move = np.array([[1.0, 1.0], [0.0, 1.0]])
        self.noise = shake**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
        self.blur = blur**2

    def predict(self, those: np.ndarray) -> np.ndarray:
        """Move ``those`` points one frame on; (n, 2) where they are expected."""
        self.state[those] = self.state[those] @ self.move.T
        self.cover[those] = self.move @ self.cover[those] @ self.move.T + self.noise
        return self.state[those, :, 0]

    def correct(self, those: np.ndarray, at: np.ndarray) -> None:
        """Take in measured positions (n, 2)."""
        gain = self.cover[those, :, 0] / (self.cover[those, 0, 0] + self.blur)[:, None]
        miss = at - self.state[those, :, 0]
        self.state[those] += miss[..., None] * gain[:, None]
        self.cover[those] -= gain[..., None] * self.cover[those, 0][:, None]


def alike(one: np.ndarray, p: np.ndarray, two: np.ndarray, q: np.ndarray) -> float:
    """Correlation of the 15 x 15 pixels around p in one picture and around q in the other."""
    a, b = (cv2.getRectSubPix(f, (15, 15), (float(x[0]), float(x[1]))) for f, x in ((one, p), (two, q)))
    return float(cv2.matchTemplate(b, a, cv2.TM_CCOEFF_NORMED)[0, 0])


def lucas_kanade_kalman(frames: np.ndarray, start: np.ndarray, birth: np.ndarray) -> np.ndarray:
    """Lucas-Kanade begun where a Kalman filter expects the point, from the last frame it was seen in.

    A measurement counts if the way back ends where it began and the pixels around are alike (0.7);
    otherwise the filter goes on alone and the point counts as hidden.
    """
    pictures = grey(shrunk(frames, SIZE))
    at = start * SIZE - 0.5
    filters = Kalman(at)
    last, frame_of = at.copy(), birth.copy()
    seen, found = np.ones(len(start), bool), []
    for now, picture in enumerate(pictures):
        going = np.flatnonzero(birth < now)
        if len(going):
            at[going] = filters.predict(going)
            seen[going] = False
        for before in np.unique(frame_of[going]):
            mine = going[frame_of[going] == before]
            new, good = flow(pictures[before], picture, last[mine], at[mine])
            pairs = zip(last[mine], new, good)
            good = np.array([g and alike(pictures[before], p, picture, q) > 0.7 for p, q, g in pairs])
            kept = mine[good]
            filters.correct(kept, new[good])
            at[kept], last[kept], frame_of[kept], seen[kept] = new[good], new[good], now, True
        found.append(np.concatenate([(at + 0.5) / SIZE, seen[:, None]], 1))
    return np.stack(found)


def still(frames: np.ndarray, start: np.ndarray, birth: np.ndarray) -> np.ndarray:
    """Points that stay where they were born and are always seen."""
    row = np.concatenate([start, np.ones((len(start), 1))], 1)
    return np.repeat(row[None], len(frames), 0)


def photographs(data: Path) -> list[Rendered]:
    """The clips of data/point_tracks, each point born in the first frame in which it is visible."""
    clips = []
    for file in sorted((data / "point_tracks").glob("*.npz")):
        truth = np.load(file)
        capture = cv2.VideoCapture(str(file.with_suffix(".mp4")))
        frames = np.stack([capture.read()[1][..., ::-1] for _ in range(truth["points"].shape[1])])
        shown = ~truth["occluded"]
        use = shown[:, :-1].any(1)
        points = ((truth["points"][use] + 0.5) / SIZE).astype(np.float32)
        clips.append(Rendered(frames, points, truth["occluded"][use], shown[use].argmax(1)))
    return clips


def interval(rows: Sequence[np.ndarray], draws: int = 2000) -> dict[str, Any]:
    """Score over the points of all clips, with 95 % bootstrap intervals over clips."""
    rng = np.random.default_rng(0)
    drawn = [
        list(asdict(tt.track_score(np.concatenate([rows[i] for i in pick]))).values())
        for pick in rng.integers(len(rows), size=(draws, len(rows)))
    ]
    low, high = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    values = asdict(tt.track_score(np.concatenate(rows)))
    return {
        name: {"value": value, "low": round(float(a), 4), "high": round(float(b), 4)}
        for (name, value), a, b in zip(values.items(), low, high)
    }


def compared(trackers: dict[str, Tracker], clips: Sequence[Rendered]) -> dict[str, Any]:
    """Every tracker on every clip."""
    table: dict[str, Any] = {
        "clips": len(clips),
        "points": sum(len(c.birth) for c in clips),
        "frames": len(clips[0].frames),
        "hidden": round(float(np.mean(np.concatenate([c.occluded.ravel() for c in clips]))), 3),
    }
    for name, track in trackers.items():
        begun = time.perf_counter()
        rows = [
            tt.per_point(track(c.frames, tt.starts(c).astype(float), c.birth), c.points, c.occluded, c.birth)
            for c in clips
        ]
        table[name] = interval(rows)
        said = {k: v["value"] for k, v in table[name].items()}
        print(f"  {name}: {said}  {time.perf_counter() - begun:.0f} s", flush=True)
    return table


def windows(path: Path, count: int, length: int) -> list[np.ndarray]:
    """``count`` runs of ``length`` frames spread over a video, (length, 256, 256, 3) RGB."""
    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = np.linspace(0, total - length - 1, count).astype(int)
    found = []
    for first in wanted:
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(first))
        read = [capture.read()[1] for _ in range(length)]
        found.append(shrunk(np.stack(read)[..., ::-1], SIZE))
    return found


def there_and_back(
    trackers: dict[str, Tracker], data: Path, length: int = 24, points: int = 32
) -> dict[str, Any]:
    """Corners of real frames tracked ``length`` frames on and back: how far from their start they end.

    Consistent is not correct: what never moves is perfectly consistent. So the way gone is told as well.
    """
    runs = {
        path.name: windows(path, 8, length)
        for path in (
            data / "stream" / "car-detection.mp4",
            data / "stream" / "one-by-one-person-detection.mp4",
            data / "clips" / "bikes.mp4",
        )
    }
    table: dict[str, Any] = {"frames": length, "windows": 8}
    for name, track in trackers.items():
        table[name] = {}
        for video, clips in runs.items():
            ends, ways = [], []
            for frames in clips:
                found = cv2.goodFeaturesToTrack(grey(frames[:1])[0], points, 0.01, 8)
                start = (np.asarray(found).reshape(-1, 2) + 0.5) / SIZE
                loop = np.concatenate([frames, frames[-2::-1]])
                tracks = track(loop, start, np.zeros(len(start), int))
                ends.append(SIZE * np.linalg.norm(tracks[-1, :, :2] - start, axis=1))
                ways.append(SIZE * np.linalg.norm(tracks[length - 1, :, :2] - start, axis=1))
            table[name][video] = ends_told(ends, ways)
        print(f"  {name}: {table[name]}", flush=True)
    return table


def ends_told(ends: Sequence[np.ndarray], ways: Sequence[np.ndarray]) -> dict[str, Any]:
    """Figures of one video: shares with bootstrap intervals over windows."""
    rng = np.random.default_rng(0)
    picks = [rng.integers(len(ends), size=len(ends)) for _ in range(2000)]
    shares = [float((np.concatenate([ends[i] for i in pick]) < 4).mean()) for pick in picks]
    every, far = np.concatenate(ends), np.concatenate(ways)
    return {
        "points": len(every),
        "median_px": round(float(np.median(every)), 3),
        "within_4_px": round(float((every < 4).mean()), 3),
        "within_4_px_interval": [round(float(v), 3) for v in np.percentile(shares, [2.5, 97.5])],
        "moved_median_px": round(float(np.median(far)), 2),
        "moved_p90_px": round(float(np.percentile(far, 90)), 2),
    }


FRAMES_TOLD = (1, 10, 30, 100, 300, 600, 1000)


def drift(trackers: dict[str, Tracker], data: Path, clips: int = 2) -> dict[str, Any]:
    """Error by frame over 1,000 frames of scenes that go to and fro, 40 frames each way; visible points.

    The median and the share within 8 px are over the visible points of the 20 frames up to each frame told.
    """
    scene = Scene(size=SIZE, frames=1001, points=32, period=41, late=0.0, speed=(0.002, 0.015))
    pictures = read_pictures(data, "test")
    made = [render(np.random.default_rng((5, i)), pictures, scene) for i in range(clips)]
    table: dict[str, Any] = {"clips": clips, "points": clips * scene.points}
    for name, track in trackers.items():
        rows: dict[str, Any] = {}
        errors, shown = [], []
        for clip in made:
            tracks = track(clip.frames, tt.starts(clip).astype(float), clip.birth)
            errors.append(SIZE * np.linalg.norm(tracks[..., :2] - clip.points.transpose(1, 0, 2), axis=-1))
            shown.append(~clip.occluded.T)
        error, seen = np.concatenate(errors, 1), np.concatenate(shown, 1)
        for frame in FRAMES_TOLD:
            span = slice(max(1, frame - 19), frame + 1)
            e = error[span][seen[span]]
            rows[str(frame)] = {
                "median_px": round(float(np.median(e)), 3),
                "within_8_px": round(float((e < 8).mean()), 3),
            }
        table[name] = rows
        print(f"  {name}: {rows}", flush=True)
    return table


def int8(plain: Learned, folder: Path, data: Path, clips: Sequence[Rendered]) -> dict[str, Any]:
    """What INT8 convolutions in the encoder do to positions; everything after the encoder stays float.

    Both files run in ONNX Runtime from their own states. Ranges come from 4 clips of training pictures, every
    other frame. The second row also keeps float what comes before the first convolution.
    """
    pictures = read_pictures(data, "train")
    plain.fed = []
    for i in range(4):
        clip = render(np.random.default_rng((9, i)), pictures, Scene(size=SIZE, frames=24))
        plain(clip.frames, tt.starts(clip), clip.birth)
    feeds, plain.fed = plain.fed[::2], None
    table: dict[str, Any] = {"feeds": len(feeds)}
    for told, keep in (
        ("encoder", ()),
        ("convolutions only", before_first_convolution(folder / plain.variant.path)),
    ):
        step = int8_onnx.Step(keep_float=keep)
        small = step(plain.variant, folder / "int8.onnx", Calibration(folder, feeds, "renders"))
        table[told] = against(plain, Learned(small, folder), clips)
        print(f"  INT8 {told}: {table[told]}", flush=True)
    return table


def before_first_convolution(path: Path) -> tuple[str, ...]:
    """Names of the nodes of an ONNX file that work on the frame before any convolution."""
    import onnx

    nodes = onnx.load(path).graph.node
    first = next(i for i, node in enumerate(nodes) if node.op_type == "Conv")
    return tuple(node.name for node in nodes[:first])


def against(plain: Tracker, quantized: Tracker, clips: Sequence[Rendered]) -> dict[str, Any]:
    """Two trackers on the same clips: scores, and how far apart their positions of visible points are."""
    apart: list[np.ndarray] = []
    both: list[list[np.ndarray]] = [[], []]
    for clip in clips:
        found = [track(clip.frames, tt.starts(clip), clip.birth) for track in (plain, quantized)]
        shown = ~clip.occluded.T
        apart.append(SIZE * np.linalg.norm(found[0][..., :2] - found[1][..., :2], axis=-1)[shown])
        for rows, tracks in zip(both, found):
            rows.append(tt.per_point(tracks, clip.points, clip.occluded, clip.birth))
    gap = np.concatenate(apart)
    return {
        "apart_median_px": round(float(np.median(gap)), 3),
        "apart_p95_px": round(float(np.percentile(gap, 95)), 3),
        "float": interval(both[0]),
        "int8": interval(both[1]),
    }


def main() -> int:
    """Measure and write; parts that are not asked for stay as they were in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--weights", type=Path, default=ZOO / "weights")
    parser.add_argument("--out", type=Path, default=HERE / "track.json")
    parser.add_argument("--parts", nargs="+", default=["rendered", "photographs", "real", "drift", "int8"])
    parser.add_argument("--models", nargs="*", help="default: those with weights")
    parser.add_argument("--no-others", action="store_true", help="measure the models only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        there = [name for name in tt.RECIPES if (args.weights / f"{name}.safetensors").is_file()]
        names = there if args.models is None else args.models
        models = {name: learned(name, args.weights, Path(scratch)) for name in names}
        others = {} if args.no_others else OTHERS
        measure(models, others, args.parts, Path(scratch), args.data, args.out)
    return 0


OTHERS: dict[str, Tracker] = {
    "lk-256": lucas_kanade(256),
    "lk-192": lucas_kanade(192),
    "lk-128": lucas_kanade(128),
    "lk-kalman-256": lucas_kanade_kalman,
    "still": still,
}


def measure(
    models: dict[str, Learned],
    others: dict[str, Tracker],
    wanted: Sequence[str],
    folder: Path,
    data: Path,
    out: Path,
) -> None:
    """Run the parts that are wanted; rows of other parts and other trackers stay as they are in ``out``."""
    few = {name: others[name] for name in ("lk-256", "lk-kalman-256") if name in others}
    held = tt.held_out(data, Scene(size=SIZE, frames=48, points=32), 24)
    parts: dict[str, Callable[[], Any]] = {
        "rendered": lambda: compared(models | others, held),
        "photographs": lambda: compared(models | others, photographs(data)),
        "real": lambda: there_and_back(models | few, data),
        "drift": lambda: drift(models | few, data),
        "int8": lambda: {name: int8(model, folder, data, held[:12]) for name, model in models.items()},
    }
    result = json.loads(out.read_text()) if out.is_file() else {}
    result["threads"] = 1
    for part in wanted:
        print(part, flush=True)
        result[part] = result.get(part, {}) | parts[part]()
        result["measured_at"] = result.get("measured_at", {}) | {part: measured_at.now()}
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())

"""How well persons are followed and covered, into people.json: numbers that change, and who is not covered.

    python benchmarks/people.py --videos DIR --pictures DIR --face FILE [--others DIR]
    python benchmarks/people.py --alarms
    python benchmarks/people.py --time

videos: holds vtest.avi with vtest_person_detections.csv (frame, x, y, w, h, score) and
one-by-one-person-detection.mp4, in which 6 persons come one after the other. pictures: a folder "images" and
persons.csv (image, cx, cy, w, h as shares). face: carphone_pristine.mp4, one face in every frame. others:
where supervision 0.25 and norfair 2.3 lie. alarms: only how many persons enter where there are only cars, of
the film that comes with edgepv: six clips, forth and back, each time in another light and noise. time: only
what covering costs, on a quiet machine: ms of a frame through the person detector that runs, and of its
picture as it may leave, with nothing, persons or faces covered, in turns, on the film of the second demo at
its size and at full HD. Decoding and encoding are not in it.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import measured_at
import numpy as np

from edgepv.data.boxes import Detections
from edgepv.device.finders import FACES, SCORE, Persons, open_cover
from edgepv.measure.latency import SURE_BUDGET_S, SURE_CALLS, interleaved
from edgepv.model.spec import read_spec
from edgepv.runtimes.events.rules import Covered, LiveConfig, Rules, Zone, read_rules
from edgepv.runtimes.events.tracks import LOST_S, SURE, Tracker, overlaps
from edgepv.runtimes.events.watch import Events
from edgepv.runtimes.output import Output
from edgepv.runtimes.picture.cover import GREY, covered
from edgepv.runtimes.picture.faces import Faces
from edgepv.stream import Tensors
from edgepv.types import encode
from edgepv.zoo import HERE, detector

FPS, SCENES, PEOPLE, FRAMES = 10, 6, 12, 300
EVERY = 4
"""Of vtest.avi every fourth frame is looked at, of the first twenty seconds."""
MINUTES = 10
"""Of film without a person."""
ROOT = Path(__file__).resolve().parents[1]
FULL_HD = (1920, 1080)
WAYS: dict[str, tuple[Covered, ...]] = {"none": (), "person": ("person",), "face": ("face",)}
HIDDEN = 0.8
"""A person is covered if so much of the box is."""
Follow = Callable[[list[Detections]], list[np.ndarray]]


def ours(frames: list[Detections]) -> list[np.ndarray]:
    tracker = Tracker()
    return [tracker.step(k / FPS, frame).ids for k, frame in enumerate(frames)]


def supervision(frames: list[Detections]) -> list[np.ndarray]:
    sv = importlib.import_module("supervision")
    tracker = sv.ByteTrack(
        frame_rate=FPS, lost_track_buffer=int(30 * LOST_S), track_activation_threshold=SURE
    )
    given = []
    for frame in frames:
        ids = np.full(len(frame), -1)
        kept = tracker.update_with_detections(
            sv.Detections(
                xyxy=1000 * frame.boxes, confidence=frame.scores, class_id=frame.labels.astype(int),
                data={"place": np.arange(len(frame))},
            )
        )  # fmt: skip
        if len(kept):
            ids[kept.data["place"]] = kept.tracker_id
        given.append(ids)
    return given


def norfair(frames: list[Detections]) -> list[np.ndarray]:
    nf = importlib.import_module("norfair")
    tracker = nf.Tracker("iou", 0.8, hit_counter_max=int(FPS * LOST_S), initialization_delay=1)
    given = []
    for frame in frames:
        found = [
            nf.Detection(1000 * box.reshape(2, 2), np.full(2, score), data=place)
            for place, (box, score) in enumerate(zip(frame.boxes, frame.scores))
            if score >= SURE
        ]
        ids = np.full(len(frame), -1)
        for one in tracker.update(found):
            if one.id is not None and any(one.last_detection is d for d in found):
                ids[one.last_detection.data] = one.id
        given.append(ids)
    return given


def crowd(seed: int) -> tuple[list[Detections], list[np.ndarray]]:
    """Who walks about, one box in ten missed, and who is behind whom half or wholly hidden; whose boxes."""
    draw = np.random.default_rng(seed)
    tall = draw.uniform(0.15, 0.3, PEOPLE)
    size = np.stack([tall / 4, tall], 1)
    place, speed = draw.uniform([0.1, 0.3], 0.9, (PEOPLE, 2)), draw.normal(0, [0.08, 0.03], (PEOPLE, 2))
    frames, whose = [], []
    for _ in range(FRAMES):
        speed = speed + draw.normal(0, [0.01, 0.004], (PEOPLE, 2))
        place = place + speed / FPS
        outside = (place < [0.05, 0.3]) | (place > 0.95)
        speed, place = np.where(outside, -speed, speed), place.clip([0.05, 0.3], 0.95)
        boxes = np.concatenate([place - size * [0.5, 1], place + size * [0.5, 0]], 1)
        behind = (overlaps(boxes, boxes) * (place[:, 1] > place[:, 1:])).max(1)
        scores = np.where(behind > 0.25, 0.3, 0.9) * (behind < 0.6) * (draw.random(PEOPLE) > 0.1)
        shown = np.flatnonzero(scores)
        boxes = boxes + draw.normal(0, 0.04, (PEOPLE, 4)) * np.tile(size, 2)
        frames.append(Detections(boxes[shown].astype(np.float32), scores[shown], np.zeros(len(shown), int)))
        whose.append(shown)
    return frames, whose


def switches(given: list[np.ndarray], whose: list[np.ndarray]) -> int:
    """How often somebody's number became another."""
    last: dict[int, int] = {}
    changed = 0
    for ids, people in zip(given, whose):
        for number, person in zip(ids.tolist(), people.tolist()):
            if number >= 0:
                changed += last.get(person, number) != number
                last[person] = number
    return changed


def pictures_of(video: Path) -> Iterator[np.ndarray]:
    film = cv2.VideoCapture(str(video))
    while (read := film.read())[0]:
        yield read[1]


def tracks(videos: Path) -> dict[str, Any]:
    """Numbers that changed in scenes where it is known who is who, and numbers given to 6 persons."""
    scenes = [crowd(seed) for seed in range(SCENES)]
    persons = Persons()
    film = [persons.found(p) for p in pictures_of(videos / "one-by-one-person-detection.mp4")]
    out: dict[str, Any] = {"scenes": SCENES, "people": PEOPLE, "frames": FRAMES, "persons": 6}
    others: dict[str, Follow] = {"ours": ours, "supervision": supervision, "norfair": norfair}
    for name, follow in others.items():
        if name != "ours" and not importlib.util.find_spec(name):
            continue
        numbers = np.concatenate(follow(film))
        changed = [switches(follow(frames), whose) for frames, whose in scenes]
        out[name] = {"switches": sum(changed), "numbers": len(np.unique(numbers[numbers >= 0]))}
    return out


def recall(shots: Iterator[tuple[np.ndarray, list[np.ndarray]]]) -> dict[str, Any]:
    """Of the persons in these pictures (boxes as shares), those covered without the help of other frames."""
    persons, hits, area = Persons(), [], []
    for picture, boxes in shots:
        height, width = picture.shape[:2]
        hidden = (covered(np.zeros_like(picture), persons(picture)) == GREY).all(2)
        area.append(hidden.mean())
        for box in boxes:
            left, top, right, bottom = (box.clip(0, 1) * [width, height, width, height]).astype(int)
            hits.append(hidden[top:bottom, left:right].mean() >= HIDDEN)
    return {"boxes": len(hits), "recall": float(np.mean(hits)), "covered_area": float(np.mean(area))}


def street(videos: Path) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    boxes = defaultdict(list)
    for row in csv.DictReader((videos / "vtest_person_detections.csv").open()):
        x, y, w, h = (float(row[key]) for key in "xywh")
        boxes[int(row["frame"])].append(np.array([x, y, x + w, y + h]))
    for k, picture in zip(range(20 * FPS), pictures_of(videos / "vtest.avi")):
        if k % EVERY == 0:
            height, width = picture.shape[:2]
            yield picture, [box / [width, height, width, height] for box in boxes[k]]


def photographs(folder: Path) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    boxes = defaultdict(list)
    for row in csv.DictReader((folder / "persons.csv").open()):
        x, y, w, h = (float(row[key]) for key in ("cx", "cy", "w", "h"))
        boxes[row["image"]].append(np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]))
    for name in sorted(boxes):
        yield cv2.imread(str(folder / "images" / name)), boxes[name]


def faces(video: Path) -> dict[str, Any]:
    """Frames in which a face was found, of a film in which there is one all the time."""
    finder = Faces(FACES)
    found = [len(finder(picture)) > 0 for picture in pictures_of(video)]
    return {"frames": len(found), "found": sum(found)}


def alarms() -> dict[str, Any]:
    """What the rule of person-zone.toml tells of cars, where the zone is all of the picture."""
    rules = read_rules(ROOT / "examples" / "person-zone.toml").rules
    everywhere = Zone("table", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    watch = Events(replace(rules, zones=(everywhere,)), "shop")
    persons, tracker = Persons(), Tracker()
    draw = np.random.default_rng(0)
    clips = [list(pictures_of(path)) for path in sorted((HERE / "film" / "evaluation").glob("cars*.mp4"))]
    boxes, entered, frames = 0, 0, round(60 * FPS * MINUTES)
    shown: Iterator[np.ndarray] = iter(())
    for k in range(frames):
        picture = next(shown, None)
        if picture is None:
            shown = spoilt(clips[int(draw.integers(len(clips)))], draw)
            picture = next(shown)
        found = tracker.step(k / FPS, persons.found(picture))
        boxes += len(found)
        told = watch.step(k / FPS, k / FPS, {"person": 0.0}, valid=True, stale=False, found=found)
        entered += sum(record["type"] == "new" for record in told)
    return {"minutes": MINUTES, "frames": frames, "pictures": sum(map(len, clips)), "boxes": boxes,
            "least_score": SCORE, "events": entered}  # fmt: skip


def spoilt(clip: list[np.ndarray], draw: np.random.Generator) -> Iterator[np.ndarray]:
    """A clip forth and back in one light, from dusk to glare, and one noise."""
    gain, sigma = draw.uniform(0.3, 1.4), draw.uniform(0, 15)
    for picture in (*clip, *clip[-2:0:-1]):
        noise = draw.standard_normal(picture.shape, np.float32)
        yield (gain * picture + sigma * noise).clip(0, 255).astype(np.uint8)


class Way:
    """What is done to a frame, by what is covered in it, as what ``latency`` times."""

    def __init__(self, what: tuple[Covered, ...]) -> None:
        shipped = detector("person-detector")
        assert shipped is not None, "it is built in"
        spec, config = read_spec(shipped[1]), LiveConfig("shop", Rules(()), cover=what)
        self._running, self._cover = Persons(), open_cover(what, spec, raised)
        self._output = Output("shop", spec, (), config, None, cover=self._cover)

    def infer(self, inputs: Tensors) -> Tensors:
        picture = inputs["frame"]
        self._output.shown(picture, self._running.found(picture))
        return {}

    def close(self) -> None:
        if self._cover:
            assert self._cover.counts.keys() == {"covered"}, "a picture that is grey all over costs less"
            self._cover.close()


def raised(error: Exception) -> None:
    raise error


def cost() -> dict[str, Any]:
    """Times of a frame by its size and by what is covered."""
    film = list(pictures_of(ROOT / "examples" / "video" / "persons.mp4"))[::EVERY]
    height, width = film[0].shape[:2]
    told: dict[str, Any] = {"frames": len(film), "opencv_threads": cv2.getNumThreads()}
    for size in ((width, height), FULL_HD):
        feeds = [{"frame": cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)} for picture in film]
        ways = {name: Way(what) for name, what in WAYS.items()}
        turns: dict[str, tuple[Way, list[Tensors]]] = {name: (way, feeds) for name, way in ways.items()}
        times = interleaved(turns, threads=1, calls=SURE_CALLS, budget_s=SURE_BUDGET_S, floats=["none"])
        for way in ways.values():
            way.close()
        told["x".join(map(str, size))] = {name: encode(latency) for name, latency in times.items()}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("videos", "pictures"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--face", type=Path)
    parser.add_argument("--alarms", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--others", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    a = parser.parse_args()
    if a.alarms or a.time:
        part = ("alarms", alarms) if a.alarms else ("time", cost)
        found = json.loads(a.out.read_text()) | {part[0]: part[1]() | {"measured_at": measured_at.now()}}
        a.out.write_text(json.dumps(found, indent=1) + "\n")
        return
    if not (a.videos and a.pictures and a.face):
        parser.error("--videos, --pictures and --face, or --alarms, or --time")
    if a.others:
        sys.path.append(str(a.others))
    found = {
        "measured_at": measured_at.now(),
        "tracks": tracks(a.videos),
        "cover": {"street": recall(street(a.videos)), "photographs": recall(photographs(a.pictures))},
        "faces": faces(a.face),
        "alarms": alarms(),
        "time": cost(),
    }
    a.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

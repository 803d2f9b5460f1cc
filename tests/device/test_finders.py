"""Faces and persons are found in real pictures, and pictures leave only without them."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from bright_detector import SPEC, bright_detector, film, picture
from live_support import until
from null_bundle import write_null_bundle
from support import ROOT

from edgepv.base.console import Console
from edgepv.data.video import read_video
from edgepv.device import cameras
from edgepv.device.finders import FACES, Persons, open_cover
from edgepv.runtimes import open_session
from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules, TrackRule, Zone, read_rules
from edgepv.runtimes.health.state import Health
from edgepv.runtimes.on_file import run_file
from edgepv.runtimes.output import Output
from edgepv.runtimes.picture.cover import GREY, Cover
from edgepv.runtimes.picture.faces import Faces
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Setup
from edgepv.runtimes.sinks.clips import ClipRules, Clips

CLIPS = ROOT / "edgepv" / "zoo" / "clips"
WHOLE = Zone("whole", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
HIDDEN = LiveConfig("cam1", Rules(()), cover=("person",))


def in_the_middle_of(clip: str) -> np.ndarray:
    frames = read_video(CLIPS / clip).frames
    return frames[len(frames) // 2]


def holds(boxes: np.ndarray, x: float, y: float) -> bool:
    """Whether one of the boxes has this place, in shares of the picture, in it."""
    return bool(((boxes[:, :2] <= (x, y)) & (boxes[:, 2:] >= (x, y))).all(1).any())


@pytest.mark.parametrize("times", [1, 2, 6], ids=["170 px", "340 px", "1020 px, which is made smaller"])
def test_faces_are_found_in_a_picture_of_any_size(times: int) -> None:
    frame = in_the_middle_of("evaluation/no_fight/fs_nofi043.mp4")
    large = cv2.resize(frame, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    assert holds(Faces(FACES)(large), 0.15, 0.70)


def test_one_finder_of_faces_takes_pictures_of_one_size_after_another() -> None:
    faces, frame = Faces(FACES), in_the_middle_of("evaluation/no_fight/fs_nofi043.mp4")
    for shape in ((1, 1), (128, 170), (3, 900), (256, 340), (128, 170)):
        found = faces(cv2.resize(frame, shape[::-1], interpolation=cv2.INTER_CUBIC))
        assert found.shape[1:] == (4,) and holds(found, 0.53, 0.55) == (min(shape) > 100)
    assert faces(np.zeros((128, 170, 3), np.uint8)).shape == (0, 4)


def test_persons_are_found_in_the_whole_picture_and_in_its_parts() -> None:
    found = Persons()(in_the_middle_of("calibration/fight/fs_fi046.mp4"))
    assert all(holds(found, x, y) for x, y in ((0.39, 0.40), (0.31, 0.45), (0.13, 0.45), (0.53, 0.45)))
    assert Persons()(np.zeros((10, 5, 3), np.uint8)).shape[1:] == (4,)


def test_both_are_covered_where_both_are_asked_for() -> None:
    faults: list[Exception] = []
    frame = in_the_middle_of("evaluation/no_fight/fs_nofi043.mp4")
    covers = {
        what: open_cover(what, SPEC, faults.append) for what in (("face",), ("person",), ("face", "person"))
    }
    hidden = {}
    for what, cover in covers.items():
        assert cover is not None
        cover._late_s = 60.0
        hidden[what] = (cover(frame) == GREY).all(2)
        cover.close()
    assert 0 < hidden["face",].mean() < 0.5 and 0 < hidden["person",].mean() < 0.9 and not faults
    assert (hidden["face", "person"] == hidden["face",] | hidden["person",]).all()
    assert open_cover((), SPEC, faults.append) is None


class Eye:
    """A receiver that keeps the records and the pictures it gets."""

    pixels = True

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.told: list[Record] = []

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        self.told.append(record)
        if frame is not None:
            self.seen.append(frame)

    def counts(self) -> dict[str, int]:
        return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

    def close(self) -> None:
        pass


def test_a_cameras_pictures_are_covered_and_it_is_told_what_that_takes(tmp_path: Path) -> None:
    """By the running model's own boxes; a picture that it did not answer to is grey all over."""
    eye, health = Eye(), Health("cam1")
    cover = Cover([], label="person", alone=True)
    output = Output("cam1", SPEC, [eye], HIDDEN, health, cover=cover)
    frame = picture((24, 24))
    with open_session(bright_detector(tmp_path), tmp_path) as session:
        answer = session.step(frame)
    output.reply(Reply(0, 0.0, answer, False, "", 5.0, 5.0, 1.0, "bright"), frame)
    output.reply(Reply(1, 0.1, answer, True, "overrun", 5.0, 5.0, 1.0, "bright"), frame)
    output.close()
    covered, unanswered = eye.seen
    assert (covered[16:32, 16:32] == GREY).all() and (covered[40:, 40:] == frame[40:, 40:]).all()
    assert (unanswered == GREY).all()
    summary = output.summary()
    assert (summary["covered"], summary["covered_unanswered"]) == (2, 1) and "cover" in summary["ms"]
    assert b'edgepv_stage_seconds_count{camera="cam1",stage="cover"} 2.0' in health.metrics()


def test_without_a_finder_no_picture_leaves() -> None:
    eye = Eye()
    Output("cam1", SPEC, [eye], HIDDEN, None).reply(
        Reply(0, 0.0, None, True, "dropped", None, 5.0, None, "bright"), picture((24, 24))
    )
    assert (eye.seen[0] == GREY).all()


def test_a_clip_of_an_event_is_covered_and_named_in_its_record(tmp_path: Path) -> None:
    """No box for the middle of the square is in the clip, and its name is in every record of the event."""
    setup = Setup("cam1", tmp_path, ("person",), 10.0, print)
    clips, eye = Clips(tmp_path / "clips", ClipRules(), setup), Eye()
    rules = Rules((), (WHOLE,), (TrackRule("person", ("whole",)),))
    config = LiveConfig("cam1", rules, cover=("person",))
    cover = Cover([], label="person", alone=True)
    output = Output("cam1", SPEC, [eye, clips], config, None, cover=cover)
    with open_session(bright_detector(tmp_path), tmp_path) as session:
        for k in range(12):
            until(lambda: not clips.counts()["queued"])
            frame = picture((32, 32))
            output.reply(Reply(k, k / 10, session.step(frame), False, "", 5.0, 5.0, 1.0, "bright"), frame)
    output.close()
    named = {r["after"]["clip"] for r in eye.told if r["type"] in ("new", "end")}
    (name,) = named
    frames = read_video(tmp_path / "clips" / name).frames
    assert len(frames) == 12
    assert all(abs(frame[26:38, 26:38].astype(int) - GREY).mean() < 10 for frame in frames)


def test_the_video_of_a_file_shows_nobody(tmp_path: Path) -> None:
    variant, out = bright_detector(tmp_path), tmp_path / "out.mp4"
    source = film(tmp_path / "walk.avi", [picture((16 + 2 * k, 32)) for k in range(16)])
    run_file(variant, tmp_path, source, video=out, config=HIDDEN, cover=Cover([], label="person", alone=True))
    for k, frame in enumerate(read_video(out).frames):
        scale = frame.shape[0] / 64
        there = frame[round(28 * scale) : round(36 * scale), round((12 + 2 * k) * scale) :][
            :, : round(8 * scale)
        ]
        assert abs(there.astype(int) - GREY).mean() < 10, "the middle of the white square"


@pytest.mark.slow
def test_a_run_on_a_camera_covers_what_its_receivers_get(tmp_path: Path, a_clip: Path) -> None:
    """A real run with both finders: every picture of the video went through them, and nothing was raised."""
    summaries = cameras.run(
        cameras.LiveOptions(
            bundle=write_null_bundle(tmp_path / "b"),
            sources={"gate": str(a_clip)},
            emit=(f"video:{tmp_path / 'out.mp4'}", f"clips:{tmp_path / 'kept'}"),
            config=LiveConfig("gate", Rules((Rule("fight", 0.5),)), cover=("face", "person")),
            spool=tmp_path,
        ),
        Console(quiet=True),
        threading.Event(),
    )
    (summary,) = summaries
    assert summary["covered"] == summary["replies"] > 0 and summary["faults"] == {}
    assert len(read_video(tmp_path / "out.mp4").frames) > 0
    (kept,) = (tmp_path / "kept").glob("*.mp4")
    assert kept.with_suffix(".json").exists()


def test_redaction_alone_makes_a_rules_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[camera]\nname = "c"\n[redact]\nwhat = ["face", "person", "face"]\n')
    assert read_rules(file).cover == ("face", "person")

"""A segmenter's answers reach sessions, records, pictures and rules as labels of the camera's picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from own_models import as_onnx
from segmenters import SIDE, build, drawn, film, spec_of

from edgepv.errors import UsageError
from edgepv.export.from_onnx import read_onnx
from edgepv.runtimes import open_session
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules, TrackRule, Zone
from edgepv.runtimes.on_file import run_file
from edgepv.runtimes.picture.drawing import Painter, colour_of, tinted
from edgepv.runtimes.places import check_rules
from edgepv.runtimes.record import Record
from edgepv.runtimes.records import answer_fields, record
from edgepv.types import Variant

SPEC = spec_of()
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
RIGHT = Zone("right", ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))


def colours(folder: Path) -> Variant:
    """The segmenter of colours as an ONNX file."""
    file = as_onnx(build(), SIDE, folder / "net.onnx")
    return read_onnx(file, SPEC, folder / "float.onnx")[0]


def floor(**squares: tuple[int, int]) -> np.ndarray:
    """A dark picture of 64 x 32 px with squares of 16 px; corners (x, y) by their colour."""
    picture = np.full((32, 64, 3), 20, np.uint8)
    for name, (x, y) in squares.items():
        picture[y : y + 16, x : x + 16] = {"red": (20, 20, 230), "green": (20, 230, 20)}[name]
    return picture


def test_a_session_says_what_stands_where(tmp_path: Path) -> None:
    picture, mask = drawn(np.random.default_rng(0))
    with open_session(colours(tmp_path), tmp_path) as session:
        said = session.step(picture)
        still = session.step(floor(red=(0, 0)))
    assert said.mask is not None and said.valid and said.label is None
    np.testing.assert_array_equal(said.mask.labels, said.outputs["scores"].argmax(0))
    np.testing.assert_array_equal(said.mask.on_picture((32, 64)), mask)
    assert answer_fields(still, SPEC) == {"areas": {"red": 0.125, "green": 0.0}}


def test_a_record_before_the_first_answer_has_no_areas() -> None:
    said = record(
        None, SPEC, camera="c", number=0, frame=0, time_s=0.0, latency_ms=0.0, variant="v", stale=True
    )
    assert said["areas"] == {} and "label" not in said


def test_labels_are_tinted_and_the_background_is_not(tmp_path: Path) -> None:
    picture = floor(red=(0, 0))
    with open_session(colours(tmp_path), tmp_path) as session:
        mask = session.step(picture).mask
    assert mask is not None
    shown = tinted(picture, mask)
    assert (shown[:, 16:] == 20).all() and (shown[16:] == 20).all()
    mixed = 0.55 * np.array([20, 20, 230]) + 0.45 * np.array(colour_of("red"))
    np.testing.assert_allclose(shown[8, 8], mixed, atol=1)
    told = {"areas": mask.areas(), "stale": False, "valid": True}
    drawn_picture = Painter().draw(np.zeros((400, 400, 3), np.uint8), told)
    assert drawn_picture.shape == (400, 400, 3) and drawn_picture[:40].any() and not drawn_picture[60:].any()


def test_a_rule_goes_by_the_share_of_the_picture_and_of_its_zone(tmp_path: Path) -> None:
    frames = [floor(red=(16 * min(k // 10, 3), 8)) for k in range(40)]  # left for two seconds, then right
    source = film(tmp_path / "walk.avi", frames)
    rules = (Rule("red", 0.2, zones=("right",)), Rule("red", 0.1), Rule("red", 0.2), Rule("green", 0.05))
    told: list[Record] = []
    video = tmp_path / "out.mp4"
    config = LiveConfig("c", Rules(rules, (LEFT, RIGHT)))
    run_file(colours(tmp_path), tmp_path, source, config=config, cuts=False, video=video,
             emit=told.append)  # fmt: skip
    begun = [r["after"] for r in told if r["type"] == "new"]
    # a square is 1/8 of the picture and 1/4 of half of it: the rule for 0.2 of the picture hears nothing
    assert [(e["label"], e["zones"], e["score"]) for e in begun] == [
        ("red", ["left"], 0.125),
        ("red", ["right"], pytest.approx(0.25, abs=0.03)),
    ]
    assert begun[1]["start_time"] == pytest.approx(2.0, abs=0.11)
    capture = cv2.VideoCapture(str(video))
    assert capture.read()[0]
    capture.release()


def test_rules_about_tracks_and_doubt_are_refused(tmp_path: Path) -> None:
    variant = colours(tmp_path)
    with pytest.raises(UsageError, match="finds no boxes"):
        check_rules(Rules((), (LEFT,), (TrackRule("red", ("left",)),)), variant)
    with pytest.raises(UsageError, match="no labels to be in doubt about"):
        check_rules(Rules((Rule("*", 0.5),)), variant)


def test_a_rule_about_the_background_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    variant = colours(tmp_path)
    assert SPEC.masks and SPEC.masks.background
    with pytest.raises(UsageError, match=f"unknown label '{SPEC.labels[0]}'"):
        check_rules(Rules((Rule(SPEC.labels[0], 0.5),)), variant)
    check_rules(Rules((Rule(SPEC.labels[1], 0.5),)), variant)

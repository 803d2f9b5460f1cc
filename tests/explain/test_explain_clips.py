"""An explanation names the places and particles an answer rests on, and says when it means nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from null_bundle import write_null_bundle

from edgepv import bundle, explain
from edgepv.base.console import Console
from edgepv.cli import models
from edgepv.errors import UsageError
from edgepv.explain.clip import LONGEST
from edgepv.explain.deletion import deletion
from edgepv.explain.occlusion import Cover, followed
from edgepv.explain.picture import picture
from edgepv.runtimes.player import WINDOWS, Player
from edgepv.stream import Tensors
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant, decode

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
WORTH = np.array([0.0, 3.0, -1.0, 1.0], np.float32)
"""What each of four particles adds to the first logit of ``ByParticles``."""


def variant_of(spec: ModelSpec, stream: StreamSpec | None) -> Variant:
    return Variant("fake", "null", "fp32", "step", "x", "", spec, stream, {}, {})


class Corner:
    """Sees label "lit" by how bright the lower right quarter of the newest frame is."""

    spec = ModelSpec("corner", TensorSpec("frame", (1, 3, 16, 16)), ("dark", "lit"), frames=1)

    def infer(self, inputs: Tensors) -> Tensors:
        bright = inputs["frame"][0, :, 8:, 8:].mean()
        return {"logits": np.array([[0.0, 8 * bright]], np.float32)}

    def close(self) -> None: ...


class ByParticles:
    """Sees label "a" by which of four particles live; says where they are."""

    spec = ModelSpec(
        "particles",
        TensorSpec("frame", (1, 3, 16, 16)),
        ("a", "b"),
        frames=1,
        outputs=(TensorSpec("logits", (1, 2), "NC"), TensorSpec("particles", (1, 4, 7), "NKC")),
        particles=4,
    )
    stream = StreamSpec((StateSpec("life", "new_life", (1, 4, 1)),), warmup=2)

    def infer(self, inputs: Tensors) -> Tensors:
        alive = inputs["life"] != -1
        logits = np.array([[WORTH[alive[0, :, 0]].sum(), 0.0]], np.float32)
        life = np.where(alive, 1, -1).astype(np.float32)
        return {"logits": logits, "particles": np.full((1, 4, 7), 0.5, np.float32), "new_life": life}

    def close(self) -> None: ...


def corner() -> Player:
    stream = StreamSpec((), warmup=1)
    return Player(Corner(), variant_of(Corner.spec, stream))


def by_particles() -> Player:
    return Player(ByParticles(), variant_of(ByParticles.spec, ByParticles.stream))


def lit_corner(frames: int = 3) -> np.ndarray:
    """A dark clip whose lowest right cell of 4 x 4 is bright."""
    clip = np.zeros((frames, 3, 16, 16), np.float32)
    clip[:, :, 12:, 12:] = 1
    return clip


@pytest.fixture
def fight_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that always answers "fight", for windows of two frames of 8 x 8."""
    return write_null_bundle(tmp_path_factory.mktemp("bundles") / "fight")


def command(*arguments: object) -> int:
    """What ``edgepv explain`` does with these arguments."""
    parser = argparse.ArgumentParser()
    models.add_explain(parser.add_subparsers())
    parsed = parser.parse_args(["explain", *map(str, arguments)])
    return int(parsed.run(parsed))


def test_a_covered_cell_takes_the_colour_of_its_surroundings_in_every_frame() -> None:
    clip = np.zeros((2, 3, 8, 8), np.float32)
    clip[1] = 5
    clip[:, :, 2:4, 2:4] = 9
    covered = Cover(clip, 4)([5])
    assert np.allclose(covered[0], 0) and np.allclose(covered[1], 5)
    assert clip[0, 0, 2, 2] == 9  # the clip itself stays


def test_the_place_that_decides_has_the_largest_contribution() -> None:
    made = explain.explain(corner(), lit_corner(), QUIET, label=None, grid=4)
    assert made.answer == made.label == "lit"
    cells = np.array(made.cells)
    assert cells.argmax() == 15
    assert cells[3, 3] == pytest.approx(0.5 * 8 * 16 / 64)  # a quarter of the corner; half, above the mean
    assert np.allclose(cells[:2], 0) and np.allclose(cells[:, :2], 0)
    assert made.cell_deletion.verdict == "better than random"
    assert made.cell_deletion.auc < made.cell_deletion.low < made.cell_deletion.random


def test_dropping_one_particle_costs_exactly_what_it_adds() -> None:
    made = explain.explain(by_particles(), np.zeros((4, 3, 16, 16), np.float32), QUIET, label="a", grid=2)
    assert made.particles == pytest.approx(WORTH / 2)  # half: above the mean of two logits
    assert np.allclose(made.cells, 0)
    assert [row for row in explain.rows(made, 1) if row[0] == "particle"] == [("particle", "1", "+1.500")]


def test_the_chance_of_a_model_that_answers_probabilities_is_what_it_answers() -> None:
    class Sure:
        def infer(self, inputs: Tensors) -> Tensors:
            return {"logits": np.array([[0.9, 0.1]], np.float32)}

        def close(self) -> None: ...

    player = Player(
        Sure(), variant_of(replace(Corner.spec, scores="probabilities"), StreamSpec((), warmup=1))
    )
    found = explain.explain(player, lit_corner(), QUIET, label=None, grid=2)
    assert found.answer == "dark" and found.chance == pytest.approx(0.9)


def test_a_label_that_is_not_the_answer_may_be_explained() -> None:
    made = explain.explain(by_particles(), np.zeros((4, 3, 16, 16), np.float32), QUIET, label="b", grid=2)
    assert (made.label, made.answer) == ("b", "a") and made.chance < 0.5
    assert made.particles == pytest.approx(-WORTH / 2)


def test_a_ranking_that_means_nothing_is_said_to_be_no_better_than_random() -> None:
    made = explain.explain(by_particles(), np.zeros((4, 3, 16, 16), np.float32), QUIET, label="a", grid=2)
    assert made.cell_deletion.verdict == "no better than random"
    assert explain.verdicts(made)[0].endswith("no better than random")


def logits_of_shares(parts: Iterable[int]) -> np.ndarray:
    """Four parts; the label's logit is 8 minus 4 for each of the first two deleted."""
    return np.array([8.0 - 4 * len({0, 1} & set(parts)), 0.0])


def test_deletion_starts_with_the_whole_and_ends_with_nothing() -> None:
    found = deletion(logits_of_shares, np.array([2.0, 1.0, 0.0, 0.0]), 0)
    assert found.shares == (0, 0.25, 0.5, 0.75, 1)
    assert np.round(found.curve, 2).tolist() == [1.0, 0.98, 0.5, 0.5, 0.5]
    assert found.auc == pytest.approx(np.trapezoid(found.curve, dx=0.25))
    assert found.random_curve[0] == pytest.approx(found.curve[0])
    assert found.random_curve[-1] == pytest.approx(found.curve[-1])
    worst = deletion(logits_of_shares, np.array([0.0, 0.0, 1.0, 2.0]), 0)
    assert worst.auc > found.random > found.auc


def test_deletion_is_the_same_every_time() -> None:
    worth = np.array([1.0, 0.0, 0.0, 2.0])
    assert deletion(logits_of_shares, worth, 0) == deletion(logits_of_shares, worth, 0)


def test_a_model_without_a_step_is_shown_windows() -> None:
    class Mean:
        calls = 0

        def infer(self, inputs: Tensors) -> Tensors:
            Mean.calls += 1
            assert inputs["clip"].shape == (1, 3, 4, 16, 16)
            return {"logits": np.array([[inputs["clip"].mean(), 0.0]], np.float32)}

        def close(self) -> None: ...

    spec = ModelSpec("w", TensorSpec("clip", (1, 3, 4, 16, 16), "NCTHW"), ("a", "b"), frames=4)
    player = Player(Mean(), variant_of(spec, None))
    assert player.logits(np.ones((20, 3, 16, 16), np.float32))[0] == 1
    assert Mean.calls == WINDOWS
    assert player.logits(np.ones((2, 3, 16, 16), np.float32))[0] == 1
    assert Mean.calls == WINDOWS + 1  # a short clip is held on its last frame


def test_the_command_writes_a_picture_and_its_figures(
    fight_bundle: Path, a_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why.png"
    assert command(fight_bundle, "--source", a_clip, "--grid", 3, "--label", "fight", "--out", out) == 0
    printed = capsys.readouterr().out
    assert f"{a_clip.name}: fight, probability " in printed and "cells: deletion AUC " in printed
    assert cv2.imread(str(out)) is not None
    made = decode(explain.Explanation, json.loads(out.with_suffix(".json").read_text()))
    assert made.label == "fight" and np.array(made.cells).shape == (3, 3)
    assert made.particles is None


def test_a_long_video_is_not_decoded_to_its_end(write_video: Callable[..., Path]) -> None:
    long = write_video("long.mp4", [7] * 300, fps=20.0)
    assert len(explain.first_frames(long, Corner.spec)[0]) == LONGEST
    short = write_video("short.mp4", [7] * 40, fps=20.0)
    assert len(explain.first_frames(short, Corner.spec)[0]) == 20  # the model sees 10 frames a second


def test_bars_and_places_of_particles_are_drawn(tmp_path: Path) -> None:
    player, frames = by_particles(), np.zeros((4, 3, 16, 16), np.float32)
    made = explain.explain(player, frames, QUIET, label=None, grid=2)
    places = followed(player, frames)
    assert places is not None and places.shape == (4, 4, 2)
    pictures = [np.zeros((16, 24, 3), np.uint8)] * 4
    picture(made, pictures, places, tmp_path / "with.svg")
    text = (tmp_path / "with.svg").read_text()
    assert text.startswith("<?xml") and len(text) > 10_000


def test_a_bundle_without_labels_is_refused(fight_bundle: Path, a_clip: Path, tmp_path: Path) -> None:
    spec = ModelSpec(
        "tracker",
        TensorSpec("frame", (1, 3, 16, 16)),
        task="tracking",
        metric="delta_avg",
        outputs=(TensorSpec("tracks", (1, 4, 3), "NKC"),),
        particles=4,
    )
    player = Player(ByParticles(), variant_of(spec, ByParticles.stream))
    with pytest.raises(UsageError, match="is for tracking and gives no label"):
        explain.explain(player, np.zeros((4, 3, 16, 16), np.float32), QUIET, label=None)
    found = bundle.read(fight_bundle)
    folder = tmp_path / "tracker"
    folder.mkdir()
    inputs, outputs = {"frame": "frame"}, {"tracks": "tracks"}
    variants = tuple(
        replace(v, spec=spec, stream=None, inputs=inputs, outputs=outputs) for v in found.content.variants
    )
    bundle.write(folder, replace(found.content, spec=spec, stream=None, variants=variants), found.measured)
    with pytest.raises(UsageError, match="holds a model for tracking; it gives no label") as error:
        explain.explain_clip(folder, a_clip, tmp_path / "x.png", QUIET)
    assert error.value.exit_code == 2 and not (tmp_path / "x.png").exists()


def test_bad_options_are_one_clear_line(fight_bundle: Path, a_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"

    def refused(words: str, **more: object) -> None:
        options: dict[str, object] = {"folder": fight_bundle, "source": a_clip, "out": out, **more}
        with pytest.raises(UsageError, match=words):
            explain.explain_clip(console=QUIET, **options)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())

    refused("unknown label 'figth'.*Did you mean 'fight'", label="figth")
    refused("--grid 1: give 2 to 8", grid=1)
    refused("unknown variant", variant="x")
    refused("ends in .png or .svg", out=tmp_path / "x.gif")
    refused("does not exist", source=tmp_path / "none.mp4")
    refused("does not exist", folder=tmp_path / "none")


def test_the_picture_shows_frames_as_they_may_be_seen(
    fight_bundle: Path, a_clip: Path, tmp_path: Path
) -> None:
    """What hides paints everything magenta; the model sees the frames themselves."""
    seen: list[np.ndarray] = []

    def hide(frame: np.ndarray) -> np.ndarray:
        seen.append(frame)
        return np.full_like(frame, (255, 0, 255))

    out = tmp_path / "x.png"
    hidden = explain.explain_clip(fight_bundle, a_clip, out, QUIET, grid=2, hide=hide)
    assert len(seen) == hidden.frames and seen[0].std() > 10
    drawn = cv2.imread(str(out))
    assert drawn is not None
    red, green, blue = np.moveaxis(drawn.astype(int), 2, 0)
    assert ((red - green > 60) & (blue - green > 60)).mean() > 0.05


def test_nothing_of_the_users_is_replaced(fight_bundle: Path, a_clip: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text('{"notes": 1}')
    with pytest.raises(UsageError, match=r"mine.json is no earlier explanation"):
        explain.explain_clip(fight_bundle, a_clip, tmp_path / "mine.png", QUIET)
    assert mine.read_text() == '{"notes": 1}' and not (tmp_path / "mine.png").exists()


def test_a_damaged_bundle_is_not_explained(fight_bundle: Path, a_clip: Path, tmp_path: Path) -> None:
    model = next(p for p in (fight_bundle / "models").iterdir())
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(UsageError, match="SHA-256 differs"):
        explain.explain_clip(fight_bundle, a_clip, tmp_path / "x.png", QUIET)

"""Video without labels: which of it is learnt from, which is watched, and what it may not be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgepv import zoo
from edgepv.errors import UsageError
from edgepv.pipeline.compress import chain_of
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Source, gather

FIGHT = zoo.spec("pv-conv-nano", "fight")
OTHER = replace(FIGHT, name="others", labels=("open", "closed"))


@pytest.fixture
def film(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """A folder with four different videos."""
    folder = tmp_path / "film"
    folder.mkdir()
    for n in range(4):
        shutil.move(write_video(f"{n}.mp4", [10 + n] * (12 + n)), folder)
    return folder


def _names(clips: tuple) -> set[str]:
    return {c.path.name for c in clips}


def test_footage_is_halved_by_file_and_has_no_labels(film: Path) -> None:
    clips = gather(Options(footage=str(film)), FIGHT)
    assert len(clips.footage) == len(clips.watched) == 2
    assert not _names(clips.footage) & _names(clips.watched)
    assert all(c.label is None for c in (*clips.footage, *clips.watched))
    assert clips.unlabelled == clips.footage


def test_footage_leaves_the_labelled_clips_as_they_are(film: Path) -> None:
    plain, more = gather(Options(), FIGHT), gather(Options(footage=str(film)), FIGHT)
    assert (more.calibration, more.held_out) == (plain.calibration, plain.held_out)


def test_named_splits_of_footage_are_kept(film: Path) -> None:
    (film / "test").mkdir()
    shutil.move(film / "0.mp4", film / "test" / "0.mp4")
    clips = gather(Options(footage=str(film)), FIGHT)
    assert _names(clips.watched) == {"0.mp4"} and len(clips.footage) == 3


def test_one_film_alone_is_learnt_from(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    (tmp_path / "one").mkdir()
    shutil.move(write_video("a.mp4", [10] * 12), tmp_path / "one")
    clips = gather(Options(footage=str(tmp_path / "one")), FIGHT)
    assert len(clips.footage) == 1 and not clips.watched


def test_a_video_that_is_judged_by_is_not_learnt_from(film: Path) -> None:
    judged = gather(Options(), FIGHT).held_out[0].path
    for n in range(4):
        shutil.copy(judged, film / f"{n}.mp4")
    with pytest.raises(UsageError, match="same video"):
        gather(Options(footage=str(film)), FIGHT)


def test_footage_sets_ranges_where_no_labelled_clips_fit(film: Path) -> None:
    with pytest.raises(UsageError, match="--footage DIR without labels"):
        gather(Options(precision="int8"), OTHER)
    with pytest.raises(UsageError, match="--footage DIR without labels"):
        gather(Options(variant="onnxruntime-int8"), OTHER)
    clips = gather(Options(precision="int8", footage=str(film)), OTHER)
    assert clips.fits and clips.calibration == clips.footage and clips.held_out == clips.watched


def test_no_step_on_weights_is_due_of_an_onnx_file() -> None:
    clips, net = gather(Options(), FIGHT), zoo.checkpoint("pv-conv-nano")
    assert [s.name for s in chain_of(Options(), Source(FIGHT, net), clips)] == ["fold"]
    assert not chain_of(Options(), Source(FIGHT, None, Path("net.onnx")), clips)

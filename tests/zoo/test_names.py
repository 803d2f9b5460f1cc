"""Names, the index of weights, and what importing the zoo costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgepv import zoo
from edgepv.base.files import read_json, sha256
from edgepv.data.clips import find_clips
from edgepv.data.split import split_clips
from edgepv.errors import UsageError

SHIPPED = sorted(read_json(zoo.INDEX))
TRAINER = "edgepv.zoo.training.classifiers"
CLASSIFIERS = [n for n in zoo.names() if zoo.MODELS[zoo.parse(n)[0]].trainer == TRAINER]


def test_importing_the_zoo_loads_no_heavy_library() -> None:
    code = "import sys, edgepv.zoo; print([m for m in ('torch', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_short_name_is_the_fight_model() -> None:
    assert zoo.parse("pv-conv-small") == ("pv-conv-small", "fight")
    assert zoo.parse("pv-conv-nano-handwash") == ("pv-conv-nano", "handwash")
    assert zoo.checkpoint("pv-conv-small") == zoo.checkpoint("pv-conv-small-fight")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("pv-conv-smal", "pv-conv-small"),
        ("pv-conv-small-fights", "pv-conv-small-fight"),
        ("pv_conv_nano", "pv-conv-nano"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"unknown model '{wrong}'.*Did you mean '{near}'"):
        zoo.checkpoint(wrong)


def test_every_trained_model_has_weights_that_match_the_index() -> None:
    index = read_json(zoo.INDEX)
    assert set(index) <= set(zoo.full_names())
    assert set(SHIPPED) == set(index) and len(index) >= 12
    for name, row in index.items():
        assert sha256(zoo.INDEX.parent.parent / row["weights"]) == row["sha256"], name


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_checkpoint_says_what_its_model_eats(name: str) -> None:
    model, task = zoo.parse(name)
    found = zoo.checkpoint(name)
    size = zoo.MODELS[model].size
    assert found.spec == zoo.spec(model, task)
    shape = (1, 3, 16, size, size) if zoo.MODELS[model].clip else (1, 3, size, size)
    assert found.spec.input.shape == shape
    assert found.spec.labels == zoo.TASKS[task]
    assert Path(found.weights).is_file()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_spec_holds_together_and_its_model_builds(name: str) -> None:
    pytest.importorskip("torch")
    from edgepv.model.checkpoint import build
    from edgepv.model.spec import check_spec

    found = zoo.checkpoint(name)
    check_spec(found.spec, name)
    module = build(found)
    assert (found.spec.input.layout == "NCTHW") != hasattr(module, "init_state")


def test_a_model_without_weights_says_how_to_train_it() -> None:
    without = [n for n in zoo.full_names() if n not in SHIPPED]
    for name in without:
        with pytest.raises(UsageError, match="has no weights in this installation. Train it: python -m"):
            zoo.checkpoint(name)


def test_changed_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = read_json(zoo.INDEX)["pv-conv-nano-fight"]
    (tmp_path / "weights").mkdir()
    (tmp_path / row["weights"]).write_bytes(b"something else")
    monkeypatch.setattr(zoo, "HERE", tmp_path)
    with pytest.raises(UsageError, match="not the file the index describes"):
        zoo.checkpoint("pv-conv-nano-fight")


def test_all_clips_stay_small() -> None:
    clips = sum(p.stat().st_size for p in (zoo.HERE / "clips").rglob("*") if p.is_file())
    assert clips < 2_000_000


def test_shipped_clips_are_balanced_whole_and_split_by_group() -> None:
    clips = find_clips(zoo.HERE / "clips", zoo.TASKS["fight"])
    calibration, evaluation = split_clips(clips, calibration=12)
    assert [c.label for c in calibration].count("fight") == 6 == len(calibration) / 2
    assert [c.label for c in evaluation].count("fight") == 12 == len(evaluation) / 2
    assert not {c.group for c in calibration} & {c.group for c in evaluation}
    listed = (zoo.HERE / "clips" / "manifest.csv").read_text()
    assert all(sha256(c.path) in listed for c in clips)

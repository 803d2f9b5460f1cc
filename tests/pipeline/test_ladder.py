"""Several bundles as one: what is kept, what is refused, and that the result runs like its parts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from null_bundle import write_null_bundle
from support import Tiny

import edgepv
from edgepv import bundle
from edgepv.base.console import Console
from edgepv.base.files import write_json
from edgepv.cli.app import main
from edgepv.data import before
from edgepv.data.clips import Clip, clips_digest
from edgepv.data.video import read_video
from edgepv.device import slots
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.pipeline import combine
from edgepv.runtimes.engine import Engine
from edgepv.stream import Tensors
from edgepv.types import Accuracy, Measurement, Report, Rung, Variant

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def window_bundle(tiny_clip: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip model as a window at 48 x 48 instead of 32 x 32."""
    out = tmp_path_factory.mktemp("window") / "window"
    options = [
        "--size",
        "48",
        "--stream",
        "window",
        "--precision",
        "fp32",
        "--target",
        "cpu",
        "--out",
        str(out),
    ]
    assert main(["export", *tiny_clip.arguments, *options]) == 0
    return out


@pytest.fixture(scope="module")
def packed(step_bundle: Path, window_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ladder") / "ladder"
    assert main(["ladder", str(step_bundle), str(window_bundle), "--out", str(out)]) == 0
    return out


def test_a_smaller_size_is_in_the_spec_of_the_bundle(window_bundle: Path) -> None:
    spec = bundle.read(window_bundle).content.spec
    assert spec.input.shape == (1, 3, 4, 48, 48) and spec.name == "tiny-clip-48"


def test_the_rungs_are_the_chosen_variants_the_slowest_first(
    packed: Path, step_bundle: Path, window_bundle: Path
) -> None:
    found = bundle.read(packed)
    bundle.check(found)
    rungs = found.measured.ladder
    assert 1 <= len(rungs) <= 2 and found.measured.run == rungs[0].variant
    times = [r.p50_ms for r in rungs if r.p50_ms]
    assert times == sorted(times, reverse=True) and len(times) == len(rungs)
    parts = {bundle.read(p).variant().sha256 for p in (step_bundle, window_bundle)}
    assert {v.sha256 for v in found.ladder()} <= parts


def test_every_rung_replays_its_own_golden_answers(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(packed)]) == 0
    said = capsys.readouterr().out
    assert said.count("golden answers reproduced") == len(bundle.read(packed).ladder())


def test_a_ladder_can_be_an_update(packed: Path, tmp_path: Path) -> None:
    state = slots.install(tmp_path / "slots", packed)
    assert state.good == "a" and state.history[-1].what in ("installed", "committed")


def test_a_rung_answers_as_it_did_in_its_own_bundle(packed: Path, step_bundle: Path, a_clip: Path) -> None:
    frames = read_video(a_clip).frames[:8]
    chosen = bundle.read(step_bundle).variant()
    name = next((v.name for v in bundle.read(packed).ladder() if v.sha256 == chosen.sha256), None)
    if name is None:
        pytest.skip("the step was slower and not better here, and left out")
    with edgepv.open(packed, variant=name) as one, edgepv.open(step_bundle) as other:
        assert [one.step(f).scores for f in frames] == [other.step(f).scores for f in frames]


def test_a_runner_answers_from_a_ladder(packed: Path, a_clip: Path) -> None:
    with edgepv.runner(packed, deadline_ms=5000) as runner:
        replies = [runner.ask(f) for f in read_video(a_clip).frames[:8]]
    assert [r.number for r in replies] == list(range(8)) and not any(r.stale for r in replies)
    assert replies[-1].answer and replies[-1].answer.valid


def test_bench_tells_every_variant_and_live_every_rung_and_the_ladder(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(packed), "--json"]) in (0, 6), "6: a machine that runs other tests is busy"
    names = {v.name for v in bundle.read(packed).content.variants}
    assert {row["name"] for row in json.loads(capsys.readouterr().out)["rows"]} == names
    assert main(["bench", str(packed), "--live", "--limit", "2", "--rate", "4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {r["name"] for r in rows} - {"ladder"} == names
    assert all(r["frames"] > 30 and r["instants"] > 0 for r in rows)


@pytest.mark.parametrize(
    ("rungs", "kept", "why"),
    [
        ([("a", 9.0, 0.9), ("b", 3.0, 0.8)], ["a", "b"], "slower but better"),
        ([("a", 9.0, 0.8), ("b", 3.0, 0.8)], ["b"], "slower and not better"),
        ([("a", 9.0, None), ("b", 3.0, 0.8)], ["a", "b"], "nobody knows whether it is better"),
        ([("b", 3.0, 0.8), ("a", 9.0, 0.9)], ["a", "b"], "the order is by time, not as given"),
    ],
)
def test_a_rung_stays_if_it_may_be_worth_its_time(
    rungs: list[tuple[str, float, float | None]], kept: list[str], why: str
) -> None:
    chosen, reasons = combine.worth_it([Rung(*r) for r in rungs])
    assert [r.variant for r in chosen] == kept, why
    assert len(reasons) == len(rungs) - len(kept)


def judged(clips: str | None, n: int = 52) -> Accuracy:
    return Accuracy(0.8, 0.7, 0.9, n, clips=clips)


@pytest.mark.parametrize(
    ("found", "known", "why"),
    [
        ([judged("x"), judged("x")], [0.8, 0.8], "on the same clips"),
        ([judged("x"), judged("y")], [None, None], "on different clips"),
        ([judged("x"), judged(None)], [None, None], "nobody knows on which clips"),
        ([judged(None), judged(None)], [None, None], "nobody knows on which clips"),
        ([judged("x"), judged("x", 29)], [0.8, None], "too few clips"),
        ([judged("x"), judged("x"), None], [0.8, 0.8, None], "one was not judged"),
        ([judged("x"), judged("y", 29)], [0.8, None], "one alone compares to nothing"),
    ],
)
def test_top1_counts_where_it_was_measured_on_the_same_clips(
    found: list[Accuracy | None], known: list[float | None], why: str
) -> None:
    assert combine.comparable(found) == known, why


def measured_bundle(folder: Path, delays_ms: str, accuracy: Accuracy) -> Path:
    """A null bundle whose report gives its variant an accuracy."""
    found = bundle.read(write_null_bundle(folder, name=folder.name, delays_ms=delays_ms))
    row = Measurement("null", "null", "null", "fp32", "window", "no hardware", accuracy=accuracy)
    write_json(folder / "measured.json", Report(folder.name, (row,), "null"))
    files = bundle.digests(folder, ["measured.json"])
    bundle.write(folder, found.content, replace(found.measured, files=files))
    return folder


@pytest.mark.parametrize(
    ("clips", "rungs"), [("x", ["small-8x8-null"]), ("y", ["large-8x8-null", "small-8x8-null"])]
)
def test_a_rung_is_left_out_only_for_one_that_was_judged_on_its_clips(
    clips: str, rungs: list[str], tmp_path: Path
) -> None:
    large = measured_bundle(tmp_path / "large", "[2.0]", judged("x"))
    small = measured_bundle(tmp_path / "small", "[0.0]", judged(clips))
    found = combine.combine([large, small], tmp_path / "out", QUIET).measured
    assert [r.variant for r in found.ladder] == rungs
    assert any("top-1 is left out" in reason for reason in found.reasons) == (clips == "y")


def test_an_export_notes_the_clips_whatever_the_size_of_the_model(
    step_bundle: Path, window_bundle: Path
) -> None:
    found = [
        row["accuracy"]["clips"]
        for folder in (step_bundle, window_bundle)
        for row in json.loads((folder / "measured.json").read_text())["rows"]
    ]
    assert len(set(found)) == 1 and len(found[0]) == 64


def test_other_bytes_or_labels_are_other_clips_and_other_places_are_not(tmp_path: Path) -> None:
    def clip(name: str, data: bytes, label: str | None) -> Clip:
        path = tmp_path / name
        path.write_bytes(data)
        return Clip(path, label, name)

    a, b = clip("a", b"1", "fight"), clip("b", b"2", None)
    moved = clip("z", b"1", "fight")
    assert clips_digest([a, b]) == clips_digest([b, moved])
    assert clips_digest([a, b], ordered=True) == clips_digest([moved, b], ordered=True)
    assert clips_digest([a, b], ordered=True) != clips_digest([b, a], ordered=True)
    others = [clip("c", b"3", "fight"), clip("d", b"1", "no_fight")]
    assert clips_digest([a, b]) not in [clips_digest([other, b]) for other in others]


def test_a_rung_whose_engine_is_not_here_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    class Closes:
        def infer(self, inputs: Tensors) -> Tensors:
            return inputs

        def close(self) -> None:
            closed.append(1)

    def opens(variant: Variant, folder: Path) -> Engine:
        if variant.name.startswith("small"):
            raise TargetUnavailableError("not here")
        return Closes()

    monkeypatch.setattr(combine, "open_engine", opens)
    delays = {"large": "[2.0]", "small": "[0.0]"}
    bundles = [write_null_bundle(tmp_path / name, name=name, delays_ms=ms) for name, ms in delays.items()]
    with pytest.raises(TargetUnavailableError):
        combine.combine(bundles, tmp_path / "out", QUIET)
    assert closed == [1]


def test_bundles_that_are_no_ladder_are_refused(tmp_path: Path, step_bundle: Path) -> None:
    one = write_null_bundle(tmp_path / "one")
    with pytest.raises(UsageError, match="two bundles or more"):
        combine.combine([one], tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="has another target than"):
        combine.combine([step_bundle, one], tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="both hold"):
        combine.combine([one, one], tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_one_model_under_two_names_is_refused_before_it_is_timed(tmp_path: Path) -> None:
    """A ladder of two, and one of the two again: its file is the same, its name is not."""
    large = measured_bundle(tmp_path / "large", "[2.0]", judged("x"))
    small = measured_bundle(tmp_path / "small", "[0.0]", judged("y"))
    combine.combine([large, small], tmp_path / "both", QUIET)
    with pytest.raises(UsageError, match=r"both and .*large run the same model file, models/delays.json"):
        combine.combine([tmp_path / "both", large], tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_the_rungs_of_a_ladder_that_are_not_taken_are_told(tmp_path: Path) -> None:
    large = measured_bundle(tmp_path / "large", "[4.0]", judged("x"))
    small = measured_bundle(tmp_path / "small", "[0.0]", judged("y"))
    combine.combine([large, small], tmp_path / "both", QUIET)
    middle = measured_bundle(tmp_path / "middle", "[2.0]", judged("z"))
    found = combine.combine([tmp_path / "both", middle], tmp_path / "out", QUIET).measured
    assert len(found.ladder) == 2
    why = "small-8x8-null of large-ladder: left out, since of a bundle only what it runs is taken"
    assert why in found.reasons


def test_a_name_inside_a_bundle_writes_no_file_outside_the_ladder(tmp_path: Path) -> None:
    """Unsigned and whole, but its name is a path: the model's bytes were written there."""
    large = measured_bundle(tmp_path / "large", "[2.0]", judged("x"))
    evil = measured_bundle(tmp_path / "evil", "[0.0]", judged("x"))
    found = bundle.read(evil)
    bundle.write(evil, replace(found.content, name="../../stolen/x"), found.measured)
    (tmp_path / "stolen").mkdir()
    with pytest.raises(UsageError, match=r"content\.name is '../../stolen/x'"):
        combine.combine([large, evil], tmp_path / "out", QUIET)
    assert not list((tmp_path / "stolen").iterdir())
    assert not (tmp_path / "out").exists()


def test_rungs_are_timed_with_what_comes_before_their_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline counts it too: the two are alike but for a chain of 3 ms."""

    def slowly(picture: np.ndarray) -> np.ndarray:
        time.sleep(0.003)
        return picture

    monkeypatch.setitem(cast(dict[str, Any], before.CHAIN), "clahe", slowly)
    source = bundle.read(write_null_bundle(tmp_path / "b"))
    plain = source.variant()
    chained = replace(plain, name="chained", spec=replace(plain.spec, before=("clahe",)))
    parts = [combine.Part(source, plain, one, None) for one in (plain, chained)]
    times = combine._times(parts, source.folder)
    assert times["null"].p50_ms < 3 < times["chained"].p50_ms

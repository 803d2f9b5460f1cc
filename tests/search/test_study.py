"""The study remembers what was measured and nothing else, survives kills, and repeats itself."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import postgres
import pytest
from fake_trials import AXES, KEEPING, QUESTION, Fake, seeded, study, time_of
from support import ROOT

from edgepv.base.console import Console
from edgepv.errors import DeviceError, UsageError
from edgepv.search import study as studies
from edgepv.search.space import Space
from edgepv.search.study import Study, told_if_lost
from edgepv.types import Latency

pytestmark = pytest.mark.slow
NEEDS_SERVER = pytest.mark.skipif(
    not postgres.PG_CTL or not importlib.util.find_spec("psycopg"),
    reason="needs PostgreSQL's own programs and edgepv[postgres]",
)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 's.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=NEEDS_SERVER)])
def shared(request: pytest.FixtureRequest, storage: str) -> Iterator[str]:
    """A storage that several workers use at once."""
    if request.param == "sqlite":
        yield storage
    else:
        with postgres.server() as server:
            yield server.url


def names(done: Study) -> list[str]:
    return [t.user_attrs["name"] for t in done._done()]


def best(done: Study) -> str:
    good = [(ms, f.candidate.name) for f, ms in done.found() if f.drop.points <= 2]
    return min(good)[1]


def test_whole_streams_come_first(storage: str) -> None:
    done = study(Fake(), storage)
    done.run(seconds=60, trials=2)
    assert names(done) == [f"{v} stream 112px" for v in done.trials.space.variants]


def test_a_model_that_does_not_stream_is_tried_in_every_form(storage: str) -> None:
    space = Space(("onnxruntime-fp32",), ("clip", "flat"), (112,))
    done = study(Fake(space=space), storage)
    done.run(seconds=60, trials=2)
    assert names(done) == ["onnxruntime-fp32 clip 112px", "onnxruntime-fp32 flat 112px"]


def test_then_the_fastest_of_them_is_made_smaller_in_one_way_at_a_time(storage: str) -> None:
    done = study(Fake(), storage)
    done.run(seconds=60, trials=6)
    best_whole = "onnxruntime-int8 stream 112px"
    assert names(done)[2:] == [
        f"{best_whole} cut 25/25",
        f"{best_whole} cut 50/50",
        f"{best_whole} rank 90 %",
        "onnxruntime-int8 stream 96px",
    ]


def test_the_search_finds_what_no_lever_alone_reaches(storage: str) -> None:
    done = study(Fake(), storage)
    done.run(seconds=120, trials=30)
    fastest = min(ms for f, ms in done.found() if f.drop.points <= 2)
    alone = min(time_of(c) for c in done.trials.space.single_methods())
    assert alone == 4.0 and fastest <= 2.0


def test_the_same_seed_tries_the_same_and_finds_the_same(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        done = study(Fake(), f"sqlite:///{tmp_path / name}.db")
        done.run(seconds=120, trials=15)
        runs.append((names(done), best(done)))
    assert runs[0] == runs[1]


def test_a_study_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole = study(Fake(), f"sqlite:///{tmp_path / 'whole'}.db")
    whole.run(seconds=120, trials=15)
    url = f"sqlite:///{tmp_path / 'parts'}.db"
    for upto in (5, 12, 15):
        parts = study(Fake(), url)
        parts.run(seconds=120, trials=upto)
    assert names(parts) == names(whole)


def test_another_seed_is_another_study(storage: str) -> None:
    one, two = study(Fake(), storage), study(Fake(), storage, question=seeded(1))
    assert one.name != two.name


def test_what_cannot_be_made_is_named_and_has_no_value(storage: str) -> None:
    done = study(Fake(broken=("onnxruntime-int8",)), storage)
    done.run(seconds=60, trials=4)
    why = "not measured: onnxruntime-int8 does not convert"
    assert ("onnxruntime-int8 stream 112px", why) in done.failures()
    assert all(f.candidate.variant == "onnxruntime-fp32" for f, _ in done.found())


def test_a_candidate_far_over_the_budget_is_timed_and_neither_trained_nor_scored(storage: str) -> None:
    """In float a clip takes 16 ms, in INT8 8 ms; the limit is 4 ms."""
    space = Space(("onnxruntime-fp32", "onnxruntime-int8"), ("clip",), (112,))
    done = study(Fake(space=space), storage)
    done.run(seconds=60, trials=2)
    assert ("onnxruntime-fp32 clip 112px", "skipped, 16.00 ms is too slow to be scored") in done.failures()
    assert not done.found() and done.nearest() == ("onnxruntime-int8 clip 112px", 8.0)


def test_a_candidate_predicted_to_be_hopeless_is_not_even_built(storage: str) -> None:
    ground = Fake(space=Space(("onnxruntime-fp32",), ("clip",), (112, 96), AXES))
    done = study(ground, storage)
    done.run(seconds=300, trials=20)
    foretold = [name for name, why in done.failures() if "predicted" in why]
    assert foretold and not done.found()
    assert not set(foretold) & set(ground.asked)


def test_where_all_are_too_slow_the_fastest_is_made_smaller(storage: str) -> None:
    """The only whole model takes 16 ms, the limit is 4 ms."""
    done = study(Fake(space=Space(("onnxruntime-fp32",), ("clip",), (112, 96), AXES)), storage)
    done.run(seconds=60, trials=3)
    whole = "onnxruntime-fp32 clip 112px"
    assert names(done) == [whole, f"{whole} cut 25/25", f"{whole} cut 50/50"]


def test_a_kill_while_a_study_is_begun_does_not_break_it(storage: str) -> None:
    import optuna

    name = study(Fake(), "sqlite:///:memory:").name
    optuna.create_study(study_name=name, storage=storage, directions=["minimize", "minimize"])
    done = study(Fake(), storage)
    done.run(seconds=60, trials=2)
    assert len(done.found()) == 2 and done.name == name


def test_a_worker_killed_in_a_trial_leaves_nothing_and_its_trial_is_tried_again(
    shared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another worker tries two more while the first is in its own, is there when it dies, and goes on."""
    worker = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fake_trials.py"), shared, "60", "1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout and "measuring onnxruntime-fp32 stream 112px" in worker.stdout.readline()
    done = study(Fake(), shared, Console())
    done.run(seconds=60, trials=2)
    assert "onnxruntime-fp32 stream 112px" not in names(done)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    done.run(seconds=120, trials=14)
    said = capsys.readouterr().err
    assert f"a worker (process {worker.pid}) ended in trial 0, onnxruntime-fp32 stream 112px" in said
    assert names(done).count("onnxruntime-fp32 stream 112px") >= 1
    assert all("interrupted" not in why for _, why in done.failures())
    alone = study(Fake(), f"sqlite:///{tmp_path / 'alone.db'}")
    alone.run(seconds=120, trials=14)
    assert best(done) == best(alone)


def test_a_trial_stopped_by_the_user_is_tried_again(storage: str) -> None:
    class Stopped(Fake):
        def measure(self, candidate, timed=None):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(Stopped(), storage).run(seconds=60, trials=3)
    done = study(Fake(), storage)
    done.run(seconds=60, trials=14)
    assert "onnxruntime-fp32 stream 112px" in names(done)
    assert not [why for _, why in done.failures() if "skipped" not in why]


def test_two_workers_share_one_study(shared: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "fake_trials.py"), shared, "0.05", "8"]
    study(Fake(), shared)
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [w.wait(timeout=120) for w in workers] == [0, 0]
    done = study(Fake(), shared)
    pids = {t.user_attrs["pid"] for t in done._done()}
    assert pids == {w.pid for w in workers} and os.getpid() not in pids


def test_a_search_ends_when_nothing_new_is_proposed(storage: str) -> None:
    ground = Fake(space=Space(("onnxruntime-fp32", "onnxruntime-int8"), ("stream",), (112,), (KEEPING,)))
    done = study(ground, storage)
    done.run(seconds=600, trials=None)
    assert len(done.found()) == len(set(ground.asked)) == len(ground.asked) == 4  # INT8: 0, 2 or 4 in float


def test_a_machine_of_another_kind_is_refused(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study(Fake(), storage)
    monkeypatch.setattr(studies, "machine", lambda: {"cpu": "another", "cores": 64})
    with pytest.raises(UsageError, match="timed on .* this machine is another .64 cores.*equal machines"):
        study(Fake(), storage)


def test_a_storage_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(UsageError, match=r"--storage nonsense://x cannot be opened.*postgresql://"):
        study(Fake(), "nonsense://x")


@pytest.mark.parametrize("url", ["postgresql://me:secret@/x?host=/nowhere", "postgresql:/me:secret@/x"])
def test_the_password_of_a_storage_is_not_printed(url: str) -> None:
    with pytest.raises(UsageError, match=r"--storage postgresql://?me:\*\*\*@") as e:
        study(Fake(), url)
    assert "secret" not in str(e.value)


@NEEDS_SERVER
def test_a_server_that_comes_back_goes_on_and_one_that_does_not_is_named() -> None:
    with postgres.server() as server:
        done = study(Fake(), server.url)
        done.run(seconds=60, trials=2)
        server.stop()
        lost = r"--storage postgresql://edgepv@/postgres.* is lost: .*psycopg"
        with pytest.raises(DeviceError, match=lost), told_if_lost(server.url):
            done.run(seconds=60, trials=4)
        server.start()
        done.run(seconds=60, trials=4)
        assert len(done.found()) == 4


def times(done: Study) -> dict[str, float]:
    return {f.candidate.name.split()[0]: ms for f, ms in done.found()}


WHOLE = Space(("onnxruntime-fp32", "onnxruntime-int8"), ("stream",), (112,))
"""In float 4 ms, in INT8 2 ms, the reference 16 ms; the limit is 4 ms, and above 6 nothing is scored."""


@pytest.mark.parametrize("load", [(), (3.0, 3.0), (1.2, 1.0, 1.3), (1.0, 9.0, 1.0), (0.5, 1.0)])
def test_a_time_is_a_ratio_in_ms_of_the_quietest_reference(storage: str, load: tuple[float, ...]) -> None:
    done = study(Fake(space=WHOLE, load=load), storage, question=replace(QUESTION, latency_ms=20.0))
    done.run(seconds=60, trials=2)
    quietest = min([*load, 1.0][:2])
    assert times(done) == pytest.approx({"onnxruntime-fp32": 4 * quietest, "onnxruntime-int8": 2 * quietest})
    assert done.reference_ms == 16 * quietest
    name, ms = done.nearest() or ("", 0.0)
    assert name == "onnxruntime-int8 stream 112px" and ms == pytest.approx(2 * quietest)


def test_a_percentile_is_held_against_the_reference_too(storage: str) -> None:
    """p50 8 ms is 0.4 of the reference's 20 ms; p99 is half as much again."""
    latency = Latency(8.0, 10.0, 12.0, 90, 6, 1)
    assert study(Fake(), storage).relative(latency, 0.4) == pytest.approx(0.4)
    asked = study(Fake(), storage, question=replace(QUESTION, percentile=99))
    assert asked.relative(latency, 0.4) == pytest.approx(0.6)


def test_a_busy_beginning_rules_nothing_out(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Float takes 12 ms while the machine is busy, and is skipped; then the reference is 3 times faster."""
    ground = Fake(space=WHOLE, load=(3.0, 1.0))
    done = study(ground, storage, Console())
    done.run(seconds=60, trials=3)
    said = capsys.readouterr().err
    assert "onnxruntime-fp32 stream 112px: skipped, 12.00 ms is too slow to be scored" in said
    assert "onnxruntime-fp32 stream 112px: the machine was busy; it is tried again" in said
    assert times(done) == {"onnxruntime-fp32": 4.0, "onnxruntime-int8": 2.0} and not done.failures()
    done.run(seconds=60, trials=5)
    assert len(ground.asked) == 3


def test_a_busy_machine_later_rules_nothing_out(storage: str) -> None:
    """INT8 takes 18 ms in turns with a reference of 144 ms: that is 2 ms where this takes 16."""
    done = study(Fake(space=WHOLE, load=(1.0, 9.0)), storage)
    done.run(seconds=60, trials=2)
    assert times(done) == {"onnxruntime-fp32": 4.0, "onnxruntime-int8": 2.0}

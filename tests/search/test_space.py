"""Candidates, methods, and the command that makes one again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from fake_trials import SPACE

from edgepv.cli.app import parser
from edgepv.cli.export import export_options
from edgepv.errors import UsageError
from edgepv.pipeline.options import Options
from edgepv.search.space import Candidate, command, methods_of, sizes_for, variants_of
from edgepv.targets import target

ASKED = Options(
    "pv-c3d",
    ("cpu",),
    weights="/w.pt",
    clips="/my clips",
    steps={"multiple": 16},
    seed=7,
    max_drop=5.0,
    trust_pickle=True,
)
SMALL = Candidate(
    "openvino-int8",
    "flat",
    96,
    (("keep_float", (2,)), ("low_rank", (0.9,)), ("prune", (0.0, 0.25, 0.5))),
)


def test_a_lever_alone_changes_one_thing() -> None:
    start = SPACE.start()
    pulled = [methods_of(c, start) for c in SPACE.single_methods()]
    assert pulled[0] == "none"
    assert set(pulled) == {"none", "quant", "form", "prune", "size", "rank"}
    assert methods_of(SMALL, start) == "engine+form+quant+prune+rank+size"


@pytest.mark.parametrize("candidate", [*SPACE.single_methods(), *SPACE.whole(), *SPACE.around(SPACE.start())])
def test_a_trial_of_a_candidates_parameters_proposes_that_candidate(candidate: Candidate) -> None:
    import optuna

    trial = optuna.trial.FixedTrial(SPACE.params(candidate))
    assert SPACE.suggest(trial) == candidate


def test_the_command_makes_the_candidate_again() -> None:
    options = SMALL.options(ASKED, 112, 10)
    words = shlex.split(command(options, "b"))
    assert words[:2] == ["edgepv", "export"]
    again = export_options(parser().parse_args(words[1:]))
    assert again == Options(**{**vars(options), "out": "b", "gate": True})
    assert (
        again.variant == "openvino-int8-r4"
        and again.stream == "window"
        and again.steps["prune"] == (0.0, 0.25, 0.5)
    )


def test_the_model_as_it_was_written_leaves_out_what_an_export_does_unasked() -> None:
    plain = Candidate("openvino-fp32", "stream", 112).options(Options("pv-c3d"), 112, None)
    assert command(plain, "b") == (
        "edgepv export pv-c3d --target cpu --precision fp32 --variant openvino-fp32 --fold 0 --out b"
    )


def test_paths_are_absolute_so_that_the_command_runs_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text("")
    options = SPACE.start().options(Options("m.py:build", spec="s.toml", clips="c"), 112, None)
    words = shlex.split(command(options, "b"))
    assert f"{tmp_path}/m.py:build" in words and f"{tmp_path}/s.toml" in words and f"{tmp_path}/c" in words


def test_sizes_are_multiples_of_16_the_native_one_first() -> None:
    assert sizes_for(112) == (112, 96, 80)
    assert sizes_for(32) == (32,)


def test_a_target_that_is_not_here_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot measure jetson on this machine"):
        variants_of(target("jetson"), "auto")


def test_one_precision_may_be_asked_for() -> None:
    assert variants_of(target("mobile"), "int8") == ("litert-int8-full", "litert-int8-conv")


def test_native_code_is_searched_where_a_compiler_is(
    monkeypatch: pytest.MonkeyPatch, compiling: None
) -> None:
    assert "native-fp32" in variants_of(target("cpu"), "fp32")
    monkeypatch.setenv("EDGEPV_CC", "none")
    assert "native-fp32" not in variants_of(target("cpu"), "fp32")

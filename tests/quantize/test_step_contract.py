"""The contract of a step, and a step of another package: one file, and it is everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import Run, Tiny, drifts

from edgepv import bundle
from edgepv.base import registry
from edgepv.base.console import Console
from edgepv.base.options import option, options_of
from edgepv.errors import EdgepvError, ModelError, UsageError
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.pipeline.build import nothing_made
from edgepv.pipeline.options import Options
from edgepv.quantize import finetune, low_rank, prune, qat, step
from edgepv.quantize.step import (
    CheckpointStep,
    PromiseError,
    Step,
    Training,
    asked,
    broken_steps,
    step_named,
    step_options,
    steps,
)
from edgepv.quantize.step import registry as registry_of_steps
from edgepv.search.space import Axis, command
from edgepv.search.trial import SearchRequest, TrialRunner
from edgepv.types import Checkpoint

SNAP = '''
from dataclasses import dataclass

from edgepv.base.options import option
from edgepv.model.checkpoint import build
from edgepv.quantize.step import CheckpointStep


@dataclass(frozen=True)
class Step(CheckpointStep):
    """Weights on a grid."""

    name = "snap"
    version = 3
    done = ("snapped", "with weights on a grid")

    parts: int = option(
        8,
        "round weights to one part in N (default: off)",
        key="snap",
        metavar="N",
        check=lambda n: n >= 2,
        hint="give 2 parts or more",
        asks=True,
        searched=(0, 8, 4),
    )

    def work(self, given, out, aid):
        module = build(given)
        for weight in module.parameters():
            weight.data = (weight * self.parts).round() / self.parts
        return self.saved(given, module, out)
'''


@dataclass(frozen=True)
class Copied(CheckpointStep):
    """The same weights again, with a flaw. flaw: what it does to the checkpoint that it made."""

    name = "copied"
    flaw: str = ""
    share: float = option(0.5, "", check=lambda share: share < 1, hint="give less than 1")

    def requires(self, given: Checkpoint, aid: Training) -> None:
        if self.flaw == "picky":
            raise UsageError("it takes none")
        if self.flaw == "cannot":
            raise ModelError("it cannot")

    def work(self, given: Checkpoint, out: Path, aid: Training) -> Checkpoint:
        made = self.saved(given, build(given), out)
        if self.flaw == "another file":
            out.write_bytes(b"")
        return {
            "no record": replace(made, steps=given.steps),
            "forgets": replace(made, steps=made.steps[-1:]),
            "another model": replace(made, spec=replace(made.spec, frames=9)),
        }.get(self.flaw, made)


@pytest.fixture
def source(tiny_step: Tiny) -> Checkpoint:
    return from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("no record", "its own is missing .promised by copied, after copied, copied"),
        ("forgets", "records of the steps before are not kept.* .promised by copied, after copied, copied"),
        ("another model", "its spec or its builder changed .promised by copied, after copied, copied"),
        ("another file", "x.safetensors is not the file that was made .promised by copied"),
        ("picky", "it takes none .required by copied, after copied, copied"),
    ],
)
def test_a_broken_promise_names_the_step_and_the_chain(
    source: Checkpoint, tmp_path: Path, flaw: str, said: str
) -> None:
    before = Copied()(Copied()(source, tmp_path / "1.safetensors"), tmp_path / "2.safetensors")
    with pytest.raises(PromiseError, match=said):
        Copied(flaw)(before, tmp_path / "x.safetensors")


def test_what_a_step_refuses_ends_a_target_with_the_code_of_what_it_refused(
    source: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(PromiseError) as refused:
        Copied("cannot")(source, tmp_path / "x.safetensors")
    with pytest.raises(PromiseError, match="cpu: nothing could be made .v.. it cannot .required") as ended:
        nothing_made("cpu", {"v": refused.value})
    assert refused.value.exit_code == ended.value.exit_code == ModelError.exit_code == 12


def test_an_option_out_of_range_is_refused_before_the_work(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(PromiseError, match="--share 2: give less than 1 .required by copied"):
        Copied(share=2.0)(source, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_record_has_the_options_and_the_version(source: Checkpoint, tmp_path: Path) -> None:
    (record,) = Copied()(source, tmp_path / "x.safetensors").steps
    assert record.options == {"flaw": "", "share": 0.5} and record.version == Copied.version == 1


def test_steps_run_in_their_order_whatever_the_order_they_are_asked_in() -> None:
    chain = asked({"qat": 2, "tune_epochs": 1, "low_rank": 0.9, "prune": [0.0, 0.5]}, seed=7)
    assert chain == (
        prune.Step((0.0, 0.5), seed=7),
        low_rank.Step(0.9),
        finetune.Step(1, seed=7),
        qat.Step(2, seed=7),
    )


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, []),
        ({"multiple": 4, "seed": 1}, []),
        ({"prune": 0.0}, []),
        ({"low_rank": 0.9}, ["low-rank", "finetune"]),
        ({"low_rank": 0.9, "tune_epochs": 0}, ["low-rank"]),
        ({"qat": 1}, ["qat"]),
    ],
)
def test_fine_tuning_is_due_after_what_costs_accuracy(given: dict[str, object], names: list[str]) -> None:
    assert [step.name for step in asked(given, tuning=True)] == names


def test_every_option_is_told_to_people() -> None:
    for kind in steps().values():
        for one in options_of(kind):
            assert one.help and one.metavar and one.flag.startswith("--"), (kind, one)
    with pytest.raises(UsageError, match="unknown step 'prun'.* Did you mean 'prune'"):
        step_named("prun")


def _install(folder: Path, *lines: str, code: str = SNAP) -> None:
    (folder / "snap.py").write_text(code)
    (folder / "x-1.dist-info").mkdir()
    (folder / "x-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1\n")
    (folder / "x-1.dist-info" / "entry_points.txt").write_text("\n".join(["[edgepv.steps]", *lines]) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that packages are installed into."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    caches = (registry._installed, step._usable, step_options)
    for known in caches:
        known.cache_clear()
    yield folder
    sys.modules.pop("snap", None)
    for known in caches:
        known.cache_clear()


@pytest.mark.slow
def test_a_step_of_another_package_is_in_help_plan_and_bundle(
    site: Path, tiny_step: Tiny, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(site, "snap = snap:Step")
    with pytest.raises(SystemExit):
        run("export", "--help")
    said = capsys.readouterr().out
    assert "--snap N" in said and "round weights to one part in N (default: off)" in said

    command = ["export", *tiny_step.arguments, "--precision", "fp32", "--out", tmp_path / "b"]
    assert json.loads(run(*command, "--dry-run", "--json")[1])["snap"] == "off"
    assert json.loads(run(*command, "--snap", 4, "--dry-run", "--json")[1])["snap"] == "--snap 4"
    code, _, err = run(*command, "--snap", 1)
    assert code == 2 and "--snap 1: give 2 parts or more" in err

    code, _, err = run(*command, "--snap", 4)
    assert code == 0, err
    (record,) = (s for s in bundle.read(tmp_path / "b").content.steps if s.name == "snap")
    assert (record.options, record.version) == ({"parts": 4}, 3)
    assert "torch-snapped" in (tmp_path / "b" / "measured.json").read_text()


@pytest.mark.slow
def test_a_step_of_another_package_is_searched(site: Path, tiny_step: Tiny, tmp_path: Path) -> None:
    _install(site, "snap = snap:Step")
    clips = drifts(tmp_path / "clips", ("fight", "no_fight"))
    weights, spec = str(tiny_step.weights), str(tiny_step.spec)
    options = Options(tiny_step.model, weights=weights, spec=spec, clips=str(clips), precision="fp32")
    trials = TrialRunner(SearchRequest(options, 100.0), Console(quiet=True))
    assert Axis("snap", (0, 8, 4)) in trials.space.axes
    tried = next(c for c in trials.space.around(trials.space.start()) if "snap" in c.given)
    assert tried.name == "onnxruntime-fp32 stream 32px snap 8"
    assert "--snap 8 " in command(tried.options(options, 32, None), "b")
    variant, _ = trials.make(tried, 0)
    assert "snap" in [s.name for s in variant.steps]


LATE = "from __future__ import annotations\n" + SNAP
PRUNE = SNAP.replace('"snap"\n', '"prune"\n')


@pytest.mark.parametrize(
    ("point", "code", "said"),
    [
        ("snap = snap:Nothing", SNAP, "the step 'snap' of x 1 cannot be loaded: AttributeError: "),
        ("snap = snap:Step", "raise SystemExit", "the step 'snap' of x 1 cannot be loaded: SystemExit"),
        ("snap = json:dumps", SNAP, "the step 'snap' of x 1 cannot be used: json:dumps is no Step"),
        ("snap = fractions:Fraction", SNAP, "cannot be used: fractions:Fraction is no Step"),
        ("snap = snap:Step", PRUNE, "the step 'snap' calls itself 'prune'. Give both one name"),
        ("snap = snap:Step", LATE.replace("parts: int", "parts: it"), "cannot be used: NameError: "),
        ("snap = snap:Step", SNAP.replace("def work", "def word"), "cannot be used: it has no work()"),
        ("snap = snap:Step", SNAP.replace('"snap",', '"qat",'), "another step has an option --qat too"),
        ("prune = snap:Step", PRUNE, "the step 'prune' is offered by edgepv and by x 1. Remove one of them"),
    ],
)
def test_a_step_that_cannot_be_used_costs_its_name_alone(
    site: Path, point: str, code: str, said: str
) -> None:
    own = set(registry_of_steps().own)
    _install(site, point, code=code)
    assert set(steps()) == own - {point.split()[0]}
    (line,) = broken_steps()
    assert said in line and "\n" not in line
    with pytest.raises(EdgepvError, match=re.escape(line)):
        step_named(point.split()[0])


def test_every_export_goes_on_without_a_broken_step_unless_it_asks_for_it(site: Path, run: Run) -> None:
    _install(site, "snap = snap:Step", code="import a_library_that_is_not_there")
    line = (
        "edgepv: the step 'snap' of x 1 cannot be loaded: ModuleNotFoundError: "
        "No module named 'a_library_that_is_not_there'. Update or remove it"
    )
    plan = ["export", "--target", "null", "--precision", "fp32", "--dry-run"]
    code, _, err = run(*plan)
    assert (code, err) == (0, f"{line}\n")
    code, _, err = run(*plan, "--snap=2")
    assert code == 2
    assert err.splitlines() == [line, "edgepv: unrecognized arguments: --snap=2. See: edgepv --help"]
    code, out, _ = run("doctor", "--json")
    assert code == 0 and json.loads(out)["broken"] == [line.removeprefix("edgepv: ")]


def test_help_of_export_reads_the_steps_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edgepv.cli.app import parser\n"
        "assert '--low-rank' in parser('export')._actions[-1].choices['export'].format_help()\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'nncf'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_step_is_abstract_until_it_works() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Step()  # type: ignore[abstract]

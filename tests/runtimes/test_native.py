"""The native engine: C of the bundle's own model, with its states inside, trusted only where it may be."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import Run, Tiny, made_once

import edgepv
from edgepv import bundle
from edgepv.base import vet
from edgepv.base.engines import ENGINES, files_of
from edgepv.bundle import signing
from edgepv.bundle.proof import proven
from edgepv.errors import EngineError, TargetUnavailableError, UsageError
from edgepv.firmware import compiler
from edgepv.firmware.compiled import check_native
from edgepv.firmware.compiler import PROCESSORS, processor_here
from edgepv.metrics import choice
from edgepv.runtimes import open_engine, open_session
from edgepv.runtimes.engine import CancelledError
from edgepv.runtimes.engines.native import NativeEngine
from edgepv.runtimes.ladder import open_ladder
from edgepv.stream import Stepper, Tensors
from edgepv.types import Measurement, Variant

pytestmark = pytest.mark.slow
NATIVE = "native-fp32"


@pytest.fixture(scope="module")
def native_bundle(tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cpu bundle of the tiny step model, exported where a compiler is, that runs the C."""
    if not (shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("no C compiler is here: install gcc or clang")
    return made_once(tmp_path_factory, "native", lambda out: export(tiny_step, out, NATIVE))


def export(model: Tiny, out: Path, runs: str, *more: str) -> None:
    """Export in fp32 with a compiler at hand, as if the clock had said that this variant is the fastest."""
    from edgepv.cli.app import main

    def choose(rows: Sequence[Measurement], **limits: object) -> tuple[Measurement, str]:
        return next(row for row in rows if row.variant == runs), f"{runs} runs: the test says so"

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(compiler.VARIABLE, raising=False)
        patch.setattr(choice, "choose", choose)
        asked = ["--precision", "fp32", "--out", str(out), *more]
        assert main(["export", *model.arguments, *asked]) == 0


@pytest.fixture
def variant(native_bundle: Path, compiling: None) -> Variant:
    return bundle.read(native_bundle).variant(NATIVE)


@pytest.fixture
def nobody_vouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vet, "_vouched", set())
    monkeypatch.delenv(vet.TRUST, raising=False)


def frames(variant: Variant, count: int, seed: int = 0) -> np.ndarray:
    shape = (count, 1, *variant.spec.input.shape[1:])
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stepped(variant: Variant, folder: Path) -> tuple[NativeEngine, Stepper]:
    engine = open_engine(variant, folder)
    assert isinstance(engine, NativeEngine)
    return engine, Stepper(engine.infer, variant.spec, variant.stream)


def test_it_answers_what_onnx_runtime_answers(native_bundle: Path, variant: Variant) -> None:
    engine, native = stepped(variant, native_bundle)
    other = open_engine(replace(variant, engine="onnxruntime"), native_bundle)
    wanted = Stepper(other.infer, variant.spec, variant.stream)
    for round_ in range(2):  # the second one from a reset
        for frame in frames(variant, 12, round_):
            a, b = native.step(frame)["logits"], wanted.step(frame)["logits"]
            assert np.abs(a - b).max() < 1e-5
            assert native.valid == wanted.valid
        native.reset()
        wanted.reset()
    engine.close()


def test_answers_are_the_callers_to_keep(native_bundle: Path, variant: Variant) -> None:
    _, native = stepped(variant, native_bundle)
    first, second = (native.step(f)["logits"] for f in frames(variant, 2))
    assert not np.array_equal(first, second)


def test_two_cameras_have_states_of_their_own(native_bundle: Path, variant: Variant) -> None:
    (_, one), (_, other), (_, alone) = (stepped(variant, native_bundle) for _ in range(3))
    shown = frames(variant, 6)
    for i, frame in enumerate(shown):
        got = one.step(frame)["logits"]
        other.step(shown[-1 - i])
        assert np.array_equal(got, alone.step(frame)["logits"])


def test_a_step_that_fails_changes_nothing(native_bundle: Path, variant: Variant) -> None:
    _, native = stepped(variant, native_bundle)
    _, alone = stepped(variant, native_bundle)
    shown = frames(variant, 6)
    for i, frame in enumerate(shown):
        if i == 3:
            with pytest.raises(EngineError, match=f"{NATIVE}: the model answered NaN"):
                native.step(np.full_like(frame, np.nan))
        assert np.array_equal(native.step(frame)["logits"], alone.step(frame)["logits"])


def test_a_step_that_is_cancelled_changes_nothing(native_bundle: Path, variant: Variant) -> None:
    """Another thread cancels without a pause; every frame is shown again until it gets through."""
    engine, native = stepped(variant, native_bundle)
    _, alone = stepped(variant, native_bundle)
    done, cancelled = threading.Event(), 0

    def cancel() -> None:
        while not done.is_set():
            engine.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        until = time.monotonic() + 60
        while cancelled < 3 and time.monotonic() < until:
            for frame in frames(variant, 20):
                while True:
                    try:
                        got = native.step(frame)["logits"]
                        break
                    except CancelledError:
                        cancelled += 1
                assert np.array_equal(got, alone.step(frame)["logits"])
    finally:
        done.set()
        thread.join()
    assert cancelled >= 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'frame' is missing"),
        ({"frame": np.zeros((1, 3, 8, 8), np.float32)}, r"expected float32 \(1, 3, 32, 32\), got"),
        ({"frame": np.zeros((1, 3, 32, 32), np.float64)}, "got float64"),
    ],
)
def test_wrong_inputs_are_named(native_bundle: Path, variant: Variant, inputs: Tensors, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_engine(variant, native_bundle).infer(inputs)


def test_a_frame_that_is_a_view_is_taken_as_it_reads(native_bundle: Path, variant: Variant) -> None:
    """C walks memory in its own order: a transposed view must not be taken for a plain array."""
    _, one = stepped(variant, native_bundle)
    _, other = stepped(variant, native_bundle)
    frame = frames(variant, 1)[0]
    view = np.ascontiguousarray(frame.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert np.array_equal(one.step(frame)["logits"], other.step(view)["logits"])


def test_a_session_takes_camera_frames(native_bundle: Path, variant: Variant) -> None:
    """From a picture to scores, as on any engine; warm-up and missed frames are counted alike."""
    opened = bundle.read(native_bundle)
    pictures = np.random.default_rng(1).integers(0, 256, (8, 48, 64, 3), np.uint8)
    rows = {}
    for name in (NATIVE, "onnxruntime-fp32"):
        with open_session(opened.variant(name), opened.checked) as session:
            rows[name] = [session.step(p, missed=2 if i == 5 else 0) for i, p in enumerate(pictures)]
    for mine, theirs in zip(rows[NATIVE], rows["onnxruntime-fp32"]):
        assert (mine.index, mine.valid, mine.missed, mine.label) == (
            theirs.index, theirs.valid, theirs.missed, theirs.label,
        )  # fmt: skip
        assert mine.scores == pytest.approx(theirs.scores, abs=1e-6)


def test_another_rung_takes_over_by_seeing_the_last_frames(native_bundle: Path, variant: Variant) -> None:
    """Its states lie in C, so they are handed to nobody: either side is shown the frames again."""
    opened = bundle.read(native_bundle)
    ladder = open_ladder([opened.variant(NATIVE), opened.variant("onnxruntime-fp32")], opened.checked)
    plain = open_ladder([opened.variant("onnxruntime-fp32")], opened.checked)
    pictures = np.random.default_rng(2).integers(0, 256, (24, 32, 32, 3), np.uint8)
    names = []
    for i, picture in enumerate(pictures):
        if i in (8, 16):
            ladder.aim(1 if i == 8 else 0)
        while ladder.behind:
            ladder.catch_up()
        mine, wanted = ladder.step(picture), plain.step(picture)
        names.append(ladder.name)
        assert mine.scores == pytest.approx(wanted.scores, abs=1e-5)
    assert names == [NATIVE] * 8 + ["onnxruntime-fp32"] * 8 + [NATIVE] * 8


def test_an_export_makes_times_and_proves_it(native_bundle: Path, compiling: None) -> None:
    opened = bundle.read(native_bundle)
    bundle.check(opened)
    mine = opened.variant(NATIVE)
    assert mine.engine == "native" and mine.path == "models/model.onnx"
    objects = {n for n in opened.content.files if n.endswith(".so")}
    assert objects == {n for n in files_of(mine) if (native_bundle / n).is_file()} - {mine.path}
    assert f"models/model{(processor_here() or PROCESSORS[0]).suffix}" in objects
    told = opened.measured.proven[NATIVE].engine
    assert told == f"native {edgepv.__version__} {compiler.needed().version}"
    assert "native-fp32" in (native_bundle / "report.md").read_text()


def test_objects_come_only_with_a_bundle_that_runs_the_c(
    tiny_step: Tiny, tmp_path: Path, compiling: None
) -> None:
    export(tiny_step, tmp_path / "b", "onnxruntime-fp32")
    opened = bundle.read(tmp_path / "b")
    assert opened.variant(NATIVE).engine == "native"
    assert not [name for name in opened.content.files if name.endswith(".so")]


def test_a_clip_model_runs_in_c_by_its_flat_form(
    tiny_clip: Tiny, a_clip: Path, tmp_path: Path, run: Run, compiling: None
) -> None:
    """As a bundle and, of it, as a firmware folder, whose self-test replays the golden frames one by one."""
    name = f"{NATIVE}-r4"
    export(tiny_clip, tmp_path / "b", name, "--stream", "window")
    opened = bundle.read(tmp_path / "b")
    mine = opened.variant()
    assert (mine.name, mine.form, mine.path) == (name, "window", "models/model-r4.onnx")
    assert run("verify", tmp_path / "b")[0] == 0
    assert run("run", tmp_path / "b", "--source", a_clip)[0] == 0
    assert run("firmware", tmp_path / "b", "--out", tmp_path / "fw")[0] == 0
    assert "The self-test was run there" in (tmp_path / "fw" / "README.md").read_text()


def test_the_table_of_engines_knows_the_objects_that_are_made() -> None:
    assert ENGINES.find("native").beside == tuple(p.suffix for p in PROCESSORS)


def test_without_a_compiler_none_is_exported_unless_asked(tiny_step: Tiny, tmp_path: Path, run: Run) -> None:
    code, _, said = run("export", *tiny_step.arguments, "--variant", NATIVE, "--out", tmp_path / "b")
    assert code == 7 and "no C compiler is on this machine" in said


def test_the_command_line_runs_it(native_bundle: Path, a_clip: Path, run: Run, compiling: None) -> None:
    by_name = run("run", native_bundle, "--variant", NATIVE, "--source", a_clip)
    by_engine = run("run", native_bundle, "--engine", "native", "--source", a_clip)
    assert by_name[0] == by_engine[0] == 0 and '"label"' in by_name[1]
    assert run("verify", native_bundle)[0] == 0


# --- code of a bundle ----------------------------------------------------------------------------------


@pytest.fixture
def bare(native_bundle: Path, monkeypatch: pytest.MonkeyPatch, nobody_vouched: None) -> Path:
    """The bundle on a machine without a compiler."""
    monkeypatch.setenv(compiler.VARIABLE, "none")
    if processor_here() is None:
        pytest.skip("no object is made for this processor")
    return native_bundle


def test_an_unsigned_object_is_not_run(bare: Path) -> None:
    opened = bundle.read(bare)
    with pytest.raises(
        TargetUnavailableError, match=r"no C compiler is here.*is machine code, and no signature"
    ):
        open_engine(opened.variant(NATIVE), opened.checked)
    found = proven(opened, [opened.variant(NATIVE)])
    assert [v.engine for v in found.variants] != ["native"]
    assert "runs in its place" in found.notes[-1]


def test_what_does_not_run_by_itself_needs_a_compiler_and_no_new_export(bare: Path) -> None:
    opened = bundle.read(bare)
    other = replace(opened.variant(NATIVE), path="models/other.onnx")
    wanted = f"{NATIVE} cannot be had: no C compiler is here.*only of the variant that runs. Install gcc or"
    with pytest.raises(TargetUnavailableError, match=wanted):
        open_engine(other, opened.checked)


def same_answers(one: Stepper, other: Stepper, variant: Variant) -> bool:
    return all(
        np.allclose(one.step(f)["logits"], other.step(f)["logits"], atol=1e-5) for f in frames(variant, 6)
    )


def test_a_signed_object_is_run(
    bare: Path, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    _, compiled = stepped(variant, bare)
    monkeypatch.setenv(compiler.VARIABLE, "none")
    folder, key = shutil.copytree(bare, tmp_path / "b"), tmp_path / "key.pem"
    public = signing.keygen(key)
    signing.sign(folder, key)
    opened = signing.read(folder, public)
    engine = open_engine(opened.variant(NATIVE), opened.checked)
    brought = Stepper(engine.infer, variant.spec, variant.stream)
    assert same_answers(brought, compiled, variant)

    code, told, _ = run("verify", folder, "--key", public)  # replays in a process of its own
    assert code == 0 and f"{NATIVE}: golden answers reproduced" in told


def test_an_object_that_was_changed_after_signing_is_not_run(bare: Path, tmp_path: Path) -> None:
    folder, key = shutil.copytree(bare, tmp_path / "b"), tmp_path / "key.pem"
    public = signing.keygen(key)
    signing.sign(folder, key)
    opened = signing.read(folder, public)
    for path in (folder / "models").glob("*.so"):
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(TargetUnavailableError, match="was changed or is damaged"):
        open_engine(opened.variant(NATIVE), opened.checked)


def test_who_made_it_may_say_so(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vet.TRUST, "1")
    opened = bundle.read(bare)
    assert isinstance(open_engine(opened.variant(NATIVE), opened.checked), NativeEngine)


def test_an_object_of_another_model_is_refused(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vet.TRUST, "1")
    opened = bundle.read(bare)
    other = replace(opened.variant(NATIVE), sha256="0" * 64)
    with pytest.raises(EngineError, match="is of another model"):
        open_engine(other, opened.checked)


def test_with_a_compiler_an_object_of_the_bundle_is_never_looked_at(
    native_bundle: Path, variant: Variant, nobody_vouched: None
) -> None:
    read: list[str] = []

    def reading(name: str) -> bytes:
        read.append(name)
        return (native_bundle / name).read_bytes()

    open_engine(variant, reading)
    assert read == [variant.path]


def test_a_compiler_that_is_not_there_is_named(variant: Variant, native_bundle: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv(compiler.VARIABLE, "nocc")
    with pytest.raises(TargetUnavailableError, match="EDGEPV_CC=nocc: no such compiler"):
        open_engine(variant, native_bundle)


def test_clang_compiles_it_too(
    variant: Variant, native_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    _, by_gcc = stepped(variant, native_bundle)
    monkeypatch.setenv(compiler.VARIABLE, "clang")
    _, by_clang = stepped(variant, native_bundle)
    assert same_answers(by_clang, by_gcc, variant)


def test_it_is_compiled_once(
    variant: Variant, native_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path))
    open_engine(variant, native_bundle)
    (made,) = tmp_path.glob("*/model.so")
    before = made.stat().st_mtime_ns
    open_engine(variant, native_bundle)
    assert made.stat().st_mtime_ns == before
    made.unlink()  # it is loaded here: its bytes must stay
    made.write_bytes(b"damaged")
    open_engine(variant, native_bundle)  # a damaged entry is made anew
    assert made.stat().st_size > 1000


Change = Callable[[Variant], Variant]
REFUSED: dict[str, Change] = {
    "it is fp16": lambda v: replace(v, precision="fp16"),
    "it is int8": lambda v: replace(v, precision="int8", form="window"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_cannot_run_is_refused_with_the_reason(step_bundle: Path, why: str) -> None:
    variant = bundle.read(step_bundle).variant("onnxruntime-fp32")
    with pytest.raises(UsageError, match=f"has no native variant: {why}.*another engine"):
        check_native(REFUSED[why](variant))


def test_the_doctor_says_what_compiles(run: Run, monkeypatch: pytest.MonkeyPatch, compiling: None) -> None:
    assert compiler.needed().version in run("doctor")[1]
    monkeypatch.setenv(compiler.VARIABLE, "nocc")
    told = run("doctor")[1]
    assert "EDGEPV_CC=nocc: no such compiler" in told and "none; native variants need gcc or clang" in told
    assert "build no  run no  missing: gcc or clang" in told

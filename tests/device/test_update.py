"""An update is tried before it is kept, and whatever goes wrong leaves a bundle that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from null_bundle import write_null_bundle
from support import in_this_process

from edgepv import bundle
from edgepv.bundle.signing import keygen, sign
from edgepv.device import self_test, slots
from edgepv.device.canary import Canary, Limits, Rate, Verdict, at_least
from edgepv.device.self_test import SelfTest
from edgepv.device.slots import State
from edgepv.errors import LatencyGateError, SignatureError, TargetUnavailableError, UsageError

QUICK = SelfTest(steps=3)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync is called on is counted below; that the disk obeys it is not ours to test."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(autouse=True)
def no_waiting_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the self-test has one of its own is tested in tests/bundle/test_hostile.py."""
    monkeypatch.setattr(self_test, "call", in_this_process)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device that runs bundle "old", committed."""
    root = tmp_path / "device"
    slots.install(root, write_null_bundle(tmp_path / "old", name="old"), test=QUICK)
    return root


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_null_bundle(tmp_path / "new", name="new")


def _runs(root: Path) -> str:
    """Name of the bundle that ``current`` points at; it is whole."""
    opened = bundle.read(root / "current")
    bundle.check(opened)
    return opened.content.name


def _whats(state: State) -> list[str]:
    return [outcome.what for outcome in state.history]


def test_the_first_bundle_is_committed_at_once_and_the_second_is_on_trial(root: Path, new: Path) -> None:
    assert (slots.read_state(root).good, slots.read_state(root).trial) == ("a", None)
    state = slots.install(root, new, test=QUICK)
    assert (state.good, state.trial, _runs(root)) == ("a", "b", "new")
    assert slots.on_start(root) == root / "slots" / "b"
    state = slots.commit(root)
    assert (state.good, state.trial, state.previous, _runs(root)) == ("b", None, "a", "new")
    assert _whats(state) == ["installed", "trial", "committed"]


def test_an_update_never_writes_to_the_slot_that_runs(root: Path, new: Path) -> None:
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (root / "slots" / "a").rglob("*")}
    slots.install(root, new, test=QUICK)
    after = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (root / "slots" / "a").rglob("*")}
    assert before == after and len(before) == 4


def test_a_zip_is_installed_like_a_folder(root: Path, new: Path, tmp_path: Path) -> None:
    bundle.zip_bundle(new, tmp_path / "new.zip")
    assert slots.install(root, tmp_path / "new.zip", test=QUICK).trial == "b"
    assert _runs(root) == "new"


def test_a_rollback_goes_back_and_says_why(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    state = slots.rollback(root, "the operator said so")
    assert (state.good, state.trial, _runs(root)) == ("a", None, "old")
    assert (state.history[-1].what, state.history[-1].why) == ("rolled back", "the operator said so")
    with pytest.raises(UsageError, match="no earlier bundle"):
        slots.rollback(root, "again")


def test_a_committed_bundle_can_be_taken_back_too(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    slots.commit(root)
    assert slots.rollback(root, "it looked good for a day").good == "a"
    assert _runs(root) == "old"


def test_a_bundle_that_ran_before_must_be_asked_for(root: Path, new: Path, tmp_path: Path) -> None:
    slots.install(root, new, test=QUICK)
    slots.rollback(root, "too many alarms")
    with pytest.raises(UsageError, match=r"ran here before \(rolled back: too many alarms\)"):
        slots.install(root, new, test=QUICK)
    with pytest.raises(UsageError, match="is the one that runs already"):
        slots.install(root, tmp_path / "old", test=QUICK, again=True)
    assert slots.install(root, new, test=QUICK, again=True).trial == "b"
    with pytest.raises(UsageError, match="another bundle is on trial"):
        slots.install(root, write_null_bundle(tmp_path / "third", name="third"), test=QUICK)


def _flip(folder: Path) -> None:
    path = folder / "models" / "delays.json"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("made", "damage", "limit_ms", "error", "message"),
    [
        pytest.param({}, _flip, None, UsageError, "was changed or is damaged", id="flipped byte"),
        pytest.param(
            {"golden": (0.0, 1.0)},
            None,
            None,
            TargetUnavailableError,
            "nothing may run here. null answers otherwise here",
            id="other answers",
        ),
        pytest.param(
            {"delays_ms": "[20.0]"},
            None,
            5.0,
            LatencyGateError,
            r"2\d\.\d ms here at p50 of 3 steps",
            id="slow",
        ),
        pytest.param(
            {"delays_ms": "{"}, None, None, TargetUnavailableError, "is not valid JSON", id="not read"
        ),
    ],
)
def test_a_bad_update_is_refused_before_it_touches_a_slot(
    root: Path,
    tmp_path: Path,
    made: dict[str, Any],
    damage: Callable[[Path], None] | None,
    limit_ms: float | None,
    error: type[Exception],
    message: str,
) -> None:
    folder = write_null_bundle(tmp_path / "bad", name="bad", **made)
    if damage:
        damage(folder)
    with pytest.raises(error, match=message):
        slots.install(root, folder, test=SelfTest(p99_ms=limit_ms, steps=3))
    state = slots.read_state(root)
    assert (state.good, state.trial, _runs(root)) == ("a", None, "old")
    assert sorted(p.name for p in (root / "slots").iterdir()) == ["a", "trust.json"]
    assert _whats(state) == ["installed", "refused"]


def test_a_key_makes_a_signature_necessary(root: Path, new: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    ours, theirs = keygen(tmp_path / "ours.pem"), tmp_path / "theirs.pem"
    keygen(theirs)
    with pytest.raises(SignatureError, match="is not signed"):
        slots.install(root, new, ours, test=QUICK)
    sign(new, theirs)
    with pytest.raises(SignatureError, match="is signed by key"):
        slots.install(root, new, ours, test=QUICK)
    sign(new, tmp_path / "ours.pem")
    assert slots.install(root, new, ours, test=QUICK).trial == "b"
    assert [o.why.split(": ")[-1][:20] for o in slots.read_state(root).history][1] == "it has no manifest.s"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """(private, public)"""
    pytest.importorskip("cryptography")
    return tmp_path / "ours.pem", keygen(tmp_path / "ours.pem")


def _signed(folder: Path, version: int, private: Path) -> Path:
    """A bundle of the folder's name."""
    sign(write_null_bundle(folder, name=folder.name), private, version)
    return folder


@pytest.fixture
def at_five(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """A device that runs version 4 and gave up version 5."""
    root = tmp_path / "signed"
    slots.install(root, _signed(tmp_path / "v4", 4, keys[0]), keys[1], test=QUICK)
    slots.install(root, _signed(tmp_path / "v5", 5, keys[0]), keys[1], test=QUICK)
    slots.rollback(root, "too many alarms")
    return root


def test_an_older_version_must_be_asked_for(at_five: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    older = _signed(tmp_path / "v3", 3, keys[0])
    with pytest.raises(UsageError, match="version 3 is older than 5, which was here before"):
        slots.install(at_five, older, keys[1], test=QUICK)
    asked = slots.install(at_five, older, keys[1], again=True, test=QUICK)
    assert asked.history[-1].why.endswith("asked for: version 3 after 5")
    slots.commit(at_five)
    with pytest.raises(UsageError, match="version 4 is older than 5"):  # what was asked for once is no rule
        slots.install(at_five, _signed(tmp_path / "x4", 4, keys[0]), keys[1], test=QUICK)
    slots.install(at_five, _signed(tmp_path / "v6", 6, keys[0]), keys[1], test=QUICK)
    assert slots.read_trust(at_five) == slots.Trust(key=sign(tmp_path / "v6", keys[0], 6).key, version=6)


def test_two_bundles_of_one_version_are_both_new(
    at_five: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    """Two that were signed within one second."""
    assert slots.install(at_five, _signed(tmp_path / "x5", 5, keys[0]), keys[1], test=QUICK).trial == "b"


def test_a_key_once_used_is_asked_for_ever_after(
    at_five: Path, new: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    ours = sign(tmp_path / "v4", keys[0], 4).key
    with pytest.raises(SignatureError, match=f"by key {ours}, and this one was given without --key"):
        slots.install(at_five, new, test=QUICK)
    with pytest.raises(SignatureError, match="was given without --key"):
        slots.install(at_five, new, again=True, test=QUICK)
    public = keygen(tmp_path / "theirs.pem")
    theirs = sign(new, tmp_path / "theirs.pem", 1).key
    with pytest.raises(SignatureError, match=f"by key {ours}, and this one is signed by key {theirs}"):
        slots.install(at_five, new, public, test=QUICK)
    changed = slots.install(at_five, new, public, change_key=True, test=QUICK)
    assert changed.history[-1].why.endswith(f"asked for: key {theirs} after {ours}")
    assert slots.read_trust(at_five) == slots.Trust(key=theirs, version=1)
    slots.commit(at_five)
    unsigned = write_null_bundle(tmp_path / "unsigned", name="unsigned")
    slots.install(at_five, unsigned, change_key=True, test=QUICK)
    slots.commit(at_five)
    assert slots.install(
        at_five, write_null_bundle(tmp_path / "more", name="more"), test=QUICK
    ).trial  # no key was asked for since


LOST = ["state.json", "current", "trust.json", "slots/trust.json"]


@pytest.mark.parametrize("kept", [None, *LOST])
@pytest.mark.parametrize("damage", [None, "", '{"schema": 1, "version": "6"}'])
def test_what_is_lost_allows_no_way_back(
    at_five: Path, new: Path, tmp_path: Path, keys: tuple[Path, Path], kept: str | None, damage: str | None
) -> None:
    """Of four files at most one is left: the bundles in the slots still say whose they are and how new."""
    for name in LOST:
        if name != kept:
            (at_five / name).unlink()
            if damage is not None and name != "current":
                (at_five / name).write_text(damage)
    with pytest.raises(SignatureError, match="was given without --key"):
        slots.install(at_five, new, test=QUICK)
    with pytest.raises(UsageError, match="version 3 is older than 5"):
        slots.install(at_five, _signed(tmp_path / "v3", 3, keys[0]), keys[1], test=QUICK)
    slots.on_start(at_five)
    assert _runs(at_five) == ("v5" if kept not in ("state.json", "current") else "v4")
    state = slots.install(at_five, _signed(tmp_path / "v6", 6, keys[0]), keys[1], test=QUICK)
    assert state.trial and state.good


def test_a_flipped_bit_in_what_is_known_is_no_other_version(
    at_five: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    for name in ("trust.json", "slots/trust.json"):
        text = (at_five / name).read_text()
        (at_five / name).write_text(text.replace('"version": 5', '"version": 1'))
        assert text != (at_five / name).read_text()
        with pytest.raises(UsageError, match="version 3 is older than 5"):
            slots.install(at_five, _signed(tmp_path / name / "v3", 3, keys[0]), keys[1], test=QUICK)


def test_a_lost_state_and_a_damaged_bundle_leave_the_other_one(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    (root / "state.json").write_text("{")
    _flip(root / "slots" / "b")  # which current points at
    assert (slots.on_start(root).name, _runs(root)) == ("a", "old")


def test_a_lost_state_does_not_forget_what_was_overwritten_in_the_slots(
    at_five: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    slots.install(at_five, _signed(tmp_path / "v3", 3, keys[0]), keys[1], again=True, test=QUICK)
    (at_five / "state.json").unlink()
    (at_five / "trust.json").unlink()  # its copy is left
    with pytest.raises(UsageError, match="version 2 is older than 5"):
        slots.install(at_five, _signed(tmp_path / "v2", 2, keys[0]), keys[1], test=QUICK)


def test_a_device_that_never_used_a_key_takes_signed_bundles_without_one(
    root: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    slots.install(root, _signed(tmp_path / "v1", 1, keys[0]), test=QUICK)
    slots.commit(root)
    assert slots.install(root, write_null_bundle(tmp_path / "x", name="x"), test=QUICK).trial


@pytest.mark.slow
def test_a_power_cut_leaves_no_bundle_whose_version_is_forgotten(
    at_five: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    six, old = _signed(tmp_path / "v6", 6, keys[0]), _signed(tmp_path / "x5", 5, keys[0])

    def judge(device: Path, operations: int) -> None:
        placed = slots._digest(device, "b") == bundle.read(six).digest
        slots.on_start(device)
        assert [p.name for p in device.rglob(".*")] == [], operations
        if placed:
            with pytest.raises(UsageError, match="version 5 is older than 6|is on trial"):
                slots.install(device, old, keys[1], test=QUICK)
            trust = slots.read_trust(device)
            assert trust and trust.version == 6, operations

    assert _with_cuts(at_five, lambda d: slots.install(d, six, keys[1], test=QUICK), judge) > 20


def test_a_source_swapped_while_it_is_copied_does_not_get_in(
    root: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = shutil.copyfile

    def swapping(source: Path, target: Path) -> object:
        _flip(new) if source.name == "delays.json" else None
        return honest(source, target)

    monkeypatch.setattr(shutil, "copyfile", swapping)
    with pytest.raises(UsageError, match="was changed or is damaged"):
        slots.install(root, new, test=QUICK)
    assert _runs(root) == "old"


def test_a_trial_that_never_commits_is_taken_back_at_the_fourth_start(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    assert [slots.on_start(root).name for _ in range(5)] == ["b", "b", "b", "a", "a"]
    state = slots.read_state(root)
    assert state.trial is None and _runs(root) == "old"
    assert next(o.why for o in state.history if o.what == "rolled back") == "started 3 times without a commit"


def test_a_good_bundle_that_crashes_is_kept_and_reported(root: Path) -> None:
    assert {slots.on_start(root).name for _ in range(10)} == {"a"}
    last = slots.read_state(root).history[-1]
    assert (last.what, last.times) == ("crashed", 9)  # the first start followed nothing
    slots.on_stop(root)
    slots.on_start(root)
    assert slots.read_state(root).history[-1].times == 9


def test_the_history_is_bounded(root: Path) -> None:
    for n in range(slots.MAX_HISTORY + 10):
        slots._note_refusal(root, f"no {n}" + "x" * 1000)
    history = slots.read_state(root).history
    assert (len(history), len(history[-1].why)) == (slots.MAX_HISTORY, slots.MAX_WHY)
    assert history[-1].why.startswith(f"no {slots.MAX_HISTORY + 9}")


def test_two_updates_at_once_are_one_update(root: Path, new: Path) -> None:
    with (
        slots._one_update(root),
        pytest.raises(UsageError, match="another update is at work"),
    ):
        slots.install(root, new, test=QUICK)
    assert slots.install(root, new, test=QUICK).trial == "b"


def test_a_runner_may_start_while_an_update_is_tested(
    root: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for the other, and the start does not sweep away what is being tested."""
    honest, seen = self_test.self_test, []

    def testing(opened: bundle.Bundle, test: SelfTest) -> str:
        seen.append(slots.on_start(root).name)
        return honest(opened, test)

    monkeypatch.setattr(slots, "self_test", testing)
    assert slots.install(root, new, test=QUICK).trial == "b"
    assert seen == ["a"]


def test_nothing_installed_is_one_line(tmp_path: Path) -> None:
    for call in (slots.on_start, slots.commit):
        with pytest.raises(UsageError, match="does not exist"):
            call(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no bundle is installed"):
        slots.on_start(tmp_path)


# Damage to the disk, after the fact.


def test_a_damaged_trial_is_not_run(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    _flip(root / "slots" / "b")
    assert slots.on_start(root).name == "a"
    state = slots.read_state(root)
    assert (state.trial, state.history[-1].what, _runs(root)) == (None, "repaired", "old")


@pytest.mark.parametrize(
    "golden",
    [
        pytest.param('{"frames": "\\ud800"}', id="half a surrogate pair"),
        pytest.param('{"frames": ' + "[" * 490 + "]" * 490 + "}", id="490 lists"),
        pytest.param('{"frames": ' + "[" * 100_000, id="100,000 lists"),
    ],
)
def test_a_trial_that_no_reader_can_read_is_not_run(root: Path, new: Path, golden: str) -> None:
    slots.install(root, new, test=QUICK)
    path = root / "slots" / "b" / "manifest.json"
    data = json.loads(path.read_text())
    data["content"]["golden"] = "HERE"
    path.write_text(json.dumps(data).replace('"HERE"', golden))
    assert [slots.on_start(root).name for _ in range(2)] == ["a", "a"]
    state = slots.read_state(root)
    assert (state.trial, _runs(root)) == (None, "old")
    assert next(o.why for o in state.history if o.what == "repaired").startswith("a damaged slot was left: ")


def test_a_reason_that_utf_8_cannot_hold_is_still_written_down(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    slots.rollback(root, "\ud800 said so")
    assert slots.read_state(root).history[-1].why == r"\ud800 said so"


def test_only_the_owner_can_hold_the_lock(root: Path, new: Path) -> None:
    """Whoever can open a file can hold its lock."""
    (root / "lock").chmod(0o644)  # as it was made before
    slots.install(root, new, test=QUICK)
    for name in ("lock", "install.lock"):
        assert (root / name).stat().st_mode & 0o077 == 0


def test_a_lock_that_is_a_link_is_not_followed(root: Path, new: Path, tmp_path: Path) -> None:
    """Whoever may write the folder could have root close, or give away, any file."""
    other = tmp_path / "other"
    other.touch(mode=0o644)
    (root / "lock").unlink()
    (root / "lock").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        slots.on_start(root)
    (root / "lock").unlink()
    os.link(other, root / "lock")
    slots.on_start(root)
    assert other.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path, new: Path) -> None:
    """Root updates what a service runs as another user."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    slots.install(home / "camera" / "slots", new, test=QUICK)
    made = [home / "camera", home / "camera" / "slots", *(home / "camera" / "slots").glob("*lock")]
    assert {path.stat().st_uid for path in made} == {12345} and len(made) == 4


HOLDER = """
import fcntl, sys
f = open(sys.argv[1])
fcntl.flock(f, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("name", "says"), [("lock", "was held for 0.1 s by"), ("install.lock", "is at work,")]
)
def test_a_lock_that_is_held_is_one_line_that_names_who(
    root: Path, new: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setattr(slots, "LOCK_WAIT_S", 0.1)
    (root / name).touch()
    run = [sys.executable, "-c", HOLDER, str(root / name)]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"{says} process {holder.pid}"):
            slots.install(root, new, test=QUICK)
        slots.on_stop(root)  # a good end stays one
        holder.communicate()
    assert slots.install(root, new, test=QUICK).trial == "b"


def test_a_damaged_good_bundle_is_replaced_by_the_one_before(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    slots.commit(root)
    _flip(root / "slots" / "b")
    assert (slots.on_start(root).name, _runs(root)) == ("a", "old")
    _flip(root / "slots" / "a")
    with pytest.raises(UsageError, match="no slot holds a whole bundle"):
        slots.on_start(root)


def test_there_is_no_rollback_to_a_damaged_bundle(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    _flip(root / "slots" / "a")
    with pytest.raises(UsageError, match="the earlier bundle is damaged, so this one is kept"):
        slots.rollback(root, "x")
    assert [slots.on_start(root).name for _ in range(5)] == ["b"] * 5


def test_a_link_that_lags_behind_is_put_right(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    (root / "current").unlink()
    (root / "current").symlink_to("slots/a")
    assert slots.on_start(root).name == "b" and _runs(root) == "new"


def test_what_an_install_left_half_done_does_not_get_into_the_next(root: Path, new: Path) -> None:
    (root / "slots" / ".new").mkdir()
    (root / "slots" / ".new" / "half.bin").write_bytes(b"x")
    assert slots.install(root, new, test=QUICK).trial == "b"
    assert not (root / "slots" / "b" / "half.bin").exists()


@pytest.mark.parametrize("text", ["", "{", '{"schema": 9}', '{"good": "c"}', None])
def test_a_lost_state_is_rebuilt_from_the_link(root: Path, text: str | None) -> None:
    (root / "state.json").unlink()
    if text is not None:
        (root / "state.json").write_text(text)
    assert slots.on_start(root).name == "a"
    assert "repaired" in _whats(slots.read_state(root))
    assert json.loads((root / "state.json").read_text())["good"] == "a"


def test_a_root_is_known_by_its_slots_too(root: Path, new: Path) -> None:
    (root / "state.json").unlink()
    assert (slots.is_root(root), slots.is_root(new), slots.is_root(root.parent)) == (True, False, False)


def test_a_full_disk_refuses_the_update_and_does_not_stop_the_runner(tmp_path: Path, new: Path) -> None:
    """On a disk of 256 KiB: no room for the slots, then for not even one byte more."""
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    write_null_bundle(tmp_path / "old", name="old")
    (new / "report.md").write_bytes(os.urandom(300 << 10))
    _list_as_measured(new, "report.md")
    write_null_bundle(tmp_path / "small", name="small")
    mount = f"mount -t tmpfs -o size=256k tmpfs {disk} && exec {sys.executable} {script} {tmp_path}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no right to mount a small disk here")
    assert done.stdout.split("\n")[:5] == [
        "refused (No space left on device). Free some space",
        "slots a trust.json",
        "trial b",
        "full: runs a",  # the starts of a trial cannot be counted, so it is not run
        "room again: runs b",
    ], done.stderr


FULL_DISK = """
import errno, sys
from pathlib import Path
from edgepv.device import self_test, slots
from edgepv.errors import UsageError

top = Path(sys.argv[1])
root = top / "disk" / "device"
quick = self_test.SelfTest(steps=3)
slots.install(root, top / "old", test=quick)
try:
    slots.install(root, top / "new", test=quick)
except UsageError as e:
    print("refused", str(e)[str(e).index("(No"):])
print("slots", *(p.name for p in (root / "slots").iterdir()))
print("trial", slots.install(root, top / "small", test=quick).trial)
with (top / "disk" / "filler").open("wb", buffering=0) as f:
    try:
        while True:
            f.write(bytes(4096))
    except OSError as e:
        assert e.errno == errno.ENOSPC
print("full: runs", slots.on_start(root).name)
slots.on_stop(root)
(top / "disk" / "filler").unlink()
print("room again: runs", slots.on_start(root).name)
"""


def _list_as_measured(folder: Path, name: str) -> None:
    from dataclasses import replace

    opened = bundle.read(folder)
    files = {**opened.measured.files, **bundle.digests(folder, [name])}
    bundle.write(folder, opened.content, replace(opened.measured, files=files))


# Power cuts: before every operation that changes the disk, whoever does it, the process ends at once and
# files that were not synced lose their second half.

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate"}


def _cut_power_after(operations: int, root: Path) -> None:
    """In a child process: end it before the operation with this number."""
    count = 0

    def key(status: os.stat_result) -> tuple[int, int]:
        return status.st_ino, status.st_mtime_ns

    safe = {key(p.lstat()) for p in root.rglob("*")}
    honest = os.fsync

    def tick() -> None:
        nonlocal count
        if count == operations:
            count += 1  # what follows here is the cut's own doing
            for path in list(root.rglob("*")):
                if path.is_file() and not path.is_symlink() and key(path.stat()) not in safe:
                    os.truncate(path, path.stat().st_size // 2)
            os._exit(9)
        count += count < operations

    def fsync(fd: int) -> None:
        tick()
        honest(fd)
        safe.add(key(os.fstat(fd)))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if event in CHANGES or writes:
            tick()

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(watch)


def _with_cuts(root: Path, act: Callable[[Path], object], judge: Callable[[Path, int], None]) -> int:
    """Do ``act`` on copies of ``root``, cut before its n-th operation, for every n; returns how many."""
    for operations in range(1000):
        device = root.with_name(f"cut-{operations}")
        shutil.copytree(root, device, symlinks=True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _cut_power_after(operations, device)
                act(device)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        judge(device, operations)
        shutil.rmtree(device)
        if code == 0:
            return operations
    raise AssertionError("it never ends")


def _settle(device: Path) -> None:
    digest = bundle.read(device / "slots" / "b").digest
    assert slots.decide(device, digest, Verdict(False, "NaN"), Rate(1, 0))


def _is_whole(device: Path, operations: int) -> None:
    """What runs is one of the two, as the state says, and a next update goes through."""
    before = _runs(device)
    folder = slots.on_start(device)
    assert (device / "current").resolve() == folder.resolve(), operations
    state = slots.read_state(device)
    assert before in ("old", "new") and _runs(device) in ("old", "new"), operations
    assert folder.name == state.active and (state.trial is None or _runs(device) == "new"), operations
    assert [p.name for p in device.iterdir() if p.name.startswith(".")] == [], operations
    assert not (device / "slots" / ".new").exists(), operations
    if state.trial:
        state = slots.commit(device)
    third = device.with_name("third")
    if not third.exists():
        write_null_bundle(third, name="third")
    assert slots.install(device, third, test=QUICK).trial != state.good, operations


def _is_whole_and_counted(device: Path, operations: int) -> None:
    """The link never runs ahead of the state: what was never on trial is neither run nor gone back to."""
    state = slots.read_state(device)
    assert _runs(device) == "old" or state.trial == (device / "current").readlink().name, operations
    if state.previous:
        assert bundle.read(device / "slots" / state.previous).content.name != "new", operations
    _is_whole(device, operations)


@pytest.mark.slow
def test_a_power_cut_during_an_update_leaves_a_bundle_that_runs(root: Path, new: Path) -> None:
    assert _with_cuts(root, lambda d: slots.install(d, new, test=QUICK), _is_whole_and_counted) > 20


@pytest.mark.slow
def test_a_power_cut_during_an_update_over_an_older_bundle_leaves_one_that_runs(
    root: Path, new: Path, tmp_path: Path
) -> None:
    """Now the other slot is full, and the state still names it as the one before."""
    slots.install(root, write_null_bundle(tmp_path / "x", name="x"), test=QUICK)
    slots.commit(root)
    slots.install(root, tmp_path / "old", test=QUICK, again=True)
    slots.commit(root)
    assert slots.read_state(root).previous == "b"
    assert _with_cuts(root, lambda d: slots.install(d, new, test=QUICK), _is_whole_and_counted) > 25


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda d: slots.rollback(d, "x"), id="rollback"),
        pytest.param(lambda d: slots.commit(d), id="commit"),
        pytest.param(lambda d: _settle(d), id="settle"),
        pytest.param(lambda d: [slots.on_start(d) for _ in range(4)], id="boot loop"),
    ],
)
def test_a_power_cut_after_the_trial_began_leaves_a_bundle_that_runs(
    root: Path, new: Path, act: Callable[[Path], object]
) -> None:
    slots.install(root, new, test=QUICK)
    assert _with_cuts(root, act, _is_whole) > 3


@pytest.mark.slow
def test_a_power_cut_during_the_very_first_install_leaves_none_or_the_new_one(
    tmp_path: Path, new: Path
) -> None:
    def judge(device: Path, operations: int) -> None:
        try:
            folder = slots.on_start(device)
        except UsageError as e:
            assert "no bundle is installed" in str(e) or "does not exist" in str(e)
            assert slots.install(device, new, test=QUICK).good
        else:
            assert bundle.check(bundle.read(folder)) and _runs(device) == "new"

    (tmp_path / "empty").mkdir()
    assert _with_cuts(tmp_path / "empty", lambda d: slots.install(d, new, test=QUICK), judge) > 15


# The canary.


def _feed(canary: Canary, frames: int, *, missed: int = 0, events: int = 0) -> Verdict | None:
    """``frames`` frames, of which the first ``missed`` come late and the first ``events`` raise an event."""
    verdict = None
    for n in range(frames):
        verdict = canary.feed(missed=n < missed, failed=False, events=int(n < events))
    return verdict


OLD = Rate(frames=10_000, events=100)  # 1 in 100 frames, so 10 are expected in 1000


@pytest.mark.parametrize(
    ("old", "missed", "events", "commit", "why"),
    [
        pytest.param(OLD, 0, 10, True, "10 events in 1000 frames, before 100", id="as before"),
        pytest.param(OLD, 50, 10, True, "50 of 1000 deadlines missed", id="exactly 5 %"),
        pytest.param(OLD, 51, 10, False, "51 of 51 frames missed", id="one more is too many"),
        pytest.param(OLD, 0, 55, True, "55 events", id="5.5 times: may still be chance"),
        pytest.param(OLD, 0, 500, False, "allowed 5 times as many", id="an explosion of events"),
        pytest.param(OLD, 0, 0, True, "0 events", id="0 where 2 keep the limit: chance"),
        pytest.param(Rate(1000, 100), 0, 0, False, "wanted 0.2 times as many", id="silent where 20 do"),
        pytest.param(None, 0, 1000, True, "rates were not compared", id="nothing to compare with"),
        pytest.param(Rate(10_000, 0), 0, 2, True, "2 events", id="quiet camera: two events are no news"),
        pytest.param(Rate(10_000, 0), 0, 20, False, "before 0 in 10000", id="quiet camera: twenty are"),
    ],
)
def test_the_canary_decides_by_limits(
    old: Rate | None, missed: int, events: int, commit: bool, why: str
) -> None:
    verdict = _feed(Canary(Limits(frames=1000), old), 1000, missed=missed, events=events)
    assert verdict is not None and verdict.commit is commit
    assert why in verdict.why


def test_one_answer_that_is_not_finite_ends_the_trial(root: Path, new: Path) -> None:
    slots.install(root, new, test=QUICK)
    canary = Canary(Limits(frames=100))
    assert canary.feed(missed=False, failed=False, events=0) is None
    verdict = canary.feed(missed=False, failed=True, events=0)
    assert verdict and not verdict.commit and verdict.why == "frame 2 had no finite answer"
    slots.rollback(root, verdict.why)
    assert _runs(root) == "old"


@pytest.mark.parametrize(("keep", "runs"), [(True, "new"), (False, "old")])
def test_a_verdict_is_carried_out_once(root: Path, new: Path, keep: bool, runs: str) -> None:
    digest, verdict = bundle.read(new).digest, Verdict(keep, "seen")
    slots.install(root, new, test=QUICK)
    assert slots.decide(root, digest, verdict, Rate(9, 1)) is True
    before = slots.read_state(root)
    assert (before.trial, _runs(root), before.rate) == (None, runs, Rate(9, 1) if keep else None)
    assert slots.decide(root, digest, verdict, Rate(9, 1)) is False
    assert slots.read_state(root) == before


@pytest.mark.parametrize("keep", [True, False])
def test_a_verdict_about_one_bundle_is_none_about_the_next(
    root: Path, new: Path, tmp_path: Path, keep: bool
) -> None:
    """The operator ended the trial and began another, while the runner still watched the first."""
    slots.install(root, new, test=QUICK)
    slots.rollback(root, "the operator said so")
    slots.install(root, write_null_bundle(tmp_path / "third", name="third"), test=QUICK)
    assert slots.decide(root, bundle.read(new).digest, Verdict(keep, ""), Rate(9, 1)) is False
    assert slots.read_state(root).trial == "b" and _runs(root) == "third"


def test_a_verdict_is_final() -> None:
    canary = Canary(Limits(frames=2))
    first = _feed(canary, 2)
    assert canary.feed(missed=True, failed=True, events=99) is first
    assert canary.rate == Rate(2, 0)


def test_the_rate_of_the_trial_becomes_the_rate_to_compare_with(root: Path, new: Path) -> None:
    slots.observe(root, Rate(500, 5))
    slots.install(root, new, test=QUICK)
    slots.observe(root, Rate(9, 9))  # a trial's rate is not the good one's
    assert slots.read_state(root).rate == Rate(500, 5)
    assert slots.commit(root, Rate(600, 7)).rate == Rate(600, 7)


@pytest.mark.parametrize("bad", [{"frames": 0}, {"miss_rate": 1.5}, {"low": 2.0}, {"high": 0.5}])
def test_limits_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="make no sense"):
        Limits(**bad)


def test_the_chance_of_coin_tosses() -> None:
    assert at_least(2, 2, 0.5) == pytest.approx(0.25)
    assert at_least(1, 2, 0.5) == pytest.approx(0.75)
    assert at_least(0, 3, 0.1) == pytest.approx(1.0)
    assert at_least(3, 2, 0.5) == 0.0

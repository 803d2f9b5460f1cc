"""Updates that can be taken back: two slots, a trial, and a link that is switched in one step.

    ROOT/slots/a, ROOT/slots/b   one bundle each
    ROOT/current                 a link to the slot to run
    ROOT/state.json              which slot is good, which is on trial, and what happened
    ROOT/trust.json              whose bundles are taken, and their highest version; a copy in ROOT/slots

state.json is the truth and ``current`` follows it: the state is written first, so a power cut between the
two is put right by the next ``on_start``. A slot that the state names is never written to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgepv import bundle
from edgepv.base.files import digest, read_json, write_json
from edgepv.base.isolated import within
from edgepv.bundle import signing
from edgepv.bundle.signing import Signature, read_signature, verify
from edgepv.device.canary import Rate, Verdict
from edgepv.device.self_test import SelfTest, self_test
from edgepv.errors import DeviceError, EdgepvError, SignatureError, UsageError
from edgepv.types import decode

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, ...] = ("a", "b")
STATE = "state.json"
TRUST = "trust.json"
LOCK_WAIT_S = 30.0
LOCK_POLL_S = 0.05
MAX_STARTS = 3
MAX_HISTORY = 50
MAX_SEEN = 200
MAX_WHY = 300


@dataclass(frozen=True)
class UpdateResult:
    """One thing that happened. time: seconds since 1970 (UTC). times: how often it did, in a row.

    digest: of the bundle it happened to; empty if that is not known.
    """

    time: float
    what: Literal["installed", "trial", "committed", "rolled back", "refused", "crashed", "repaired"]
    digest: str
    why: str
    times: int = 1


@dataclass(frozen=True)
class State:
    """What state.json holds.

    good: the slot that was committed. trial: the slot that has yet to prove itself. previous: the slot that
    was good before ``good``, while it still holds that bundle. starts: of the trial. running: a runner said
    that it started, and has not said that it stopped. rate: of the good bundle. seen: digests of the bundles
    that ran here, oldest first.
    """

    schema: Literal[1] = 1
    good: Slot | None = None
    trial: Slot | None = None
    previous: Slot | None = None
    starts: int = 0
    running: bool = False
    rate: Rate | None = None
    seen: tuple[str, ...] = ()
    history: tuple[UpdateResult, ...] = ()

    @property
    def active(self) -> Slot | None:
        """The slot to run."""
        return self.trial or self.good


@dataclass(frozen=True)
class Trust:
    """Whose bundles a device takes.

    key: id of the public key that must have signed them. None: they need not be signed.
    version: the highest one of that key that was put on trial here.
    """

    schema: Literal[1] = 1
    key: str | None = None
    version: int = 0


@dataclass(frozen=True)
class _Sealed:
    """What trust.json holds: one flipped bit would be another version."""

    trust: Trust
    digest: str


def install(
    root: Path,
    new: Path,
    key: Path | None = None,
    *,
    again: bool = False,
    change_key: bool = False,
    test: SelfTest | None = None,
) -> State:
    """Put a bundle (folder or zip) on trial; the first one of all is committed at once.

    key: the public key that must have signed it; once one was used, it is asked for ever after. again: accept
    a bundle that ran here before, or is older than one that did. change_key: accept another key, or none.
    Raises SignatureError, ParityError, LatencyGateError or UsageError with nothing changed but the history.
    """
    _make(root / "slots")
    with _one_update(root):
        try:
            return _install(root, new, key, again, change_key, test or SelfTest())
        except EdgepvError as e:
            _note_refusal(root, str(e))
            raise
        except OSError as e:
            cure = "Free some space" if e.errno == errno.ENOSPC else "Check the disk"
            error = DeviceError(f"{root}: the update could not be stored ({e.strerror or e}). {cure}")
            _note_refusal(root, str(error))
            raise error from e


def on_start(root: Path) -> Path:
    """The bundle folder to run; to be called at every start of the runner.

    Counts the starts of a trial and takes it back when it was started MAX_STARTS times without a commit. A
    good bundle is kept whatever happens. A start without ``on_stop`` before it is written to the history.
    Raises UsageError if there is no bundle that is whole.
    """
    with _locked(root):
        state = _recovered(root)
        if state.running:
            why = "the runner ended without saying so: a crash or a power cut"
            state = _noted(state, "crashed", _digest(root, state.active), why)
        if state.trial and state.starts >= MAX_STARTS:
            with contextlib.suppress(UsageError):  # nothing whole to go back to: the trial is all there is
                state = _rolled_back(root, state, f"started {state.starts} times without a commit")
        state = replace(state, running=True, starts=state.starts + 1 if state.trial else 0)
        try:
            _save(root, state)
            _point(root, state)
        except OSError:  # a full or read-only disk cannot count the starts of a trial, so none is run
            state = replace(state, trial=None) if state.good else state
        return _folder(root, state.active)


def on_stop(root: Path) -> None:
    """To be called when the runner ends as it should, so that the next start is not taken for a crash."""
    with contextlib.suppress(OSError, UsageError), _locked(root):  # no reason to end otherwise
        _save(root, replace(read_state(root), running=False))


def observe(root: Path, rate: Rate) -> None:
    """Keep the event rate of the good bundle, to compare the next one with. Ignored during a trial."""
    with contextlib.suppress(OSError, UsageError), _locked(root):
        state = read_state(root)
        if state.trial is None:
            _save(root, replace(state, rate=rate))


def commit(root: Path, rate: Rate | None = None) -> State:
    """Make the bundle on trial the good one. rate: its event rate, if known.

    Raises UsageError if no bundle is on trial.
    """
    with _locked(root):
        state = read_state(root)
        if state.trial is None:
            raise UsageError(f"{root}: no bundle is on trial, so there is nothing to commit")
        state = _committed(root, state, rate)
        _save(root, state)
        _point(root, state)
        return state


def decide(root: Path, digest: str, verdict: Verdict, rate: Rate) -> bool:
    """Commit or roll back the bundle that a canary watched; whether that was done.

    False: it is not on trial any more, because someone else has decided, and maybe installed the next one.
    Raises UsageError like ``rollback``.
    """
    with _locked(root):
        state = read_state(root)
        if state.trial is None or _digest(root, state.trial) != digest:
            return False
        commits = verdict.commit
        state = _committed(root, state, rate) if commits else _rolled_back(root, state, verdict.why)
        _save(root, state)
        _point(root, state)
        return True


def rollback(root: Path, why: str) -> State:
    """End the trial, or without one go back to the bundle before the good one.

    Raises UsageError if there is none to go back to, or it is damaged.
    """
    with _locked(root):
        state = _rolled_back(root, read_state(root), why)
        _save(root, state)
        _point(root, state)
        return state


def _install(root: Path, new: Path, key: Path | None, again: bool, change_key: bool, test: SelfTest) -> State:
    staging = root / "slots" / ".new"
    try:
        with within(test.timeout_s, f"the test of {new}") as left:
            with signing.opened(new, key) as source:
                _trusted(root, verify(source.folder, key) if key else None, again, change_key)
                bundle.check(source)
                _refuse(root, read_state(root), source.digest, again)
                _copy(source.folder, staging)
            signature = verify(staging, key) if key else None
            fresh = signing.read(staging, key)
            bundle.check(fresh)  # what was copied is what will run: only its own check counts
            tested = self_test(fresh, replace(test, timeout_s=left()))
        with _locked(root):
            _refuse(root, read_state(root), fresh.digest, again)
            trust, asked = _trusted(root, signature, again, change_key)
            _save_trust(root, trust)  # before the bundle: no power cut leaves it running and forgotten
            return _place(root, staging, fresh.digest, tested + asked)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse(root: Path, state: State, digest: str, again: bool) -> None:
    if state.trial:
        raise UsageError(f"{root}: another bundle is on trial. Commit it or roll it back first")
    if digest == _digest(root, state.good):
        raise UsageError(f"bundle {digest[:12]} is the one that runs already")
    if digest in state.seen and not again:
        last = next((o for o in reversed(state.history) if o.digest == digest), None)
        reason = f" ({last.what}: {last.why})" if last else ""
        raise UsageError(
            f"bundle {digest[:12]} ran here before{reason}. To go back to it ask for it: --again"
        )


def _trusted(root: Path, signature: Signature | None, again: bool, change_key: bool) -> tuple[Trust, str]:
    """Whose bundles are taken once this one is placed, and what was asked for to take it, for the history.

    signature: the verified one; None: no key was given. Raises SignatureError for another key than before
    or none, UsageError for an older version.
    """
    known = read_trust(root) or Trust()
    offered = Trust(key=signature.key, version=signature.version) if signature else Trust()
    if known.key is None:
        return offered, ""
    if signature is None or signature.key != known.key:
        if not change_key:
            which = f"is signed by key {signature.key}" if signature else "was given without --key"
            raise SignatureError(
                f"{root} takes bundles signed by key {known.key}, and this one {which}. Give that key with "
                "--key, or ask for the change: --change-key"
            )
        return offered, f"; asked for: key {offered.key or 'none'} after {known.key}"
    if offered.version >= known.version:
        return offered, ""
    if not again:
        raise UsageError(
            f"this bundle's version {signature.version} is older than {known.version}, which was here "
            "before. Sign a newer one, or ask for this one: --again"
        )
    return known, f"; asked for: version {signature.version} after {known.version}"


def read_trust(root: Path) -> Trust | None:
    """Whose bundles are taken; None: nothing is known, and nothing here is signed.

    The first copy is the newer one. Where both are lost, or were never written, the signatures in the slots
    stand in for them.
    """
    return _stored_trust(root) or _stored_trust(root / "slots") or _trust_of_slots(root)


def _stored_trust(folder: Path) -> Trust | None:
    """What one copy holds; None if it cannot be read, or is not as it was written."""
    try:
        stored = decode(_Sealed, read_json(folder / TRUST), where=TRUST)
    except (UsageError, OSError):
        return None
    return stored.trust if stored.digest == digest(stored.trust) else None


def _trust_of_slots(root: Path) -> Trust | None:
    """The key that signed the active slot's bundle, or else the other's, and the highest version of it."""
    signed = [one for slot in SLOTS if (one := _signature(root, slot))]
    if not signed:
        return None
    first = _signature(root, read_state(root).active) or signed[0]
    return Trust(key=first.key, version=max(one.version for one in signed if one.key == first.key))


def _signature(root: Path, slot: Slot | None) -> Signature | None:
    try:
        return read_signature(_folder(root, slot))[0]
    except SignatureError:
        return None


def _save_trust(root: Path, trust: Trust) -> None:
    """Write both copies; the first is never older than the second."""
    for folder in (root, root / "slots"):
        if _stored_trust(folder) != trust:
            write_json(folder / TRUST, _Sealed(trust, digest(trust)))
            _sync(folder)


def _copy(source: Path, staging: Path) -> None:
    """Copy the plain files of a bundle and have the disk hold them."""
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink():
            target = staging / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            _sync(target)
    for folder in (staging, *(p for p in staging.rglob("*") if p.is_dir())):
        _sync(folder)


def _place(root: Path, staging: Path, digest: str, why: str) -> State:
    """Move a tested bundle into the slot that is not good, and put it on trial."""
    state = read_state(root)
    slot: Slot = "b" if state.good == "a" else "a"
    if state.previous:  # it lies in that slot and goes now
        state = replace(state, previous=None)
        _save(root, state)
    target = root / "slots" / slot
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)
    _sync(root / "slots")
    if state.good is None:
        state = _noted(replace(state, good=slot), "installed", digest, f"{why}; the first one")
    else:
        state = _noted(replace(state, trial=slot, starts=0), "trial", digest, why)
    seen = (*(d for d in state.seen if d != digest), digest)[-MAX_SEEN:]
    state = replace(state, seen=seen)
    _save(root, state)
    _point(root, state)
    return state


def _committed(root: Path, state: State, rate: Rate | None) -> State:
    """The state after the trial was good. One write: before it the trial is open, after it it is over."""
    done = replace(state, good=state.trial, previous=state.good, trial=None, starts=0, rate=rate)
    return _noted(done, "committed", _digest(root, done.good), "it kept its limits")


def _rolled_back(root: Path, state: State, why: str) -> State:
    """The state after giving up the active slot. Raises UsageError if there is no whole one to go back to."""
    target = state.good if state.trial else state.previous
    if target is None:
        raise UsageError(f"{root}: there is no earlier bundle to go back to")
    if damage := _damage(root, target):
        raise UsageError(f"{root}: the earlier bundle is damaged, so this one is kept ({damage})")
    noted = _noted(state, "rolled back", _digest(root, state.active), why)
    rate = state.rate if state.trial else None
    return replace(noted, good=target, trial=None, previous=None, starts=0, rate=rate)


def _recovered(root: Path) -> State:
    """The state with an active slot that is whole, and nothing left over from a power cut."""
    _clear(root)
    state = read_state(root)
    if state.active is None:
        raise UsageError(f"{root}: no bundle is installed. Install one with: edgepv update install")
    reasons = []
    for slot in dict.fromkeys((state.trial, state.good, state.previous)):
        if slot is None:
            continue
        damage = _damage(root, slot)
        if damage is None:
            break
        reasons.append(damage)
    else:
        raise UsageError(f"{root}: no slot holds a whole bundle ({reasons[0]}). Install one again")
    if reasons:
        trial = slot if slot == state.trial else None
        state = replace(state, good=state.good if trial else slot, trial=trial, previous=None, starts=0)
        state = _noted(state, "repaired", _digest(root, slot), f"a damaged slot was left: {reasons[0]}")
        with contextlib.suppress(OSError):
            _save(root, state)
    return state


def _clear(root: Path) -> None:
    """Remove what a power cut left half done. An install that is at work now keeps its files."""
    left = [*root.glob(f".{STATE}.*"), *root.glob(f".{TRUST}.*"), *root.glob(f"slots/.{TRUST}.*")]
    for path in (*left, root / ".current.new"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    with contextlib.suppress(UsageError, OSError), _one_update(root):
        shutil.rmtree(root / "slots" / ".new", ignore_errors=True)


def _damage(root: Path, slot: Slot) -> str | None:
    """What is wrong with the bundle in a slot; None if nothing is."""
    try:
        bundle.check(bundle.read(root / "slots" / slot))
    except (UsageError, OSError) as e:
        return str(e)
    except Exception as e:  # whatever a reader stumbles over, the other slot is to run
        return f"it cannot be read ({type(e).__name__}: {e})"
    return None


def _digest(root: Path, slot: Slot | None) -> str:
    """Digest of the bundle in a slot; empty if there is none that can be read."""
    if slot is None:
        return ""
    try:
        return bundle.read(root / "slots" / slot).digest
    except Exception:  # see _damage
        return ""


def _folder(root: Path, slot: Slot | None) -> Path:
    return root / "slots" / str(slot)


def is_root(path: Path) -> bool:
    """Whether a folder holds two slots rather than a bundle, even if its state is lost."""
    return (path / STATE).is_file() or ((path / "slots").is_dir() and not (path / bundle.MANIFEST).exists())


def read_state(root: Path) -> State:
    """state.json; if it cannot be read, what ``current`` points at counts as good, else what a slot holds."""
    try:
        return decode(State, read_json(root / STATE), where=STATE)
    except PermissionError:
        raise
    except Exception as e:  # whatever it holds, it is no state
        filled = [slot for slot in SLOTS if _folder(root, slot).is_dir()]
        if not filled and not (root / STATE).exists():
            return State()
        pointed = _pointed(root)
        good = pointed if pointed and _damage(root, pointed) is None else _newest(root, filled) or pointed
        seen = tuple(d for slot in filled if (d := _digest(root, slot)))
        why = f"{STATE} could not be read ({e})"
        return _noted(State(good=good, seen=seen), "repaired", _digest(root, good), why)


def _pointed(root: Path) -> Slot | None:
    """The slot that ``current`` points at."""
    link = root / "current"
    name = link.readlink().name if link.is_symlink() else ""
    return next((slot for slot in SLOTS if slot == name), None)


def _newest(root: Path, slots: Sequence[Slot]) -> Slot | None:
    """The slot with a whole bundle, of two the one with the higher signed version."""
    whole = [slot for slot in slots if _damage(root, slot) is None]
    versions = {slot: one.version if (one := _signature(root, slot)) else 0 for slot in whole}
    return max(whole, key=lambda slot: versions[slot], default=None)


def _save(root: Path, state: State) -> None:
    """Write the state whole, and have the disk hold both the file and its name."""
    write_json(root / STATE, state)
    _sync(root)


def _point(root: Path, state: State) -> None:
    """Have ``current`` point at the active slot: a new link is renamed over the old one."""
    link, fresh, wanted = root / "current", root / ".current.new", Path("slots") / str(state.active)
    if link.is_symlink() and link.readlink() == wanted:
        return
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(wanted)
    fresh.replace(link)
    _sync(root)


def _noted(
    state: State,
    what: Literal["installed", "trial", "committed", "rolled back", "refused", "crashed", "repaired"],
    digest: str,
    why: str,
) -> State:
    """The state with one more outcome; the same outcome twice in a row is counted, not repeated."""
    why = why.encode("utf-8", "backslashreplace").decode("utf-8")[:MAX_WHY]
    times, before = 1, state.history
    if before and (before[-1].what, before[-1].digest, before[-1].why) == (what, digest, why):
        times, before = before[-1].times + 1, before[:-1]
    return replace(
        state, history=(*before, UpdateResult(time.time(), what, digest, why, times))[-MAX_HISTORY:]
    )


def _note_refusal(root: Path, why: str) -> None:
    with contextlib.suppress(OSError), _locked(root):
        _save(root, _noted(read_state(root), "refused", "", why))


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Alone with the state for as long as the block lasts; waits for its turn, which is short.

    Raises UsageError if it does not come within LOCK_WAIT_S, or the lock is another user's.
    """
    if not root.is_dir():
        raise UsageError(f"{root} does not exist. Install a bundle with: edgepv update ROOT BUNDLE")
    path = root / "lock"
    with _lock(path, LOCK_WAIT_S, lambda who: f"{path} was held for {LOCK_WAIT_S:g} s by {who}. End it"):
        yield


@contextlib.contextmanager
def _one_update(root: Path) -> Iterator[None]:
    """The only update at work for as long as the block lasts. Raises UsageError if there is another."""
    with _lock(
        root / "install.lock",
        0.0,
        lambda who: f"{root}: another update is at work, {who}. Wait for it to end",
    ):
        yield


@contextlib.contextmanager
def _lock(path: Path, wait_s: float, held_by: Callable[[str], str]) -> Iterator[None]:
    """Hold a lock file that only its owner may open: who can open a file can hold its lock for ever.

    held_by: what to say, given who holds it for longer than ``wait_s``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        raise DeviceError(
            f"{path} cannot be opened by this user. Let one user run both edgepv update and edgepv run"
        ) from None
    try:
        _close_to_others(fd, path)
        end = time.monotonic() + wait_s
        while not _taken(fd):
            if time.monotonic() >= end:
                raise UsageError(held_by(_holder(path)))
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


def _close_to_others(fd: int, path: Path) -> None:
    """Have only the owner of the folder open a lock file; an older edgepv let everyone."""
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_nlink == 1:  # else it is someone's trap for root
        with contextlib.suppress(OSError):
            os.fchmod(fd, 0o600)
            _give(fd, path.parent)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    """Who holds a lock, as far as Linux tells. Source: proc(5), /proc/locks."""
    with contextlib.suppress(OSError, ValueError):
        inode = f":{path.stat().st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            _, kind, _, _, process, place, *_ = line.split()
            if kind == "FLOCK" and place.endswith(inode):
                return f"process {process}"
    return "another process"


def _make(folder: Path) -> None:
    """Make a folder and those above it."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give(fd, folder.parent)
        finally:
            os.close(fd)


def _give(fd: int, above: Path) -> None:
    """What root makes belongs to the owner of the folder it lies in, whose service runs from there."""
    if os.geteuid() == 0:
        owner = above.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _sync(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's names."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

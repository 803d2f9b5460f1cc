"""Digests, canonical JSON, and writes that are whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgepv.errors import UsageError, kind_of
from edgepv.types import Json, encode

_OURS = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.([0-9a-f]{8})\.edgepv(\.[^.]+)?")
"""Names of what is being written: .NAME.random.kernel.edgepv, and the file's own suffix."""
OLD = ".old"
ABANDONED_S, SETTLED_S = 7 * 86_400.0, 600.0
"""Seconds since the last write after which what lies half-written is nobody's: a week where the writer cannot
be seen, ten minutes for a file whose writer is dead."""
MOST_BYTES = 200  # of a name: file systems take 255, and names of what is being written are longer
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux: fcntl.h, fs.h
BLOCK = 1 << 20  # bytes of a file that are read at once
DEEPEST = 100  # lists and tables in each other: far more than ours, far less than Python's 1000 calls
MOST_DIGITS = 20  # of a whole number: 64 bits
MOST_LETTERS = 200
"""Of a name: more fits no line, and no file system."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; of a folder's, which may be a video, those of its files in order."""
    if path.is_dir():
        return digest([(p.name, sha256(p)) for p in sorted(path.iterdir()) if p.is_file()])
    whole = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(BLOCK):
            whole.update(block)
    return whole.hexdigest()


def canonical(value: object) -> str:
    """JSON with sorted keys and no spare blanks: equal values give equal text."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: object) -> str:
    """Hex SHA-256 of the canonical JSON of any noun or plain data."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: to a temporary name beside it, then renamed over it.

    Half a surrogate pair, which UTF-8 cannot hold, becomes its escape, which is what JSON says for it.
    """
    with whole_file(path) as tmp:
        tmp.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: object) -> None:
    """Write a noun or plain data as indented JSON, whole."""
    write_text(path, json.dumps(encode(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Json:
    """Read JSON. Raises UsageError with the line if it is not JSON, or is not there."""
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist. Check the path") from None


def parse_json(data: bytes, path: Path) -> Json:
    """The JSON in bytes that were read from ``path``.

    Raises UsageError with the line if it is not JSON, holds a key twice or half of a surrogate pair, or if it
    is deeper nested or has longer whole numbers than anything of ours.
    """
    try:
        parsed = json.loads(data.decode("utf-8-sig"), parse_int=_whole, object_pairs_hook=_table)
        _refuse_deep(parsed)
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path} is not valid JSON ({e}). It may be truncated; make it again") from e
    return parsed


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _table(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    table = dict(pairs)
    if len(table) < len(pairs):  # one reader would take the first, another the last
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {max(keys, key=keys.count)[:40]!r} is there twice")
    return table


def _refuse_deep(parsed: Json) -> None:
    """Raise ValueError for values nested deeper than DEEPEST, UnicodeError for text that no file can hold."""
    level = [parsed]
    for _ in range(DEEPEST):
        inner = [list(v.items()) if isinstance(v, dict) else v for v in level]
        for value in inner:
            if isinstance(value, str) and not value.isascii():
                value.encode()
        level = [part for value in inner if isinstance(value, list | tuple) for part in value]
        if not level:
            return
    raise ValueError(f"more than {DEEPEST} lists or tables in each other")


def check_part(name: str, what: str) -> None:
    """Raise UsageError unless ``name`` is one plain part of a path, on any system. what: whose name it is.

    No separator, no control character, no half of a surrogate pair, not hidden, nor ``.`` or ``..``.
    """
    if (
        not 0 < len(name) <= MOST_LETTERS
        or not name.isprintable()
        or name[0] == "."
        or name.strip() != name
        or set(name) & set("/\\")
    ):
        raise UsageError(
            f"{what} is {name[:40]!r}; give 1 to {MOST_LETTERS} letters that can name a file: no / or \\, "
            "no dot or blank in front, no control characters"
        )


def inside(folder: Path, name: str) -> Path:
    """``folder / name`` with every link followed. Raises UsageError if that lies outside ``folder``."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UsageError(f"'{name}' leads out of {folder}. Do not use what names it")
    return path


def read_toml(path: Path, *, wanted: str) -> dict[str, Json]:
    """Read TOML. Raises UsageError if it is not TOML, or not there; then ``wanted`` says what should be."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist. {wanted}")
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as e:  # what is no TOML, no UTF-8, too deep, or too long a number
        raise UsageError(f"{path} is not valid TOML: {e}") from e


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed onto it on success and removed on failure.

    What a kill leaves is removed by the next such write into the same folder.
    Raises UsageError if ``path`` is there and is no plain file, or is "-", which would mean stdout.
    """
    if path.is_dir() or not path.name:
        raise UsageError(f"{path} is a folder. Give the name of a file")
    if str(path) == "-":
        raise UsageError("- is no file: this is not written to stdout. Give the name of a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a pipe or a device. Give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)

    def make() -> Path:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_tag() + path.suffix)
        os.close(fd)
        return Path(name)

    with _held(make) as tmp:
        try:
            yield tmp
            _sync_file(tmp)
            tmp.chmod(0o666 & ~_umask())
            tmp.replace(path)
        finally:
            tmp.unlink(missing_ok=True)


def refuse_out(path: Path, option: str = "--out") -> None:
    """Raise UsageError if nothing can be written at ``path``: before long work, so that none is lost."""
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    if path.name in ("", "..") or len(os.fsencode(path.name)) > MOST_BYTES:
        raise UsageError(f"{option} {path}: give a name of its own, of at most {MOST_BYTES} bytes")
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UsageError(f"{option} {path} is a pipe or a device. Give another place")
        if path.is_symlink() and not path.exists():
            raise UsageError(f"{option} {path} is a link that leads nowhere. Give another place")
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as e:
        raise kind_of(e)(
            f"{option} {path}: nothing can be written into {above} ({e.strerror}). Give another place"
        ) from None


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it on success and removed on failure.

    Raises UsageError if ``path`` exists, unless ``replace``; then the two change places in one step once the
    new one is complete, and the old one goes. What a kill leaves is removed by the next such write beside it.
    """
    sweep(path.parent)
    _refuse_existing(path, replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(lambda: _make_folder(path.parent, path.name)) as tmp:
        try:
            yield tmp
            tmp.chmod(0o777 & ~_umask())
            _refuse_existing(path, replace)  # it may have appeared while we worked
            _swap(tmp, path)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Have this process and its children keep their temporary files in one folder, removed at the end.

    What a kill leaves of it is removed by the next process that comes here. Where none can be made, temporary
    files go where they would have gone.
    """
    before, chosen = tempfile.tempdir, os.environ.get("TMPDIR")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            above = Path(tempfile.gettempdir())
            sweep(above)
            folder = stack.enter_context(_held(lambda: _make_folder(above, "scratch")))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR", None)
            if chosen is not None:
                os.environ["TMPDIR"] = chosen


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for one's turn with a lock file, and hold it for as long as the block lasts.

    Only its owner may open it: who can open a file can hold its lock for ever.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(fd).st_nlink == 1:  # an older edgepv let everyone open it
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sweep(folder: Path) -> None:
    """Remove what killed processes of edgepv left in a folder, and nothing that lives or is not ours.

    A process holds a lock on what it writes until it ends, however it ends. Another kernel's locks may not be
    seen here (some network file systems): what it wrote goes when it is ABANDONED_S old.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if match := _OURS.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    _sweep_one(path, match)


def _sweep_one(path: Path, match: re.Match[str]) -> None:
    with _opened(path) as fd:
        info = os.fstat(fd)
        if info.st_uid != os.geteuid() or time.time() - info.st_mtime < _spared_s(info.st_mode, match[2]):
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        place = path.with_name(match[1])
        if not stat.S_ISDIR(info.st_mode):
            path.unlink(missing_ok=True)
        elif match[3] == OLD and not place.exists():  # killed between two renames: this is the only whole one
            path.rename(place)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _spared_s(mode: int, kernel: str) -> float:
    """How old something must be before its free lock counts: a writer may have put a new file there."""
    if kernel != _kernel():
        return ABANDONED_S
    return SETTLED_S if stat.S_ISREG(mode) else 0.0 if stat.S_ISDIR(mode) else float("inf")


@contextlib.contextmanager
def _held(make: Callable[[], Path]) -> Iterator[Path]:
    """What ``make`` made, locked for as long as the block lasts, so that no sweep takes it."""
    with contextlib.ExitStack() as stack:
        while True:
            path = make()
            with contextlib.suppress(OSError):  # a file system without locks: then no sweep gets one either
                fcntl.flock(stack.enter_context(_opened(path)), fcntl.LOCK_EX)
            if path.exists():  # no sweep was faster
                break
        yield path


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _make_folder(above: Path, name: str) -> Path:
    return Path(tempfile.mkdtemp(dir=above, prefix=f".{name}.", suffix=_tag()))


def _tag() -> str:
    return f".{_kernel()}.edgepv"


@functools.cache
def _kernel() -> str:
    """Eight digits that name the running kernel: all who see one another's locks have the same."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def _refuse_existing(path: Path, replace: bool) -> None:
    if path.is_symlink():
        raise UsageError(f"{path} is a link. Give the folder itself")
    if path.exists() and not replace:
        raise UsageError(f"{path} already exists. Choose another --out, or replace it with --force")


def _swap(new: Path, path: Path) -> None:
    """Put the folder ``new`` at ``path``; what was there is at ``new`` then, or gone."""
    _sync(new)
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):
        _replace(new, path)


def _exchange(one: Path, other: Path) -> bool:
    """Have two paths change places in one step; False where the system cannot. Source: renameat2(2)."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def _replace(new: Path, path: Path) -> None:
    """The same in two steps. If the second fails, what was there comes back; after a kill by ``sweep``."""
    old = new.with_name(new.name + OLD)
    with _opened(path) as fd:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            old.rename(path)
            raise
        shutil.rmtree(old)


def _sync(folder: Path) -> None:
    """Have the disk hold every file before the rename makes them visible."""
    for path in folder.rglob("*"):
        if path.is_file():
            _sync_file(path)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

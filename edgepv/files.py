"""Digests, canonical JSON, and writes that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgepv.errors import UsageError
from edgepv.types import encode

DEEPEST = 100
MOST_DIGITS = 20  # of a whole number: 64 bits
MOST_LETTERS = 200
"""Of a name: more fits no line, and no file system."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spare blanks: equal values give equal text."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of any noun or plain data."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: to a temporary name beside it, then renamed over it."""
    with whole_file(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a noun or plain data as indented JSON, whole."""
    write_text(path, json.dumps(encode(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises UsageError with the line if it is not JSON, or is not there."""
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist. Check the path") from None


def parse_json(data: bytes, path: Path) -> Any:
    """The JSON in bytes that were read from ``path``.

    Raises UsageError with the line if it is not JSON, holds a key twice or half of a surrogate pair, or if it
    is deeper nested or has longer whole numbers than anything of ours.
    """
    try:
        found = json.loads(data.decode("utf-8"), parse_int=_whole, object_pairs_hook=_table)
        _refuse_deep(found)
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path} is not valid JSON ({e}). It may be truncated; make it again") from e
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # one reader would take the first, another the last
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {max(keys, key=keys.count)[:40]!r} is there twice")
    return found


def _refuse_deep(found: Any) -> None:
    """Raise ValueError for values nested deeper than DEEPEST, UnicodeError for text that no file can hold."""
    level = [found]
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


def read_toml(path: Path, *, wanted: str) -> dict[str, Any]:
    """Read TOML. Raises UsageError if it is not TOML, or not there; then ``wanted`` says what should be."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist. {wanted}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:  # what is no TOML, no UTF-8, too deep, or too long a number
        raise UsageError(f"{path} is not valid TOML: {e}") from e


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed onto it on success and removed on failure.

    Raises UsageError if ``path`` is a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(fd)
    tmp = Path(name)
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
    try:
        if path.is_symlink() and not path.exists():
            raise UsageError(f"{option} {path} is a link that leads nowhere. Give another place")
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as e:
        raise UsageError(
            f"{option} {path}: nothing can be written into {above} ({e.strerror}). Give another place"
        ) from None


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it on success and removed on failure.

    Raises UsageError if ``path`` exists, unless ``replace``; then the old one goes only after the
    new one is complete.
    """
    _refuse_existing(path, replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield tmp
        tmp.chmod(0o777 & ~_umask())
        _refuse_existing(path, replace)  # it may have appeared while we worked
        _swap(tmp, path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _refuse_existing(path: Path, replace: bool) -> None:
    if path.is_symlink():
        raise UsageError(f"{path} is a link. Give the folder itself")
    if path.exists() and not replace:
        raise UsageError(f"{path} already exists. Choose another --out, or replace it with --force")


def _swap(new: Path, path: Path) -> None:
    """Put the folder ``new`` at ``path``; what was there goes last, and comes back if that fails."""
    _sync(new)
    if not path.exists():
        new.rename(path)
        return
    old = new.with_name(new.name + ".old")
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

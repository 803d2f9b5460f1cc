"""Results of finished steps, by what went into them: a second run reads instead of computing."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgepv.base.files import digest, read_json, sha256, sweep, whole_folder, write_json
from edgepv.types import Json

RESULT = "result.json"


def root() -> Path:
    """``$EDGEPV_CACHE``, or the user's cache folder. Safe to delete at any time."""
    chosen = os.environ.get("EDGEPV_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgepv"


@functools.cache
def code_digest() -> str:
    """Digest of edgepv's own source: a changed step is another step, also between releases."""
    return digest(sources(Path(__file__).parents[1]))


def sources(folder: Path) -> dict[str, str]:
    """Digest of every Python file under a folder, at any depth and behind links, by its path there."""
    digests = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [n for n in folders if n.isidentifier() and n != "__pycache__"]
        for path in (Path(place) / n for n in names if n.endswith(".py")):
            digests[path.relative_to(folder).as_posix()] = sha256(path)
    return digests


def imported(script: Path) -> dict[str, str]:
    """Digests of a script and of all the user's files that it imports, by path from its folder.

    Counted are imports, at the top or inside functions, from its own folder, its package, or the current
    folder.
    """
    folder = top = script.resolve().parent
    while (top / "__init__.py").is_file():
        top = top.parent
    digests: dict[str, str] = {}
    waiting = [script.resolve(), *(p / "__init__.py" for p in (folder, *folder.parents) if p != top)]
    while waiting:
        path = waiting.pop()
        name = Path(os.path.relpath(path, folder)).as_posix()
        if (
            path.is_file()
            and path.is_relative_to(top) | path.is_relative_to(Path.cwd())
            and name not in digests
        ):
            digests[name] = sha256(path)
            waiting += _imports(path, (folder, top, Path.cwd()))
    return digests


def _imports(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """Files that may be behind the imports of a Python file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, bases = [alias.name for alias in node.names], roots
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names]
            bases = (path.parents[node.level - 1],) if 0 < node.level <= len(path.parents) else roots
        else:
            continue
        for place in (base.joinpath(*name.split(".")) for name in names for base in bases):
            for part in (place, *place.parents):
                if part in bases:
                    break
                yield from (part.with_suffix(".py"), part / "__init__.py")


def cached(key: object, make: Callable[[Path], object]) -> tuple[Path, Json, bool]:
    """(folder, result, read from the cache?) of the step described by ``key``.

    key: JSON data that names the step, its options, the digests of its inputs and the tool versions.
    make: writes files into the folder it is given and returns a JSON result. It runs only if no whole,
    unchanged earlier result is there; a kill leaves nothing that could be taken for one.
    """
    sweep(root())
    folder = root() / digest([key, code_digest()])[:32]
    entry = _read(folder)
    if entry is not None:
        return folder, entry["result"], True
    with whole_folder(folder, replace=True) as tmp:
        result = make(tmp)
        files = {p.relative_to(tmp).as_posix(): sha256(p) for p in tmp.rglob("*") if p.is_file()}
        stored = {"key": key, "files": files, "result": result}
        write_json(tmp / RESULT, {**stored, "digest": digest(stored)})
    return folder, result, False


def _read(folder: Path) -> dict[str, Json] | None:
    """The stored result if it and every file is as it was written, else None."""
    if not (folder / RESULT).is_file():
        return None
    try:
        stored: dict[str, Json] = read_json(folder / RESULT)
        whole = stored.pop("digest") == digest(stored)
        whole = whole and all(sha256(folder / name) == d for name, d in stored["files"].items())
    except Exception:  # a damaged entry is a miss, whatever the damage
        return None
    return stored if whole else None

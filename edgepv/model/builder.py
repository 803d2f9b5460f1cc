"""A user's function that makes a module, found by name or in a file, and called with what it takes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any

from edgepv.base.optional import need
from edgepv.errors import EdgepvError, ModelError, UsageError
from edgepv.types import ModelSpec

USERS = "edgepv_user_"
"""How the packages begin that users' files are loaded in."""
_CALLED_WITH = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def call_builder(name: str, spec: ModelSpec | None = None) -> Any:
    """What the builder "package.module:function" or "path/file.py:function" returns, or the module it names.

    spec: its frames' ``height`` and ``width`` (both or none: alone, a width is often one of channels) and
    ``size`` (the width), its ``frames``, the number of its labels as ``num_classes``, and its ``particles``
    are handed to a builder that has a parameter of that name, whose default is a whole number, None or none.
    What the builder prints goes to stderr. Raises UsageError for a name that leads nowhere, and ModelError if
    it cannot be imported or called, naming its line.
    """
    with contextlib.redirect_stdout(sys.stderr), _beside(name.rpartition(":")[0]):
        function = find_function(name)
        if isinstance(function, need("torch", extra="compress").nn.Module):
            return function
        given = _arguments(name, function, spec)
        try:
            return function(**given)
        except EdgepvError:
            raise
        except SystemExit as e:
            raise ModelError(
                f"builder {name} called sys.exit or os._exit; it must return a torch module"
            ) from e
        except KeyboardInterrupt:
            raise
        except BaseException as e:
            raise ModelError(f"builder {name} raised {_what(e)}. {_remedy(e)}") from e


def _arguments(name: str, function: Callable[..., Any], spec: ModelSpec | None) -> dict[str, Any]:
    """What a builder is told of the spec. Raises ModelError if it needs to be told more."""
    parameters = inspect.signature(function).parameters
    facts = _facts(spec) if spec else {}
    if not {"height", "width"} <= parameters.keys():
        facts = {n: v for n, v in facts.items() if n not in ("height", "width")}
    told = [n for n, p in parameters.items() if p.default in (p.empty, None) or type(p.default) is int]
    given = {n: v for n, v in facts.items() if n in told and v is not None}
    required = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.name not in given and p.kind in _CALLED_WITH
    ]
    if required:
        called = f"{name.rpartition(':')[2]}({required[0]}=...)"
        raise ModelError(
            f"builder {name} needs the argument '{required[0]}'; it must need none. Put a function without "
            f"arguments beside it that returns {called}, and name that one"
        )
    return given


def _what(error: BaseException) -> str:
    """An error of the user's code: its kind, its first line, and the user's line that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = (str(Path(inspect.__file__).parent), str(Path(__file__).parents[1]), "<")
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(libraries)]
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{Path(error.filename).name}:{error.lineno}"
    said = str(error.msg) if isinstance(error, SyntaxError) else next(iter(str(error).splitlines()), "")
    said = re.sub(rf"{USERS}[0-9a-f]{{8}}\.", "", said)
    return f"{type(error).__name__}: {said}{f' ({place})' if place else ''}"


def _remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.startswith(USERS):
            return "Correct the import, or put the module there"
        return (
            f"Install '{error.name.partition('.')[0]}', or put it beside the builder's file or into the "
            "current folder"
        )
    if "cuda" in str(error).lower():
        return "Build the model on the CPU: take .cuda() and device='cuda' out"
    return "Fix the builder"


def _facts(spec: ModelSpec) -> dict[str, int | None]:
    """What a builder may ask to be told."""
    height, width = spec.input.shape[-2:]
    return {
        "size": width,
        "height": height,
        "width": width,
        "frames": spec.frames,
        "num_classes": len(spec.labels) or None,
        "particles": spec.particles,
    }


def find_function(name: str) -> Callable[..., Any]:
    """Import the function behind "module:function" or "file.py:function".

    Raises UsageError if there is none, ModelError if importing raises or ends the program.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UsageError(f"'{name}' is not file.py:function or package.module:function")
    try:
        with _beside(place):
            module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except EdgepvError:
        raise
    except SystemExit as e:
        raise ModelError(
            f"{place} cannot be imported: it called sys.exit or os._exit. "
            "Put what it does as a program under: if __name__ == '__main__'"
        ) from e
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        misnamed = isinstance(e, ModuleNotFoundError) and f"{place}.".startswith(f"{e.name}.")
        kind = UsageError if misnamed else ModelError
        raise kind(f"{place} cannot be imported: {_what(e)}. {_remedy(e)}") from e
    if not callable(getattr(module, attribute, None)):
        raise UsageError(f"{place} has no function '{attribute}'")
    function: Callable[..., Any] = getattr(module, attribute)
    return function


@contextlib.contextmanager
def _beside(place: str) -> Iterator[None]:
    """Let the user's code import what lies beside its file, in its package's folder and where we run.

    The first two come before what is installed, as for any script, except for the file's own name: a file
    torchvision.py may import torchvision. Afterwards they are asked last, for what is imported when it runs.
    """
    need("torch", extra="compress")  # else its own imports would be looked for here
    folders = [Path.cwd()]
    if place.endswith(".py"):
        folders = [Path(place).resolve().parent, _top(Path(place).resolve().parent), *folders]
    paths = [str(folder) for folder in folders]
    own = _Elsewhere(Path(place).stem, paths)
    for name in [n for n, folder in _BESIDE.items() if folder not in paths]:
        sys.modules.pop(name, None)  # another builder's, whose neighbours may have the same names
        del _BESIDE[name]
    before, loaded = list(sys.path), set(sys.modules)
    sys.path[:] = [*paths[:-1], *(p for p in before if p not in paths), paths[-1]]
    sys.meta_path.insert(0, own)
    try:
        yield
    finally:
        sys.meta_path.remove(own)
        sys.path[:] = [*before, *(p for p in dict.fromkeys(paths) if p not in before)]
        for name in set(sys.modules) - loaded:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if "site-packages" not in file:
                for folder in (p for p in paths[:-1] if file.startswith(p + os.sep)):
                    _BESIDE[name] = folder


_BESIDE: dict[str, str] = {}
"""What builders imported from beside their files: module -> the folder."""


class _Elsewhere(importlib.abc.MetaPathFinder):
    """Finds a module of one name anywhere but in some folders."""

    def __init__(self, name: str, folders: Sequence[str]) -> None:
        self._name, self._folders = name, folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name or path is not None:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if p not in self._folders])


def _top(folder: Path) -> Path:
    """The folder that holds the package ``folder`` is in; itself if it is in none."""
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _package(folder: Path) -> str:
    """The name of a package that a folder is, made if it is none: a file in it may import relatively."""
    top = _top(folder) if (folder / "__init__.py").is_file() else folder.parent
    name = f"{USERS}{hashlib.sha256(os.fsencode(top)).hexdigest()[:8]}"
    _namespace(name, top)
    for part in folder.relative_to(top).parts:
        name, top = f"{name}.{_safe(part)}", top / part
        if (top / "__init__.py").is_file():
            importlib.import_module(name)
        else:
            _namespace(name, top)
    return name


def _safe(part: str) -> str:
    """Part of a path as part of a module's name, in which a dot would begin a new one."""
    return re.sub(r"\W", "_", part)


def _namespace(name: str, folder: Path) -> None:
    """Make a package of no file whose modules are those in ``folder``."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def _load_file(path: Path) -> Any:
    """The module of a file, run anew; in its package, so that it may import relatively."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist. MODEL may be path/file.py:function")
    path = path.resolve()
    package = _package(path.parent)
    spec = importlib.util.spec_from_file_location(f"{package}.{_safe(path.stem)}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

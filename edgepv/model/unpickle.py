"""A pickle of torch's as tensors and plain values: no other code of the file runs."""

from __future__ import annotations

import pickle
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import Any

from edgepv.errors import UsageError
from edgepv.model.weights import Inert, first_line


def unpickled(path: Path) -> Any:
    """What torch.save wrote, with tensors and plain values as they were and all else as ``Inert``.

    Raises UsageError for a damaged pickle.
    """
    import torch

    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # of a path torch believes the suffix
            warnings.simplefilter("ignore")
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_Harmless)
    except Exception as e:  # a damaged pickle raises anything
        raise UsageError(f"{path} cannot be read as weights ({first_line(e)}). It may be truncated") from e


class _Unpickler(pickle.Unpickler):
    """Makes of a pickle what torch's reader of weights alone would; all else becomes ``Inert``."""

    def find_class(self, module: str, name: str) -> Any:
        from torch._weights_only_unpickler import _get_allowed_globals

        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        allowed = _get_allowed_globals().get(f"{module}.{name}")
        return allowed if allowed is not None else type(name, (Inert,), {"__module__": module})


class _Harmless:
    """What torch.load wants of a pickle module."""

    Unpickler = _Unpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()

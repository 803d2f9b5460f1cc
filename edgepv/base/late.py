"""numpy, imported when something of it is first asked for: what only describes itself needs none of it.

``edgepv export --help`` imports every step for its options and runs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["np"]


class _Late:
    """Stands for a module; after the first look at it its names are as fast to find as the module's own."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self._module)
        vars(self).update({**vars(module), "_module": self._module})
        return getattr(module, name)


if TYPE_CHECKING:
    import numpy as np
else:
    np = _Late("numpy")

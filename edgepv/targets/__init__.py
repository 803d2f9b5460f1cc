"""The devices edgepv packs for.

A target is one file here with ``TARGET``, or an entry point in the group ``edgepv.targets`` of any installed
package. A file may have ``specialised(name)`` too: targets for one device of its kind, like jetson-orin-nano.
"""

from __future__ import annotations

import importlib
import pkgutil

from edgepv.base.registry import Registry
from edgepv.errors import UsageError
from edgepv.types import Target

__all__ = ["TARGETS", "target", "targets"]

TARGETS = Registry[Target](
    "target",
    "edgepv.targets",
    Target,
    {module.name: f"{__name__}.{module.name}:TARGET" for module in pkgutil.iter_modules(__path__)},
)


def targets() -> dict[str, Target]:
    """Every target that can be loaded, by name."""
    return TARGETS.every()[0]


def target(name: str) -> Target:
    """The target called ``name``. Raises like ``Registry.find``, and if it calls itself otherwise."""
    family, dash, _ = name.partition("-")
    if dash and family in TARGETS.own and name not in TARGETS.names():
        specialised = getattr(importlib.import_module(f"{__name__}.{family}"), "specialised", None)
        if specialised is not None:
            found: Target = specialised(name)
            return found
    chosen = TARGETS.find(name)
    if chosen.name != name:
        raise UsageError(f"the target '{name}' calls itself '{chosen.name}'. Give both one name")
    return chosen

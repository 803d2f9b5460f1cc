"""The devices edgepv packs for.

A target is one file here with ``TARGET``, or an entry point in the group ``edgepv.targets`` of any installed
package.
"""

from __future__ import annotations

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
    chosen = TARGETS.find(name)
    if chosen.name != name:
        raise UsageError(f"the target '{name}' calls itself '{chosen.name}'. Give both one name")
    return chosen

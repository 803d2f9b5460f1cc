"""The devices edgepv packs for.

A target is one file here with ``TARGET``, or an entry point in the group ``edgepv.targets`` of any installed
package.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points

from edgepv.errors import UsageError, unknown
from edgepv.types import Target

GROUP = "edgepv.targets"


def targets() -> dict[str, Target]:
    """Every known target by name: those in this folder, then installed plug-ins.

    Raises UsageError if two claim one name: silently preferring one would pack for the wrong device.
    """
    found: dict[str, Target] = {}
    for module in pkgutil.iter_modules(__path__):
        target = importlib.import_module(f"{__name__}.{module.name}").TARGET
        found[target.name] = target
    for point in entry_points(group=GROUP):
        target = point.load()
        if target.name in found:
            raise UsageError(f"two packages offer the target '{target.name}'. Remove one of them")
        found[target.name] = target
    return found


def target(name: str) -> Target:
    """The target called ``name``. Raises UsageError with the known names."""
    known = targets()
    if name not in known:
        raise UsageError(unknown("target", name, known))
    return known[name]

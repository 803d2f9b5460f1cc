"""Named things of one kind: edgepv's own, and those that installed packages bring by entry points."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from edgepv.errors import EdgepvError, TargetUnavailableError, UsageError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Things by name. Nothing is imported before it is asked for.

    kind: what a message calls one of them. group: of the entry points; the name of an entry point is the name
    of what it loads. wanted: the type of them all; if they are ``classes``, what they derive from. own:
    edgepv's own, or "module:attribute" of each.
    """

    kind: str
    group: str
    wanted: type
    own: Mapping[str, T | str]
    classes: bool = False

    def names(self) -> list[str]:
        """Every name there is, whether or not what it stands for can be loaded here."""
        return sorted({*self.own, *(point.name for point in _installed().get(self.group, ()))})

    def find(self, name: str) -> T:
        """What is called ``name``.

        Raises UsageError for a name that nobody offers or that two packages do: to prefer one silently would
        pack for the wrong device. Raises TargetUnavailableError if the package that offers it is broken.
        """
        points = [point for point in _installed().get(self.group, ()) if point.name == name]
        offers = ["edgepv"] * (name in self.own) + [_package(point) for point in points]
        if not offers:
            raise UsageError(unknown(self.kind, name, self.names()))
        if len(offers) > 1:
            raise UsageError(
                f"the {self.kind} '{name}' is offered by {' and by '.join(offers)}. Remove one of them"
            )
        if points:
            return self._loaded(points[0])
        mine = self.own[name]
        return resolve(mine) if isinstance(mine, str) else mine

    def every(self) -> tuple[dict[str, T], tuple[str, ...]]:
        """(what can be loaded, by name; a line for each that cannot)."""
        loaded, faults = {}, []
        for name in self.names():
            try:
                loaded[name] = self.find(name)
            except EdgepvError as e:
                faults.append(str(e))
        return loaded, tuple(faults)

    def _loaded(self, point: EntryPoint) -> T:
        whose = f"the {self.kind} '{point.name}' of {_package(point)}"
        loaded: T = _imported(point.load, whose)
        if self.classes:
            fits = inspect.isclass(loaded) and issubclass(loaded, self.wanted)
        else:
            fits = isinstance(loaded, self.wanted)
        if not fits:
            raise TargetUnavailableError(
                f"{whose} cannot be used: {point.value} is no {self.wanted.__name__}. Update or remove it"
            )
        return loaded


@functools.cache
def _installed() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of all our groups: one look at what is installed."""
    points = entry_points()
    return {
        group: tuple(points.select(group=group)) for group in points.groups if group.startswith("edgepv.")
    }


def _package(point: EntryPoint) -> str:
    """ "name 1.0"."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def resolve(place: str) -> Any:
    """What "module:attribute", or "module", names. Raises TargetUnavailableError if it cannot be imported."""
    point = EntryPoint(place, place, "")
    return _imported(point.load, place)


def _imported(load: Callable[[], Any], what: str) -> Any:
    """What ``load`` gives. A package of others may raise anything when it is imported."""
    try:
        return load()
    except EdgepvError:
        raise
    except (Exception, SystemExit) as e:
        raise TargetUnavailableError(
            f"{what} cannot be loaded: {type(e).__name__}: {' '.join(str(e).split())}. Update or remove it"
        ) from e

"""The contract of a compression step: its options, what it needs, its work, and what it promises.

A step is a frozen dataclass ``Step`` in a file of its own, of this room or of an installed package that names
it under the entry point group ``edgepv.steps``. Its fields are its options (``edgepv.base.options``): the
command line, ``--config``, the plan, the cache, the record and the search read them there. Calling a step
checks what it requires, does the work, and checks what it ensures, as onnx/ir-py's passes do.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from edgepv.base.files import sha256
from edgepv.base.late import np
from edgepv.base.options import Option, options_of, values_of
from edgepv.base.registry import Registry
from edgepv.errors import EdgepvError, UsageError, unknown
from edgepv.model.provenance import record
from edgepv.model.weights import save
from edgepv.stream import Tensors
from edgepv.types import Checkpoint, Variant

if TYPE_CHECKING:
    from typing import Self  # Python 3.10, of a device, has none

    from torch import nn

GROUP = "edgepv.steps"
"""Entry points under which a package names its steps."""
Model = TypeVar("Model", Checkpoint, Variant)
Aid = TypeVar("Aid")


class PromiseError(UsageError):
    """A step was given what it does not take, or made what it promises not to; the code is of what broke."""


@dataclass(frozen=True)
class Training:
    """What a step on a checkpoint may learn from.

    clips: (T, C, H, W) float32 each, training clips only; truth: the index of each one's label. footage: the
    same of video without labels. teacher: the original model. progress: shows how far the epochs are.
    """

    clips: Sequence[np.ndarray] = ()
    truth: Sequence[int] = ()
    teacher: Checkpoint | None = None
    progress: Callable[[range], Iterable[int]] = iter
    footage: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Calibration:
    """What sets the ranges of a variant.

    folder: where its file is. feeds: graph inputs with rolled states, see ``data.calibration.rolled_feeds``.
    digest: of the clips they were made of. last: the clips that the last quarter of the feeds is of.
    """

    folder: Path
    feeds: Sequence[Tensors]
    digest: str
    last: Sequence[Path] = ()


class Step(ABC, Generic[Model, Aid]):
    """A model in, another one out; nothing is edited in place.

    name: as records have it. version: raised when the same options make another model. tools: distributions
    whose version is recorded. order: steps run in rising order.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[int] = 100

    def __call__(self, given: Model, out: Path, aid: Aid) -> Model:
        """The model that is made of ``given``, its file at ``out``.

        Raises PromiseError, naming the step and those that ran before, where its requirements or promises do
        not hold; whatever the work raises is left as it is.
        """
        with self._naming("required by", given):
            for option in options_of(type(self)):
                option.refuse(getattr(self, option.field))
            self.requires(given, aid)
        result = self.work(given, out, aid)
        with self._naming("promised by", given):
            if not out.is_file() or sha256(out) != result.sha256:
                raise UsageError(f"{out.name} is not the file that was made")
            self.ensures(given, result)
        return result

    def requires(self, given: Model, aid: Aid) -> None:
        """Raise UsageError for what the step cannot work on."""

    @abstractmethod
    def work(self, given: Model, out: Path, aid: Aid) -> Model:
        """Write a file to ``out`` and describe it. ``given`` and its file stay as they are."""

    def ensures(self, given: Model, result: Model) -> None:
        """Raise UsageError if ``result`` is not what the step promises to make of ``given``."""

    @classmethod
    def of(cls, given: Mapping[str, object], seed: int = 0, **fixed: object) -> Self:
        """The step with the options given by their keys; seed: of the run, for a step with such a field.

        Raises UsageError for a value of a wrong type.
        """
        values = {"seed": seed} if any(f.name == "seed" for f in fields(cls)) else {}  # type: ignore[arg-type]
        return cls(**values, **values_of(cls, given), **fixed)

    def told(self) -> str:
        """Its options as they are typed."""
        given = ((o, getattr(self, o.field)) for o in options_of(type(self)))
        return " ".join(word for o, value in given if value is not None for word in o.words(value))

    @contextlib.contextmanager
    def _naming(self, which: str, given: Model) -> Iterator[None]:
        try:
            yield
        except UsageError as e:
            before = ", ".join(s.name for s in given.steps)
            chain = f", after {before}" if before else ""
            broken = PromiseError(f"{e} ({which} {self.name}{chain})")
            broken.exit_code = e.exit_code
            raise broken from e


NO_TRAINING = Training()


class CheckpointStep(Step[Checkpoint, Training]):
    """A step on weights, before a model is made to step and converted.

    lossy: what it leaves is fine-tuned next, where there are clips. needs_clips: it is of no use without
    training clips: it trains, or must be trained after. watches: its work looks at video without labels.
    method: how the search calls it, its name if empty. done: what it adds to the name of a row of the report,
    and what is said of the model there.
    """

    order = 25
    lossy: ClassVar[bool] = False
    needs_clips: ClassVar[bool] = False
    watches: ClassVar[bool] = False
    method: ClassVar[str] = ""
    done: ClassVar[tuple[str, str] | None] = None

    def __call__(self, given: Checkpoint, out: Path, aid: Training = NO_TRAINING) -> Checkpoint:
        """The checkpoint made of ``given``, its weights at ``out`` (.safetensors)."""
        return super().__call__(given, out, aid)

    @property
    def learns(self) -> bool:
        """Whether the work itself looks at training clips."""
        return self.needs_clips

    def places(self, given: Checkpoint) -> int:
        """How many values the option that asks for it may have for this model: one, or one for each part."""
        return 1

    @classmethod
    def wanted(cls, given: Mapping[str, object]) -> bool | None:
        """Whether the option that asks for the step is on; None where it is not given."""
        value = next((given[o.key] for o in options_of(cls) if o.asks and o.key in given), None)
        return any(value) if isinstance(value, list | tuple) else value if value is None else bool(value)

    @classmethod
    def due(cls, before: Sequence[CheckpointStep]) -> bool:
        """Whether the step runs after those before though nobody asked for it."""
        return False

    def ensures(self, given: Checkpoint, result: Checkpoint) -> None:
        """It answers the same question, and its record comes after those of before."""
        if (result.spec, result.builder) != (given.spec, given.builder):
            raise UsageError("the model is another one: its spec or its builder changed")
        if result.steps[:-1] != given.steps or result.steps[-1].name != self.name:
            raise UsageError("the records of the steps before are not kept, or its own is missing")

    def saved(
        self, given: Checkpoint, module: nn.Module, out: Path, inputs: Mapping[str, str] = {}, **facts: object
    ) -> Checkpoint:
        """``given`` with the weights of ``module``, written to ``out``, and a record of this step.

        inputs: what else went in, by digest. facts: what the record says besides the options.
        """
        digest = save(module, out)
        went_in = {"weights": given.sha256, **inputs}
        step = record(self.name, {**vars(self), **facts}, went_in, {"weights": digest}, self.tools)
        step = replace(step, version=self.version)
        return replace(given, weights=str(out), sha256=digest, steps=(*given.steps, step))


class VariantStep(Step[Variant, Calibration]):
    """A step on a file that engines run; a target's builder calls it by its name."""

    def ensures(self, given: Variant, result: Variant) -> None:
        """The file is in INT8, and has the tensors and states of the one before."""
        if result.precision != "int8" or result.scheme is None:
            raise UsageError("the file is not in INT8, or nothing says how its integers were set")
        if (result.spec, result.stream) != (given.spec, given.stream):
            raise UsageError("the model is another one: its spec or its states changed")


@functools.cache
def registry() -> Registry[type[Step[Any, Any]]]:
    """Every step by its name: of this room, and of installed packages."""
    room = Path(__file__).parent
    files = [importlib.import_module(f"{__package__}.{m.name}") for m in pkgutil.iter_modules([str(room)])]
    own = {m.Step.name: m.Step for m in files if hasattr(m, "Step") and not inspect.isabstract(m.Step)}
    return Registry("step", GROUP, Step, own, classes=True)


@functools.cache
def _usable() -> tuple[Mapping[str, type[Step[Any, Any]]], Mapping[str, EdgepvError]]:
    """(every step that can be used, in the order they run; why each other one cannot), by their names."""
    found: dict[str, type[Step[Any, Any]]] = {}
    faults: dict[str, EdgepvError] = {}
    options: dict[str, Option] = {}
    for name in sorted(registry().names(), key=lambda name: name not in registry().own):
        try:
            kind = registry().find(name)
            options |= _checked(name, kind, options)
            found[name] = kind
        except EdgepvError as e:
            faults[name] = e
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0]))), faults


def _checked(name: str, kind: type[Step[Any, Any]], known: Mapping[str, Option]) -> dict[str, Option]:
    """The options of a step, by their keys. Raises UsageError if it is not usable beside what is known."""
    called = getattr(kind, "name", None)
    if called != name:
        raise UsageError(f"the step '{name}' calls itself '{called}'. Give both one name")
    if inspect.isabstract(kind):
        raise UsageError(f"the step '{name}' cannot be used: it has no work(). Update or remove it")
    try:
        mine = {option.key: option for option in options_of(kind)}
    except Exception as e:  # what a package of others declares may be anything
        why = " ".join(str(e).split())
        raise UsageError(
            f"the step '{name}' cannot be used: {type(e).__name__}: {why}. Update or remove it"
        ) from e
    for key, option in mine.items():
        if key in known and option.help != known[key].help:
            raise UsageError(
                f"the step '{name}' cannot be used: another step has an option {option.flag} too. Update or "
                "remove it"
            )
    return mine


def steps() -> Mapping[str, type[Step[Any, Any]]]:
    """Every step that can be used, by its name, in the order they run."""
    return _usable()[0]


def broken_steps() -> tuple[str, ...]:
    """A line for each step of a package that cannot be used."""
    return tuple(map(str, _usable()[1].values()))


def step_named(name: str) -> type[Step[Any, Any]]:
    """The step of this name. Raises UsageError with the known names, or like ``Registry.find``."""
    if name in _usable()[1]:
        raise _usable()[1][name]
    return steps()[name] if name in steps() else registry().find(name)


def checkpoint_steps() -> tuple[type[CheckpointStep], ...]:
    """Those on a checkpoint, in the order they run."""
    return tuple(kind for kind in steps().values() if issubclass(kind, CheckpointStep))


def asked(
    given: Mapping[str, object], seed: int = 0, *, tuning: bool = False, watching: bool = False
) -> tuple[CheckpointStep, ...]:
    """The steps on a checkpoint that these options ask for, in order, with those that are due.

    given: values by the options' keys. tuning, watching: whether there are clips to train on, video to look
    at: what needs them is due then only. Raises UsageError for a value of a wrong type.
    """
    chain: list[CheckpointStep] = []
    for kind in checkpoint_steps():
        wanted = kind.wanted(given)
        able = watching if kind.watches else tuning
        if wanted or (wanted is None and able and kind.due(chain)):
            chain.append(kind.of(given, seed))
    return tuple(chain)


@functools.cache
def step_options() -> Mapping[str, Option]:
    """Every option of every step, by its key; several steps may share one."""
    known: dict[str, Option] = {}
    for kind in steps().values():
        for option in options_of(kind):
            known.setdefault(option.key, option)
    return known


def option_named(key: str) -> Option:
    """The option of this key. Raises UsageError with the known ones."""
    if key not in step_options():
        raise UsageError(unknown("option of a step", key, step_options()))
    return step_options()[key]


def flags(kinds: Iterable[type[Step[Any, Any]]]) -> str:
    """The flags that ask for these steps, as a person lists them."""
    return listed([o.flag for kind in kinds for o in options_of(kind) if o.asks])


def variant_options() -> tuple[Option, ...]:
    """Options that only steps on a variant have, by their keys' order."""
    weights = {o.key for kind in checkpoint_steps() for o in options_of(kind)}
    return tuple(o for key, o in sorted(step_options().items()) if key not in weights)


def listed(words: Sequence[str]) -> str:
    """Words with commas, and "and" before the last."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))

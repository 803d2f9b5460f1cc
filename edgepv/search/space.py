"""A candidate of the search, and the space of all of them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgepv.base.options import options_of
from edgepv.base.registry import resolve
from edgepv.errors import UsageError
from edgepv.export.request import FLAT
from edgepv.pipeline.options import Options
from edgepv.quantize.step import checkpoint_steps, option_named, step_options
from edgepv.types import Target

Form = Literal["stream", "clip", "flat"]
SIZES = (1.0, 6 / 7, 5 / 7)
"""Shares of the side a model was trained at: of 112 pixels, 112, 96 and 80."""
SMALLEST = 32
"""Pixels of a side: five halvings make one of it."""
Picks = tuple[Any, ...]
"""What an option of a step is set to: one value, or one for each part of the model."""


@dataclass(frozen=True)
class Candidate:
    """One way to deploy a model.

    variant: engine and precision, as the target names it. form: "stream", a step over new frames; "clip", the
    window as the model was written; "flat", the window without Conv3D. size: height and width of the frames.
    steps: what options of compression steps are set to, by their keys; those that are off are not there.
    """

    variant: str
    form: Form
    size: int
    steps: tuple[tuple[str, Picks], ...] = ()

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.variant.split("-")[0]

    @property
    def precision(self) -> str:
        """fp32, bf16 or int8."""
        return self.variant.split("-")[1]

    @property
    def name(self) -> str:
        """How tables and pictures call it."""
        set_to = dict(self.steps)
        told = [option.named(set_to[key]) for key, option in step_options().items() if key in set_to]
        return " ".join([self.variant, self.form, f"{self.size}px", *told])

    @property
    def given(self) -> dict[str, Any]:
        """Values of the steps' options, as an export is given them."""
        return {key: picks if option_named(key).many else picks[0] for key, picks in self.steps}

    def having(self, key: str, picks: Picks) -> Candidate:
        """The same with one option of a step set, or turned off."""
        steps = {**dict(self.steps), key: picks}
        return replace(self, steps=tuple(sorted((k, p) for k, p in steps.items() if any(p))))

    def options(self, asked: Options, native: int, tune_epochs: int | None) -> Options:
        """The options of an export that makes this candidate and nothing else."""
        tuned = {} if tune_epochs is None else {"tune_epochs": tune_epochs}
        return replace(
            asked,
            variant=self.variant + (FLAT if self.form == "flat" else ""),
            precision=self.precision,
            stream="auto" if self.form == "stream" else "window",
            size=None if self.size == native else self.size,
            steps={**_not_due(), **asked.steps, **self.given, **tuned},
        )


def _not_due() -> dict[str, float]:
    """Off, for the steps that an export takes without being asked: a candidate is what its name says."""
    watching = (kind for kind in checkpoint_steps() if kind.watches and kind.due(()))
    return {o.key: 0.0 for kind in watching for o in options_of(kind) if o.asks}


def command(options: Options, out: str) -> str:
    """The command line of these options, to paste."""
    words = ["edgepv", "export", options.model, "--target", options.targets[0]]
    words[2] = str(Path(options.model).absolute()) if _is_file(options.model) else options.model
    for one in options_of(Options):
        value = getattr(options, one.key)
        if one.key not in ("out", "clips") and value != one.default:
            words += one.words(value)
    for key, value in options.steps.items():
        words += option_named(key).words(value)
    for name in ("weights", "spec", "clips"):
        if file := getattr(options, name):
            words += [f"--{name}", str(Path(file).absolute())]
    words += ["--seed", str(options.seed)] if options.seed else []
    words += ["--trust-pickle"] if options.trust_pickle else []
    return shlex.join([*words, "--out", out])


def _is_file(model: str) -> bool:
    """Whether MODEL is a path: file.onnx or file.py:builder."""
    return Path(model.rpartition(":")[0] or model).is_file()


@dataclass(frozen=True)
class Axis:
    """One option of a step that is searched.

    values: that it tries, the first one off. places: how many values it takes at once. variants: those it is
    for; empty: it changes the weights, and is for all.
    """

    key: str
    values: Picks
    places: int = 1
    variants: tuple[str, ...] = ()

    @property
    def params(self) -> tuple[str, ...]:
        """What Optuna calls it, one name for each place."""
        return tuple(f"{self.key}{i}" for i in range(self.places))


@dataclass(frozen=True)
class Space:
    """Every value each method may take.

    variants: of the target that may be chosen. first: the target's float one on its first engine, which the
    model as it was written is taken to be. forms: of the model, the one it was written in first. sizes: the
    one it was trained at first. axes: options of the steps that can work on this model, in their order.
    """

    variants: tuple[str, ...]
    forms: tuple[Form, ...]
    sizes: tuple[int, ...]
    axes: tuple[Axis, ...] = ()
    first: str = "onnxruntime-fp32"

    def suggest(self, trial: Any) -> Candidate:
        """The candidate an Optuna trial stands for."""
        variant = trial.suggest_categorical("variant", list(self.variants))
        form = trial.suggest_categorical("form", list(self.forms))
        size = trial.suggest_categorical("size", list(self.sizes))
        candidate = Candidate(variant, form, size)
        for axis in self._axes_of(variant):
            picks = tuple(trial.suggest_categorical(name, list(axis.values)) for name in axis.params)
            candidate = candidate.having(axis.key, picks)
        return candidate

    def params(self, candidate: Candidate) -> dict[str, object]:
        """What an Optuna trial of this candidate would have suggested."""
        picks = {name: getattr(candidate, name) for name in ("variant", "form", "size")}
        for axis in self._axes_of(candidate.variant):
            off = (axis.values[0],) * axis.places
            picks |= dict(zip(axis.params, dict(candidate.steps).get(axis.key, off)))
        return picks

    def single_methods(self) -> Iterator[Candidate]:
        """The model as it was written, and each method alone: what a search has to beat."""
        start = self.start()
        yield start
        for variant in self.variants:
            yield replace(start, variant=variant)
        for form in self.forms:
            yield replace(start, form=form)
        yield from self.around(start)

    def whole(self) -> Iterator[Candidate]:
        """Every engine and precision: nothing here needs training.

        On the stream where there is one, since a window computes every frame many times; else on every form.
        """
        forms = ("stream",) if "stream" in self.forms else self.forms
        for form, variant in itertools.product(forms, self.variants):
            yield replace(self.start(), variant=variant, form=form)

    def around(self, best: Candidate) -> Iterator[Candidate]:
        """A candidate made smaller in one way at a time, by steps on its weights in their order first."""
        for axis in self.axes:
            for value in axis.values[1:] if not axis.variants else ():
                yield best.having(axis.key, (value,) * axis.places)
        for size in self.sizes[1:]:
            yield replace(best, size=size)

    def start(self) -> Candidate:
        """The model as it was written, in float, on the target's first engine."""
        return Candidate(self.first, self.forms[0], self.sizes[0])

    def _axes_of(self, variant: str) -> Iterator[Axis]:
        """Those that a variant has."""
        return (axis for axis in self.axes if not axis.variants or variant in axis.variants)


def methods_of(candidate: Candidate, start: Candidate) -> str:
    """The methods that a candidate uses, against the model as it was written; "none" for that itself."""
    pulled = {
        "engine": candidate.engine != start.engine or candidate.precision == "bf16",
        "form": candidate.form != start.form,
        "quant": candidate.precision == "int8",
        **{kind.method or kind.name: bool(kind.wanted(candidate.given)) for kind in checkpoint_steps()},
        "size": candidate.size != start.size,
    }
    names = [name for name, done in pulled.items() if done]
    return "+".join(names) or "none"


def variants_of(target: Target, precision: str) -> tuple[str, ...]:
    """What the target's builder makes that this machine can measure, in order.

    Raises UsageError if it does not say, or nothing is left.
    """
    measured = target.status == Target.status
    module = resolve(target.builder.partition(":")[0])
    known: tuple[str, ...] = getattr(module, "VARIANTS", ()) if measured else ()
    needs: Mapping[str, str] = getattr(module, "NEEDS", {})
    here = (v for v in known if v not in needs or resolve(needs[v])() is not None)
    wanted = tuple(v for v in here if precision in ("auto", v.split("-")[1]))
    if not wanted:
        raise UsageError(
            f"the search cannot measure {target.name} on this machine. Search on the device itself, or for "
            "cpu or mobile"
        )
    return wanted


def sizes_for(native: int) -> tuple[int, ...]:
    """The size a model was trained at, and smaller multiples of 16."""
    sizes = [native, *(round(native * share / 16) * 16 for share in SIZES[1:])]
    return tuple(dict.fromkeys(s for s in sizes if s == native or SMALLEST <= s < native))

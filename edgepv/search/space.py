"""A candidate of the search, and the space of all of them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgepv.base.registry import resolve
from edgepv.errors import UsageError
from edgepv.export.request import FLAT
from edgepv.pipeline.options import Options
from edgepv.types import Target

Form = Literal["stream", "clip", "flat"]
SHARES = (0.0, 0.25, 0.5)
SIZES = (1.0, 6 / 7, 5 / 7)
ENERGIES = (0.0, 0.9, 0.8)
KEPT = (0, 2, 4)
SMALLEST = 32


@dataclass(frozen=True)
class Candidate:
    """One way to deploy a model.

    variant: engine and precision, as the target names it. form: "stream", a step over new frames; "clip", the
    window as the model was written; "flat", the window without Conv3D. size: height and width of the frames.
    prune: share of channels cut in each stage, empty for none. low_rank: share of their weights' energy that
    split layers keep, 0 for whole layers. keep_float: most sensitive layers that stay in float.
    """

    variant: str
    form: Form
    size: int
    prune: tuple[float, ...] = ()
    low_rank: float = 0.0
    keep_float: int = 0

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
        parts = [self.variant, self.form, f"{self.size}px"]
        if any(self.prune):
            parts.append("cut " + "/".join(f"{100 * share:g}" for share in self.prune))
        if self.low_rank:
            parts.append(f"rank {100 * self.low_rank:g} %")
        if self.keep_float:
            parts.append(f"{self.keep_float} float")
        return " ".join(parts)

    def options(self, asked: Options, native: int, tune_epochs: int | None) -> Options:
        """The options of an export that makes this candidate and nothing else."""
        return replace(
            asked,
            variant=self.variant + (FLAT if self.form == "flat" else ""),
            precision=self.precision,
            stream="auto" if self.form == "stream" else "window",
            size=None if self.size == native else self.size,
            prune=self.prune if any(self.prune) else (),
            low_rank=self.low_rank or None,
            keep_float=self.keep_float,
            tune_epochs=tune_epochs,
        )


def command(options: Options, out: str) -> str:
    """The command line of these options, to paste."""
    words = ["edgepv", "export", options.model, "--target", options.targets[0]]
    words[2] = str(Path(options.model).absolute()) if _is_file(options.model) else options.model
    plain = ("size", "multiple", "low_rank", "tune_epochs", "seed", "max_drop", "precision", "variant")
    for name in (*plain, "keep_float", "weights", "spec", "clips"):
        value = getattr(options, name)
        if value != getattr(Options, name, None):
            path = name in ("weights", "spec", "clips")
            words += [f"--{name.replace('_', '-')}", str(Path(value).absolute() if path else value)]
    if options.trust_pickle:
        words.append("--trust-pickle")
    if options.prune:
        words += ["--prune", ",".join(f"{share:g}" for share in options.prune)]
    if options.stream != "auto":
        words += ["--stream", options.stream]
    return shlex.join([*words, "--out", out])


def _is_file(model: str) -> bool:
    """Whether MODEL is a path: file.onnx or file.py:builder."""
    return Path(model.rpartition(":")[0] or model).is_file()


@dataclass(frozen=True)
class Space:
    """Every value each method may take.

    variants: of the target that may be chosen. first: the target's float one on its first engine, which the
    model as it was written is taken to be. forms: of the model, the one it was written in first. sizes: the
    one it was trained at first. stages: of the model; 0 when it cannot be pruned here. energies: of low-rank
    layers.
    """

    variants: tuple[str, ...]
    forms: tuple[Form, ...]
    sizes: tuple[int, ...]
    stages: int
    energies: tuple[float, ...] = (0.0,)
    first: str = "onnxruntime-fp32"

    def suggest(self, trial: Any) -> Candidate:
        """The candidate an Optuna trial stands for."""
        variant = trial.suggest_categorical("variant", list(self.variants))
        form = trial.suggest_categorical("form", list(self.forms))
        size = trial.suggest_categorical("size", list(self.sizes))
        cut = tuple(trial.suggest_categorical(f"cut{i}", list(SHARES)) for i in range(self.stages))
        rank = trial.suggest_categorical("low_rank", list(self.energies))
        keeps = variant in self._keeping()
        kept = trial.suggest_categorical("keep_float", list(KEPT)) if keeps else 0
        return Candidate(variant, form, size, cut if any(cut) else (), rank, kept)

    def params(self, candidate: Candidate) -> dict[str, Any]:
        """What an Optuna trial of this candidate would have suggested."""
        cut = candidate.prune or (0.0,) * self.stages
        found = {name: getattr(candidate, name) for name in ("variant", "form", "size", "low_rank")}
        found |= {f"cut{i}": share for i, share in enumerate(cut)}
        return found | ({"keep_float": candidate.keep_float} if candidate.variant in self._keeping() else {})

    def single_methods(self) -> Iterator[Candidate]:
        """The model as it was written, and each method alone: what a search has to beat."""
        start = self.start()
        yield start
        for variant in self.variants:
            yield replace(start, variant=variant)
        for form in self.forms:
            yield replace(start, form=form)
        for share in SHARES[1:] if self.stages else ():
            yield replace(start, prune=(share,) * self.stages)
        for size in self.sizes[1:]:
            yield replace(start, size=size)
        for energy in self.energies[1:]:
            yield replace(start, low_rank=energy)

    def whole(self) -> Iterator[Candidate]:
        """Every engine and precision: nothing here needs training.

        On the stream where there is one, since a window computes every frame many times; else on every form.
        """
        forms = ("stream",) if "stream" in self.forms else self.forms
        for form, variant in itertools.product(forms, self.variants):
            yield replace(self.start(), variant=variant, form=form)

    def around(self, best: Candidate) -> Iterator[Candidate]:
        """A candidate made smaller in one way at a time, the ways that bought most on our nets first."""
        for share in SHARES[1:] if self.stages else ():
            yield replace(best, prune=(share,) * self.stages)
        for energy in self.energies[1:]:
            yield replace(best, low_rank=energy)
        for size in self.sizes[1:]:
            yield replace(best, size=size)

    def start(self) -> Candidate:
        """The model as it was written, in float, on the target's first engine."""
        return Candidate(self.first, self.forms[0], self.sizes[0])

    def _keeping(self) -> tuple[str, ...]:
        """Variants made by a tool that can keep chosen layers in float."""
        return tuple(v for v in self.variants if v in ("onnxruntime-int8", "openvino-int8"))


def methods_of(candidate: Candidate, start: Candidate) -> str:
    """The methods that a candidate uses, against the model as it was written; "none" for that itself."""
    pulled = {
        "engine": candidate.engine != start.engine or candidate.precision == "bf16",
        "form": candidate.form != start.form,
        "quant": candidate.precision == "int8",
        "prune": any(candidate.prune),
        "rank": candidate.low_rank > 0,
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
    wanted = tuple(v for v in known if precision in ("auto", v.split("-")[1]))
    if not wanted:
        raise UsageError(
            f"the search cannot measure {target.name} on this machine. Search on the device itself, or for "
            "cpu or mobile"
        )
    return wanted


def sizes_for(native: int) -> tuple[int, ...]:
    """The size a model was trained at, and smaller multiples of 16."""
    found = [native, *(round(native * share / 16) * 16 for share in SIZES[1:])]
    return tuple(dict.fromkeys(s for s in found if s == native or SMALLEST <= s < native))

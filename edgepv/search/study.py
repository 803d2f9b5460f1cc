"""The Optuna study: proposes candidates, remembers what was measured, survives kills, takes workers in."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base import cache
from edgepv.base.console import Console
from edgepv.base.files import digest
from edgepv.base.machine import machine
from edgepv.base.optional import need
from edgepv.base.quiet import hush
from edgepv.data.clips import clips_digest
from edgepv.errors import DeviceError, EdgepvError, UsageError
from edgepv.metrics.gate import within_limit
from edgepv.pipeline.source import source_key
from edgepv.search import costs
from edgepv.search.space import Candidate
from edgepv.search.trial import (
    SearchRequest,
    TrialResult,
    TrialRunner,
    at_percentile,
    without_paths,
)
from edgepv.types import Latency, PairedDrop, decode, encode

if TYPE_CHECKING:
    import optuna

BUDGET_FACTOR = 1.5
"""A candidate that takes this many times the budget is not trained or scored; predicted to, not built."""
HEARTBEAT_S = 30
"""How often a worker's trial says that it is alive."""
GRACE_S = 120
"""A trial that was silent for so long, four heartbeats, is given to another worker."""
MOST_REPEATS = 15
"""Trials in a row that propose nothing new end the search."""
LONGEST_WHY = 300
"""Characters of a failure that are kept: its line, without a library's dump."""


class Study:
    """One question in one storage. Trials are kept by Optuna; what is not measured has no value there."""

    def __init__(
        self, question: SearchRequest, trials: TrialRunner, storage: str | None, console: Console
    ) -> None:
        """Open the study of this question, or begin it. Raises UsageError if the storage cannot be opened."""
        self.question, self.trials, self.console = question, trials, console
        self.name = study_name(question, trials)
        self._optuna = need("optuna", extra="compress")
        self.study = self._optuna.create_study(
            study_name=self.name,
            storage=opened(storage),
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        if "question" not in self.study.user_attrs:  # the last to be written: a kill before it begins anew
            self._propose(trials.space.whole())
            self.study.set_user_attr("machine", encode(machine()))
            self.study.set_user_attr("question", encode(question))
        elsewhere = self.study.user_attrs["machine"]
        if elsewhere != encode(machine()):
            raise UsageError(
                f"this study was timed on {elsewhere['cpu']} ({elsewhere['cores']} cores), this machine is "
                f"{machine()['cpu']} ({machine()['cores']} cores). Run workers on equal machines"
            )

    def run(self, *, seconds: float, trials: int | None, over: Callable[[], bool] | None = None) -> None:
        """Try candidates until ``seconds`` have passed, ``trials`` are done, or nothing new is proposed.

        over: a worker's: asked before every trial, True ends it; the study's clock is the searcher's.
        Interrupted trials are tried again next time.
        """
        begun, spent = time.monotonic(), float(self.study.user_attrs.get("spent_s", 0.0))
        worker = over is not None
        while not (over and over()) and (trials is None or len(self._done()) < trials):
            self._bury_dead()
            self._reconsider()
            self._widen()
            passed = spent + time.monotonic() - begun
            if passed >= seconds or self._nothing_new():
                break
            self._one(passed, seconds, trials)
            if not worker:
                self.study.set_user_attr("spent_s", spent + time.monotonic() - begun)

    def _propose(self, candidates: Iterable[Candidate]) -> None:
        for candidate in candidates:
            self.study.enqueue_trial(self.trials.space.params(candidate), skip_if_exists=True)

    def _widen(self) -> None:
        """Once all whole models are measured, propose the best of them made smaller."""
        state = self._optuna.trial.TrialState
        waiting = self.study.get_trials(deepcopy=False, states=(state.WAITING, state.RUNNING))
        timed = [t for t in self._done() if "ratio" in t.user_attrs]
        if waiting or not timed or self.study.user_attrs.get("widened"):
            return
        whole = [t for t in timed if t.values]
        good = [t for t in whole if within_limit(decode(PairedDrop, t.user_attrs["found"]["drop"]))] or timed
        best = min(good, key=lambda t: t.user_attrs["ratio"])
        fastest = self.trials.space.suggest(self._optuna.trial.FixedTrial(best.params))
        self._propose(self.trials.space.around(fastest))
        self.study.set_user_attr("widened", True)

    def _one(self, passed: float, seconds: float, trials: int | None) -> None:
        """One trial; its sampler is seeded by how many came before, so that a resumed study goes on alike."""
        done = len(self._done())
        self.study.sampler = self._optuna.samplers.TPESampler(
            seed=self.question.seed + done, multivariate=True, group=True, n_startup_trials=10
        )
        try:
            with hush(stderr=False):
                self.study.optimize(self._objective, n_trials=1, catch=(Exception,))
        except ValueError as e:  # SQLite locks no rows: two workers may be given one trial, and one is late
            self.console.say(f"another worker was faster: {e}")
            return
        last = self._done()[-1]
        of = f"/{trials}" if trials else ""
        left = max(0.0, seconds - passed)
        name, text = last.user_attrs.get("name", "?"), self.outcome(last)
        self.console.say(f"trial {len(self._done())}{of}, {left / 60:.0f} min left: {name}: {text}")

    def _objective(self, trial: Any) -> tuple[float, float]:
        candidate = self.trials.space.suggest(trial)
        for key, value in (("name", candidate.name), ("host", platform.node()), ("pid", os.getpid())):
            trial.set_user_attr(key, value)
        same = [t for t in self._done() if t.user_attrs.get("name") == candidate.name]
        doubted = self._in_doubt(same)
        known = next((t for t in same if t.user_attrs.get("final", True) and t not in doubted), None)
        if known:
            return self._again(trial, known)
        try:
            self._skip_hopeless(candidate, trial)
            result = self.trials.measure(candidate, lambda at, ratio: self._time(trial, at, ratio))
        except (self._optuna.TrialPruned, self._optuna.exceptions.StorageInternalError):
            raise
        except Exception as e:
            why = str(e) if isinstance(e, EdgepvError) else f"{type(e).__name__}: {e}"
            trial.set_user_attr("why", " ".join(why.split())[:LONGEST_WHY])
            trial.set_user_attr("final", isinstance(e, EdgepvError))
            raise
        trial.set_user_attr("found", encode(result))
        return self.relative(result.latency, result.ratio), result.drop.points

    def _again(self, trial: Any, known: Any) -> tuple[float, float]:
        """What came of the same candidate before."""
        trial.set_user_attr("repeats", known.number)
        for key in ("found", "ratio", "net", "skipped", "held", "why"):
            if key in known.user_attrs:
                trial.set_user_attr(key, known.user_attrs[key])
        if "skipped" in known.user_attrs:
            raise self._optuna.TrialPruned
        if not known.values:
            raise UsageError(known.user_attrs["why"])
        latency, drop = known.values
        return latency, drop

    def _time(self, trial: Any, latency: Latency, ratio: float) -> None:
        """End a trial whose time alone rules it out, before it is trained and scored."""
        trial.set_user_attr("reference_ms", latency.p50_ms / ratio)
        trial.set_user_attr("ratio", self.relative(latency, ratio))
        self._refuse_slow(trial, ratio, f"{ratio * self.reference_ms:.2f} ms is too slow to be scored")

    def relative(self, latency: Latency, ratio: float) -> float:
        """The percentile that is asked for over the p50 of the reference in the same turns.

        ratio: of the p50 over the reference's. What slows the machine down cancels; single calls that stall
        are in a p99, and stay there.
        """
        return at_percentile(latency, self.question.percentile) / latency.p50_ms * ratio

    @property
    def reference_ms(self) -> float:
        """What makes milliseconds of a ratio: the least p50 of the reference in the turns of any trial.

        Load only adds to a time, so the least is the nearest to what this machine can do. 0 before any.
        """
        trials = self.study.get_trials(deepcopy=False)
        known = (t.user_attrs["reference_ms"] for t in trials if "reference_ms" in t.user_attrs)
        return min(known, default=0.0)

    def _refuse_slow(self, trial: Any, ratio: float, why: str) -> None:
        """End a trial whose ratio to the reference is far over the budget."""
        if ratio * self.reference_ms > BUDGET_FACTOR * self.question.latency_ms:
            trial.set_user_attr("skipped", why)
            trial.set_user_attr("held", ratio)
            raise self._optuna.TrialPruned

    def _in_doubt(self, trials: Sequence[Any]) -> list[Any]:
        """Those that were skipped while the machine was busy, and would not be by the reference since."""
        held = [t for t in trials if "held" in t.user_attrs]
        if not held:
            return []
        most = BUDGET_FACTOR * self.question.latency_ms / self.reference_ms
        return [t for t in held if t.user_attrs["held"] <= most]

    def _reconsider(self) -> None:
        """Try again what was skipped for times that were the machine's load."""
        first = [t for t in self._done() if "repeats" not in t.user_attrs]
        for trial in self._first_time(self._in_doubt(first)):
            self.console.say(f"{trial.user_attrs['name']}: the machine was busy; it is tried again")

    def _skip_hopeless(self, candidate: Candidate, trial: Any) -> None:
        net = self.trials.features(candidate)
        if net is None:
            return
        trial.set_user_attr("net", list(net))
        alike = [
            (t.user_attrs["net"], t.user_attrs["ratio"])
            for t in self._done()
            if "ratio" in t.user_attrs and "net" in t.user_attrs and _place(t) == _at(candidate)
        ]
        model = costs.fit([net for net, _ in alike], [ratio for _, ratio in alike])
        if model is None:
            return
        ratio = model.predict(net)
        why = f"predicted {ratio * self.reference_ms:.2f} ms, give or take {100 * model.error:.0f} %"
        self._refuse_slow(trial, ratio * max(0.0, 1 - 2 * model.error), why)

    def found(self) -> list[tuple[TrialResult, float]]:
        """(what was measured, its ratio to the reference in ms of that) of whole trials, a candidate once."""
        whole, reference = [t for t in self._done() if t.values], self.reference_ms
        rows = [(decode(TrialResult, t.user_attrs["found"]), t.values[0] * reference) for t in whole]
        return list({row[0].candidate: row for row in rows}.values())

    def nearest(self) -> tuple[str, float] | None:
        """(name, milliseconds) of the fastest candidate that was timed, scored or not."""
        attrs = [t.user_attrs for t in self._done() if "ratio" in t.user_attrs]
        ratio, name = min(((a["ratio"], a["name"]) for a in attrs), default=(0.0, ""))
        return (name, ratio * self.reference_ms) if name else None

    def failures(self) -> list[tuple[str, str]]:
        """(candidate, why) of what was tried and not measured, each once."""
        measured = {result.candidate.name for result, _ in self.found()}
        rows = {t.user_attrs.get("name", "?"): self.outcome(t) for t in self._done() if not t.values}
        return [(name, why) for name, why in rows.items() if name not in measured]

    def outcome(self, trial: optuna.trial.FrozenTrial) -> str:
        """What came of a trial, in a few words."""
        attrs = trial.user_attrs
        if "skipped" in attrs:
            return f"skipped, {attrs['skipped']}"
        if trial.values:
            drop = decode(PairedDrop, attrs["found"]["drop"])
            lost = f"drop {drop.figures()[0]} points ({drop.interval()})"
            return f"{trial.values[0] * self.reference_ms:.2f} ms, {lost}"
        return f"not measured: {attrs.get('why', 'interrupted')}"

    def mine(self) -> int:
        """How many trials this process has done."""
        me = (platform.node(), os.getpid())
        return sum((t.user_attrs.get("host"), t.user_attrs.get("pid")) == me for t in self._done())

    def _done(self) -> list[Any]:
        """Trials that came to an end, in order; one that was cut off has not."""
        state = self._optuna.trial.TrialState
        ended = (state.COMPLETE, state.PRUNED, state.FAIL)
        trials = self.study.get_trials(deepcopy=False, states=ended)
        return [t for t in trials if t.state != state.FAIL or "why" in t.user_attrs]

    def _nothing_new(self) -> bool:
        """Whether the last trials only repeated candidates that were tried before."""
        names = [t.user_attrs.get("name") for t in self._done()]
        return len(names) > MOST_REPEATS and set(names[-MOST_REPEATS:]) <= set(names[:-MOST_REPEATS])

    def _bury_dead(self) -> None:
        """Give the trials of killed workers back: of this machine at once, of others after the heartbeat."""
        state = self._optuna.trial.TrialState
        self._optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            host, pid = trial.user_attrs.get("host"), trial.user_attrs.get("pid")
            here = host == platform.node() and Path("/proc/self").exists()
            if here and pid and not Path(f"/proc/{pid}").exists():
                self.study.tell(trial.number, state=state.FAIL, skip_if_finished=True)
        failed = self.study.get_trials(deepcopy=False, states=(state.FAIL,))
        lost = (t for t in failed if "why" not in t.user_attrs and t.params)
        for trial in self._first_time(lost):
            self.console.say(
                f"a worker (process {trial.user_attrs.get('pid')}) ended in trial {trial.number}, "
                f"{trial.user_attrs.get('name')}: nothing is recorded of it; it is tried again"
            )

    def _first_time(self, trials: Iterable[Any]) -> list[Any]:
        """Those of the trials that were not proposed again yet; now they are."""
        again = set(self.study.user_attrs.get("again", []))
        new = [trial for trial in trials if trial.number not in again]
        if new:
            self.study.set_user_attr("again", sorted(again | {trial.number for trial in new}))
        for trial in new:
            self.study.enqueue_trial(trial.params)
        return new


def study_name(question: SearchRequest, trials: TrialRunner) -> str:
    """Model and a digest of everything that makes the question: another question is another study."""
    options = replace(without_paths(question.options), max_drop=question.options.max_drop)
    sides = (trials.search, trials.clips.train, trials.clips.calibration)
    clips = [clips_digest(side, ordered=True) for side in sides]
    what = encode(replace(question, options=options))
    asked = [what, source_key(trials.source), clips, cache.code_digest()]
    return f"{trials.source.spec.name}-{digest(asked)[:12]}"


def opened(storage: str | None) -> Any:
    """An Optuna storage; by default a file in the cache. Raises UsageError if it cannot be opened."""
    optuna = need("optuna", extra="compress")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    place = cache.root() / "search.db"
    place.parent.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{place}"
    try:
        return optuna.storages.RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True},  # a server that was started anew costs no worker
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
        )
    except Exception as e:  # every database driver fails in its own way
        raise UsageError(
            f"--storage {shown(url)} cannot be opened: {' '.join(str(e).split())[:200]}. Give a URL such as "
            "sqlite:///search.db, or postgresql://user@host/name after pip install 'edgepv[postgres]'"
        ) from e


@contextlib.contextmanager
def told_if_lost(storage: str | None) -> Iterator[None]:
    """Raises DeviceError where the storage was opened and can no longer be read or written."""
    lost = need("optuna", extra="compress").exceptions.StorageInternalError
    try:
        yield
    except lost as e:
        raise DeviceError(
            f"--storage {shown(storage or 'in the cache')} is lost: {str(e.__cause__ or e).splitlines()[0]}. "
            "What was measured is kept there; once it is back, the same command goes on"
        ) from e


def shown(url: str) -> str:
    """The URL of a storage without its password."""
    return re.sub(r"(/[^:/@]*:).*@", r"\1***@", url)


def _place(trial: Any) -> tuple[str, str]:
    return trial.params["variant"], trial.params["form"]


def _at(candidate: Candidate) -> tuple[str, str]:
    return candidate.variant, candidate.form

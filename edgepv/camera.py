"""``edgepv run`` on live sources: opens the bundle, the cameras and the receivers, and keeps them going."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgepv import bundle, signing, update
from edgepv.bundle import Bundle
from edgepv.console import Console
from edgepv.errors import EdgepvError, UsageError
from edgepv.runtimes.deadline import DeadlineRunner, Ladder, Reply, profile
from edgepv.runtimes.deadline.admission import Demand, admit
from edgepv.runtimes.deadline.realtime import prioritise
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.events import LiveConfig, Rules
from edgepv.runtimes.health import Health, sd_notify
from edgepv.runtimes.live import Live
from edgepv.runtimes.output import Output
from edgepv.runtimes.session import Gap, Lane
from edgepv.runtimes.sinks import open_sink
from edgepv.runtimes.sources import is_live, open_source
from edgepv.types import Deadline, Variant

NO_RULES = LiveConfig("", Rules(()))


@dataclass(frozen=True)
class LiveOptions:
    """What a live run was asked for.

    bundle: folder, zip, or the root of an update's slots. sources: address per camera name. deadline: None:
    one frame period of the model. emit: receivers. variant: hold on to this one; None: the bundle's ladder.
    pace: replay sources that are not live at this multiple of their speed. key: the public key that must have
    signed the bundle.
    """

    bundle: Path
    sources: dict[str, str]
    deadline: Deadline | None = None
    on_miss: Literal["stale", "drop"] = "stale"
    emit: tuple[str, ...] = ("jsonl:-",)
    config: LiveConfig = NO_RULES
    variant: str | None = None
    engine: str | None = None
    threads: int = 1
    gap: Gap = "hold"
    cuts: bool = True
    spool: Path = Path()
    metrics: str | None = None
    realtime: bool = False
    cpus: tuple[int, ...] = ()
    key: Path | None = None
    pace: float = 1.0


def run(options: LiveOptions, console: Console, stop: threading.Event) -> list[dict[str, Any]]:
    """Run until ``stop`` is set, every source ended, or one camera failed; returns a summary per camera.

    Raises what the first camera raised. Receivers have delivered, or kept on disk, what they had by then.
    """
    for line in prioritise(options.cpus, realtime=options.realtime):
        console.say(f"priority: {line}")
    with contextlib.ExitStack() as stack:
        found, trial = _open_bundle(options, stack)
        cameras = _Cameras(options, found, trial, console)
        try:
            return cameras.run(stop)
        finally:
            sd_notify("STOPPING=1")
            if trial:
                trial.stopped()


def _open_bundle(options: LiveOptions, stack: contextlib.ExitStack) -> tuple[Bundle, Trial | None]:
    """The bundle, checked against its digests and, with a key, its signature."""
    trial = Trial(options.bundle) if (options.bundle / update.STATE).is_file() else None
    found = stack.enter_context(bundle.opened(trial.folder if trial else options.bundle))
    if options.key:
        found = signing.read_signed(found.folder, options.key)
    bundle.check(found)
    return found, trial


class Trial:
    """A bundle in an update's slots: watched while on trial, then committed, or taken back for what was seen."""

    def __init__(self, root: Path) -> None:
        self._root, self.folder = root, update.started(root)
        state = update.read_state(root)
        self._canary = update.Canary(update.Limits(), state.rate) if state.trial else None
        self.rolled_back: str | None = None

    def feed(self, reply: Reply, events: int) -> None:
        """One reply, and the events it raised."""
        if self._canary is None or self._canary.verdict:
            return
        verdict = self._canary.feed(missed=reply.stale, failed=reply.why == "failed", events=events)
        if verdict is None:
            return
        if verdict.commit:
            update.commit(self._root, self._canary.rate)
        else:
            update.rollback(self._root, verdict.why)
            self.rolled_back = verdict.why

    def stopped(self) -> None:
        """The run ended as it should."""
        update.stopped(self._root)


class _Cameras:
    """All cameras of one run."""

    def __init__(self, options: LiveOptions, found: Bundle, trial: Trial | None, console: Console) -> None:
        self._options, self._bundle, self._trial, self._console = options, found, trial, console
        self._lives: dict[str, Live] = {}
        self._summaries: dict[str, dict[str, Any]] = {}
        self._errors: list[EdgepvError] = []
        self._ended = threading.Event()

    def run(self, stop: threading.Event) -> list[dict[str, Any]]:
        with contextlib.ExitStack() as stack:
            self._open(stack)
            sd_notify("READY=1")
            threads = [
                threading.Thread(target=self._one, args=(name,), name=f"camera {name}")
                for name in self._lives
            ]
            for thread in threads:
                thread.start()
            try:
                while not stop.is_set() and any(t.is_alive() for t in threads) and not self._errors:
                    self._ended.wait(0.2)
            finally:
                for live in self._lives.values():
                    live.stop()
                for thread in threads:
                    thread.join()
        if self._trial and self._trial.rolled_back:
            raise UsageError(f"the new bundle was taken back: {self._trial.rolled_back}. Start again")
        if self._errors:
            raise self._errors[0]
        return list(self._summaries.values())

    def _one(self, name: str) -> None:
        try:
            self._summaries[name] = self._lives[name].run()
        except EdgepvError as e:
            self._errors.append(e)
        except Exception as e:
            self._errors.append(EdgepvError(f"camera {name}: {type(e).__name__}: {e}"))
        finally:
            self._ended.set()

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Everything that can be refused is refused before the first camera runs."""
        variants = self._variants()
        ladders = {name: self._ladder(variants) for name in self._options.sources}
        profiles = {name: profile(ladder) for name, ladder in ladders.items()}
        top = self._admitted(variants, profiles)
        for name, ladder in ladders.items():
            ladder.highest(top[name])
            self._camera(name, ladder, profiles[name][top[name] :], stack)

    def _variants(self) -> tuple[Variant, ...]:
        options = self._options
        if options.variant or options.engine:
            return (self._bundle.variant(options.variant, options.engine),)
        return self._bundle.ladder()

    def _ladder(self, variants: Sequence[Variant]) -> Ladder:
        folder, options = self._bundle.folder, self._options
        lanes = [Lane(open_engine(v, folder, threads=options.threads), v) for v in variants]
        return Ladder(lanes, gap=options.gap, cuts=options.cuts)

    def _admitted(
        self, variants: Sequence[Variant], profiles: dict[str, tuple[float, ...]]
    ) -> dict[str, int]:
        accuracy = {r.variant: r.accuracy for r in self._bundle.measured.ladder}
        known = tuple(accuracy.get(v.name) for v in variants)
        fps = float(variants[0].spec.fps)
        demands = [Demand(name, fps, times, known) for name, times in profiles.items()]
        return admit(demands, len(os.sched_getaffinity(0)))

    def _camera(
        self, name: str, ladder: Ladder, profiles_ms: Sequence[float], stack: contextlib.ExitStack
    ) -> None:
        options, spec = self._options, ladder.lanes[0].variant.spec
        deadline = options.deadline or Deadline(1e3 / float(spec.fps), options.on_miss)
        health = Health(name)
        sinks = [
            open_sink(
                url,
                camera=name,
                spool_folder=options.spool / name,
                labels=spec.labels,
                fps=float(spec.fps),
                say=self._console.say,
            )
            for url in options.emit
        ]
        for url, sink in zip(options.emit, sinks):
            health.watch(url.partition(":")[0], sink)
        output = Output(name, spec.labels, sinks, options.config, health)
        self._serve(health, stack)
        source = open_source(
            options.sources[name],
            on_status=lambda record: output.status(record["what"], record["why"]),
            pace=options.pace if _waits(options.sources[name]) else None,
        )
        runner = DeadlineRunner(
            ladder,
            profiles_ms,
            deadline,
            say=lambda reply: self._lives[name].tell(reply),
            status=output.status,
        )
        health.camera_up()
        self._lives[name] = Live(
            source, runner, output, options.config, spec.fps, on_reply=self._canary(output)
        )
        times = ", ".join(f"{v.variant.name} {ms:.2f} ms" for v, ms in zip(ladder.lanes, profiles_ms))
        self._console.say(f"{name}: deadline {deadline.limit_ms:g} ms; here a frame takes {times}")

    def _canary(self, output: Output) -> Callable[[Reply], None]:
        if self._trial is None:
            return lambda reply: None
        trial, before = self._trial, [0]

        def feed(reply: Reply) -> None:
            events, before[0] = output.counts["new"] - before[0], output.counts["new"]
            trial.feed(reply, events)
            if trial.rolled_back:
                self._ended.set()
                for live in self._lives.values():
                    live.stop()

        return feed

    def _serve(self, health: Health, stack: contextlib.ExitStack) -> None:
        """Metrics, probe and heartbeat of the first camera's process; each camera has its own registry."""
        if self._options.metrics and not self._lives:
            server = health.serve(self._options.metrics)
            stack.callback(server.close)
            host, port = server.address
            self._console.say(f"metrics: http://{host}:{port}/metrics and /healthz")
        watchdog = health.watchdog() if not self._lives else None
        if watchdog:
            stack.callback(watchdog.close)


def _waits(source: str) -> bool:
    """Whether a source is not live by itself."""
    return not is_live(source)

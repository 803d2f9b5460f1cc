"""``edgepv run`` on live sources: opens the bundle, the cameras and the receivers, and keeps them going."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgepv import bundle
from edgepv.base.console import Console
from edgepv.base.files import check_part, inside
from edgepv.bundle import signing
from edgepv.bundle.manifest import Bundle
from edgepv.bundle.proof import Proven
from edgepv.device import slots
from edgepv.device.finders import open_cover
from edgepv.device.trial import Trial
from edgepv.errors import EdgepvError, UsageError, unknown
from edgepv.measure.here import fitting
from edgepv.runtimes.deadline import DeadlineRunner, Reply, profile
from edgepv.runtimes.deadline.admission import Demand, admit
from edgepv.runtimes.deadline.realtime import prioritise
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.events.rules import ANOMALY, ANY, LiveConfig
from edgepv.runtimes.faults import Faults
from edgepv.runtimes.health.server import serve
from edgepv.runtimes.health.state import Health
from edgepv.runtimes.health.systemd import sd_notify, watchdog
from edgepv.runtimes.ladder import Ladder, open_ladder
from edgepv.runtimes.lane import Gap
from edgepv.runtimes.on_camera import Live
from edgepv.runtimes.output import NO_RULES, Output
from edgepv.runtimes.places import ZoneSearch, check_rules, needs_search
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Sink, open_sink
from edgepv.runtimes.sources import device, is_live, open_source
from edgepv.runtimes.trace import Trace, check_free
from edgepv.types import Deadline, ModelSpec, Variant

WATCH_S = 0.2
CAMERA = "{camera}"
OBSERVED_S = 3600.0


@dataclass(frozen=True)
class LiveOptions:
    """What a live run was asked for.

    bundle: folder, zip, or the root of an update's slots. sources: address per camera name. deadline_ms:
    None: one frame period of the model. emit: receivers. variant: hold on to this one; None: the bundle's
    ladder. key: the public key that must have signed the bundle. trace: where to write one. Raises
    UsageError for a camera's name that cannot name its folder in ``spool``.
    """

    bundle: Path
    sources: dict[str, str]
    deadline_ms: float | None = None
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
    trace: Path | None = None

    def __post_init__(self) -> None:
        for name in self.sources:
            check_part(name, "a camera's name")


def run(options: LiveOptions, console: Console, stop: threading.Event) -> list[Record]:
    """Run until ``stop`` is set, every source ended, or one camera failed; returns a summary per camera.

    Raises what the first camera raised. Receivers have delivered, or kept on disk, what they had by then.
    """
    for line in prioritise(options.cpus, realtime=options.realtime):
        console.say(f"priority: {line}")
    with contextlib.ExitStack() as stack:
        opened, trial = _open_bundle(options, stack)
        cameras = _Cameras(options, opened, trial, console)
        try:
            return cameras.run(stop)
        finally:
            sd_notify("STOPPING=1")
            if trial:
                trial.observed()


def _open_bundle(options: LiveOptions, stack: contextlib.ExitStack) -> tuple[Bundle, Trial | None]:
    """The bundle, checked against its digests and, with a key, its signature."""
    if not slots.is_root(options.bundle):
        opened = stack.enter_context(signing.opened(options.bundle, options.key))
        bundle.check(opened)
        return opened, None
    folder = slots.on_start(options.bundle)
    stack.callback(slots.on_stop, options.bundle)
    opened = signing.read(folder, options.key)
    bundle.check(opened)
    return opened, Trial(options.bundle, opened.digest)


class _Cameras:
    """All cameras of one run."""

    def __init__(self, options: LiveOptions, opened: Bundle, trial: Trial | None, console: Console) -> None:
        self._options, self._bundle, self._trial, self._console = options, opened, trial, console
        self._lives: dict[str, Live] = {}
        self._summaries: dict[str, Record] = {}
        self._errors: list[EdgepvError] = []
        self._health: Health | None = None
        self._notes: tuple[str, ...] = ()
        self._trace = Trace() if options.trace else None

    def run(self, stop: threading.Event) -> list[Record]:
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
                self._watch(stop, threads)
            finally:
                for live in self._lives.values():
                    live.stop()
                for thread in threads:
                    thread.join()
                if self._trace and self._options.trace:
                    self._trace.write(self._options.trace)
        if self._errors:
            raise self._errors[0]
        return list(self._summaries.values())

    def _watch(self, stop: threading.Event, threads: Sequence[threading.Thread]) -> None:
        """Until it is time to end. Raises UsageError if the bundle on trial failed."""
        kept_s = time.monotonic()
        while not stop.wait(WATCH_S) and any(t.is_alive() for t in threads) and not self._errors:
            if any(live.unheard for live in self._lives.values()):
                return
            why = self._trial.decide() if self._trial else None
            if why:
                raise UsageError(f"the new bundle was taken back: {why}. Start again with the one before")
            if self._trial and time.monotonic() - kept_s > OBSERVED_S:
                self._trial.observed()
                kept_s = time.monotonic()

    def _one(self, name: str) -> None:
        try:
            self._summaries[name] = self._lives[name].run()
        except EdgepvError as e:
            self._errors.append(e)
        except Exception as e:
            self._errors.append(EdgepvError(f"camera {name}: {type(e).__name__}: {e}"))

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Everything that can be refused is refused before the first camera runs."""
        fit = self._proven()
        variants = fit.variants
        rules = self._options.config.rules
        self._notes = (*fit.notes, *rules.learned_elsewhere(self._bundle.digest, self._options.sources))
        for note in self._notes:
            self._console.say(note)
        for url in self._options.emit if len(self._options.sources) > 1 else ():
            if url.startswith(("mqtt", "video:", "clips:")) and CAMERA not in url:
                raise UsageError(
                    f"several cameras cannot share one {url.partition(':')[0]} address. "
                    f"Write {CAMERA} where the camera's name belongs"
                )
        self._refuse_strangers()
        self._refuse_overwriting()
        if self._options.trace:
            check_free(self._options.trace)
        ladders = {name: self._ladder(variants) for name in self._options.sources}
        profiles = {name: profile(ladder) for name, ladder in ladders.items()}
        top = self._admitted(variants, profiles)
        with contextlib.ExitStack() as opened:  # closes what was opened if the next one cannot be
            for name, ladder in ladders.items():
                ladder.highest(top[name])
                self._camera(name, ladder, profiles[name][top[name] :], opened)
            self._serve(stack)
            opened.pop_all()

    def _refuse_strangers(self) -> None:
        """Raise UsageError for a rule about a camera that is not here, and a device that is given twice."""
        rules = self._options.config.rules
        for rule in rules.all:
            if rule.camera is not None and rule.camera not in self._options.sources:
                raise rules.wrong(
                    f"rule for '{rule.label}': {unknown('camera', rule.camera, self._options.sources)}"
                )
        seen: dict[str, str] = {}
        for name, address in self._options.sources.items():
            only = device(address)
            if only and only in seen:
                raise UsageError(
                    f"cameras {seen[only]} and {name} are both {only}, which only one can read. Name it once"
                )
            if only:
                seen[only] = name

    def _refuse_overwriting(self) -> None:
        """Raise UsageError for a receiver that would write into what a camera reads."""
        for url in self._options.emit:
            kind, _, path = url.partition(":")
            for name, source in self._options.sources.items() if kind in ("video", "jsonl") else ():
                file, same = Path(path.replace(CAMERA, name)), False
                with contextlib.suppress(OSError):  # nothing there, or a pipeline too long for a name
                    same = file.samefile(device(source) or source)
                if same:
                    raise UsageError(f"{kind}:{file} is the source itself. Name another file")

    def _proven(self) -> Proven:
        """What was asked for, or the bundle's ladder, as far as it answers here as where it was proven."""
        options = self._options
        if options.variant or options.engine:
            wanted = (self._bundle.variant(options.variant, options.engine),)
            return fitting(self._bundle, wanted, fixed=True)
        return fitting(self._bundle, self._bundle.ladder(), fixed=False, threads=options.threads)

    def _ladder(self, variants: Sequence[Variant]) -> Ladder:
        options = self._options
        return open_ladder(
            variants, self._bundle.checked, threads=options.threads, gap=options.gap, cuts=options.cuts
        )

    def _admitted(
        self, variants: Sequence[Variant], profiles: dict[str, tuple[float, ...]]
    ) -> dict[str, int]:
        accuracy = {r.variant: r.accuracy for r in self._bundle.measured.ladder}
        known = tuple(accuracy.get(v.name) for v in variants)
        fps = float(variants[0].spec.fps)
        demands = [Demand(name, fps, times, known) for name, times in profiles.items()]
        return admit(demands, len(os.sched_getaffinity(0)))

    def _camera(
        self, name: str, ladder: Ladder, profiles_ms: Sequence[float], opened: contextlib.ExitStack
    ) -> None:
        options, variant = self._options, ladder.lanes[-1].variant
        spec, rules = variant.spec, options.config.rules
        check_rules(rules, variant)
        deadline = Deadline(options.deadline_ms or 1e3 / float(spec.fps))  # misses are counted in any case
        outputs: list[Output] = []
        runners: list[DeadlineRunner] = []

        def on_status(record: Record) -> None:
            for runner in runners:  # by the queue that replies take, so that the order is kept
                runner.note(record["what"], record["why"])

        address = options.sources[name]
        source = open_source(address, on_status=on_status, pace=None if is_live(address) else 1.0)
        opened.callback(source.close)
        health = Health(name, beside=self._health)
        self._health = self._health or health

        def on_fault(who: str, why: str) -> None:
            health.fault(who, why)
            self._console.say(f"{name}: {who} raised {why}; the run goes on without it")
            for output in outputs:
                output.status("fault", f"{who} raised {why}")

        faults = Faults(on_fault)
        sinks = [self._sink(url, name, spec, health, opened) for url in options.emit]
        search = self._search(name, variant, profiles_ms[-1], faults, opened)
        seen = options.config.cover if any(sink.pixels for sink in sinks) else ()
        cover = open_cover(seen, spec, lambda error: faults.add("cover", error), threads=options.threads)
        about = {
            "variant": ladder.lanes[0].variant.name,
            "engine": ladder.lanes[0].variant.engine,
            "threads": options.threads,
            "notes": self._notes,
        }
        output = Output(
            name,
            spec,
            sinks,
            options.config,
            health,
            search=search,
            cover=cover,
            faults=faults,
            deadline_ms=deadline.limit_ms,
            about=about,
            quiet_misses=options.on_miss == "drop",
            trace=self._trace.camera(name) if self._trace else None,
        )
        outputs.append(output)
        runner = DeadlineRunner(
            ladder,
            profiles_ms,
            deadline,
            say=lambda reply: self._lives[name].tell(reply),
            status=output.status,
            faults=faults,
        )
        runners.append(runner)
        health.replies(lambda: runner.replies_dropped)
        health.camera_up()
        self._lives[name] = Live(
            source,
            runner,
            output,
            options.config,
            spec.fps,
            search=search,
            on_reply=self._canary(output),
        )
        times = ", ".join(f"{v.variant.name} {ms:.2f} ms" for v, ms in zip(ladder.lanes, profiles_ms))
        self._console.say(f"{name}: deadline {deadline.limit_ms:g} ms; here a frame takes {times}")

    def _search(
        self,
        name: str,
        variant: Variant,
        profile_ms: float,
        faults: Faults,
        opened: contextlib.ExitStack,
    ) -> ZoneSearch | None:
        """What finds the zones of a label, where a rule asks for that and the answers do not say."""
        rules = self._options.config.rules
        if not needs_search(rules.of(name), variant):
            return None
        engine = open_engine(variant, self._bundle.checked, threads=self._options.threads)
        search = ZoneSearch(
            engine, variant, rules.of(name), rules.zones, lambda error: faults.add("zones", error)
        )
        opened.callback(search.close)
        self._console.say(
            f"{name}: to find the zone of a label takes {search.cost} calls of {variant.name}, about "
            f"{search.cost * profile_ms:.0f} ms; an event of a rule with zones comes that much later"
        )
        return search

    def _sink(
        self, url: str, name: str, spec: ModelSpec, health: Health, opened: contextlib.ExitStack
    ) -> Sink:
        labels = (ANOMALY if r.label == ANY else r.label for r in self._options.config.rules.all)
        sink = open_sink(
            url.replace(CAMERA, name),
            camera=name,
            spool_folder=inside(self._options.spool, name),
            labels=tuple(dict.fromkeys(labels)),
            fps=float(spec.fps),
            say=self._console.say,
            shapes=self._options.config.rules.shapes(name),
            model=self._bundle.digest,
            hides=bool(self._options.config.redact or self._options.config.cover),
        )
        opened.callback(sink.close)
        health.watch(url.partition(":")[0], sink)
        return sink

    def _canary(self, output: Output) -> Callable[[Reply], None]:
        if self._trial is None:
            return lambda reply: None
        trial, before = self._trial, [0]

        def feed(reply: Reply) -> None:
            events, before[0] = output.counts["events"] - before[0], output.counts["events"]
            trial.feed(reply, events)

        return feed

    def _serve(self, stack: contextlib.ExitStack) -> None:
        """Metrics, probe and heartbeat, once for all cameras."""
        if self._health is None:
            return
        if self._options.metrics:
            server = serve(self._health, self._options.metrics)
            stack.callback(server.close)
            host, port = server.address
            self._console.say(f"metrics: http://{host}:{port}/metrics and /healthz")
        dog = watchdog(self._health)
        if dog:
            stack.callback(dog.close)

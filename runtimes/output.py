"""From answers to receivers: event rules, redaction, records, and the numbers a run is judged by."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgepv.base.tasks import task_of
from edgepv.data.boxes import Detections
from edgepv.metrics.times import supported_ms
from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.events.odd import Odd
from edgepv.runtimes.events.rules import MOVING, LiveConfig, Rules
from edgepv.runtimes.events.tracks import Tracker
from edgepv.runtimes.events.watch import Areas, Events, Positions
from edgepv.runtimes.faults import Faults
from edgepv.runtimes.health.series import STAGES
from edgepv.runtimes.health.state import Health
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.picture.cover import Cover
from edgepv.runtimes.picture.drawing import tinted
from edgepv.runtimes.picture.privacy import averaged
from edgepv.runtimes.places import MovingPoints, Within, ZoneSearch
from edgepv.runtimes.record import Record
from edgepv.runtimes.records import RECORDS, picture_of, record
from edgepv.runtimes.sinks import Draws, KeepsClips, Sink
from edgepv.runtimes.sinks.ending import Ending, end_within, name_of
from edgepv.runtimes.trace import CameraTrace
from edgepv.types import ModelSpec

NO_RULES = LiveConfig("", Rules(()))
LATEST = 20_000
"""Replies that percentiles are over: those of a year do not fit into memory."""
TIMES = (*STAGES, "age")
WORK = "work"
"""What an answer took: preprocessing and engine."""
COVER = "cover"
"""What it took to find and cover who must not be seen in one picture."""
SET_S = 0.5
"""The wall clock was set if it moved by more than this against the monotonic one between two records."""


class WallClock:
    """Seconds since 1970, and by how much somebody set them since the last look."""

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._ahead = wall() - monotonic()

    def now(self) -> tuple[float, float]:
        """(seconds since 1970, by how many it was set since the last call; 0 for what a clock drifts)."""
        wall = self._wall()
        ahead = wall - self._monotonic()
        moved, self._ahead = ahead - self._ahead, ahead
        return wall, moved if abs(moved) > SET_S else 0.0

    def taken_s(self, now_s: float, reply: Reply) -> float:
        """When the frame that is replied to now was there."""
        return now_s - reply.latency_ms / 1e3


class FilmClock(WallClock):
    """Seconds since the beginning of a film, which has no time of day and is never set."""

    def __init__(self) -> None:
        self._at_s = 0.0

    def now(self) -> tuple[float, float]:
        """(the time of the frame that was replied to last, 0)."""
        return self._at_s, 0.0

    def taken_s(self, now_s: float, reply: Reply) -> float:
        """The frame's own time."""
        self._at_s = reply.time_s
        return reply.time_s


class Output:
    """What one source tells the world: an answer per frame, events by the rules, and what happened to it.

    The same for a camera and for a file. From any thread. Frames go only to sinks that want pixels, and only
    through ``shown``. An event ends when the camera is lost, and with the first
    answer about another scene. A sink that raises is counted in ``faults``; the others get the record all
    the same.

    health: hears what a probe may ask for; None: nobody will. search: finds zones for a classifier; needed if
    a rule of this camera has one. cover: hides whom ``config.cover`` names. deadline_ms: what a missed answer
    is judged by; None: there is no deadline. about: what the summary says of the run besides. quiet_misses:
    stale replies are counted, and no receiver is told. whole: the source is one clip, which has a label of
    its own. trace: is told when what was done.
    """

    def __init__(
        self,
        camera: str,
        spec: ModelSpec,
        sinks: Sequence[Sink],
        config: LiveConfig,
        health: Health | None,
        *,
        search: ZoneSearch | None = None,
        cover: Cover | None = None,
        faults: Faults | None = None,
        clock: WallClock | None = None,
        deadline_ms: float | None = None,
        about: Mapping[str, Any] | None = None,
        quiet_misses: bool = False,
        whole: bool = False,
        trace: CameraTrace | None = None,
    ) -> None:
        self.camera, self._spec, self._sinks, self._health = camera, spec, tuple(sinks), health
        self.faults, self._clock, self._about = faults or Faults(), clock or WallClock(), dict(about or {})
        self._deadline_ms, self._late = deadline_ms, 0
        self._trace = trace
        self._verdict = _Verdict(spec.labels) if whole else None
        self._events, self._zones = Events(config.rules, camera), config.rules.zones
        blind = Cover((), alone=True) if config.cover else None  # nobody looks: all is covered
        self._redact, self._cover = config.redact, cover or blind
        self._search, self._quiet_misses = search, quiet_misses
        self._lows: dict[str, float] = {}
        for rule in config.rules.of(camera):
            self._lows[rule.label] = min(rule.low, self._lows.get(rule.label, 1.0))
        self._moving = MovingPoints(spec) if task_of(spec).follows else None
        self._tracker = Tracker() if task_of(spec).finds else None
        self._numbered: tuple[Detections, Detections] | None = None
        self._odd = Odd({rule.what for rule in config.rules.of(camera) if rule.what is not None})
        self._shows = any(s.pixels for s in sinks)
        self.wants_pixels = self._shows or self._odd.wants_pixels
        self._lock = threading.RLock()
        self._counted = self._sinks
        self._handing: Sink | None = None
        self.counts: Counter[str] = Counter(events=0)
        self._latest: dict[str, deque[float]] = {n: deque(maxlen=LATEST) for n in (*TIMES, WORK, COVER)}

    def reply(self, reply: Reply, frame: np.ndarray | None = None, *, index: int | None = None) -> Reply:
        """Tell one reply; returns it as it was told, a detector's boxes with the numbers of their tracks.

        frame: (H, W, 3) uint8 BGR, where ``wants_pixels``. index: of the frame in its source, from 0; None:
        the reply's own number. Raises UsageError for a rule whose label the model has not.
        """
        with self._lock:
            reply = self._followed(reply)
            wall_s = self._clock.taken_s(self._now_s(), reply)
            self._count(reply)
            if self._trace:
                self._trace.answered(reply)
            if not (reply.stale and self._quiet_misses):
                self._tell(self._answer(reply, index), reply, frame)
            if reply.restarted:
                self._end_events(wall_s, "another scene")
            with self.traced("out", "rules"):
                self._judge(reply, wall_s, frame)
            return reply

    def traced(self, track: str, name: str) -> contextlib.AbstractContextManager[None]:
        """What is done inside is an event of the trace, where one is taken; see ``trace.TRACKS``."""
        return self._trace.span(track, name) if self._trace else contextlib.nullcontext()

    def _followed(self, reply: Reply) -> Reply:
        """With the tracks of its boxes. A stale one says an old answer again, and moves no track."""
        found = reply.answer.detections if reply.answer else None
        if self._tracker is None or reply.answer is None or found is None:
            return reply
        if reply.restarted:
            self._tracker.forget()
        if not reply.stale:
            self._numbered = (found, self._tracker.step(reply.time_s, found))
        if self._numbered and self._numbered[0] is found:
            found = self._numbered[1]
        return replace(reply, answer=replace(reply.answer, detections=found))

    def _tell(self, told: Record, reply: Reply, frame: np.ndarray | None) -> None:
        restored = picture_of(reply.answer, self._spec) if reply.answer else None
        found = reply.answer.detections if reply.answer and not reply.stale else None
        shown = None
        if frame is not None and self._shows:
            shown = self.shown(frame if restored is None else restored, found)
        mask = reply.answer.mask if reply.answer else None
        for sink in self._sinks:
            picture = shown if sink.pixels else None
            if picture is not None and mask is not None and isinstance(sink, Draws):
                picture = tinted(picture, mask)
            self._hand(sink, told, picture)

    def _judge(self, reply: Reply, wall_s: float, frame: np.ndarray | None) -> None:
        """Events that begin, change or end with this reply."""
        answer = reply.answer
        if reply.restarted:
            self._odd.forget()
        odd = self._odd(answer, frame) if answer and not reply.stale else {}
        scores = dict(zip(self._spec.labels, answer.scores)) if answer else {}
        valid = answer is not None and answer.valid
        positions: Positions = {}
        within: Within = {}
        areas: Areas = {}
        if answer and valid and not reply.stale:
            if self._moving:
                positions = self._moving(reply.time_s, answer.outputs["tracks"], answer.numbers)
                scores = {MOVING: max((score for *_, score in positions[MOVING]), default=0.0)}
            if answer.detections is not None:
                positions = _standing(answer.detections, self._spec.labels)
                scores = {name: max((s for *_, s in at), default=0.0) for name, at in positions.items()}
            if answer.mask is not None:
                scores = answer.mask.areas()
                areas = {zone.name: answer.mask.areas_within(zone.polygon) for zone in self._zones}
            if self._search:
                within = self._search.within(scores, self._lows)
        events = self._events.step(
            reply.time_s,
            wall_s,
            scores,
            valid=valid,
            stale=reply.stale,
            positions=positions,
            within=within,
            found=answer.detections if answer else None,
            areas=areas,
            odd=odd,
        )
        self._put(*events)

    def _answer(self, reply: Reply, index: int | None) -> Record:
        return record(
            reply.answer,
            self._spec,
            camera=self.camera,
            number=reply.number,
            frame=reply.number if index is None else index,
            time_s=reply.time_s,
            latency_ms=reply.latency_ms,
            variant=reply.variant,
            stale=reply.stale,
            why=reply.why,
            age_ms=reply.age_ms,
        )

    def _count(self, reply: Reply) -> None:
        self.counts["replies"] += 1
        self.counts[f"stale_{reply.why}" if reply.stale else "fresh"] += 1
        if reply.age_ms is not None:
            self._latest["age"].append(reply.age_ms / 1e3)
        stages = {"total": reply.latency_ms}
        if not reply.stale and reply.answer:
            spent = reply.answer.pre_ms + reply.answer.infer_ms
            waited = reply.wait_ms or 0.0
            stages |= {
                "capture": waited,
                "pre": reply.answer.pre_ms,
                "infer": reply.answer.infer_ms,
                "post": max(0.0, reply.latency_ms - waited - spent),
            }
            self._latest[WORK].append(spent / 1e3)
            self._late += self._deadline_ms is not None and reply.latency_ms > self._deadline_ms
            if self._verdict:
                self._verdict.hear(reply.answer)
        for name, ms in stages.items():
            self._latest[name].append(ms / 1e3)
        if self._health:
            self._health.answered(stages, stale=reply.why or None)
            self._health.running(reply.variant)
            if reply.why == "dropped":
                self._health.dropped()

    def shown(self, picture: np.ndarray, found: Detections | None) -> np.ndarray:
        """A picture as it may leave: people covered, regions averaged away.

        picture: (H, W, 3) uint8 BGR. found: what the running model found in this very picture; None: it did
        not answer to it.
        """
        with self._lock:
            if self._cover:
                start_s = time.perf_counter()
                picture = self._cover(picture, self._to_cover(found, self._cover.label))
                self._took(COVER, time.perf_counter() - start_s)
            return averaged(picture, self._redact) if self._redact else picture

    def _to_cover(self, found: Detections | None, label: str | None) -> np.ndarray | None:
        """The boxes that the running model is asked for."""
        if found is None or label not in self._spec.labels:
            return None
        return found.boxes[found.labels == self._spec.labels.index(label)]

    def _took(self, stage: str, seconds: float) -> None:
        self._latest[stage].append(seconds)
        if self._health:
            self._health.took(stage, 1e3 * seconds)

    def status(self, what: str, why: str, **more: object) -> None:
        """Tell that something happened to the camera or the runner.

        what: one word, counted in the summary; "camera_lost" ends what events there are. why: a sentence.
        more: further keys of the record.
        """
        with self._lock:
            now_s = self._now_s()
            self.counts[what] += 1
            if self._health:
                _tell_health(self._health, what, why)
            self._put({"type": "status", "camera": self.camera, "what": what, "why": why, **more})
            if what == "camera_lost":
                if self._tracker:
                    self._tracker.forget()
                self._end_events(now_s)

    def _now_s(self) -> float:
        """Seconds since 1970. A clock that was set moves what is running with it, and a status says so."""
        now_s, set_s = self._clock.now()
        if set_s:
            self._events.shift(set_s)
            self.status("clock_set", f"the time of day was set by {set_s:+.1f} s")
        return now_s

    def _end_events(self, wall_s: float, *why: str) -> None:
        if self._moving:
            self._moving.forget()
        self._put(*self._events.restart(wall_s, *why))

    def _put(self, *records: Record) -> None:
        for one in records:
            self.counts["events"] += one["type"] == "new"
            told = self._with_clip(one)
            for sink in self._sinks:
                self._hand(sink, told)

    def _with_clip(self, one: Record) -> Record:
        """The record as it is told: of an event, with the name of the clip that it is in."""
        told = {**one, "version": RECORDS}
        for sink in self._sinks if "after" in one else ():
            if isinstance(sink, KeepsClips) and (clip := sink.clip_of(told)):
                told = {**told, "after": {**told["after"], "clip": clip}}
        return told

    def _hand(self, sink: Sink, *what: Any) -> None:
        self._handing = sink
        with self.traced("out", f"sink {name_of(sink)}"):
            self.faults.call(name_of(sink), sink.put, *what)
        self._handing = None

    @property
    def unheard(self) -> bool:
        """Whether the reader of a pipe has gone."""
        return any(getattr(sink, "ended", False) for sink in self._sinks)

    def summary(self) -> Record:
        """What the run came to: who answered, counts, and percentiles in ms of each stage.

        "missed": answers that were stale or later than the deadline; None without one. "label", "score": of a
        whole clip, None for a camera. "p50_ms" to "p99_ms": preprocessing and engine. Percentiles are over
        the last 20,000 replies, None where these are too few for one (``metrics.times``). All is of the
        replies that were told: frames whose reply was replaced by a newer one, because rules and receivers
        took too long, are "replies_dropped" beside them. "lost": records that no receiver will get, whatever
        the reason; they are in the metrics by receiver. One that hangs is in "faults" alone: how much it lost
        is not known.
        "faults": who raised, how often, and the first words.
        """
        with self._lock:
            hidden = self._cover.counts if self._cover else {}
            times = {name: supported_ms(list(seen)) for name, seen in self._latest.items() if seen}
            work = times.pop(WORK, (None, None, None))
            p50, p95, p99 = (None if ms is None else round(ms, 3) for ms in work)
            stale = {k: v for k, v in self.counts.items() if k.startswith("stale_")}
            missed = None if self._deadline_ms is None else sum(stale.values()) + self._late
            return {
                "type": "summary",
                "version": RECORDS,
                "camera": self.camera,
                **dict.fromkeys(("variant", "engine", "threads")),
                "deadline_ms": self._deadline_ms,
                "notes": None,
                **self._about,
                "frames_read": self.counts["frames_read"],
                "frames_answered": self.counts["fresh" if self._quiet_misses else "replies"],
                "drops": stale.get("stale_dropped", 0),
                "missed": missed,
                **{"p50_ms": p50, "p95_ms": p95, "p99_ms": p99},
                **(_label(self._verdict) if task_of(self._spec).classifies else {}),
                **dict(sorted({**self.counts, **hidden}.items())),
                "lost": sum(self._lost(sink) for sink in self._counted),
                "faults": self.faults.summary(),
                "ms": {
                    name: {
                        p: None if v is None else round(v, 3) for p, v in zip(("p50", "p95", "p99"), figures)
                    }
                    for name, figures in times.items()
                },
            }

    def _lost(self, sink: Sink) -> int:
        try:
            return sink.counts()["lost"]
        except Exception as e:
            self.faults.add(name_of(sink), e)
            return 0

    def close(self, within_s: float | None = None) -> None:
        """End running events, tell the summary, and close the sinks, which deliver or keep what they have.

        Waits for a reply that is being told; what a sink raises is counted. within_s: a sink, or a rule, that
        has not come back after so many seconds is left behind and counted too; None: it is waited for.
        """
        if within_s is not None and not self._lock.acquire(timeout=within_s):
            self._lock = threading.RLock()  # the other one is lost with who holds it
            self._leave_behind(
                self._handing, within_s, "put() has not come back: nothing after it is delivered"
            )
        elif within_s is not None:
            self._lock.release()
        with self._lock:
            records = (*self._events.close(self._now_s()), self.summary())
            last = [self._with_clip(one) for one in records]
            sinks, self._sinks = self._sinks, ()
        if self._search:
            self._search.close()
        if self._cover:
            self._cover.close()
        if within_s is None:
            for sink in sinks:
                Ending(sink, last, self.faults).run()
            return
        for sink, where in end_within(within_s, sinks, last, self.faults):
            self._leave_behind(sink, within_s, where)

    def _leave_behind(self, sink: Sink | None, seconds: float, where: str) -> None:
        """Go on without a receiver that hangs; None: it is a rule."""
        self._sinks = tuple(one for one in self._sinks if one is not sink)
        self._counted = tuple(one for one in self._counted if one is not sink)
        name, why = "rules", "have not come back: no event after it is told"
        if sink is not None:
            name, why = name_of(sink), where
        self.faults.add(name, TimeoutError(f"{why}, after {seconds:g} s"))


def _standing(found: Detections, labels: Sequence[str]) -> Positions:
    """Where things of each label are, and how sure that is: the middle of a box's lower edge."""
    at: dict[str, list[tuple[float, float, float]]] = {label: [] for label in labels}
    for (left, _, right, bottom), score, label in zip(found.boxes, found.scores, found.labels):
        at[labels[label]].append((float(left + right) / 2, float(bottom), float(score)))
    return at


def _tell_health(health: Health, what: str, why: str) -> None:
    """What a status means for a probe."""
    if what == "restarted":
        health.restarted()
    elif what == "camera_back":
        health.camera_up()
    elif what == "camera_lost":
        health.camera_lost(why)


class _Verdict:
    """The label of a whole clip: the mean of what was said after the warm-up."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels, self._sum, self._count = labels, np.zeros(len(labels)), 0

    def hear(self, answer: Answer) -> None:
        """One fresh answer."""
        if answer.valid and answer.scores:
            self._sum += answer.scores
            self._count += 1

    def best(self) -> tuple[str, float] | None:
        """(label, mean score 0 to 1) of the likeliest; None before there was a valid answer."""
        if not self._count:
            return None
        best = int(self._sum.argmax())
        return self._labels[best], float(self._sum[best] / self._count)


def _label(verdict: _Verdict | None) -> Record:
    """The summary's "label" and "score"."""
    label, score = (verdict.best() if verdict else None) or (None, None)
    return {"label": label, "score": None if score is None else round(score, 4)}

"""From answers to receivers: event rules, redaction, records, and the numbers a run is judged by."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.events import Events, LiveConfig
from edgepv.runtimes.health import STAGES, Health
from edgepv.runtimes.privacy import mosaic
from edgepv.runtimes.said import picture_of, said
from edgepv.runtimes.sinks import Record, Sink
from edgepv.stats import percentiles_ms
from edgepv.types import ModelSpec

LATEST = 20_000
TIMES = (*STAGES, "age")


class Output:
    """What one camera tells the world: an answer per frame, events by the rules, and what happened to it.

    From any thread. Frames go only to sinks that want pixels, with the regions of ``config.redact`` averaged
    away. An event ends when the camera is lost, and with the first answer about another scene.
    """

    def __init__(
        self, camera: str, spec: ModelSpec, sinks: Sequence[Sink], config: LiveConfig, health: Health
    ) -> None:
        self.camera, self._spec, self._sinks, self._health = camera, spec, tuple(sinks), health
        self._events = Events(config.rules, camera)
        self._redact = config.redact
        self.wants_pixels = any(s.pixels for s in sinks)
        self._lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self._latest: dict[str, deque[float]] = {n: deque(maxlen=LATEST) for n in TIMES}

    def reply(self, reply: Reply, wall_s: float, frame: np.ndarray | None = None) -> None:
        """Tell one reply. wall_s: when its frame came, seconds since 1970. frame: for sinks with pixels."""
        with self._lock:
            self._count(reply)
            record = self._answer(reply)
            restored = picture_of(reply.answer, self._spec) if reply.answer else None
            shown = self._redacted(frame if restored is None else restored) if frame is not None else None
            for sink in self._sinks:
                sink.put(record, shown if sink.pixels else None)
            answer = reply.answer
            scores = dict(zip(self._spec.labels, answer.scores)) if answer else {}
            valid = answer is not None and answer.valid
            if record["restarted"]:
                self._put(*self._events.restart(wall_s, "another scene"))
            self._put(*self._events.step(reply.time_s, wall_s, scores, valid=valid, stale=reply.stale))

    def _answer(self, reply: Reply) -> Record:
        answer = reply.answer
        known = {**said(answer, self._spec), "valid": answer.valid} if answer else self._nothing()
        return {
            "type": "answer",
            "camera": self.camera,
            "frame": reply.number,
            "time_s": round(reply.time_s, 3),
            **known,
            "stale": reply.stale,
            "why": reply.why,
            "age_ms": None if reply.age_ms is None else round(reply.age_ms, 3),
            "latency_ms": round(reply.latency_ms, 3),
            "variant": reply.variant,
            "restarted": bool(answer and answer.restarted and not reply.stale),
        }

    def _nothing(self) -> Record:
        """What is said before there is an answer."""
        kind: dict[str, Record] = {
            "classification": {"label": None, "score": None},
            "tracking": {"tracks": []},
        }
        return {**kind.get(self._spec.task, {}), "valid": False}

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
        for name, ms in stages.items():
            self._latest[name].append(ms / 1e3)
        self._health.answered(stages, stale=reply.why or None)
        self._health.running(reply.variant)
        if reply.why == "dropped":
            self._health.dropped()

    def _redacted(self, frame: np.ndarray) -> np.ndarray:
        if not self._redact:
            return frame
        height, width = frame.shape[:2]
        return mosaic(frame, [[(x * width, y * height) for x, y in region] for region in self._redact])

    def status(self, what: str, why: str, **more: Any) -> None:
        """Tell that something happened to the camera or the runner."""
        with self._lock:
            self.counts[what] += 1
            if what == "restarted":
                self._health.restarted()
            if what == "camera_back":
                self._health.camera_up()
            self._put({"type": "status", "camera": self.camera, "what": what, "why": why, **more})
            if what == "camera_lost":
                self._health.camera_lost(why)
                self._put(*self._events.restart(time.time()))

    def _put(self, *records: Record) -> None:
        for record in records:
            self.counts["events"] += record["type"] == "new"
            for sink in self._sinks:
                sink.put(record)

    @property
    def unheard(self) -> bool:
        """Whether the reader of a pipe has gone."""
        return any(getattr(sink, "ended", False) for sink in self._sinks)

    def summary(self) -> Record:
        """Counts, and percentiles over the last 20,000 replies, in ms: each stage, the total, and the age.

        "lost": records that no receiver will get, whatever the reason; they are in the metrics by receiver.
        """
        with self._lock:
            times = {name: percentiles_ms(list(seen)) for name, seen in self._latest.items() if seen}
            return {
                "camera": self.camera,
                **dict(sorted(self.counts.items())),
                "lost": sum(sink.counts()["lost"] for sink in self._sinks),
                "ms": {
                    name: {p: round(v, 3) for p, v in zip(("p50", "p95", "p99"), found)}
                    for name, found in times.items()
                },
            }

    def close(self, wall_s: float) -> None:
        """End running events and close the sinks, which deliver or keep what they have."""
        with self._lock:
            self._put(*self._events.close(wall_s))
        for sink in self._sinks:
            sink.close()

"""The records that receivers get, key by key: plain JSON data, which stays a dict all the way.

``docs/schema/record.json`` is written from these types. A later version may add keys, so a reader passes over
those that it does not know.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, TypeAlias, TypedDict

if sys.version_info >= (3, 11):
    from typing import NotRequired
else:
    from typing_extensions import NotRequired

Record: TypeAlias = dict[str, Any]
"""One of the records below; ``record["type"]`` says which."""


class BoxRecord(TypedDict):
    """What a detector found: label, score from 0 to 1, and the box as x1, y1, x2, y2, shares of the picture.

    id: of the track that it belongs to; None where nothing is followed.
    """

    label: str
    score: float
    box: list[float]
    id: int | None


class AnswerRecord(TypedDict):
    """One for each frame that was due, see ``runtimes.records.record``.

    areas: of a segmenter, the share of the picture that each label takes; {} before there is an answer.
    """

    type: Literal["answer"]
    version: Literal[1]
    camera: str
    number: int
    frame: int
    time_s: float
    label: NotRequired[str | None]
    score: NotRequired[float | None]
    margin: NotRequired[float | None]
    particles: NotRequired[list[list[float]]]
    tracks: NotRequired[list[list[float]]]
    boxes: NotRequired[list[BoxRecord]]
    areas: NotRequired[dict[str, float]]
    surprise: NotRequired[float | None]
    valid: bool
    restarted: bool
    stale: bool
    why: str
    age_ms: float | None
    latency_ms: float
    pre_ms: float | None
    infer_ms: float | None
    variant: str


class EventState(TypedDict):
    """An event as one record shows it. Times are seconds since 1970 (UTC); end_time: None until the end."""

    id: str
    camera: str
    label: str
    score: float
    top_score: float
    start_time: float
    end_time: float | None
    zones: list[str]
    track: NotRequired[int]
    zone: NotRequired[str]
    line: NotRequired[str]
    direction: NotRequired[Literal["in", "out"]]
    count: NotRequired[int]
    clip: NotRequired[str]


class EventRecord(TypedDict):
    """A step in the life of one event. before: None for new. why: of an end. what: of a rule about tracks."""

    type: Literal["new", "update", "end"]
    before: EventState | None
    after: EventState
    what: NotRequired[Literal["enters", "dwells", "leaves", "crosses"]]
    why: NotRequired[str]
    version: Literal[1]
    uid: NotRequired[str]


class KeptRecord(TypedDict):
    """What lies beside a clip that was kept, ``ID.json`` beside ``ID.mp4``; ``edgepv finetune`` reads it.

    fps: of the clip. from_s, to_s: seconds of the clip from the beginning of its first event to the end of
    its last. said: label -> how many fresh and valid answers in between said it. margin: the smallest in
    between, the highest score less the second; None of a model without scores. model: digest of the bundle.
    redacted: whether parts of the pictures were covered or averaged away.
    """

    events: list[EventState]
    camera: str
    model: str
    fps: float
    frames: int
    from_s: float
    to_s: float
    said: dict[str, int]
    margin: float | None
    redacted: bool


class StatusRecord(TypedDict):
    """Something about the camera or the runner. what: camera_lost, restarted, switched, fault and others."""

    type: Literal["status"]
    camera: str
    what: str
    why: str
    version: Literal[1]
    uid: NotRequired[str]


class FaultCount(TypedDict):
    """How often somebody raised, and its first words."""

    count: int
    first: str


class SummaryRecord(TypedDict):
    """What the run came to, last of all; how often each status came stands beside, see ``Output.summary``."""

    type: Literal["summary"]
    version: Literal[1]
    camera: str
    variant: str | None
    engine: str | None
    threads: int | None
    deadline_ms: float | None
    notes: list[str] | None
    frames_read: int
    frames_answered: int
    drops: int
    missed: int | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    label: NotRequired[str | None]
    score: NotRequired[float | None]
    events: int
    replies: NotRequired[int]
    fresh: NotRequired[int]
    replies_dropped: NotRequired[int]
    lost: int
    faults: dict[str, FaultCount]
    ms: dict[str, dict[str, float | None]]


AnyRecord: TypeAlias = AnswerRecord | EventRecord | StatusRecord | SummaryRecord

"""One record: what a sink writes of an answer."""

from __future__ import annotations

from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]
"""Plain JSON data. ``record["type"]`` is one of

"answer": one per frame that was due, see ``runtimes.records.record``;
"new", "update", "end": the life of one event, with "before" (None for new) and "after": id, camera, label,
score, top_score, start_time, end_time (None until the end), zones. Times are seconds since 1970 (UTC).
"status": something about the camera or the runner: "what" (camera_lost, camera_back, restarted, switched,
clock_set, fault, ...), "why".
"summary": what the run came to, last of all.
All have "version", see ``runtimes.records.RECORDS``.
"""

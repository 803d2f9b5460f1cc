"""Pushes buffers and events through the GStreamer element, one by one, and prints what came of it as JSON.

Runs under the system's Python, which has gi. stdin: {"element": how gst-launch writes it, "data": a file,
"events": [...]}. Events: ["caps", TEXT], ["frame", PTS_NS or null, DISCONT, OFFSET, BYTES], ["flush"],
["late", TIME_NS] for a sink that says frames up to then are too late, ["stopped", LIBRARY, BYTES] for a toy
that computes until it is cancelled, by a pipeline that stops.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from typing import Any

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

UNTIL_CANCELLED = 4
"""What toy_go of toy.h is told."""
FIELDS = (
    *("model", "label", "label-index", "score", "valid", "restarted", "missed", "index", "timestamp"),
    *("stream-time", "running-time"),
)


class Driven:
    """The element between a pad of ours and a sink that takes all; a push returns when it is through."""

    def __init__(self, element: str, data: bytes) -> None:
        self._data, self._pipeline = (
            data,
            Gst.parse_launch(f"{element} name=it ! fakesink name=out async=false"),
        )
        self._pad = Gst.Pad.new("ours", Gst.PadDirection.SRC)
        self._pad.link(self._pipeline.get_by_name("it").get_static_pad("sink"))
        self._pad.set_active(True)
        self.started = self._pipeline.set_state(Gst.State.PLAYING) != Gst.StateChangeReturn.FAILURE
        self._pad.push_event(Gst.Event.new_stream_start("it"))

    def caps(self, text: str) -> str:
        taken = self._pad.push_event(Gst.Event.new_caps(Gst.Caps.from_string(text)))
        self._begin()
        return "ok" if taken else "refused"

    def _begin(self) -> None:
        segment = Gst.Segment()
        segment.init(Gst.Format.TIME)
        self._pad.push_event(Gst.Event.new_segment(segment))

    def frame(self, pts: int | None, discont: bool, offset: int, count: int) -> str:
        buffer = Gst.Buffer.new_wrapped(self._data[offset : offset + count])
        buffer.pts = Gst.CLOCK_TIME_NONE if pts is None else pts
        if discont:
            buffer.set_flags(Gst.BufferFlags.DISCONT)
        return str(self._pad.push(buffer).value_nick)

    def late(self, time: int) -> str:
        pad = self._pipeline.get_by_name("out").get_static_pad("sink")
        pad.push_event(Gst.Event.new_qos(Gst.QOSType.UNDERFLOW, 2.0, 0, time))
        return "ok"

    def flush(self) -> str:
        self._pad.push_event(Gst.Event.new_flush_start())
        self._pad.push_event(Gst.Event.new_flush_stop(True))
        self._begin()
        return "ok"

    def stopped(self, library: str, count: int) -> str:
        toy = ctypes.CDLL(library)
        toy.toy_go(UNTIL_CANCELLED)
        flow: list[str] = []
        thread = threading.Thread(target=lambda: flow.append(self.frame(None, False, 0, count)), daemon=True)
        thread.start()
        thread.join(0.5)
        running = thread.is_alive()
        self._pipeline.set_state(Gst.State.READY)
        thread.join(60)
        toy.toy_go(0)
        return f"{'ran' if running else 'did not run'}, then {flow[0] if flow else 'hung'}"

    def said(self) -> list[dict[str, Any]]:
        bus, kinds = self._pipeline.get_bus(), Gst.MessageType.ELEMENT | Gst.MessageType.ERROR
        told = []
        while message := bus.pop_filtered(kinds | Gst.MessageType.WARNING):
            if message.type == Gst.MessageType.ELEMENT:
                structure = message.get_structure()
                told.append({f: structure.get_value(f) for f in FIELDS if structure.has_field(f)})
            else:
                parse = (
                    message.parse_error if message.type == Gst.MessageType.ERROR else message.parse_warning
                )
                told.append({message.type.first_value_nick: parse()[0].message})
        return told

    def stop(self) -> None:
        self._pipeline.set_state(Gst.State.NULL)


def main() -> None:
    Gst.init(None)
    plan = json.load(sys.stdin)
    with open(plan["data"], "rb") as file:  # noqa: PTH123
        driven = Driven(plan["element"], file.read())
    done = [{"how": "started" if driven.started else "failed", "said": driven.said()}]
    for name, *arguments in plan["events"] if driven.started else ():
        how = getattr(driven, name)(*arguments)
        done.append({"how": how, "said": driven.said()})
    driven.stop()
    print(json.dumps(done))


if __name__ == "__main__":
    main()

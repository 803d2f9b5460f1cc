"""What a run says of itself at its end."""

from __future__ import annotations

import os

from edgepv.camera import NO_RULES
from edgepv.runtimes.health import Health
from edgepv.runtimes.output import Output
from edgepv.runtimes.sinks.jsonl import JsonLines
from edgepv.types import ModelSpec, TensorSpec

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 2, 8, 8), "NCTHW"), ("fight", "no_fight"), frames=2)


def test_the_summary_counts_the_records_that_no_receiver_got() -> None:
    read, write = os.pipe()
    os.close(read)
    takes_all = os.open(os.devnull, os.O_WRONLY)
    sinks = [JsonLines(write, "nobody", print), JsonLines(takes_all, "null", print)]
    output = Output("cam1", SPEC, sinks, NO_RULES, Health("cam1"))
    output.status("restarted", "x")
    output.status("stale", "x")
    output.close(0.0)
    assert output.summary()["lost"] == 2

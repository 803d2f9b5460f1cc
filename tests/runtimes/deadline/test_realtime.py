"""What the operating system grants is said, and what it does not grant too. In a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, sys
from edgepv.runtimes.deadline.realtime import prioritise
if sys.argv[1:]:
    os.setuid(int(sys.argv[1]))
said = prioritise((min(os.sched_getaffinity(0)),))
nice, cpus = os.getpriority(os.PRIO_PROCESS, 0), len(os.sched_getaffinity(0))
print(json.dumps([said, os.sched_getscheduler(0), nice, cpus]))
"""


def run(*user: str) -> tuple[list[str], int, int, int]:
    command = [sys.executable, "-c", SCRIPT, *user]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def test_what_is_said_is_so() -> None:
    said, scheduler, nice, cpus = run()
    assert len(said) >= 3 and cpus == 1
    assert (scheduler == os.SCHED_FIFO) == ("SCHED_FIFO priority 10: granted" in said)
    assert scheduler == os.SCHED_FIFO or (nice == -10) == ("nice -10: granted" in said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who is not root")
def test_a_user_without_rights_is_told_so_and_runs_on() -> None:
    said, scheduler, nice, _ = run("65534")
    assert scheduler == os.SCHED_OTHER and nice == 0
    refused = [line for line in said if "refused" in line]
    assert [line.split(":")[0] for line in refused][:2] == ["SCHED_FIFO priority 10", "nice -10"]

"""``edgepv run``: a bundle on a video file or on cameras."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgepv.base.console import say_next, tell
from edgepv.base.quiet import nobody_reads
from edgepv.cli.arguments import Commands, refuse_deadline, refuse_threads
from edgepv.errors import UsageError

DEFAULT_SPOOL = Path("~/.local/state/edgepv")


def add_run(commands: Commands) -> None:
    """Add ``edgepv run`` and its options."""
    text = "run a bundle on a video file or on cameras: answers and events out, each before its deadline"
    c = commands.add_parser("run", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip, or the root of edgepv update")
    c.add_argument(
        "--source",
        metavar="[NAME=]SOURCE",
        action="append",
        required=True,
        help="video file, folder of images, rtsp://..., /dev/video0, raw:-?size=640x480&fps=30, "
        "gst:PIPELINE; several times for several cameras",
    )
    c.add_argument("--live", action="store_true", help="replay a video file as if it were a camera")
    c.add_argument("--video", metavar="FILE", help="write the video with label and score drawn on it (.mp4)")
    c.add_argument(
        "--variant",
        metavar="NAME",
        help="hold on to this variant (default: what the bundle chose, or its ladder)",
    )
    c.add_argument(
        "--engine",
        metavar="NAME",
        help="engine to run it on; a jetson bundle's Q/DQ file can be replayed with onnxruntime, a float "
        "step with native",
    )
    c.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the engine (default: 1)")
    c.add_argument(
        "--deadline-ms",
        type=float,
        metavar="MS",
        help="from a frame's arrival to its answer; live, a stale answer is marked so when time is up "
        "(default: one frame period); on a file, later answers are counted",
    )
    c.add_argument(
        "--on-miss",
        choices=("stale", "drop"),
        default="stale",
        help="what is said at a missed deadline: the last answer, marked stale, or nothing (default: stale)",
    )
    c.add_argument(
        "--on-cut",
        choices=("reset", "keep"),
        default="reset",
        help="at a scene cut forget what was seen, or keep it (default: reset)",
    )
    c.add_argument(
        "--on-gap",
        choices=("hold", "reset"),
        default="hold",
        help="when frames were lost keep what was seen, or forget it (default: hold)",
    )
    c.add_argument(
        "--emit",
        metavar="URL",
        action="append",
        help="live: mqtt://broker/topic, https://..., jsonl:FILE, video:FILE.mp4; several times for several "
        "receivers (default: jsonl:-, which is stdout)",
    )
    c.add_argument(
        "--rules",
        metavar="FILE",
        help="event rules, zones, privacy (see examples/alarm.toml and examples/person-zone.toml)",
    )
    c.add_argument(
        "--spool",
        metavar="DIR",
        help=f"where undelivered events wait on disk (default: {DEFAULT_SPOOL})",
    )
    c.add_argument("--metrics", metavar="[HOST:]PORT", help="live: serve /metrics (Prometheus) and /healthz")
    c.add_argument(
        "--trace",
        metavar="FILE",
        help="live: write what each frame went through, for ui.perfetto.dev (.json)",
    )
    c.add_argument(
        "--realtime",
        action="store_true",
        help="live: SCHED_FIFO or nice, and memory locked; says what was granted",
    )
    c.add_argument("--cpus", metavar="LIST", help="live: pin to these CPUs, like 0,2")
    c.add_argument("--require-signature", action="store_true", help="run only what --key's owner signed")
    c.add_argument("--key", metavar="FILE", help="public key (PEM) of --require-signature")
    c.set_defaults(run=run_command)


def run_command(a: argparse.Namespace) -> int:
    """Do ``edgepv run``; returns the exit code. Raises EdgepvError for what cannot be run."""
    refuse_threads(a.threads)
    if a.require_signature != bool(a.key):
        raise UsageError("--require-signature and --key PUBLIC.pem go together")
    sources = _sources(a.source)
    from edgepv.runtimes.sources import is_video_file, refuse_bare_address

    for text in sources.values():
        refuse_bare_address(text)
    name, source = next(iter(sources.items()))
    if len(sources) == 1 and is_video_file(source) and not a.live:
        return _on_file(a, name, source)
    return _on_cameras(a, sources)


def _sources(given: list[str]) -> dict[str, str]:
    """Camera name -> source. One source alone needs no name; several get theirs, or cam1, cam2 ..."""
    cameras: dict[str, str] = {}
    for number, text in enumerate(given, 1):
        name, source = _named(text) or (f"cam{number}", text)
        if name in cameras:
            raise UsageError(f"two cameras are called '{name}'. Name each: --source NAME=SOURCE")
        cameras[name] = source
    return cameras


def _named(text: str) -> tuple[str, str] | None:
    """(name, source) of NAME=SOURCE; None for a source alone, or what lies on the disk by that name."""
    import contextlib
    import re

    with contextlib.suppress(OSError):  # a long pipeline is too long for a file name
        if Path(text).exists():
            return None
    match = re.fullmatch(r"([\w-]+)=(.+)", text, re.DOTALL)
    return (match[1], match[2]) if match else None


def _on_file(a: argparse.Namespace, name: str, source: str) -> int:
    """Every frame of a file that is due, however long it takes."""
    from edgepv.bundle import signing
    from edgepv.bundle.manifest import check
    from edgepv.cli import show
    from edgepv.device.finders import open_cover
    from edgepv.measure.here import fitting
    from edgepv.runtimes import on_file
    from edgepv.runtimes.events.rules import read_rules
    from edgepv.runtimes.faults import Faults
    from edgepv.runtimes.output import NO_RULES

    refuse_deadline(a.deadline_ms)
    live_only = {"--emit": a.emit, "--metrics": a.metrics, "--realtime": a.realtime, "--trace": a.trace}
    for flag, value in live_only.items():
        if value:
            raise UsageError(f"{flag} is for cameras. To replay the file as one, add --live")
    lines = _lines(on=bool(a.video))
    config = read_rules(Path(a.rules)) if a.rules else NO_RULES
    if config.camera and _named(a.source[0]) is None:
        name = config.camera
    with signing.opened(Path(a.bundle), Path(a.key) if a.key else None) as bundle:
        check(bundle)
        wanted = bundle.variant(a.variant, a.engine)
        fixed = bool(a.variant or a.engine)
        fit = fitting(bundle, (wanted,), fixed=fixed, threads=a.threads)
        notes = (*fit.notes, *config.rules.learned_elsewhere(bundle.digest, (name,)))
        for note in notes:
            tell(f"edgepv: {note}", file=sys.stderr)
        faults = Faults(lambda who, why: tell(f"edgepv: {who} raised {why}", file=sys.stderr))
        cover = open_cover(
            config.cover if a.video else (),
            fit.variants[0].spec,
            lambda error: faults.add("cover", error),
            threads=a.threads,
        )
        summary = on_file.run_file(
            fit.variants[0],
            bundle.checked,
            Path(source),
            threads=a.threads,
            deadline_ms=a.deadline_ms,
            video=Path(a.video) if a.video else None,
            cuts=a.on_cut == "reset",
            camera=name,
            config=config,
            cover=cover,
            faults=faults,
            notes=notes,
            emit=lines,
        )
    show.summary(summary)
    if raised := faults.error():
        raise raised
    video = ["edgepv", "run", a.bundle, "--source", source, "--video", "out.mp4"]
    more = [] if a.video else [shlex.join(video)]
    say_next(*more, shlex.join(["edgepv", "inspect", a.bundle]))
    return 0


def _lines(*, on: bool) -> Callable[[dict[str, Any]], None]:
    """Prints records as JSON lines. ``on``: whether to go on, in silence, once nobody reads them any more."""

    def emit(record: dict[str, Any]) -> None:
        try:
            print(json.dumps(record), flush=True)
        except BrokenPipeError:
            if not on:
                raise
            nobody_reads()

    return emit


def _on_cameras(a: argparse.Namespace, sources: dict[str, str]) -> int:
    """Until Ctrl-C, SIGTERM, or the end of what is replayed: all three are a good end."""
    from edgepv.base.console import Console
    from edgepv.device import cameras
    from edgepv.runtimes.events.rules import read_rules
    from edgepv.runtimes.faults import error_of
    from edgepv.runtimes.output import NO_RULES

    refuse_deadline(a.deadline_ms)
    config = read_rules(Path(a.rules)) if a.rules else NO_RULES
    if config.camera and len(sources) == 1 and _named(a.source[0]) is None:
        sources = {config.camera: next(iter(sources.values()))}
    emit = a.emit or ["jsonl:-"]
    options = cameras.LiveOptions(
        bundle=Path(a.bundle),
        sources=sources,
        deadline_ms=a.deadline_ms,
        on_miss=a.on_miss,
        emit=(*emit, *([f"video:{a.video}"] if a.video else [])),
        config=config,
        variant=a.variant,
        engine=a.engine,
        threads=a.threads,
        gap=a.on_gap,
        cuts=a.on_cut == "reset",
        spool=Path(a.spool) if a.spool else DEFAULT_SPOOL.expanduser(),
        metrics=a.metrics,
        realtime=a.realtime,
        cpus=_cpus(a.cpus),
        key=Path(a.key) if a.key else None,
        trace=Path(a.trace) if a.trace else None,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    summaries = cameras.run(options, Console(), stop)
    for summary in summaries:
        print(json.dumps(summary), file=sys.stderr, flush=True)
    raised = error_of({f"{s['camera']}: {who}": what for s in summaries for who, what in s["faults"].items()})
    if raised:
        raise raised
    return 0


def _cpus(text: str | None) -> tuple[int, ...]:
    import os

    if not text:
        return ()
    parts = text.split(",")
    known = sorted(os.sched_getaffinity(0))
    if not set(parts) <= {str(n) for n in known}:
        raise UsageError(f"--cpus {text}: give numbers of CPUs of this machine, from {known}")
    return tuple(int(p) for p in parts)

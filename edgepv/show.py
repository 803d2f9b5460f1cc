"""Results printed for a person: tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepv.bundle import Bundle
from edgepv.types import Measurement, encode

if TYPE_CHECKING:
    from edgepv.pipeline import Exported

UNKNOWN = "not measured"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table as wide as its content, so that a pipe keeps every column."""
    widths = [max(len(str(r[i])) for r in (header, *rows)) for i in range(len(header))]
    for row in (header, ["-" * w for w in widths], *rows):
        print("  ".join(str(cell).ljust(w) for cell, w in zip(row, widths)).rstrip())


def exported(made: Sequence[Exported]) -> None:
    """One line per variant of every bundle, and the reason for each choice."""
    header = (
        "variant",
        "target",
        "top-1 (95 %)",
        "drop, points (95 %)",
        "verdict",
        "SQNR dB",
        "INT8 convs",
        "p50 ms",
        "p99 ms",
        "size KB",
    )
    rows: dict[tuple[str, str], list[str]] = {}
    for one in made:
        for row in one.report.rows:
            rows.setdefault((row.variant, row.target), _cells(row, row.variant == one.chosen.variant))
    table(header, list(rows.values()))
    for one in made:
        print(f"\n{one.target}")
        for reason in one.report.reasons:
            print(f"  {reason}")
        print(f"  bundle {one.folder} ({one.folder}.zip), digest {one.digest[:16]}")
        print(f"  report {one.folder}/report.html")


def _cells(row: Measurement, chosen: bool) -> list[str]:
    a, d, p, u = row.accuracy, row.drop, row.parity, row.audit
    first = row.latency[0] if row.latency else None
    return [
        row.variant + (" *" if chosen else ""),
        row.target,
        f"{a.value:.1%} ({a.low:.1%} to {a.high:.1%}, n {a.n})" if a else UNKNOWN,
        f"{d.points:+.1f} ({d.low:+.1f} to {d.high:+.1f})"
        if d
        else "the original"
        if row.parity is None
        else UNKNOWN,
        (d.verdict if d else "") + (f", needs {d.clips_needed} clips" if d and d.clips_needed else ""),
        f"{p.sqnr_db:.1f}" if p else "",
        f"{u.int8}/{len(u.convolutions)}"
        if u and any(c.executed for c in u.convolutions)
        else UNKNOWN
        if u
        else "",
        f"{first.p50_ms:.2f}" if first else UNKNOWN,
        f"{first.p99_ms:.2f}" if first else UNKNOWN,
        f"{row.bytes / 1024:.0f}" if row.bytes else UNKNOWN,
    ]


def as_data(one: Exported) -> dict[str, Any]:
    """One bundle as JSON data, for --json."""
    return {
        "target": one.target,
        "bundle": str(one.folder),
        "digest": one.digest,
        "runs": one.chosen.variant,
        "measured": encode(one.report),
    }


def summary(found: dict[str, Any]) -> None:
    """A run's summary on stderr; stdout keeps the JSON lines."""
    misses = "" if found["missed"] is None else f", {found['missed']} later than {found['deadline_ms']:g} ms"
    print(
        f"{found['variant']}: {found['label'] or 'no valid answer'} ({found['score'] or 0:.0%}); "
        f"{found['frames_answered']} answers of {found['frames_read']} frames, {found['drops']} dropped; "
        f"p50 {found['p50_ms']:.2f}, p95 {found['p95_ms']:.2f}, p99 {found['p99_ms']:.2f} ms on "
        f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}{misses}",
        file=sys.stderr,
    )


def bundle(b: Bundle) -> None:
    """What a bundle holds."""
    c, m, spec = b.content, b.measured, b.content.spec
    stream = c.stream
    print(f"{c.name} for {c.target}, {m.status}, digest {b.digest[:16]}")
    print(f"input      {spec.input.shape} {spec.input.layout}, {spec.colour}, {spec.fps} frames per second")
    print(f"labels     {', '.join(spec.labels)}")
    if stream:
        field = stream.receptive_field or "not bounded"
        print(
            f"stream     {len(stream.states)} states, {stream.state_bytes / 1024:.0f} KB; valid after "
            f"{stream.warmup} frames, looks back on {field}"
        )
    else:
        print(f"stream     none: the host keeps {spec.frames} frames and computes all for each answer")
    print(f"runs       {m.run}; accuracy gate: {m.verdict}")
    for reason in m.reasons:
        print(f"           {reason}")
    print(f"answers    {c.postprocessing}")
    table(
        ("variant", "engine", "precision", "form", "file", "KB"),
        [
            (
                v.name,
                v.engine,
                v.precision,
                v.form,
                v.path,
                f"{(b.folder / v.path).stat().st_size / 1024:.0f}",
            )
            for v in c.variants
        ],
    )
    for step in c.steps:
        tools = ", ".join(f"{k} {v}" for k, v in step.tools.items())
        print(f"step       {step.name} {step.options or ''} with {tools}")


def model_rows(zoo: Any) -> list[dict[str, Any]]:
    """Every shipped checkpoint: its name, labels, and top-1 on the test split as its card has it."""
    from edgepv.files import read_json

    index = read_json(zoo.INDEX)
    return [
        {"name": name, "labels": row["spec"]["labels"], "test": row["metrics"]["test"]}
        for name, row in sorted(index.items())
    ]


def models(rows: Sequence[dict[str, Any]]) -> None:
    """The shipped checkpoints as a table."""
    table(
        ("model", "top-1 on the test split (95 %)", "labels"),
        [(r["name"], _interval(r["test"]), ", ".join(r["labels"])) for r in rows],
    )


def _interval(test: dict[str, Any]) -> str:
    return f"{test['value']:.1%} ({test['low']:.1%} to {test['high']:.1%}, n {test['n']})"

"""Tables of what graph.py, track.py and restore.py measured, for docs/models.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from measured_at import machine, stamps

Result = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table and an empty line."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def share(row: Result) -> str:
    """ "84.0 % (65.3 to 93.6)"."""
    return f"{100 * row['value']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def spread(row: Result, digits: int) -> str:
    """ "0.697 (0.652 to 0.744)"."""
    return f"{row['value']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def graph(found: Result) -> list[str]:
    """pv-graph against pv-conv, itself without interaction, and simple methods; physics; given points."""
    told = (
        "Intervals of top-1 here are Wilson's over clips, though those of one camera or sequence are right "
        "or wrong together: the true ones are wider; no net is shown to be better than another."
    )
    lines = ["### pv-graph (benchmarks/graph.py)", "", stamps(found["measured_at"]), "", told, ""]
    for size, tasks in found.get("video", {}).items():
        names = dict.fromkeys(name for task in tasks.values() for name in task["rows"])
        cost = {n: g for task in tasks.values() for n, g in task["gflops"].items()}
        header = ["net", "GFLOPs / frame", *(f"{t}, top-1, n {_n(r)}" for t, r in tasks.items())]
        rows = [
            [n, f"{cost[n]:.3f}" if n in cost else "", *(_of(task["rows"], n) for task in tasks.values())]
            for n in names
        ]
        lines += [f"Whole clips of the test split, pv-graph-{size}:", "", *table(header, rows)]
        counts = next(iter(tasks.values()))["by_particles"]
        rows = [[f"K = {k}", *(share(t["by_particles"][k]) for t in tasks.values())] for k in counts]
        lines += table(["one set of weights", *(f"{t}, top-1" for t in tasks)], rows)
    times = found.get("latency", {}).get("rows", {})
    host = machine(found.get("latency", {}).get("device"))
    lines += table(
        [f"ONNX Runtime fp32, 1 thread, in turns, {host}", "p50 ms", "p95 ms", "n"],
        [[n, f"{r['p50_ms']:.2f}", f"{r['p95_ms']:.2f}", str(r["n"])] for n, r in times.items()],
    )
    lines += _physics(found.get("physics", {}))
    points = found.get("points", {})
    if points:
        rows = [[n, share(r), str(r["n"])] for n, r in points["rows"].items()]
        rows.append(["1-D CNN of the data set's reference", "76.7 %", "90"])
        told = (
            "Body points given (JHMDB, 14 actions). The second recipe that was tried, for its training "
            "accuracy, after the first one's test score had been seen:"
        )
        lines += [told, "", *table(["net", "top-1", "n"], rows)]
    return lines


def _n(task: Result) -> int:
    return int(next(iter(task["rows"].values()))["n"])


def _of(rows: Result, name: str) -> str:
    return share(rows[name]) if name in rows else ""


def _physics(found: Result) -> list[str]:
    if not found:
        return []
    rows = []
    for world, methods in found["worlds"].items():
        for name, row in methods.items():
            errors = [f"{1000 * row['rmse'][k]['value']:.2f}" for k in ("+1", "+5", "+10")]
            f1 = f"{row['collisions']['f1']:.3f}" if row.get("collisions") else "not possible"
            rows.append([world, name, *errors, f1])
    header = ["world", "method", "RMSE +1", "+5", "+10", "collision F1"]
    told = f"Simulated discs, {found['films']} new films, positions in 1/1000 of the image height:"
    return [told, "", *table(header, rows)]


PLACES = {"rendered": "Held-out renders", "photographs": "Photographs moved by a homography"}


def track(found: Result) -> list[str]:
    """Trackers on renders, on photographs that move, on real clips, and over 1,000 frames."""
    lines = ["### pv-track (benchmarks/track.py)", "", stamps(found["measured_at"]), ""]
    for part, told in PLACES.items():
        data = found.get(part, {})
        rows = [
            [n, share(r["delta_avg"]), spread(r["median_px"], 2), share(r["survival"]), share(r["occlusion"])]
            for n, r in _methods(data).items()
        ]
        if rows:
            size = f"{data['clips']} clips of {data['frames']} frames, {data['points']} points"
            header = ["tracker", "delta-avg", "median px of 256", "survival", "occlusion told right"]
            lines += [f"{told}: {size}.", "", *table(header, rows)]
    real = _methods(found.get("real", {}))
    if real:
        clips = list(next(iter(real.values())))
        rows = [[n, *(f"{100 * r[c]['within_4_px']:.1f} %" for c in clips)] for n, r in real.items()]
        told = "Real clips, 24 frames there and back: points that end within 4 px of where they began."
        lines += [told, "", *table(["tracker", *clips], rows)]
    drift = _methods(found.get("drift", {}))
    if drift:
        marks = list(next(iter(drift.values())))
        rows = [[n, *(f"{r[m]['median_px']:.1f}" for m in marks)] for n, r in drift.items()]
        told = "Drift to and fro over 1,000 frames, median px of visible points by frame."
        lines += [told, "", *table(["tracker", *marks], rows)]
    return lines


def _methods(data: Result) -> dict[str, Any]:
    """The rows of a part, without what the part says of itself."""
    return {name: row for name, row in data.items() if isinstance(row, dict)}


SEEN = {"flicker": ".4", "sharpness": ".2"}
"""Figures of a restorer's short clips, and how many digits they get."""
EARLY_LATE = {"psnr_5_to_20": "frames 5 to 20", "psnr_285_to_300": "frames 285 to 300"}


def restore(found: Result) -> list[str]:
    """Restorers on short clips and by frame index, against simple methods and a net without a memory."""
    lines = ["### pv-restore (benchmarks/restore.py)", "", stamps(found["measured_at"]), ""]
    for part, told in (("denoise", "Noise of 25/255 taken away"), ("x2", "Twice the size")):
        data = found.get(part, {})
        rows = [
            [n, _mean(r["psnr"], 2), _mean(r["ssim"], 3), *(f"{r[k]['mean']:{d}f}" for k, d in SEEN.items())]
            for n, r in data.get("short", {}).items()
        ]
        if rows:
            n = next(iter(data["short"].values()))["psnr"]["n"]
            lines += [f"{told}, {n} short clips and stills that drift; a sharpness of 1 is the truth's:", ""]
            lines += table(["method", "PSNR dB", "SSIM", *SEEN], rows)
        long = data.get("long", {})
        if long:
            marks = list(next(iter(long.values()))["psnr"])
            rows = [[n, *(f"{r['psnr'][m]:.2f}" for m in marks)] for n, r in long.items()]
            lines += [f"{told}, mean PSNR in dB of three long clips by frame:", ""]
            lines += table(["method", *marks], rows)
    for name, figures in found.get("int8", {}).items():
        rows = [[n, *(f"{r[m]:.2f}" for m in EARLY_LATE)] for n, r in figures.items()]
        lines += [
            f"{name} in INT8 on the CPU, PSNR in dB of a long clip; memory too: its arithmetic as well.",
            "",
        ]
        lines += table(["by", *EARLY_LATE.values()], rows)
    return lines


def _mean(row: Result, digits: int) -> str:
    return f"{row['mean']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"

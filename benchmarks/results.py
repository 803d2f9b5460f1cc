"""Every benchmark whose result is committed: what each says, and how it is made anew.

``make benchmarks DATA=DIR`` (``python benchmarks/results.py --data DIR``) runs them one after the other,
skips those whose result is of this code, and can be stopped and called again; ``make results`` only writes
RESULTS.md from the committed results. DIR: the labelled clips (benchmarks/data.py makes them). ``--natural``:
the natural video of track.py and restore.py. Those that need more than that, such as arm64's files or a
Jetson, are named with the reason why they were left. A quiet machine, and hours: the page says how many
minutes each takes, and which were taken by this script.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers_page
from measured_at import now, sums

from edgepv.base.files import read_json, write_json, write_text

HERE = Path(__file__).resolve().parent
PAGE = HERE / "RESULTS.md"
TOOK = HERE / "results.json"
"""Minutes that each benchmark took when this script ran it, and where."""
NO_CODE = (":!benchmarks/*.json", ":!benchmarks/*.md", ":!docs", ":!tests", ":!*.md")
"""What may differ from the commit that a result names."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One result file, NAME.json.

    steps: commands that make it; {python}, {edgepv}, {data}, {natural} and {work} (an empty folder) are
    filled in. minutes: about, on two cores, as its own text says; None: nobody noted it. says: the result in
    a sentence. page: where it is shown. left: why ``make benchmarks`` does not run it. by: the script, where
    it goes by another name than the result.
    """

    name: str
    steps: tuple[str, ...]
    says: Callable[[Json], str]
    minutes: int | None = None
    page: str = ""
    left: str = ""
    by: str = ""


def script(name: str, more: str = "") -> tuple[str, ...]:
    """The one command of most benchmarks."""
    return (f"{{python}} benchmarks/{name}.py {more}".strip(),)


def percent(share: float) -> str:
    """A share of 1, with one decimal."""
    return f"{100 * share:.1f} %"


def says_adapt(found: Json) -> str:
    """Adapters, full tuning and a head alone."""
    rows = [f"{r['model']} {r['how']} {r['cpu_minutes']:.1f}" for r in found["runs"]]
    return f"CPU minutes to learn new labels: {', '.join(rows)}"


def says_arm64(found: Json) -> str:
    """Which golden answers hold on arm64."""
    every = [(name, v["holds"]) for one in found.values() for name, v in one["variants"].items()]
    failed = ", ".join(name for name, holds in every if not holds) or "none"
    return (
        f"{sum(h for _, h in every)} of {len(every)} files give their golden answers on arm64; not: {failed}"
    )


def says_before(found: Json) -> str:
    """What the chains gain where they gain most, and how many gains are sure."""
    rows = [(row, name, gain) for row in found["rows"] for name, gain in row["gained"].items()]
    row, name, gain = max(rows, key=lambda one: one[2]["points"])
    sure = sum(one["low"] > 0 for *_, one in rows)
    worse = sum(one["high"] < 0 for *_, one in rows)
    return (
        f"of {len(rows)} gains of chains before a model {sure} are surely above 0 and {worse} below; most: "
        f"{name} before {row['model']}, {row['condition']}, {gain['points']:+.1f} points"
    )


def says_kept(found: Json) -> str:
    """What corrected clips of the field gain beside others."""
    both = [run for run in found["runs"] if run["way"] == "with" and run["side"] == "both"]
    gains = [run["gained"]["without"] for run in both]
    sure = sum(one["low"] > 0 for one in gains)
    points = ", ".join(f"{one['points']:+.1f}" for one in gains)
    count = sum(found["kept"]["labels"].values())
    return f"{count} kept clips gain {points} points by seed, {sure} surely above 0"


def says_choose(found: Json) -> str:
    """How often a choice is right, on each kind of CPU."""
    told = [
        f"{percent(one['right'])} of {one['choices']}, in {one['right_bundles'][0]} of "
        f"{one['right_bundles'][1]} bundles all ({kind.partition(',')[0]})"
        for kind, one in found.items()
        if one["choices"]
    ]
    return f"choices within 3 % of the fastest: {', '.join(told) or 'none was conclusive'}"


def says_clip_memory(found: Json) -> str:
    """Peak memory of readers."""
    most = max(found["rise_mib"]["1080p 60 s"].values())
    return f"most memory that reading a minute of 1080p takes: {most:.0f} MiB"


def says_compress(found: Json) -> str:
    """What the search chose."""
    return "the search chose " + "; ".join(
        f"{name}: {net.get('winner') or 'nothing'}" for name, net in found.items()
    )


def says_detection(found: Json) -> str:
    """What of a detector's AP50 the targets' INT8 files keep."""
    told = []
    for name, one in found.items():
        if isinstance(one, dict) and "files" in one:
            kept = [row["ap50"] for file, row in one["files"].items() if " " in file and "int8" in file]
            told.append(f"{name} {one['float']['value']:.3f}, in INT8 {min(kept):.3f} to {max(kept):.3f}")
    return f"AP50 of persons in float, and over the targets' INT8 files: {'; '.join(told)}"


def says_explain(found: Json) -> str:
    """Rankings against random orders."""
    cells, particles = found["cells"]["all"], found["particles"]["all"]
    return (
        f"cells ranked first matter more than random ones in {cells['better_than_random']} of "
        f"{cells['clips']} clips, particles in {particles['better_than_random']} of {particles['clips']}"
    )


def generated(found: Json) -> Iterator[tuple[str, str, float]]:
    """(model, fastest engine of others, share of its CPU time that generated C takes)."""
    for name, one in found.items():
        engines = [c for c in one["contenders"] if not c["name"].startswith(("generated", "native"))]
        best = max(engines, key=lambda c: c["generated_takes"])
        yield name, best["name"], best["generated_takes"]


def says_firmware(found: Json) -> str:
    """Generated C against the fastest engine."""
    return "of the fastest engine's CPU time generated C takes " + ", ".join(
        f"{takes:.2f} ({name}, {engine})" for name, engine, takes in generated(found)
    )


def says_fold(found: Json) -> str:
    """Multiplications left at the least promise."""
    rows = ((n, min(one["rows"], key=lambda r: r["multiplications"])) for n, one in found.items())
    return "of the multiplications folding leaves at least " + ", ".join(
        f"{percent(row['multiplications'])} ({name}, {row['sqnr_db']:.0f} dB)" for name, row in rows
    )


def says_fuzz(found: Json) -> str:
    """Mutations and faults."""
    runs = [one for one in found.values() if isinstance(one, dict) and "faults" in one]
    return f"{sum(r['n'] for r in runs):,} mutations, {sum(len(r['faults']) for r in runs)} faults"


def says_graph(found: Json) -> str:
    """What interaction is worth."""
    one, other = (found["points"]["rows"][n]["value"] for n in ("core", "core without interaction"))
    return f"body points: {percent(one)} right with interaction, {percent(other)} without"


def says_jetson_rules(found: Json) -> str:
    """Files that NVIDIA's parser takes."""
    files = [f for one in found["models"].values() for f in one.values() if f["parser"]]
    return f"NVIDIA's parser takes {sum(f['parser']['accepted'] for f in files)} of {len(files)} files"


def says_jetson(found: Json) -> str:
    """What was kept of each bundle on each board, or why nothing was."""
    told = []
    for row in found["rows"]:
        one = row.get("found")
        where = one["device"]["board"] or "no Jetson" if one else ""
        told.append(f"{row['bundle']} {where}: {one['variant']}" if one else f"{row['bundle']}: refused")
    return "kept: " + "; ".join(told)


def says_live(found: Json) -> str:
    """Misses of the ladder and of the best fixed variant."""
    ladder = [r for r in found["rows"] if r["runs"].startswith("ladder")]
    return "the ladder missed " + ", ".join(f"{percent(r['miss_rate'])} ({r['load']})" for r in ladder)


def says_models(found: Json) -> str:
    """How many models, and what runs on a CPU."""
    runs = [one["chosen"]["cpu"] for one in found.values() if "cpu" in one["chosen"]]
    return f"{len(found)} models; on cpu {sum('int8' in r for r in runs)} of {len(runs)} run in INT8"


def says_pairs(found: Json) -> str:
    """Coverage of the interval of a ratio."""
    shares = [row["6 medians"]["coverage"] for row in found["intervals"]]
    return (
        f"the interval of a ratio holds the truth in {percent(min(shares))} to {percent(max(shares))} of runs"
    )


def says_peers(found: Json) -> str:
    """Rows, failures, and where edgepv is first."""
    rows = [
        row for one in found.values() for name, row in one["rows"].items() if not name.startswith("edgepv")
    ]
    failed = sum("failed" in row for row in rows)
    return (
        f"{len(rows)} rows of other tools, {failed} of them failed; edgepv is not first in "
        f"{len(list(peers_page.beaten(found)))} columns, named below"
    )


def says_people(found: Json) -> str:
    """Numbers that persons lose, and how many are covered."""
    tracks, cover = found["tracks"], found["cover"]
    switches = ", ".join(f"{tracks[n]['switches']} ({n})" for n in ("ours", "supervision", "norfair"))
    covered = ", ".join(f"{percent(one['recall'])} ({name})" for name, one in cover.items())
    return f"persons change their number {switches} times; found to be covered: {covered}"


def says_recipes(found: Json) -> str:
    """What equalising channels buys."""
    gains = [
        one["rows"]["onnxruntime, even"]["sqnr_db"] - one["rows"]["onnxruntime, plain"]["sqnr_db"]
        for one in found.values()
        if all("sqnr_db" in one["rows"].get(f"onnxruntime, {r}", {}) for r in ("even", "plain"))
    ]
    return f"equalised channels change SQNR by {min(gains):+.1f} to {max(gains):+.1f} dB in ONNX Runtime"


def says_restore(found: Json) -> str:
    """PSNR of restorers and of what one would use without them."""
    plain = (
        (part, n, r) for part in ("x2", "denoise") for n, r in found[part]["short"].items() if "," not in n
    )
    return "PSNR in dB: " + ", ".join(f"{part} {n} {r['psnr']['mean']:.1f}" for part, n, r in plain)


def says_roofline(found: Json) -> str:
    """Share of the roof of each model's fastest file."""
    from edgepv.metrics.roofline import of_row
    from edgepv.types import Measurement, decode

    told = []
    for name, one in found.items():
        rows = [decode(Measurement, row) for row in one["rows"]]
        known = [(r, roof) for r in rows if (roof := of_row(r, one["chunk"]))]
        row, roof = min(known, key=lambda pair: pair[0].latency[0].p50_ms)
        told.append(f"{percent(roof.share)} ({name}, {row.variant}, {roof.limit})")
    return "of what one core allows the fastest files reach " + ", ".join(told)


def says_incremental(found: Json) -> str:
    """What exact incremental windows could save."""
    told = ", ".join(f"{name} {net['saves']:.2f}" for name, net in found["nets"].items())
    return f"computing again only what differs from earlier windows saves at most, in times: {told}"


def says_startup(found: Json) -> str:
    """CPU time until a command answers."""
    return ", ".join(f"{k} {v['median_ms']:.0f} ms" for k, v in found["cpu_ms"].items() if "before" not in k)


def says_stream(found: Json) -> str:
    """How many nets stream exactly."""
    kinds = [net.get("exactness", "not proven") for net in found["nets"].values()]
    told = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
    return f"{len(kinds)} clip nets made to step: {told}"


def says_odd(found: Json) -> str:
    """Which score tells fights."""
    rows = {name: row["auc"] for name, row in found["fights"]["scores"].items() if name != "labels"}
    return "AUC of fights, unlearned: " + ", ".join(f"{name} {auc:.2f}" for name, auc in rows.items())


def says_stream_tune(found: Json) -> str:
    """What a stream loses and keeps once tuned."""
    told = [f"{k}, {row}: {v['drop']['points']:+.1f}" for k, one in found.items() for row, v in one.items()]
    return "points lost against the window: " + ", ".join(t for t in told if "stream" in t)


def says_sums(found: Json) -> str:
    """Worst SQNR of both ways to add."""
    rows = [row for one in found.values() for row in one["rows"] if row["bits"] == 8]
    least = {way: min(r["sqnr_db"] for r in rows if r["sums"] == way) for way in ("fast", "exact")}
    return "least SQNR with 8 bits: " + ", ".join(f"{way} sums {db:.1f} dB" for way, db in least.items())


def says_tasks(found: Json) -> str:
    """How many INT8 files, the best of each model and target, keep their accuracy."""
    verdicts = [row["drop"]["verdict"] for row in found["rows"]]
    told = ", ".join(f"{verdicts.count(v)} {v}" for v in ("pass", "inconclusive", "fail"))
    return f"of {len(verdicts)} INT8 files, the best of each model and target: {told}"


def says_track(found: Json) -> str:
    """delta-avg of trackers on photographs."""
    rows = {n: r["delta_avg"]["value"] for n, r in found["photographs"].items() if isinstance(r, dict)}
    return "delta-avg on photographs: " + ", ".join(f"{name} {value:.3f}" for name, value in rows.items())


def says_particles(found: Json) -> str:
    """PSNR of pictures painted of particles, and of bicubic ones with as many numbers."""
    rows = {count: row["methods"] for count, row in found["pictures"].items() if "bicubic" in row["methods"]}
    return "PSNR of particles and of bicubic from as many numbers: " + "; ".join(
        f"{count} particles {row['particles']['psnr']['mean']:.1f}, {row['bicubic']['psnr']['mean']:.1f}"
        for count, row in rows.items()
    )


def says_tract_pulse(found: Json) -> str:
    """Nets that tract makes to step."""
    simple, ours = (list(found[part].values()) for part in ("simple", "clipnets"))
    return (
        f"tract's pulse takes {simple.count(None)} of {len(simple)} simple stacks of convolutions and "
        f"{ours.count(None)} of {len(ours)} clip nets"
    )


BENCHMARKS = (
    Benchmark("startup", script("startup"), says_startup, 1),
    Benchmark(
        "roofline",
        (*script("roofline", "make"), *script("roofline", "time")),
        says_roofline,
        15,
        "benchmarks/roofline.md",
    ),
    Benchmark("choose", (*script("choose", "make"), *script("choose", "time")), says_choose, 20),
    Benchmark("firmware", script("firmware"), says_firmware, None, "docs/firmware.md"),
    Benchmark(
        "firmware_soak",
        script("firmware", "--soak 1000000"),
        lambda found: (
            f"{found['frames']:,} frames through generated C: {found['different']} answers differ, "
            f"{found['mallocs']} mallocs"
        ),
        None,
        "docs/firmware.md",
        by="firmware",
    ),
    Benchmark("models", script("models", "--data {data}"), says_models, None, "docs/models.md"),
    Benchmark("compress", script("compress", "--data {data}"), says_compress, 60, "benchmarks/compress.md"),
    Benchmark(
        "peers",
        (*script("peers", "make --data {data}"), *script("peers", "time")),
        says_peers,
        None,
        "benchmarks/peers.md",
    ),
    Benchmark(
        "live",
        (
            *(
                f"{{edgepv}} export pv-c3d --size {n} --stream window --clips {{data}} --out {{work}}/w{n}"
                for n in (112, 80, 64)
            ),
            "{edgepv} ladder {work}/w112 {work}/w80 {work}/w64 --out {work}/ladder",
            "{python} benchmarks/live.py {work}/ladder --data {data}",
        ),
        says_live,
        35,
        "benchmarks/live.md",
    ),
    Benchmark(
        "detection",
        (),
        says_detection,
        None,
        "",
        "its pictures do not ship and no script makes them, see detection.py",
    ),
    Benchmark(
        "tasks",
        (
            "{edgepv} export pv-seg-nano --target cpu,mobile,jetson --out {work}/seg",
            "{python} benchmarks/tasks.py {work}/seg/cpu {work}/seg/mobile {work}/seg/jetson",
        ),
        says_tasks,
        None,
        "docs/tasks.md",
    ),
    Benchmark("people", (), says_people, None, "", "its videos and pictures do not ship, see people.py"),
    Benchmark("stream", script("stream"), says_stream, None, "benchmarks/stream.md"),
    Benchmark("incremental", script("incremental"), says_incremental, None, "docs/stream.md"),
    Benchmark(
        "stream_tune",
        (
            *script("stream_tune", "r2plus1d_18 --data {data}"),
            *script("stream_tune", "r3d_18 --data {data}"),
            *script("stream_tune", "x3d_s --data {data}"),
        ),
        says_stream_tune,
        None,
        "benchmarks/stream_tune.md",
    ),
    Benchmark("recipes", script("recipes", "--data {data}"), says_recipes, None, "benchmarks/recipes.md"),
    Benchmark("sums", script("sums", "--data {data}"), says_sums, None, "benchmarks/sums.md"),
    Benchmark("fold", script("fold", "--data {data}"), says_fold, None, "benchmarks/fold.md"),
    Benchmark(
        "gate",
        (*script("gate", "--simulate"), *script("gate", "--data {data}")),
        lambda found: (
            f"{len(found['rows'])} settings of {found['repeats']} draws each, "
            f"{len(found['real'])} built-in classifiers"
        ),
        None,
        "benchmarks/gate.md",
    ),
    Benchmark("pairs", script("pairs", "--simulate"), says_pairs, None, "benchmarks/pairs.md"),
    Benchmark("adapt", script("adapt", "--data {data}"), says_adapt, 30, "docs/adapt.md"),
    Benchmark("kept", script("kept", "--data {data} --work {work}"), says_kept, None, "docs/adapt.md"),
    Benchmark("before", script("before", "--data {data}"), says_before, None, "docs/before.md"),
    Benchmark("explain", script("explain", "--data {data}"), says_explain, 10, "docs/explain.md"),
    Benchmark("graph", script("graph", "--data {data}"), says_graph, None, "docs/models.md"),
    Benchmark("odd", script("odd", "--data {data} --natural {natural}"), says_odd, None, "docs/odd.md"),
    Benchmark("track", script("track", "--data {natural}"), says_track, None, "docs/models.md"),
    Benchmark(
        "restore",
        (),
        says_restore,
        None,
        "docs/models.md",
        left="nets that are compared are trained for hours first, see restore.py",
    ),
    Benchmark(
        "particles",
        (
            "{python} -m edgepv.zoo.training.particle --data {natural} --compare --out {work}/compare",
            *script("particles", "--data {natural} --compare {work}/compare"),
        ),
        says_particles,
        None,
        "docs/particles.md",
    ),
    Benchmark("tract_pulse", script("tract_pulse"), says_tract_pulse, None, "docs/stream.md"),
    Benchmark("clip_memory", script("clip_memory"), says_clip_memory),
    Benchmark("jetson_rules", script("jetson_rules"), says_jetson_rules, None, "benchmarks/jetson_rules.md"),
    Benchmark(
        "jetson",
        (),
        says_jetson,
        None,
        "docs/jetson-kit.md",
        "it needs a Jetson and bundles made for it, see jetson.py",
    ),
    Benchmark(
        "fuzz",
        tuple(f"{{python}} benchmarks/fuzz.py --seed {seed} --n 7000" for seed in (0, 3, 4)),
        says_fuzz,
    ),
    Benchmark(
        "fuzz_reader",
        script("fuzz_reader", "--runs 10000000"),
        lambda found: f"{found['inputs']:,} inputs to the readers in C, {found['findings']} findings",
    ),
    Benchmark("arm64", (), says_arm64, None, "", "it needs an arm64 system and its wheels, see arm64.py"),
)


def noted(value: Any, keys: Sequence[str]) -> Iterator[Json]:
    """Every object in a result that has all the keys."""
    if isinstance(value, dict):
        if all(key in value for key in keys):
            yield value
        for one in value.values():
            yield from noted(one, keys)
    elif isinstance(value, list):
        for one in value:
            yield from noted(one, keys)


def commits(found: Json) -> list[str]:
    """ "3bfac1a (2026-11-22)", each commit that a result names."""
    told = {(at.get("date", ""), at["commit"]) for at in noted(found, ["commit"])}
    return [f"{commit} ({date})" if date else commit for date, commit in sorted(told)]


def machines(found: Json) -> list[str]:
    """ "AMD EPYC, avx512_vnni", each machine that a result names."""
    return sorted({f"{d['cpu']}, {sums(d['flags'])}" for d in noted(found, ["cpu", "flags"])})


def loads(found: Json) -> str:
    """ "0.6 to 14.0", the load averages that a result names."""
    values = [d["load"] for d in noted(found, ["cpu", "flags"]) if d.get("load") is not None]
    ends = sorted({f"{v:.1f}" for v in (min(values), max(values))}, key=float) if values else []
    return " to ".join(ends) or "not recorded"


def kept() -> dict[str, Json]:
    """The committed results that are listed here, by name."""
    paths = ((one.name, HERE / f"{one.name}.json") for one in BENCHMARKS)
    return {name: read_json(path) for name, path in paths if path.is_file()}


def page() -> str:
    """RESULTS.md."""
    found, took = kept(), read_json(TOOK) if TOOK.is_file() else {}
    lines = [
        "# Results of the benchmarks",
        "",
        "Made by `make results` from the result files of benchmarks/; `make benchmarks DATA=DIR` makes those "
        "anew, on a quiet machine. Commit, date, CPU (with its instructions that add up INT8) and load are "
        "what each result says of itself. Minutes: as taken by `make benchmarks`, else about what its script "
        "says; not noted where neither is known, which the next run of it ends.",
        "",
        "| benchmark | what it says | commit | CPU | load | minutes | page |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in BENCHMARKS:
        if one.name in found:
            told = (one.says(found[one.name]), *origin(found[one.name]), minutes(one, took), shown(one.page))
            cells = [cell or "not noted" for cell in told]
            lines.append(f"| [{one.name}]({one.by or one.name}.py) | {' | '.join(cells)} |")
    missing = [one.name for one in BENCHMARKS if one.name not in found]
    lines += ["", f"Not measured yet: {', '.join(missing) or 'nothing'}.", ""]
    lines += [f"* Left out of `make benchmarks`: {one.name}, {one.left}." for one in BENCHMARKS if one.left]
    lines += ["", "## Rows where edgepv is not first", "", *(f"* {row}" for row in not_first(found))]
    return "\n".join(lines) + "\n"


def origin(found: Json) -> tuple[str, str, str]:
    """Commit, CPU and load."""
    every = commits(found)
    told = every[0] if len(every) == 1 else f"{len(every)}, last {every[-1]}" if every else "not recorded"
    return told, "; ".join(machines(found)) or "not recorded", loads(found)


def minutes(one: Benchmark, took: Json) -> str:
    """How long it takes."""
    if one.name in took:
        return f"{took[one.name]['minutes']:.0f}, taken"
    return "not noted" if one.minutes is None else f"about {one.minutes}"


def shown(path: str) -> str:
    """A link to a page of the repository."""
    return f"[{path}](../{path})" if path else ""


def not_first(found: dict[str, Json]) -> Iterator[str]:
    """Where something else is better than edgepv's own, of all results that hold it against others."""
    for name, engine, takes in generated(found.get("firmware", {})):
        if takes >= 1:
            yield f"firmware, {name}: generated C takes {takes:.2f} of the CPU time of {engine}"
    for part in ("photographs", "rendered"):
        rows = {
            n: r["delta_avg"]["value"]
            for n, r in found.get("track", {}).get(part, {}).items()
            if isinstance(r, dict)
        }
        if rows and not (best := max(rows, key=lambda n: rows[n])).startswith("pv-track"):
            mine = max(value for n, value in rows.items() if n.startswith("pv-track"))
            yield f"track, {part}: {best} has a delta-avg of {rows[best]:.3f}, the better of ours {mine:.3f}"
    for part in ("x2", "denoise"):
        yield from beaten_restorers(part, found.get("restore", {}).get(part, {}).get("short", {}))
    for row in found.get("live", {}).get("rows", []):
        high = row["against_best_fixed_interval"][1] if row["against_best_fixed_interval"] else 0
        if row["runs"] == "ladder" and high < 0:
            lost = -row["against_best_fixed_points"]
            yield f"live, {row['load']}: the ladder loses {lost:.1f} points to the best fixed variant"
    yield from unsurprised(found.get("odd", {}))
    yield from beaten_particles(found.get("particles", {}))
    yield from peers_page.beaten(found.get("peers", {}))


def unsurprised(found: Json) -> Iterator[str]:
    """Where a plainer score than pv-graph's surprise tells what is odd better."""
    parts = {"fights": found["fights"]["scores"]} if found else {}
    for film, one in found.get("films", {}).items():
        parts |= {f"{film}, {kind}": rows for kind, rows in one["planted"].items()}
    for part, rows in parts.items():
        best = max((name for name in rows if name != "labels"), key=lambda name: rows[name]["auc"])
        if not best.startswith("surprise"):
            ours, theirs = rows["surprise"]["auc"], rows[best]["auc"]
            yield f"odd, {part}: {best} has an AUC of {theirs:.2f}, surprise {ours:.2f}"


def beaten_restorers(part: str, rows: Json) -> Iterator[str]:
    """Clips on which what one would use without a restorer is nearer to the truth than the best of ours."""
    for clip in next(iter(rows.values()))["psnr_of_clips"] if rows else ():
        by = {name: row["psnr_of_clips"][clip] for name, row in rows.items() if clip in row["psnr_of_clips"]}
        best = max(by, key=lambda name: by[name])
        first = max((name for name in by if name.startswith("pv-")), key=lambda name: by[name])
        if not best.startswith("pv-"):
            over = (f"{rows[name]['psnr']['mean']:.1f} dB" for name in (best, first))
            told = f"{best} has {by[best]:.2f} dB, {first} {by[first]:.2f} dB. It is one clip; over all "
            yield f"restore, {part}, {clip}: {told}{' against '.join(over)}."


def beaten_particles(found: Json) -> Iterator[str]:
    """Where others keep more of the picture in as many numbers, or foresee the next frame better."""
    for count, row in found.get("pictures", {}).items():
        psnr = {name: one["psnr"]["mean"] for name, one in row["methods"].items()}
        best = max(psnr, key=lambda name: psnr[name])
        if best in ("autoencoder", "bicubic"):
            told = f"{best} has {psnr[best]:.2f} dB, {count} particles {psnr['particles']:.2f} dB"
            yield f"particles, {row['numbers']} numbers: {told}"
    for other, row in found.get("next", {}).get("messages_over", {}).items():
        if row["psnr"]["mean"] < 0:
            yield f"particles, the next frame: {other} is {-row['psnr']['mean']:.2f} dB nearer"


def is_current(name: str) -> bool:
    """Whether a result names commits, each without changes and of the same code as this checkout."""
    path = HERE / f"{name}.json"
    told = {at["commit"] for at in noted(read_json(path), ["commit"])} if path.is_file() else set()
    return bool(told) and all(not commit.endswith("+") and same_code(commit) for commit in told)


def same_code(commit: str) -> bool:
    """Whether nothing but results, pages and tests differs from a commit."""
    asked = ("git", "-C", str(HERE.parent), "diff", "--quiet", commit, "--", ".", *NO_CODE)
    return subprocess.run(asked, capture_output=True).returncode == 0


def run(one: Benchmark, data: Path | None, natural: Path | None) -> str:
    """Make a result anew; returns what became of it. What was there stays where a step fails."""
    if one.left or not one.steps:
        return f"left: {one.left}"
    if is_current(one.name):
        return "is of this code"
    words = " ".join(one.steps)
    if ("{data}" in words and data is None) or ("{natural}" in words and natural is None):
        return "left: its clips are not given (--data, --natural)"
    path, before = HERE / f"{one.name}.json", HERE / f"{one.name}.json.before"
    if path.is_file() and not before.is_file():
        path.rename(before)  # what is there is left as it is by most scripts; a run that was stopped goes on
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        fill = {
            "python": sys.executable,
            "edgepv": str(Path(sys.executable).with_name("edgepv")),
            "work": work,
        }
        for step in one.steps:
            command = shlex.split(step.format(**fill, data=data, natural=natural))
            if subprocess.run(command, cwd=HERE.parent).returncode:
                return f"failed: {shlex.join(command)}. What it had is {before.name}"
    before.unlink(missing_ok=True)
    took = read_json(TOOK) if TOOK.is_file() else {}
    took[one.name] = {"minutes": round((time.monotonic() - begun) / 60, 1), **now()}
    write_json(TOOK, took)
    return f"{took[one.name]['minutes']} minutes"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the labelled clips and manifest.csv")
    parser.add_argument("--natural", type=Path, help="folder with natural video, see track.py")
    parser.add_argument("--only", action="append", default=[], choices=[one.name for one in BENCHMARKS])
    parser.add_argument("--page", action="store_true", help="only write RESULTS.md")
    args = parser.parse_args(argv)
    code = 0
    data, natural = (path and path.resolve() for path in (args.data, args.natural))
    for one in () if args.page else BENCHMARKS:
        if not args.only or one.name in args.only:
            told = run(one, data, natural)
            code = code or told.startswith("failed")
            print(f"{one.name}: {told}", flush=True)
            write_text(PAGE, page())
    write_text(PAGE, page())
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

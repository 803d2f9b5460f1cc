"""``edgepv search`` and its workers: from a question to files a person can look at."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from edgepv.base.console import Console
from edgepv.base.files import whole_folder, write_json, write_text
from edgepv.base.optional import need
from edgepv.errors import AccuracyGateError, InconclusiveError, UsageError
from edgepv.metrics.pareto import pareto
from edgepv.metrics.stats import counted
from edgepv.search.finals import Result, finish
from edgepv.search.space import command
from edgepv.search.study import Study, opened, shown, told_if_lost
from edgepv.search.trial import SearchRequest, TrialRunner
from edgepv.types import Latency, PairedDrop, decode

SHARE = 0.7
"""Of the time budget for trials; the finalists' whole fine-tuning gets the rest."""


def search(
    question: SearchRequest,
    console: Console,
    *,
    seconds: float,
    trials: int | None = None,
    storage: str | None = None,
) -> tuple[Result, str]:
    """(the answer, name of the study). Workers may join while it runs; a later call goes on where it stopped.

    seconds: for the whole of it. Raises LatencyGateError if nothing answers in time, AccuracyGateError if
    nothing in time keeps the accuracy, DeviceError if the storage is lost.
    """
    ground = TrialRunner(question, console)
    with told_if_lost(storage):
        study = Study(question, ground, storage, console)
        console.say(
            f"study {study.name}: {len(ground.search)} search clips, {len(ground.final)} final clips, "
            f"{len(ground.clips.train)} training clips"
        )
        study.study.set_user_attr("over", False)
        try:
            study.run(seconds=SHARE * seconds, trials=trials)
        finally:
            study.study.set_user_attr("over", True)
        return finish(study, console), study.name


def work(storage: str, name: str | None, clips: str | None, console: Console) -> int:
    """Join a study until its search is over; returns how many trials this worker did.

    clips: where the clips lie on this machine, None for the same place. Raises UsageError if there is no
    such study, or this machine, model or clips differ from the searcher's, DeviceError if the storage is
    lost.
    """
    optuna = need("optuna", extra="compress")
    names = optuna.get_all_study_names(opened(storage))
    attrs = {n: optuna.load_study(study_name=n, storage=opened(storage)).user_attrs for n in names}
    going = [n for n in names if name in (None, n) and "question" in attrs[n] and not attrs[n].get("over")]
    if len(going) != 1:
        raise UsageError(
            f"{shown(storage)} holds {len(going)} studies to join ({', '.join(going[:5]) or 'none'}). "
            "Name one with --study, or start the search first"
        )
    question = decode(SearchRequest, attrs[going[0]]["question"])
    if clips:
        question = replace(question, options=replace(question.options, clips=clips))
    ground = TrialRunner(question, console)
    with told_if_lost(storage):
        study = Study(question, ground, storage, console)
        if study.name != going[0]:
            raise UsageError(
                f"this machine has another model, other clips or another edgepv than study {going[0]}. "
                "Install the same version, and give the same files"
            )
        study.run(seconds=float("inf"), trials=None, over=lambda: bool(study.study.user_attrs.get("over")))
        return study.mine()


def exit_code(result: Result) -> int:
    """The code of a search that ended: 3, 6 or 0.

    3 if the winner surely loses too much on the final clips, 6 if they are too few to tell or a label has
    none; else 0.
    """
    codes = {"pass": 0, "fail": AccuracyGateError.exit_code}
    return codes.get(result.final_drop.verdict, InconclusiveError.exit_code)


def write(result: Result, question: SearchRequest, out: Path, *, force: bool) -> tuple[str, ...]:
    """Write search.json, search.md and pareto.svg into a new folder; returns the export commands to paste."""
    commands = exports(result, question)
    with whole_folder(out, replace=force) as tmp:
        write_json(tmp / "search.json", result)
        picture(result, tmp / "pareto.svg")
        write_text(tmp / "search.md", markdown(result, commands))
    return commands


def exports(result: Result, question: SearchRequest) -> tuple[str, ...]:
    """The command line that makes the winner's bundle, then those of the other finalists."""
    order = [result.winner, *(f for f in result.finalists if f != result.winner)]
    commands = []
    for i, final in enumerate(order):
        candidate = final.found.candidate
        options = candidate.options(question.options, result.native, final.tuned)
        commands.append(command(options, f"bundle-{i + 1}"))
    return tuple(commands)


def drop_text(drop: PairedDrop) -> str:
    """Points lost, with the interval and what would settle it."""
    many = counted(drop.n, drop.groups, "clips")
    text = f"{drop.figures()[0]} points ({drop.interval()}, {many}): {drop.verdict}"
    needed = f"; about {drop.clips_needed} such clips would settle it" if drop.clips_needed else ""
    return text + needed


def _times(latency: Latency) -> str:
    tail = "not measured" if latency.p99_ms is None else f"{latency.p99_ms:.2f}"
    return f"{latency.p50_ms:.2f} / {tail}"


def rows(result: Result) -> list[list[str]]:
    """Finalists as cells: candidate, p50 / p99, against the reference, top-1, lost, methods."""
    table = []
    for final in result.finalists:
        trial = final.found
        faster = result.reference.p50_ms / final.latency.p50_ms
        name = trial.candidate.name + (" (winner)" if final == result.winner else "")
        cells = [name, _times(final.latency), f"x{faster:.2f}", f"{100 * trial.top1:.1f} %"]
        drop = f"{trial.drop.figures()[0]} ({trial.drop.interval()})"
        table.append([*cells, drop, final.methods])
    return table


HEADER = ("finalist", "p50 / p99 ms", "against the reference", "top-1", "points lost", "methods")


def markdown(result: Result, commands: tuple[str, ...]) -> str:
    """The whole answer for a person."""
    before, after = result.final_top1
    lines = [
        f"# Search: {result.model}",
        "",
        f"p{result.percentile} at most {result.latency_ms:g} ms, at most {result.max_drop:g} points lost. "
        f"{len(result.trials)} candidates measured, {len(result.failures)} not, {result.seconds:.0f} s.",
        "",
        "![accuracy against latency](pareto.svg)",
        "",
        f"Finalists, timed in turns on one thread{_chain(result)}, n = {result.reference.n}; reference p50 "
        f"{result.reference.p50_ms:.2f} ms; points lost on the {result.search_clips} search clips:",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(row) + " |" for row in rows(result)),
        "",
        "These clips chose among them, so the figures are flattered a little. Intervals take clips as "
        "independent.",
        "",
        f"On the final clips the winner is right on {100 * after:.1f} %, the original on "
        f"{100 * before:.1f} %; it loses {drop_text(result.final_drop)}.",
        "",
        _looked(result.looks),
        "",
        *(f"    {line}" for line in commands),
        "",
        f"A candidate's p{result.percentile} in ms is {_measure(result)}, the least p50 it had here.",
        "",
        "| candidate | ms | top-1 | points lost |",
        "|---|---|---|---|",
        *(
            f"| {row.name} | {row.ms:.2f} | {100 * row.top1:.1f} % | {row.points:.1f} |"
            for row in sorted(result.trials, key=lambda row: row.ms)
        ),
        *(f"| {name} | {why} | | |" for name, why in result.failures),
    ]
    return "\n".join(lines) + "\n"


def _chain(result: Result) -> str:
    """That times are with what comes before the model, where something does."""
    return f" with {' and '.join(result.before)} before the model" if result.before else ""


def _measure(result: Result) -> str:
    """What a candidate's milliseconds are."""
    return f"ratio to the reference x its {result.reference_ms:.2f} ms"


def _looked(looks: int) -> str:
    if looks == 1:
        return "No winner of this model had been shown these final clips before, by this machine's book."
    return (
        f"{looks} winners have been shown these final clips by now: figures chosen among them are flattered. "
        "Fresh clips would tell."
    )


def picture(result: Result, out: Path) -> None:
    """Accuracy on the search clips against latency: every candidate, the front, the gates, the winner."""
    need("matplotlib", extra="compress").use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    points = [(row.ms, 100 * row.top1) for row in result.trials]
    axes.scatter([x for x, _ in points], [y for _, y in points], 18, "#9aa5b1", label="measured", zorder=2)
    front = [points[i] for i in pareto(points)]
    axes.step([x for x, _ in front], [y for _, y in front], where="post", color="#2563eb", label="front")
    winner = result.winner
    spot = (winner.ms, 100 * winner.found.top1)
    axes.scatter(*spot, 180, "#dc2626", marker="*", label="winner, measured again", zorder=3)
    axes.annotate(winner.found.candidate.name, spot, xytext=(6, -12), textcoords="offset points", fontsize=8)
    axes.axvline(result.latency_ms, ls="--", lw=1, color="#6b7280", label=f"{result.latency_ms:g} ms")
    axes.set(
        xscale="log",
        xlabel=f"p{result.percentile} of one answer on one thread, ms ({_measure(result)})",
        ylabel=f"top-1 on {result.search_clips} search clips, %",
        title=result.model,
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    pyplot.close(figure)


def as_data(result: Result, commands: tuple[str, ...], study: str) -> dict[str, object]:
    """What --json prints."""
    from edgepv.types import encode

    return {"study": study, "result": encode(result), "commands": list(commands)}


def budget(text: str) -> float:
    """Seconds of "90s", "30m", "2h" or a number of minutes. Raises UsageError for anything else."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 60)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"--budget {text}: give a time like 30m, 2h or 90s")
    return seconds

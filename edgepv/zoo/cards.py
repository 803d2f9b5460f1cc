"""Model cards, written only from committed measurements: ``python -m edgepv.zoo.cards``.

For every model that has a result file (cards/NAME.json, written by training) the card NAME.md and the
picture NAME.png of its confusion matrix. Baselines and cross-validation come from their own files; what
is not there is printed "not measured". A card begins with cross-validation by group: it is nearest to what
footage will give that no one trained on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgepv.base.console import tell
from edgepv.base.files import digest, read_json, whole_file, write_text
from edgepv.base.optional import need
from edgepv.errors import EdgepvError, UsageError
from edgepv.metrics.stats import counted
from edgepv.types import Accuracy, decode
from edgepv.zoo import HERE, MODELS, TASKS, cross_validated, full_names, parse
from edgepv.zoo.card_words import SOURCES, USES, WORDS, classes_table, interval, percent

FOLDER = HERE / "cards"
STAGES = ("pretrain", "adapt", "finetune")


GROUPS = {
    "fight": "A group is a camera or source video, told apart by the background.",
    "interact": "A group is a sequence: two people in one set of clothes. They act at two places, both of "
    "which trained.",
    "handwash": "A group is a piece of footage. All footage, of training and test, shows one sink: another "
    "sink was not measured, so expect less there.",
}
"""What clips of a group have in common, and what no group differs in."""


def card(name: str, folder: Path = FOLDER) -> str:
    """The text of one card. Raises UsageError if the model has no result file."""
    model, task = parse(name)
    result = read_json(folder / f"{name}.json")
    row = decode(Accuracy, result["test"]["accuracy"])
    parts = [
        f"# {name}",
        f"{MODELS[model].summary[0].upper()}{MODELS[model].summary[1:]}. "
        f"Task: {task} ({len(TASKS[task])} labels), 10 frames per second, one answer per frame, "
        "16 frames per answer.",
        "## Accuracy",
        crossval(name, folder),
        _headline(row, task, result),
        *_alarm(result),
        classes_table(row),
        f"![confusion matrix]({name}.png)",
        "## Compared with simple methods",
        _comparison(name, model, task, row, folder),
        "## Training",
        _training(result),
        "## Training clips, their source and terms",
        SOURCES[task] + _joint(task),
        "## Intended use and limits",
        "\n\n".join(USES[task]),
    ]
    return "\n\n".join(parts) + "\n"


def chosen(model: str, result: dict[str, Any]) -> str:
    """How the recipe of a classifier was chosen, and whether test scores had been seen."""
    if result["validation"] is not None and not model.startswith("pv-conv"):
        return "The number of epochs had the lowest validation loss. What was tried is in TRIED.md."
    if not model.startswith("pv-conv"):
        return "The number of epochs was fixed beforehand; what else was tried was not kept."
    if result["validation"] is None:
        return (
            "The recipe was fixed, for all tasks, before one of its test scores was seen, and by no "
            "validation loss; test scores of earlier recipes had been seen. What was tried is in TRIED.md."
        )
    return (
        "The recipe is the one of those tried that had the lowest validation loss; test scores of the others "
        "were seen too. What was tried is in TRIED.md."
    )


def _headline(row: Accuracy, task: str, result: dict[str, Any]) -> str:
    hits = sum(row.confusion[i][i] for i in range(len(row.confusion)))
    auc = "not measured" if row.roc_auc is None else f"{row.roc_auc:.3f}"
    f1 = "not measured" if row.macro_f1 is None else f"{row.macro_f1:.3f}"
    return (
        f"On the test split: top-1 **{interval(row)}**, {hits} of {counted(row.n, row.groups, 'clips')}; "
        f"95 % Wilson interval over the groups. {GROUPS[task]} "
        f"Macro F1 {f1}, ROC-AUC {auc} (one against the rest, averaged). "
        "A clip's answer is the mean of the logits after frame 16 and every later one; the whole frame "
        "is resized, there is no cropping. One network, seed "
        f"{result['seed']}. {chosen(result['name'], result)}"
    )


def _alarm(result: dict[str, Any]) -> list[str]:
    """The operating point of an alarm, where training chose one."""
    point = result["test"].get("alarm")
    if point is None:
        return []
    recall, rate = point["recall"], point["per_hour"]
    return [
        f"As an alarm for `{point['label']}`: from a score of **{point['threshold']:g}** on, chosen on the "
        f"validation clips, it sees {percent(recall['value'])} ({100 * recall['low']:.1f} to "
        f"{100 * recall['high']:.1f}) of the test clips that show it. False alarms: {point['false_alarms']} "
        f"in {3600 * point['hours']:.0f} s of test clips that do not, {rate[0]:.0f} an hour "
        f"({rate[1]:.0f} to {rate[2]:.0f}; 95 % Poisson interval). These clips were picked to look "
        "like it; on a quiet camera it was not measured. See `examples/alarm.toml` for how "
        "long a score must hold."
    ]


def _comparison(name: str, model: str, task: str, row: Accuracy, folder: Path) -> str:
    """Every baseline on the same test clips, best first, whoever wins."""
    rows = [(f"**{name}**", row)]
    for other in MODELS:
        path = folder / f"{other}-{task}.json"
        if other != model and path.is_file():
            rows.append((f"{other}-{task}", _measured(read_json(path)["test"])))
    path = folder / "baselines.json"
    table = read_json(path) if path.is_file() else {}
    missing = []
    for kind, words in WORDS.items():
        if task in table.get(kind, {}):
            rows.append((words, _measured(table[kind][task])))
        else:
            missing.append(f"| {words} | not measured | not measured |")
    rows.sort(key=lambda r: -r[1].value)
    lines = ["| method | top-1 | macro F1 |", "|---|---|---|"]
    lines += [f"| {n} | {percent(r.value)} | {r.macro_f1:.3f} |" for n, r in rows]
    return "\n".join(lines + missing) + f"\n\nAll on the same {row.n} test clips. " + _who_wins(rows)


def _measured(data: dict[str, Any]) -> Accuracy:
    return decode(Accuracy, data["accuracy"])


def _who_wins(rows: Sequence[tuple[str, Accuracy]]) -> str:
    mine = next(r for n, r in rows if n.startswith("**"))
    better = [n for n, r in rows if r.value > mine.value]
    if not better:
        return "No method here is ahead of it. So few groups cannot rank what is close."
    return f"Ahead of it here: {'; '.join(better)}. So few groups cannot rank what is close."


def crossval(name: str, folder: Path = FOLDER) -> str:
    """What cross-validation by group gave; that it was not measured where there is no result."""
    data = cross_validated(name, folder)
    if data is None:
        return "Cross-validation by group: not measured. On other footage expect less than what is below."
    each = ", ".join(percent(v) for v in data["per_fold"])
    epochs = " + ".join(map(str, data["epochs"]))
    return (
        f"Cross-validation by group: top-1 **{percent(data['value'])}** of {data['n']} clips in "
        f"{len(data['per_fold'])} folds ({each}), train and test together; every clip is answered by a net "
        "that saw nothing of its group, in the joint pre-training neither. The schedule was shorter than for "
        f"the shipped weights ({epochs} epochs) and fixed; the shipped one was not cross-validated."
    )


def _training(result: dict[str, Any]) -> str:
    clips, recipe = result["clips"], result["recipe"]
    plan = {
        k: " then ".join(f"{n} epochs at {s} px" for n, s in recipe[k]["sizes"]) for k in STAGES if recipe[k]
    }
    adapted = (
        "; then, cropped to the final scale and with still pictures blended over the clips of fight "
        f"and interact, {plan['adapt']}"
        if "adapt" in plan
        else ""
    )
    return "\n".join(
        [
            f"1. Pre-training on {clips['pretrain']} training clips of all three tasks together: "
            f"{plan['pretrain']}{adapted}.",
            *_tuning(result, plan["finetune"]),
            "",
            who_trained(result, " (all parts; the pre-training is shared between the tasks)"),
        ]
    )


def who_trained(result: dict[str, Any], of: str = "") -> str:
    """Seconds, device and version; ``of`` says what the seconds are of."""
    on = result["trained_on"]
    took = "time not measured," if result["seconds"] is None else f"{result['seconds']} s"
    return (
        f"{took} on {on['device']}{of}, torch {on['torch']}. The log of every epoch is in "
        f"`{result['name']}.json`."
    )


def _tuning(result: dict[str, Any], plan: str) -> list[str]:
    """How the trunk was tuned to the task: with validation clips, or for a fixed number of epochs."""
    clips, validation = result["clips"], result["validation"]
    if validation is None:
        return [
            f"2. Fine-tuning on all {clips['refit']} training clips of this task: {plan}, a number fixed "
            "beforehand. No validation: a dozen groups would choose by noise."
        ]
    return [
        f"2. Fine-tuning on {clips['finetune']} clips of this task ({plan}), judged on "
        f"{clips['validation']} validation clips carved out of the training split by group: best "
        f"epoch {result['best_epoch'] + 1}, validation top-1 {percent(validation['top1'])}, loss "
        f"{validation['loss']:.3f}.",
        f"3. The same fine-tuning, stopped at that epoch, on all {clips['refit']} training clips of "
        "the task. These are the shipped weights.",
    ]


def _joint(task: str) -> str:
    others = " and ".join(t for t in TASKS if t != task)
    return f"\n\nPre-training also saw the training clips of {others}; their cards name those sources."


def picture(name: str, path: Path, folder: Path = FOLDER) -> None:
    """Confusion matrix as a small PNG. Its Description holds the digest of the numbers drawn."""
    need("matplotlib", extra="compress")
    from matplotlib.figure import Figure

    row = _measured(read_json(folder / f"{name}.json")["test"])
    labels, n = [c.label for c in row.classes], len(row.classes)
    figure = Figure(figsize=(2.6 + 0.3 * n, 2.2 + 0.3 * n), dpi=80, layout="constrained")
    axes = figure.subplots()
    share = [[v / max(1, sum(line)) for v in line] for line in row.confusion]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(n), labels, fontsize=7)
    axes.set(xlabel="answered", ylabel="true", title=f"{name} (n = {row.n})")
    axes.title.set_fontsize(8)
    for i in range(n):
        for j in range(n):
            ink = "white" if share[i][j] > 0.5 else "black"
            if row.confusion[i][j]:
                axes.text(j, i, str(row.confusion[i][j]), ha="center", va="center", color=ink)
    figure.savefig(path, metadata={"Description": digest(row.confusion), "Software": None})


def text_of(name: str, folder: Path = FOLDER) -> str:
    """The card of any model of the zoo."""
    from edgepv.zoo import cards_of_particles

    classified = MODELS[parse(name)[0]].trainer == "edgepv.zoo.training.classifiers"
    return card(name, folder) if classified else cards_of_particles.card(name, folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the card and picture of every model that has a result file."""
    parser = argparse.ArgumentParser(prog="python -m edgepv.zoo.cards", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of results and cards")
    folder = parser.parse_args(argv).out
    done = [n for n in full_names() if (folder / f"{n}.json").is_file()]
    try:
        if not done:
            raise UsageError(
                f"{folder} holds no result. Train first: python -m edgepv.zoo.training.classifiers"
            )
        for name in done:
            write_text(folder / f"{name}.md", text_of(name, folder))
            if "accuracy" in read_json(folder / f"{name}.json")["test"]:
                with whole_file(folder / f"{name}.png") as tmp:
                    picture(name, tmp, folder)
            print(folder / f"{name}.md")
    except EdgepvError as e:
        tell(f"edgepv: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

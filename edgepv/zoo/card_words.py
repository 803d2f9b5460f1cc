"""Words of the models' cards: where footage comes from, what a model is for, intervals, classes."""

from __future__ import annotations

from edgepv.types import Accuracy

WORDS = {
    "logistic": "logistic regression on colour, edge and motion features",
    "frame_average": "2-D network without time, averaged over frames (64 x 64)",
    "plain_2plus1d": "plain (2+1)D network (16 frames of 64 x 64)",
}

SOURCES = {
    "fight": (
        "CCTV clips from the GitHub repository `seymanurakti/fight-detection-surv-dataset` (commit "
        "`ff83b7c`), which carries an MIT licence file; its README says they were collected from "
        'YouTube. Please cite Aktı, Tataroğlu, Ekenel, "Vision-based Fight Detection from '
        'Surveillance Cameras", IPTA 2019. Train and test share no camera or source video (estimated '
        "from the background)."
    ),
    "interact": (
        "UT-Interaction, segmented sets 1 and 2, from the GitHub repository "
        "`deliangWu/Video-Interaction-Recognition-and-Detection-` (commit `0b70375`). No licence file "
        "was seen: treat the clips as research use only. Train and test share no sequence; a person "
        "may reappear in other clothes."
    ),
    "handwash": (
        "Mock hand-washing videos from the GitHub repository `huiwen99/HandWash` (commit `41787e5`). "
        "No licence file was seen and the terms of the original set were not found: treat the clips "
        "as research use only. One sink; train and test are different takes; whether they show "
        "different people is not known."
    ),
}

USES = {
    "fight": (
        "A first look at CCTV footage: mark stretches that a person should watch.",
        "Not evidence, and never a reason to act on a person without a human looking first. The test "
        "set is small and from public videos; crowds, sports, dancing, night views and cameras unlike "
        "these were not measured.",
    ),
    "interact": (
        "Comparing compression methods on two-person actions seen from the side.",
        "Six acted actions, few actors, two backgrounds: it will not carry over to other scenes "
        "without training on them.",
    ),
    "handwash": (
        "Following the steps of hand washing above the one sink it was trained at.",
        "One sink and one camera: another sink needs its own training clips. It tells steps apart; it "
        'does not judge hygiene. Every frame gets one of 12 steps, there is no "none of these". Most '
        "labels have one or two takes in the test split.",
    ),
}


def interval(row: Accuracy) -> str:
    """ "78.8 % (71.5 to 84.7)"."""
    return f"{100 * row.value:.1f} % ({100 * row.low:.1f} to {100 * row.high:.1f})"


def classes_table(row: Accuracy) -> str:
    """Precision, recall and F1 of every label."""
    lines = ["| label | precision | recall | F1 | clips |", "|---|---|---|---|---|"]
    for c in row.classes:
        cells = [percent(c.precision), percent(c.recall)]
        f1 = "not measured" if c.f1 is None else f"{c.f1:.3f}"
        lines.append(f"| {c.label} | {cells[0]} | {cells[1]} | {f1} | {c.n} |")
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """A share as cards write it."""
    return "not measured" if value is None else f"{100 * value:.1f} %"

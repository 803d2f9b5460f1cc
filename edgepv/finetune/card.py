"""What a person reads of a fine-tuned model: its card, its rows, the command that exports it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from edgepv.finetune.request import FinetuneRequest, FinetuneResult
from edgepv.metrics.stats import counted
from edgepv.model.spec import check_spec
from edgepv.types import Accuracy, ModelSpec, decode, encode

UNJUDGED = (
    "no clip is left to judge on: all of them train or choose the epoch, so `edgepv export` gets none. For "
    "an accuracy on your clips, and for INT8, put some into a folder test/ or give them the split test"
)
"""What is said where no clip is of a split test."""


def relabelled(spec: ModelSpec, labels: Sequence[str], name: str) -> ModelSpec:
    """The same model for other labels; outputs that spell out their logits follow."""
    data = encode(spec) | {"labels": list(labels), "name": re.sub(r"[^\w.-]+", "-", name)}
    for output in data.get("outputs", ()):
        if output["name"] == "logits":
            output["shape"][-1] = len(labels)
    new_spec = decode(ModelSpec, data)
    check_spec(new_spec, new_spec.name)
    return new_spec


def export_command(result: FinetuneResult, request: FinetuneRequest) -> str:
    """What to run next: the export that judges the test clips.

    Without test clips it is given none, and tells no accuracy on any that the model has seen.
    """
    out = Path(request.out)
    files = ["--weights", str(out / "weights.safetensors"), "--spec", str(out / "spec.toml")]
    clips = ["--clips", str(out)] if result.clips[2] else []
    return shlex.join(["edgepv", "export", result.builder, *files, *clips])


def accuracy_text(value: Accuracy | None) -> str:
    """Top-1 in percent with its 95 % interval and the number of clips."""
    if value is None:
        return "not measured"
    spread = "no interval" if value.groups == 1 else f"{100 * value.low:.1f} to {100 * value.high:.1f}"
    return f"{100 * value.value:.1f} % ({spread}, {counted(value.n, value.groups, 'clips')})"


def rows(result: FinetuneResult) -> list[tuple[str, str]]:
    """What a person wants to know, as (what, value)."""
    what = {
        "adapter": f"adapters of rank {result.rank}, norms and head",
        "full": "everything",
        "head": "the head",
    }[result.how]
    share = (
        f"{result.trained:,} numbers, {100 * result.trained / result.total:.0f} % of the model's "
        f"{result.total:,}"
    )
    return [
        ("labels", ", ".join(result.spec.labels)),
        ("trained", f"{what}: {share}"),
        ("clips", "{} training, {} validation, {} test".format(*result.clips)),
        *([("from the field", result.kept)] if result.kept else []),
        ("epoch kept", f"{result.best + 1} of {len(result.epochs)}"),
        ("validation top-1", accuracy_text(result.validation)),
        ("test top-1", accuracy_text(result.test)),
        ("training time", f"{result.seconds / 60:.1f} min"),
    ]


def _origin(request: FinetuneRequest) -> str:
    """The folders of clips, by their names."""
    return " and ".join(f"`{Path(folder).name}`" for folder in (request.data, request.kept) if folder)


def card(result: FinetuneResult, request: FinetuneRequest) -> str:
    """The model card, Markdown."""
    table = "\n".join(f"| {what} | {value} |" for what, value in rows(result))
    if result.validation:
        note = "Validation clips chose the epoch, so their score flatters a little; test clips chose nothing."
    else:
        note = "No clip could be spared for validation, so the last epoch was kept."
    unjudged = "" if result.test else f"{UNJUDGED[0].upper()}{UNJUDGED[1:]}.\n\n"
    return (
        f"# {result.spec.name}\n\n"
        f"Adapted from `{request.model}` (weights {result.base[:16]}) on {_origin(request)}.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"{note} Intervals are 95 % Wilson intervals, over groups of clips where a manifest names them.\n\n"
        f"{unjudged}```sh\n{export_command(result, request)}\n```\n"
    )

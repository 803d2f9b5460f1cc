"""The commands about one model: finetune to one's own labels, explain an answer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands, own_model, seed
from edgepv.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgepv.runtimes.faults import Faults


def add_finetune(commands: Commands) -> None:
    """edgepv finetune"""
    text = "adapt a trained classifier to your own labels, in minutes"
    c = commands.add_parser(
        "finetune",
        help=text,
        description=text,
        epilog="--data is a folder with one sub-folder of clips per label, or with a manifest.csv (columns "
        "path, label, split, group). Clips of a split validation choose the epoch (without one, a fifth of "
        "the groups does), those of a split test are scored once at the end.",
    )
    c.add_argument(
        "model",
        metavar="MODEL",
        help="built-in name (see: edgepv models), file.py:builder, or package.module:builder",
    )
    c.add_argument("--data", metavar="DIR", help="labelled clips")
    c.add_argument(
        "--from-kept",
        metavar="DIR",
        help="folder of --emit clips:DIR: what was moved into a sub-folder called like its true label trains "
        "too, the rest is never used",
    )
    c.add_argument(
        "--labels",
        metavar="A,B,...",
        help="use these labels only (default: all of --data, sorted; without it the model's own)",
    )
    c.add_argument(
        "--adapter",
        action="store_true",
        help="train low-rank adapters, norms and the head; they are merged, so the model stays as fast as it "
        "was (default: train everything)",
    )
    c.add_argument("--head-only", action="store_true", help="train the last layer only")
    c.add_argument("--rank", type=int, default=8, metavar="N", help="of the adapters (default: 8)")
    c.add_argument("--epochs", type=int, default=20, metavar="N", help="(default: 20)")
    c.add_argument("--batch", type=int, default=4, metavar="N", help="clips per step (default: 4)")
    c.add_argument("--learning-rate", type=float, metavar="R", help="(default: by what is trained)")
    c.add_argument(
        "--mirror", action="store_true", help="the labels stay true in a mirror: flip half of the views"
    )
    own_model(c)
    c.add_argument("--seed", type=seed, default=0, help="(default: 0)")
    c.add_argument(
        "--out", metavar="DIR", default="adapted", help="new folder for the result (default: adapted)"
    )
    c.add_argument("--force", action="store_true", help="replace an earlier result")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=finetune_command)


def finetune_command(a: argparse.Namespace) -> int:
    """edgepv finetune"""
    from edgepv.base.console import Console
    from edgepv.cli import show
    from edgepv.finetune import card, run
    from edgepv.finetune.request import FinetuneRequest
    from edgepv.types import encode

    if a.adapter and a.head_only:
        raise UsageError("--adapter trains the head too; give one of --adapter and --head-only")
    request = FinetuneRequest(
        a.model,
        a.data,
        out=a.out,
        how="adapter" if a.adapter else "head" if a.head_only else "full",
        weights=a.weights,
        spec=a.spec,
        kept=a.from_kept,
        labels=tuple(label.strip() for label in a.labels.split(",")) if a.labels else (),
        rank=a.rank,
        epochs=a.epochs,
        batch=a.batch,
        learning_rate=a.learning_rate,
        mirror=a.mirror,
        seed=a.seed,
        force=a.force,
        trust_pickle=a.trust_pickle,
    )
    tuned = run.finetune(request, Console(quiet=a.json))
    if a.json:
        print(json.dumps(encode(tuned), indent=1))
    else:
        show.table(("", a.out), card.rows(tuned))
        say_next(card.export_command(tuned, request))
    return 0


def add_explain(commands: Commands) -> None:
    """edgepv explain"""
    text = "show which places and particles a bundle's answer to a clip rests on, and whether that is true"
    c = commands.add_parser(
        "explain",
        help=text,
        description=text,
        epilog="Every cell of a grid is painted over, and every particle killed, for the whole clip. "
        "Deletion AUC is the area under the label's probability while parts go in order of contribution: "
        "lower is better, and it is held against random orders.",
    )
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip of a classifier")
    c.add_argument("--source", metavar="CLIP", required=True, help="video file")
    c.add_argument("--label", metavar="NAME", help="explain this label (default: the model's answer)")
    c.add_argument("--grid", type=int, default=8, metavar="N", help="cells along a side (default: 8)")
    c.add_argument("--variant", metavar="NAME", help="which variant (default: the one that runs)")
    c.add_argument(
        "--out",
        metavar="FILE",
        default="explain.png",
        help="picture, .png or .svg; the same as .json beside it (default: explain.png)",
    )
    c.add_argument(
        "--rules", metavar="FILE", help="hide in the picture what [redact] of this file names (docs/live.md)"
    )
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=explain_command)


def explain_command(a: argparse.Namespace) -> int:
    """edgepv explain"""
    from edgepv import explain
    from edgepv.base.console import Console
    from edgepv.cli import show
    from edgepv.runtimes.faults import Faults
    from edgepv.types import encode

    faults = Faults()
    explanation = explain.explain_clip(
        Path(a.bundle),
        Path(a.source),
        Path(a.out),
        Console(quiet=a.json),
        label=a.label,
        grid=a.grid,
        variant=a.variant,
        hide=_hider(Path(a.rules), faults) if a.rules else None,
    )
    if raised := faults.error():
        raise raised
    if a.json:
        print(json.dumps(encode(explanation), indent=1))
        return 0
    tell(
        f"{explanation.source}: {explanation.label}, probability {explanation.chance:.3f} "
        f"(answer: {explanation.answer})\n"
    )
    show.table(("part", "which", "logits lost without it"), explain.rows(explanation))
    tell()
    for verdict in explain.verdicts(explanation):
        tell(verdict)
    tell(f"picture and figures: {a.out}, {Path(a.out).with_suffix('.json')}")
    return 0


def _hider(rules: Path, faults: Faults) -> Callable[[np.ndarray], np.ndarray]:
    """What a rules file hides in pictures that leave."""
    from edgepv.device.finders import open_cover
    from edgepv.runtimes.events.rules import read_rules
    from edgepv.runtimes.picture.privacy import averaged

    config = read_rules(rules)
    cover = open_cover(config.cover, None, lambda error: faults.add("cover", error))
    return lambda picture: averaged(cover(picture) if cover else picture, config.redact)

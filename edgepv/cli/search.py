"""The commands that measure what pays: search and widths."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepv.base.console import say_next, tell
from edgepv.base.files import refuse_out
from edgepv.cli.arguments import Commands, own_model, seed
from edgepv.errors import UsageError


def add_search(commands: Commands) -> None:
    """edgepv search"""
    text = "search engine, graph form, width, size and precision together for a latency and an accuracy"
    c = commands.add_parser(
        "search",
        help=text,
        description=text,
        epilog="The held-out clips are halved: one half compares candidates, the winner alone sees the "
        "other. Stop it at any time; the same command goes on. Exit 4: nothing answers in time; 3: nothing "
        "in time is accurate enough; 6: the final clips are too few to tell.",
    )
    c.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="built-in name (see: edgepv models), file.py:builder, or file.onnx",
    )
    c.add_argument("--target", metavar="NAME", default="cpu", help="cpu or mobile (default: cpu)")
    c.add_argument("--latency-ms", type=float, metavar="MS", help="what an answer may take on this machine")
    c.add_argument(
        "--percentile", type=int, choices=(50, 99), default=99, help="of the answers' times (default: 99)"
    )
    c.add_argument(
        "--max-drop", type=float, default=1.0, metavar="POINTS", help="accuracy that may be lost (default: 1)"
    )
    c.add_argument(
        "--budget",
        default="30m",
        metavar="TIME",
        help="for trials and finalists, like 90s, 30m, 2h; what is begun is finished (default: 30m)",
    )
    c.add_argument("--trials", type=int, metavar="N", help="end after N trials (default: when time is up)")
    c.add_argument("--clips", metavar="DIR", help="labelled clips that train, set ranges and judge")
    own_model(c)
    c.add_argument("--precision", metavar="P", default="auto", help="search this one only (default: auto)")
    c.add_argument(
        "--multiple",
        type=int,
        metavar="N",
        help="keep widths multiples of this (default: what edgepv widths measures here)",
    )
    c.add_argument(
        "--tune-epochs",
        type=int,
        default=10,
        metavar="N",
        help="of fine-tuning a changed finalist; a trial gets a fifth of them (default: 10)",
    )
    c.add_argument("--seed", type=seed, default=0, help="(default: 0)")
    c.add_argument(
        "--out", metavar="DIR", default="search", help="new folder for the answer (default: search)"
    )
    c.add_argument("--force", action="store_true", help="replace it")
    c.add_argument(
        "--storage",
        metavar="URL",
        help="database that remembers the trials, sqlite:///FILE or a server's (default: in the cache)",
    )
    c.add_argument("--worker", action="store_true", help="join a search that runs with the same --storage")
    c.add_argument("--study", metavar="NAME", help="which one to join, where the storage holds several")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=search_command)


def add_widths(commands: Commands) -> None:
    """edgepv widths"""
    text = "measure how the time of a convolution grows with its channels, and which multiples pay"
    c = commands.add_parser("widths", help=text, description=text)
    c.add_argument("--target", metavar="NAME", default="cpu", help="cpu or mobile (default: cpu)")
    c.add_argument("--picture", metavar="FILE", help="draw it (.png or .svg)")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=widths_command)


def search_command(a: argparse.Namespace) -> int:
    """edgepv search"""
    from edgepv.base.console import Console
    from edgepv.search import answer

    console = Console(quiet=a.json)
    if a.worker:
        if not a.storage:
            raise UsageError("--worker needs the --storage URL of the search it joins")
        done = answer.work(a.storage, a.study, a.clips, console)
        tell(f"{done} trials done here; the search is over")
        return 0
    seconds = answer.budget(a.budget)
    out = Path(a.out)
    refuse_out(out)
    if out.exists() and not a.force:
        raise UsageError(f"{out} already exists. Choose another --out, or replace it with --force")
    if out.exists() and not (out / "search.json").is_file():
        raise UsageError(f"{out} exists and is no earlier answer; --force replaces those only")
    question = _question(a, console)
    result, study = answer.search(question, console, seconds=seconds, trials=a.trials, storage=a.storage)
    commands = answer.write(result, question, out, force=a.force)
    if a.json:
        print(json.dumps(answer.as_data(result, commands, study), indent=1))
    else:
        _show(result, out)
        say_next(*commands[:3])
    return answer.exit_code(result)


def _question(a: argparse.Namespace, console: Any) -> Any:
    from edgepv.pipeline.options import Options, check_options
    from edgepv.pipeline.source import gather
    from edgepv.search import widths
    from edgepv.search.trial import SearchRequest, classifier
    from edgepv.targets import target

    if not a.model or a.latency_ms is None:
        raise UsageError("search wants a MODEL and --latency-ms MS. See: edgepv search --help")
    counts = (a.tune_epochs, *(n for n in (a.trials, a.multiple) if n is not None))
    if not a.latency_ms > 0 or min(counts) < 1:
        raise UsageError("--latency-ms, --tune-epochs, --trials and --multiple must be above 0")
    options = Options(
        a.model,
        (a.target,),
        out=f"{a.out}-bundle",
        weights=a.weights,
        spec=a.spec,
        clips=a.clips,
        precision=a.precision,
        max_drop=a.max_drop,
        steps={"multiple": a.multiple or 1},
        seed=a.seed,
        force=True,
        trust_pickle=a.trust_pickle,
    )
    check_options(options, [target(a.target)])
    gather(options, classifier(options).spec)
    if a.multiple is None:
        options = replace(options, steps={"multiple": widths.best(a.target, console)})
    short = max(1, round(a.tune_epochs / 5))
    return SearchRequest(options, a.latency_ms, a.percentile, a.tune_epochs, short, a.seed)


def _show(result: Any, out: Path) -> None:
    from edgepv.cli import show
    from edgepv.search import answer

    show.table(answer.HEADER, answer.rows(result))
    tell(f"winner: {result.winner.found.candidate.name}")
    tell(f"on the final clips it loses {answer.drop_text(result.final_drop)}")
    tell(f"picture and table: {out / 'pareto.svg'}, {out / 'search.md'}")


def widths_command(a: argparse.Namespace) -> int:
    """edgepv widths"""
    from edgepv.base.console import Console
    from edgepv.cli import show
    from edgepv.search import widths
    from edgepv.stream.account import check_picture
    from edgepv.types import encode

    if a.picture:
        check_picture(Path(a.picture))
    curves = widths.measured(a.target, Console(quiet=a.json))
    if a.json:
        print(json.dumps(encode(curves), indent=1))
    else:
        show.table(widths.HEADER, widths.rows(curves))
    if a.picture:
        widths.picture(curves, Path(a.picture))
    return 0

"""Adapters against full fine-tuning against a new head alone: minutes and accuracy. Writes adapt.json.

    python benchmarks/adapt.py --data DATA     # about half an hour on one core

pv-conv-nano and pv-conv-small, trained to see fights, learn the six labels of ``interact``; all from the
same weights, clips, views and number of epochs, on one thread. The test split is scored once, at the end. The
trunk of the zoo's models was pretrained on the training clips of all tasks together, these among them: the
task is new for the head and for the weights tuned on fights, the footage is not new to the network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch
from measured_at import now

from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json
from edgepv.base.machine import device_facts
from edgepv.finetune.request import FinetuneRequest, How
from edgepv.finetune.run import finetune
from edgepv.types import encode
from edgepv.zoo import TASKS

RESULT = Path(__file__).parent / "adapt.json"


def one(model: str, how: How, data: Path, epochs: int, seed: int) -> dict[str, Any]:
    """One adaptation and what it cost. cpu_minutes: of this process, decoding and scoring included."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        job = FinetuneRequest(
            model,
            str(data),
            out=f"{scratch}/adapted",
            how=how,
            labels=TASKS["interact"],
            epochs=epochs,
            mirror=True,
            seed=seed,
        )
        made = finetune(job, Console())
    return {
        "model": model,
        "how": how,
        "seed": seed,
        "rank": made.rank,
        "epochs": epochs,
        "trained": made.trained,
        "total": made.total,
        "minutes": made.seconds / 60,
        "cpu_minutes": (time.process_time() - start) / 60,
        "clips": made.clips,
        "best_epoch": made.best + 1,
        "validation": encode(made.validation),
        "test": encode(made.test),
    }


def table(found: dict[str, Any]) -> str:
    """The rows of docs/adapt.md."""
    n = found["runs"][0]["clips"][2]
    head = f"| model | what trains | numbers trained | minutes | of CPU | test top-1 (95 %, {n} clips) |"
    return "\n".join([head, "|---|---|---|---|---|---|", *map(_row, found["runs"])]) + "\n"


def _row(run: dict[str, Any]) -> str:
    what = {"adapter": "`--adapter`", "full": "everything", "head": "`--head-only`"}[run["how"]]
    share = f", {100 * run['trained'] / run['total']:.0f} %" if run["how"] == "adapter" else ""
    test = run["test"]
    return (
        f"| {run['model']} | {what} | {run['trained']:,}{share} | {run['minutes']:.1f} | "
        f"{run['cpu_minutes']:.1f} | {100 * test['value']:.1f} % ({100 * test['low']:.1f} to "
        f"{100 * test['high']:.1f}) |"
    )


def main() -> None:
    """Run what is not in the result yet, writing after each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--models", nargs="+", default=["pv-conv-nano", "pv-conv-small"])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = read_json(a.out)["runs"] if a.out.is_file() else []
    done = {(r["model"], r["how"], r["seed"], r["epochs"]) for r in rows}
    for model in a.models:
        for how in get_args(How):
            if (model, how, a.seed, a.epochs) not in done:
                rows.append(one(model, how, a.data, a.epochs, a.seed))
                write_json(a.out, {"measured_at": now(), "device": encode(device_facts()), "runs": rows})


if __name__ == "__main__":
    main()

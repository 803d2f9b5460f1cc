"""How a trained model enters the zoo: its weights, its row in the index, its result beside the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from edgepv.base.files import read_json, sha256, whole_file, write_json
from edgepv.metrics.stats import mean_accuracy
from edgepv.types import Metric, ModelSpec, encode
from edgepv.zoo.training import parallel


def halve(net: nn.Module) -> None:
    """Round kernels and matrices to half precision, which is how the zoo stores them."""
    for weight in net.parameters():
        if weight.ndim > 1:
            weight.data = weight.data.half().float()


def publish(
    out: Path,
    name: str,
    net: nn.Module,
    builder: str,
    spec: ModelSpec,
    metrics: dict[str, Any],
    result: dict[str, Any],
) -> None:
    """Write weights, index row and result of ``net`` under ``name`` into the folder ``out``.

    Matrices are stored in half precision: ``halve`` the network before it is measured.
    builder: "package.module:function". metrics: the figures that the index repeats. result: everything
    that was measured, from which the card is made. Under torchrun the first process writes, the others do
    nothing.
    """
    if parallel.place()[0] != 0:
        return
    weights = out / "weights" / f"{name}.safetensors"
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    with whole_file(weights) as tmp:
        save_file({k: v.half() if v.ndim > 1 else v for k, v in state.items()}, tmp)
    index_file = out / "weights" / "index.json"
    index = read_json(index_file) if index_file.is_file() else {}
    index[name] = {
        "weights": f"weights/{name}.safetensors",
        "sha256": sha256(weights),
        "builder": builder,
        "spec": encode(spec),
        "metrics": metrics,
    }
    write_json(index_file, dict(sorted(index.items())))
    write_json(out / "cards" / f"{name}.json", result)


def headline(
    values: Sequence[float], metric: Metric, groups: Sequence[str] | None = None
) -> dict[str, object]:
    """What the index repeats of a test: the mean over the clips with its interval, over groups if given."""
    row = mean_accuracy(np.asarray(values, float), metric, groups)
    told: dict[str, object] = {"value": row.value, "low": row.low, "high": row.high, "n": row.n}
    told["metric"] = metric
    return told if groups is None else told | {"groups": row.groups}


def counted(row: dict[str, Any]) -> dict[str, Any]:
    """What the index repeats of a classifier's test, an encoded Accuracy, with how many were right."""
    hits = sum(row["confusion"][i][i] for i in range(len(row["confusion"])))
    return {k: row[k] for k in ("value", "low", "high", "n", "groups")} | {"hits": hits}


def trained_on() -> dict[str, object]:
    """What a training ran on, for its result."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return {"torch": torch.__version__, "device": kind, "threads": torch.get_num_threads()}

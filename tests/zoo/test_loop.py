"""The loop over random batches: what a kill and what several processes must not change."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from edgepv.errors import UsageError
from edgepv.zoo.training.steps import Schedule, fit

STEPS = Schedule(steps=12, lr=0.05, average=0.9, log_every=4, save_every=3)


def loss_of(net: nn.Module, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
    """The net is to double its input."""
    x = torch.from_numpy(rng.standard_normal((8, 3), dtype=np.float32))
    return ((net(x) - 2 * x) ** 2).mean(), {"size": float(x.abs().mean())}


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 3)


def test_the_loss_falls_and_every_row_says_how_long_it_took() -> None:
    _, log = fit(fresh(), loss_of, Schedule(steps=200, lr=0.05, log_every=50), seed=0)
    assert [row["step"] for row in log] == [50, 100, 150, 200]
    assert log[-1]["loss"] < 0.1 * log[0]["loss"]
    assert all(row["seconds"] >= 0 for row in log)


def test_a_killed_run_ends_with_the_same_network(tmp_path: Path) -> None:
    whole, log = fit(fresh(), loss_of, STEPS, seed=3, resume=tmp_path / "whole.pt")

    class KilledError(Exception):
        pass

    def killed(net: nn.Module, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == 8:
            raise KilledError
        return loss_of(net, step, rng)

    with pytest.raises(KilledError):
        fit(fresh(), killed, STEPS, seed=3, resume=tmp_path / "run.pt")
    resumed, again = fit(fresh(), loss_of, STEPS, seed=3, resume=tmp_path / "run.pt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [row["step"] for row in again] == [row["step"] for row in log]


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    def broken(net: nn.Module, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        return loss_of(net, step, rng)[0] * float("nan"), {}

    with pytest.raises(UsageError, match="step 0 .*not finite"):
        fit(fresh(), broken, STEPS, seed=0)


WORKER = """
import sys, numpy as np, torch
from torch import nn
from edgepv.zoo.training import parallel
from edgepv.zoo.training.steps import Schedule, fit

def loss_of(net, step, rng):
    torch.manual_seed(step)
    x = torch.randn(8, 3)                # the same 8 rows everywhere; each process takes its share of them
    rank, world = parallel.place()
    return ((net(x[rank::world]) - 2 * x[rank::world]) ** 2).mean(), {}

torch.manual_seed(int(sys.argv[2]) + parallel.place()[0])
net, _ = fit(nn.Linear(3, 3), loss_of, Schedule(steps=12, lr=0.05, average=0.0), seed=0)
torch.save(net.state_dict(), f"{sys.argv[1]}/{parallel.place()[1]}-{parallel.place()[0]}.pt")
parallel.stop()
"""


@pytest.mark.slow
def test_two_processes_that_share_a_batch_train_what_one_trains_on_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    command = [str(worker), str(tmp_path), "0"]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(worker))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    as_torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen([sys.executable, *command], env={**os.environ, **as_torchrun, "RANK": rank})
        for rank in "01"
    ]
    assert [process.wait(120) for process in workers] == [0, 0]
    found = {p.stem: torch.load(p, weights_only=True) for p in tmp_path.glob("*.pt")}
    assert set(found) == {"1-0", "2-0", "2-1"}
    for name, weight in found["1-0"].items():
        assert torch.equal(found["2-0"][name], found["2-1"][name])
        assert torch.allclose(weight, found["2-0"][name], atol=1e-5)

"""Several processes train one network: ``torchrun --nproc-per-node N -m edgepv.zoo.training.MODEL``.

Each process draws its own batches; gradients are averaged before every step, so all stay the same network.
Without torchrun there is one process and nothing here does anything.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn


def start() -> torch.device:
    """Join the processes torchrun started; the device of this one: a GPU of its own, else the CPU."""
    cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def place() -> tuple[int, int]:
    """(which process this is, of how many)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def stop() -> None:
    """Leave the other processes, when the training is over."""
    if dist.is_initialized():
        dist.destroy_process_group()


def same_start(net: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    if dist.is_initialized():
        for value in net.state_dict().values():
            dist.broadcast(value, 0)


def average_gradients(net: nn.Module) -> None:
    """Replace each gradient by its mean over the processes: data-parallel SGD as DDP does it.

    A weight that a process did not use counts with a gradient of zero.
    """
    if not dist.is_initialized():
        return
    for weight in net.parameters():
        if weight.requires_grad:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            dist.all_reduce(weight.grad)
            weight.grad /= dist.get_world_size()

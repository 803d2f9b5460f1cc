"""How much of a sliding window could be kept from the windows before it, exactly, measured and not derived:

    python benchmarks/incremental.py

An incremental window would compute again only those frames of each layer that differ from an earlier
window's, because the padding at the clip's ends, or a pooling over all of time, reaches them. Each net
answers a window and the windows one to eight frames later, and every frame of every convolution is compared
with the same moment in an earlier window. What is equal to rounding could be kept; the rest, weighted by
multiplications, is the least that a result for every frame would cost, copies not counted. Beside it what
the stream saves (stream.json). Writes incremental.json.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from clipnets import NETS, WIDTH, Net
from measured_at import now
from torch import Tensor, nn

from edgepv.base.files import read_json, write_json

OUT = Path(__file__).resolve().with_suffix(".json")
LONGEST_STRIDE = 8  # frames from one position to the next in the deepest layers of these nets
EQUAL = (
    1e-5  # of the largest value of a layer: sums in another order differ by less, another frame by far more
)
BY_CONVOLUTION = ("c3d", "i3d", "r3d_18", "r2plus1d_18", "mc3_18", "x3d_s", "slowfast", "tsm")
"""The nets of clipnets.py that look ahead and whose work is convolutions."""
CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d


@contextmanager
def recorded(net: nn.Module) -> Iterator[dict[str, tuple[int, Tensor]]]:
    """What each convolution answers: name -> multiplications and (T', values), filled while the net runs.

    A 2-D net over the frames of a clip has them in the batch; its convolutions see every frame by itself.
    """
    seen: dict[str, tuple[int, Tensor]] = {}

    def note(name: str, module: nn.Module, answer: Tensor) -> None:
        assert isinstance(module, CONVOLUTIONS)
        macs = answer.numel() * module.weight[0].numel()
        in_time = answer[0].movedim(1, 0) if answer.dim() == 5 else answer
        seen[name] = macs, in_time.flatten(1)

    hooks = [
        module.register_forward_hook(lambda m, _, answer, name=name: note(name, m, answer))
        for name, module in net.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def answers(net: nn.Module, video: Tensor, frames: int) -> list[dict[str, tuple[int, Tensor]]]:
    """Of the windows that begin at frame 0, 1, ..., what each convolution answers."""
    found = []
    with torch.no_grad(), recorded(net) as seen:
        for start in range(LONGEST_STRIDE + 1):
            net(video[:, :, start : start + frames])
            found.append(dict(seen))
    return found


def kept(windows: list[dict[str, tuple[int, Tensor]]], name: str, frames: int) -> float:
    """Share of a convolution's frames that the latest window of the same phase had already."""
    length = len(windows[0][name][1])
    stride = max(1, round(frames / length))
    if stride > LONGEST_STRIDE or length < 2:
        return 0.0
    old, new = windows[0][name][1], windows[stride][name][1]
    far = (old[1:] - new[:-1]).abs().amax(1)
    return int((far <= EQUAL * old.abs().max()).sum()) / length


def measured(net: Net) -> dict[str, Any]:
    """One net: multiplications of a window, the share that is computed again, and the most that saves."""
    torch.manual_seed(0)
    module = net.build(WIDTH)
    video = torch.randn(1, 3, net.frames + LONGEST_STRIDE, net.size, net.size)
    windows = answers(module, video, net.frames)
    macs = {name: one[0] for name, one in windows[0].items()}
    again = sum(n * (1 - kept(windows, name, net.frames)) for name, n in macs.items())
    return {
        "macs": sum(macs.values()),
        "again": again / sum(macs.values()),
        "saves": sum(macs.values()) / again,
    }


def main() -> int:
    """Command line."""
    streams = read_json(OUT.with_name("stream.json"))["nets"]
    rows = {}
    for net in (net for net in NETS if net.name in BY_CONVOLUTION):
        row = rows[net.name] = measured(net)
        if gflops := streams.get(net.name, {}).get("gflops_frame"):
            row["stream_saves"] = streams[net.name]["gflops_clip"] / gflops
        print(f"{net.name:20} again {row['again']:.2f}, saves {row['saves']:.2f}", flush=True)
    write_json(OUT, {"measured_at": now(), "width": WIDTH, "nets": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())

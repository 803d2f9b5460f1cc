"""A small segmenter that needs no training, and pictures and films whose masks are known."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgepv.types import MaskSpec, ModelSpec, TensorSpec

SIDE = 32
TOML = """
name = "colours"
task = "segmentation"
labels = ["floor", "red", "green"]
fps = 10

[input]
name = "picture"
shape = [1, 3, 32, 32]

[[outputs]]
name = "scores"
shape = [1, 3, 16, 16]

[masks]
background = true
"""


def spec_of(labels: tuple[str, ...] = ("floor", "red", "green"), **more: Any) -> ModelSpec:
    """A segmenter of 32 x 32 px that answers at 16 x 16 places. more: keys of ``[masks]``."""
    return ModelSpec(
        "colours",
        TensorSpec("picture", (1, 3, SIDE, SIDE)),
        labels,
        fps=Fraction(10),
        task="segmentation",
        metric="miou",
        outputs=(TensorSpec("scores", (1, len(labels), SIDE // 2, SIDE // 2)),),
        masks=replace(MaskSpec(background=len(labels) > 1), **more),
    )


class Colours(nn.Module):
    """Says red or green where a cell of 2 px is that, by a margin that rounding does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Conv2d(3, 8, 2, 2)
        self.score = nn.Conv2d(8, 3, 1)
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in (self.cell, self.score):
                layer.weight.copy_(1e-3 * torch.rand(layer.weight.shape, generator=draw))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            for channel in (0, 1):
                self.cell.weight[channel, channel] = 0.25
                self.score.weight[channel + 1, channel, 0, 0] = 4.0
            self.score.bias.copy_(torch.tensor([2.0, 0.0, 0.0]))  # type: ignore[union-attr]

    def forward(self, picture: Tensor) -> Tensor:
        scores: Tensor = self.score(torch.relu(self.cell(picture)))
        return scores


class Lingering(Colours):
    """The same over a clip: it says what the mean of the last three frames shows."""

    def __init__(self) -> None:
        super().__init__()
        self.over_time = nn.Conv3d(3, 3, (3, 1, 1), groups=3, bias=False)
        with torch.no_grad():
            self.over_time.weight.fill_(1 / 3)

    def forward(self, picture: Tensor) -> Tensor:
        return super().forward(self.over_time(picture)[:, :, -1])


def build() -> Colours:
    return Colours()


def lingering() -> Lingering:
    return Lingering()


def files(folder: Path, builder: str = "build", toml: str = TOML) -> tuple[str, Path, Path]:
    """(builder, weights, spec) as a user gives them."""
    save_file(globals()[builder]().state_dict(), folder / "w.safetensors")
    (folder / "spec.toml").write_text(toml)
    return f"{Path(__file__)}:{builder}", folder / "w.safetensors", folder / "spec.toml"


def drawn(rng: np.random.Generator, size: tuple[int, int] = (32, 64)) -> tuple[np.ndarray, np.ndarray]:
    """(a picture (H, W, 3) BGR with red and green squares of 8 px on a dark floor, its mask)."""
    cells = rng.choice([0, 0, 1, 2], (size[0] // 8, size[1] // 8))
    mask = cells.repeat(8, 0).repeat(8, 1).astype(np.uint8)
    picture = np.array([[30, 30, 30], [20, 20, 230], [20, 230, 20]], np.uint8)[mask]
    return picture, mask


def write_png(
    path: Path, mask: np.ndarray, palette: Sequence[tuple[int, int, int]] = (), bits: int = 8
) -> None:
    """An index PNG with a palette, as DAVIS and Pascal VOC have them, or a grey one; of so many bits a px."""
    planes = mask[..., None] >> np.arange(bits)[::-1] & 1
    packed = np.packbits(planes.reshape(len(mask), -1).astype(np.uint8), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], bits, 3 if palette else 0, 0, 0, 0)
    colours = bytes(v for colour in palette for v in colour)
    parts = (
        (b"IHDR", header),
        *([(b"PLTE", colours)] if palette else []),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in parts:
            file.write(
                struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            )


def pictures(folder: Path, count: int = 24) -> Path:
    """A data set of pictures of 64 x 32 px with their masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        picture, mask = drawn(rng)
        cv2.imwrite(str(folder / "images" / f"{number:02}.png"), picture)
        cv2.imwrite(str(folder / "masks" / f"{number:02}.png"), mask)
    return folder


def film(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """A file of ten frames a second, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (frames[0].shape[1], frames[0].shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 10.0, size)
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path

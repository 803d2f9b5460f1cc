"""A detector that needs no training: what is bright in a cell of 8 px is there, and fills it."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SIDE = 64
SPEC = """
name = "bright"
task = "detection"
labels = ["red", "green"]
colour = "rgb"

[input]
name = "picture"
shape = [1, 3, 64, 64]

[[outputs]]
name = "found"
shape = [1, 80, 7]
layout = "NKC"

[boxes]
coding = "grid"
strides = [8, 16]
score = 0.5
"""


class TinyDetector(nn.Module):
    """Coded as YOLOX: boxes in logarithms up to 6 times as large as scores, in one answer with them."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Conv2d(3, 8, 8, 8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.coarse = nn.Conv2d(8, 8, 2, 2)
        fine, rough = nn.Conv2d(8, 7, 1), nn.Conv2d(8, 7, 1)
        self.heads = nn.ModuleList([fine, rough])
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in (self.cell, self.mix, self.coarse, fine, rough):
                layer.weight.copy_(1e-3 * torch.rand(layer.weight.shape, generator=draw))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            for channel in range(3):
                self.cell.weight[channel, channel] = 1 / 64
            for channel in range(8):
                self.mix.weight[channel, channel] = 1.0
                self.coarse.weight[channel, channel] = 0.25
            assert fine.bias is not None and rough.bias is not None
            fine.bias.copy_(torch.tensor([0.5, 0.5, 0.0, 0.0, -4.0, -4.0, -4.0]))
            fine.weight[4, :3, 0, 0] = 8.0
            fine.weight[5, 0, 0, 0] = fine.weight[6, 1, 0, 0] = 8.0
            rough.bias.copy_(torch.tensor([0.0, 0.0, -6.0, -6.0, -6.0, -6.0, -6.0]))

    def forward(self, picture: Tensor) -> Tensor:
        fine = torch.relu(self.mix(torch.relu(self.cell(picture))))
        levels = (fine, self.coarse(fine))
        rows = []
        for x, head in zip(levels, self.heads):
            said = head(x)
            rows.append(torch.cat([said[:, :4], torch.sigmoid(said[:, 4:])], 1).flatten(2))
        return torch.cat(rows, 2).transpose(1, 2)


def build() -> TinyDetector:
    return TinyDetector()


def files(folder: Path) -> tuple[str, Path, Path]:
    """(builder, weights, spec) as a user gives them."""
    save_file(build().state_dict(), folder / "w.safetensors")
    (folder / "spec.toml").write_text(SPEC)
    return f"{Path(__file__)}:build", folder / "w.safetensors", folder / "spec.toml"


def pictures(folder: Path, count: int = 40, seed: int = 0) -> Path:
    """Pictures of 128 x 64 px, squares of red and green in them, and boxes.csv that says where."""
    rng, rows = np.random.default_rng(seed), ["image,cx,cy,w,h,label"]
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        picture = rng.integers(0, 40, (64, 128, 3)).astype(np.uint8)
        for cell in rng.choice(32, int(rng.integers(0, 4)), replace=False):  # 16 px, 8 in the model
            row, column, label = cell // 8, cell % 8, int(rng.integers(0, 2))
            colour = (30, 30, 230) if label == 0 else (30, 230, 30)
            picture[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = colour
            place = f"{(column + 0.5) / 8},{(row + 0.5) / 4},{1 / 8},{1 / 4}"
            rows.append(f"{number:02}.png,{place},{('red', 'green')[label]}")
        cv2.imwrite(str(folder / "images" / f"{number:02}.png"), picture)
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    return folder


def as_yolo(folder: Path, names: tuple[str, ...]) -> Path:
    """The same data set with its boxes as YOLO has them: labels/NAME.txt, and classes.txt."""
    (folder / "labels").mkdir()
    for row in csv.DictReader((folder / "boxes.csv").read_text().splitlines()):
        with (folder / "labels" / row["image"]).with_suffix(".txt").open("a") as file:
            file.write(f"{names.index(row['label'])} {row['cx']} {row['cy']} {row['w']} {row['h']}\n")
    (folder / "boxes.csv").unlink()
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    return folder

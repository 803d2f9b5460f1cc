"""What a number of particles is worth: pictures painted of them, and the next frame foreseen by them.

    python -m edgepv.zoo.training.particle --data DIR
    python -m edgepv.zoo.training.particle --data DIR --compare --out runs/particles
    python benchmarks/particles.py --data DIR --compare runs/particles

Films: the evaluation clips that come with edgepv, one film each camera, and those of DIR that did not train;
whole frames of 128 x 96 at 10 fps, at most 8 of each clip. Figures are means over the films, with a 95 %
bootstrap interval over films; differences are paired by film.

``pictures``: PSNR and SSIM of frames painted of K particles, as numbers K * 17 (position 2, velocity 2,
scale 1, feature 12). Beside them: what the features paint without the generator; patches; an autoencoder of
the same layers with as many values between its halves, trained for that number alone, in half as many steps
as the particles were for all numbers and kinds; and the frame made smaller by area until it has at least as
many values, and larger again bicubically. No number is quantized. ``next``: PSNR of all pixels of a film's
frames 2 to 7 of each clip, each foreseen from the one before: copied; by particles, with and without
messages; and the picture of the expected particles alone. ``long``: PSNR of frames 250 to 299 of car-
detection, and of the same ones started at frame 240. Writes particles.json and docs/particles.png, from
minutes to an hour.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measured_at import now

from edgepv.base.files import read_json, whole_file, write_json
from edgepv.metrics import pictures
from edgepv.model.weights import read_weights
from edgepv.runtimes.picture.drawing import decomposed
from edgepv.zoo import HERE as ZOO
from edgepv.zoo.pv_particle import PvParticle, nano
from edgepv.zoo.training.particle import (
    COUNTS,
    HEIGHT,
    NAME,
    TEST,
    WIDTH,
    Plain,
    foreseen,
    painted,
    read_reel,
    test_films,
    to_clip,
    to_frames,
)  # fmt: skip

OUT = Path(__file__).resolve().with_suffix(".json")
PICTURE = OUT.parents[1] / "docs" / "particles.png"
NUMBERS = 17
"""Of a particle."""
MOST = 8
"""Frames of a clip."""
LONG, BACK, END = 250, 240, 300
SHOWN = ("car-detection.mp4", "fs028", "fs060")
"""Films in the picture: footage whose terms allow that."""

Films = Mapping[str, list[np.ndarray]]
Method = Callable[[np.ndarray], np.ndarray]
"""Frames (T, H, W, 3) uint8 -> what is left of them, float32."""


def trained(path: Path, *, interact: bool = True) -> PvParticle:
    """The network with the weights of a file."""
    net = nano(interact=interact)
    net.load_state_dict(read_weights(path))
    return net.eval().requires_grad_(False)


def of_particles(net: PvParticle, kind: str, count: int, *, generator: bool = True) -> Method:
    """Frames painted of particles of a kind; without the generator, by the features alone."""

    def method(clip: np.ndarray) -> np.ndarray:
        net.use(kind, count)
        return painted(net, clip) if generator else to_frames(net(to_clip(clip))[0])

    return method


def of_plain(path: Path, side: int) -> Method:
    """Frames through a trained autoencoder."""
    net = Plain(side)
    net.load_state_dict(read_weights(path))
    net.eval().requires_grad_(False)
    return lambda clip: to_frames(net(to_clip(clip)))


def small_size(values: int) -> tuple[int, int]:
    """(height, width) of the smallest frame of the same shape with so many values."""
    height = int(np.ceil((values / 3 * HEIGHT / WIDTH) ** 0.5))
    return height, int(np.ceil(values / 3 / height))


def bicubic(values: int) -> Method:
    """Frames made smaller by area to at least so many values, then larger bicubically."""
    height, width = small_size(values)

    def method(clip: np.ndarray) -> np.ndarray:
        small = [
            cv2.resize(f.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_AREA)
            for f in clip
        ]
        return np.stack([cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for f in small])

    return method


def interval(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Mean of films, 95 % bootstrap interval over them, and how many there are."""
    v = np.asarray(values)
    means = v[np.random.default_rng(0).integers(len(v), size=(4000, len(v)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": round(float(v.mean()), digits), "low": round(float(low), digits),
            "high": round(float(high), digits), "films": len(v)}  # fmt: skip


def of_films(films: Films, method: Method) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of every film, of every frame of its clips."""
    found = {}
    for name, clips in films.items():
        pairs = [pair for clip in clips for pair in zip(clip, method(clip), strict=True)]
        found[name] = {
            "psnr": round(float(np.mean([pictures.psnr_db(a, b) for a, b in pairs])), 3),
            "ssim": round(float(np.mean([pictures.ssim(a, b) for a, b in pairs])), 4),
        }
    return found


def pictures_table(films: Films, net: PvParticle, compare: Path, before: dict[str, Any]) -> dict[str, Any]:
    """For each number of particles, every way to keep a picture in as many numbers; ``before`` is kept."""
    table: dict[str, Any] = {}
    for count, methods in ways_of(net, compare).items():
        kept = before.get(str(count), {}).get("methods", {})
        rows = {name: kept.get(name) or summary(of_films(films, way)) for name, way in methods.items()}
        height, width = small_size(count * NUMBERS)
        table[str(count)] = {"numbers": count * NUMBERS, "methods": rows}
        if "particles" in rows:
            others = {name: over(rows["particles"], row) for name, row in rows.items() if name != "particles"}
            table[str(count)] |= {"bicubic_values": 3 * height * width, "particles_over": others}
        print(count, {n: r["psnr"]["mean"] for n, r in rows.items()}, flush=True)
    return table


def ways_of(net: PvParticle, compare: Path) -> dict[int, dict[str, Method]]:
    """The methods of each number of particles; autoencoders as far as they were trained."""
    ways: dict[int, dict[str, Method]] = {1: {"frame": of_particles(net, "frame", 1)}}
    for count, side in zip(COUNTS, (8, 4, 2), strict=True):
        path = compare / f"plain-{count}.safetensors"
        ways[count] = {
            "particles": of_particles(net, "region", count),
            "particles, features alone": of_particles(net, "region", count, generator=False),
            "patches": of_particles(net, "patch", count),
            **({"autoencoder": of_plain(path, side)} if path.is_file() else {}),
            "bicubic": bicubic(count * NUMBERS),
        }
    return ways


def summary(found: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """PSNR and SSIM over the films, and of each."""
    each = {f"{what}_of_films": {name: row[what] for name, row in found.items()} for what in ("psnr", "ssim")}
    return {
        "psnr": interval([row["psnr"] for row in found.values()]),
        "ssim": interval([row["ssim"] for row in found.values()], 4),
        **each,
    }


def over(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How much higher PSNR and SSIM are, film by film."""
    found: dict[str, Any] = {}
    for what, digits in (("psnr", 3), ("ssim", 4)):
        pairs = [
            (mine[f"{what}_of_films"][name], other[f"{what}_of_films"][name])
            for name in other["psnr_of_films"]
        ]
        found[what] = interval([a - b for a, b in pairs], digits)
        if what == "psnr":
            found["films_ahead"] = sum(a > b for a, b in pairs)
    return found


def next_table(films: Films, net: PvParticle, alone: PvParticle) -> dict[str, Any]:
    """How well the next frame is foreseen, by film; differences to copying and to being alone."""
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "the last frame copied": lambda clip: clip[:, :, 1:-1],
        "particles with messages": lambda clip: foreseen(net, clip),
        "particles alone": lambda clip: foreseen(alone, clip),
        "picture of the expected particles": lambda clip: foreseen(net, clip, whole=True),
        "particles of the next frame, known": lambda clip: known(net, clip),
    }
    rows: dict[str, dict[str, float]] = {name: {} for name in ways}
    net.use("region", 48)
    for film, clips in films.items():
        starts = [to_clip(clip) for clip in clips]
        for name, way in ways.items():
            errors = [np.square(way(c).clamp(0, 1).numpy() - c[:, :, 2:].numpy()).mean() for c in starts]
            rows[name][film] = round(float(-10 * np.log10(max(float(np.mean(errors)), 1e-10))), 3)
    found = {name: {"psnr": interval(list(row.values())), "psnr_of_films": row} for name, row in rows.items()}
    messages = rows["particles with messages"]
    others = ("the last frame copied", "particles alone")
    return {"ways": found} | {
        "messages_over": {
            other: {
                "psnr": interval([messages[f] - rows[other][f] for f in messages], 4),
                "films_ahead": sum(messages[f] > rows[other][f] for f in messages),
            }
            for other in others
        }
    }


def known(net: PvParticle, clip: torch.Tensor) -> torch.Tensor:
    """As ``foreseen``, by the next frame's own particles: more than this no forecast can bring."""
    net.use("region", 48)
    crowds = net.follow(clip)[1:]
    shown = [net.paint(c.position, c.scale, c.feature)[1] for c in crowds]
    changes = [after - before for before, after in itertools.pairwise(shown)]
    return clip[:, :, 1:-1] + torch.stack(changes, 2)


def long_run(net: PvParticle, path: Path) -> dict[str, float]:
    """PSNR of late frames of a long run, and of the same ones in a run that began shortly before."""
    net.use("region", 48)
    film = read_reel(path, most=END)
    late, fresh = painted(net, film)[LONG:], painted(net, film[BACK:])[LONG - BACK :]
    both = [[pictures.psnr_db(a, b) for a, b in zip(film[LONG:], got, strict=True)] for got in (late, fresh)]
    return {
        "frames": len(late),
        "psnr": round(float(np.mean(both[0])), 3),
        "psnr_fresh": round(float(np.mean(both[1])), 3),
    }


def table(found: dict[str, Any]) -> str:
    """The table of docs/particles.md."""
    names = ("particles", "particles, features alone", "patches", "autoencoder", "bicubic")
    lines = [
        f"| particles | numbers | {' | '.join(f'{name}: PSNR, SSIM' for name in names)} |",
        "|" + "---|" * (2 + len(names)),
    ]
    for count in map(str, COUNTS):
        one = found["pictures"][count]
        rows = [one["methods"].get(name) for name in names]
        cells = [
            f"{r['psnr']['mean']:.2f} dB, {r['ssim']['mean']:.3f}" if r else "not measured" for r in rows
        ]
        lines.append(f"| {count} | {one['numbers']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown_films(films: Films) -> list[np.ndarray]:
    """A frame in the middle of each film of the picture, with those that lead to it."""
    names = [name for name in SHOWN if name in films] or list(films)[:3]
    return [films[name][0][: len(films[name][0]) // 2 + 1] for name in names]


def draw(found: dict[str, Any], films: Films, net: PvParticle, compare: Path) -> None:
    """The rate-distortion curve, and beside it what is left of three frames."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=80, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.2))
    axes = left.subplots()
    for name in ("particles", "patches", "autoencoder", "bicubic"):
        rows = [found["pictures"][str(c)] for c in COUNTS if name in found["pictures"][str(c)]["methods"]]
        figures = [row["methods"][name]["psnr"] for row in rows]
        numbers = [row["numbers"] for row in rows]
        axes.plot(numbers, [f["mean"] for f in figures], "o-", label=name)
        axes.fill_between(numbers, [f["low"] for f in figures], [f["high"] for f in figures], alpha=0.1)
    axes.set(xscale="log", xlabel="numbers of a frame", ylabel="PSNR, dB (mean and 95 % over films)")
    axes.set_xticks([c * NUMBERS for c in COUNTS], [f"{c * NUMBERS}\n{c} particles" for c in COUNTS])
    axes.minorticks_off()
    axes.legend()
    strip(right, films, net, compare)
    with whole_file(PICTURE) as tmp:
        figure.savefig(tmp, metadata={"Software": None})


def strip(figure: Any, films: Films, net: PvParticle, compare: Path) -> None:
    """Three frames: with 48 particles, painted of 12, 48 and 192, and in 816 numbers otherwise."""
    reels = shown_films(films)
    cells = figure.subplots(len(reels), 6, squeeze=False)
    methods = {
        **{f"{c} particles": of_particles(net, "region", c) for c in COUNTS},
        "autoencoder, 816": ways_of(net, compare)[48]["autoencoder"],
        "bicubic, 816": bicubic(48 * NUMBERS),
    }
    for row, reel in zip(cells, reels, strict=True):
        net.use("region", 48)
        crowd = net.follow(to_clip(reel))[-1]
        shares = torch.tensor([HEIGHT / WIDTH, 1.0])
        parts = crowd.position * shares, crowd.velocity * shares, crowd.scale.unsqueeze(-1)
        frame = reel[-1][..., ::-1]
        seen = decomposed(frame, torch.cat(parts, -1)[0].numpy(), frame.copy())
        row[0].imshow(seen[:, : seen.shape[1] // 2, ::-1])
        for axis, method in zip(row[1:], methods.values(), strict=True):
            axis.imshow(np.clip(method(reel)[-1], 0, 1))
    for axis, name in zip(cells[0], ("frame, 48 particles", *methods), strict=True):
        axis.set_title(name, fontsize=8)
    for axis in cells.flat:
        axis.set_axis_off()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the result, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with natural video")
    parser.add_argument("--compare", type=Path, required=True, help="folder of what --compare trained")
    parser.add_argument("--draw", action="store_true", help="only draw the committed result")
    parser.add_argument("--more", action="store_true", help="keep what was measured; measure what is missing")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    films = test_films(args.data, MOST)
    net = trained(ZOO / "weights" / f"{NAME}.safetensors")
    if not args.draw:
        before = read_json(OUT) if args.more else {}
        alone = trained(args.compare / "alone.safetensors", interact=False)
        with torch.no_grad():
            result = {
                "measured_at": now(),
                "films": {name: sum(map(len, clips)) for name, clips in films.items()},
                "parameters": parameters(net),
                "pictures": pictures_table(films, net, args.compare, before.get("pictures", {})),
                "next": before.get("next") or next_table(films, net, alone),
                "long": before.get("long") or long_run(net, args.data / TEST[0]),
            }
        write_json(OUT, result)
        card = ZOO / "cards" / f"{NAME}.json"
        write_json(card, read_json(card) | {"compared": compared(result)})
    draw(read_json(OUT), films, net, args.compare)
    return 0


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """What the card repeats: how far particles are ahead of the others, or behind."""
    shown = [
        {
            "count": count,
            "numbers": count * NUMBERS,
            "other": name,
            **row["psnr"],
            "films_ahead": row["films_ahead"],
        }
        for name in ("autoencoder", "bicubic")
        for count in COUNTS
        for row in filter(None, [found["pictures"][str(count)]["particles_over"].get(name)])
    ]
    foreseen_rows = [
        {"other": name, **row["psnr"], "films_ahead": row["films_ahead"]}
        for name, row in found["next"]["messages_over"].items()
    ]
    return {"pictures": shown, "next": foreseen_rows}


def parameters(net: PvParticle) -> dict[str, int]:
    """How many weights the nets have; those of the forecast paint no picture."""
    count = {"particles": sum(p.numel() for p in net.parameters())}
    count["forecast"] = sum(p.numel() for p in net.forecast.parameters())
    for particles, side in zip(COUNTS, (8, 4, 2), strict=True):
        count[f"autoencoder-{particles}"] = sum(p.numel() for p in Plain(side).parameters())
    return count


if __name__ == "__main__":
    sys.exit(main())

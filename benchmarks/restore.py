"""How well the restorers of the zoo restore, frame by frame, against what one would use without them:

    python -m edgepv.zoo.training.restore pv-restore-nano-denoise --single --data DIR --out runs/compare
    python -m edgepv.zoo.training.restore pv-restore-nano-x2 --single --data DIR --out runs/compare
    python -m edgepv.zoo.training.restore pv-restore-nano-x2 --gan 0.005 --data DIR --out runs/compare
    python benchmarks/restore.py --data DIR --compare runs/compare

``short``: 20 frames of each test clip: the four of ``SPLIT["test"]`` and twelve windows that drift over the
stills of Set12, which were never compressed. ``long``: 300 frames of car-detection and vtest at half size,
and of city played to and fro. ``drift_db``: PSNR of frames 291 to 300 of a long run, less that of the same
frames when the net starts empty six frames before; below 0 the net gets worse the longer it runs. ``int8``:
PSNR of frames 5 to 20 and of frames 285 to 300 of city, with the memory's arithmetic in float and without.
``shipped``: what the clips that come with the package score with no net, noisy or enlarged bicubically.

Compressed clips are halved before they serve as truth, which leaves some of the marks of compression in it.
Intervals are 95 % bootstraps over clips (short; clips were not trained on) or over frames (drift; frames of
one clip resemble each other, so those are too narrow). Writes restore.json, part by part.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from measured_at import now

from edgepv.base.files import read_json, write_json
from edgepv.base.tasks import TASKS
from edgepv.data import degrade
from edgepv.data.clips import find_clips
from edgepv.data.frames import clean_frames, degraded
from edgepv.export.to_onnx import lower
from edgepv.metrics import pictures
from edgepv.metrics.pictures import psnr_db
from edgepv.model.weights import read_weights
from edgepv.quantize import int8_onnx, int8_openvino
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.stream import Stepper, Tensors
from edgepv.types import Variant
from edgepv.zoo import HERE, INDEX, checkpoint, pv_restore
from edgepv.zoo.pv_restore import Restore
from edgepv.zoo.training.restore import SPLIT, enlarged, middle, read_source, restored, spec_of, spoilt

OUT = Path(__file__).resolve().with_suffix(".json")
SHORT, LONG, BACK = 20, 301, 6
MARKS = (1, 5, 10, 30, 100, 200, 300)
"""Frames, counted from 0, whose figures are shown. PSNR: mean of the frame and two on either side."""

Method = Callable[[np.ndarray], np.ndarray]
"""Given frames (T, h, w, 3) float32 -> restored frames, in order."""
Wanted = Callable[[str], bool]
"""Whether to measure the method of this name."""


@dataclass(frozen=True)
class Where:
    """Folders: natural video and stills; the published nets; the nets they are compared with."""

    data: Path
    zoo: Path
    compare: Path


def of_net(folder: Path, name: str) -> Restore:
    """A trained restorer: NAME of the zoo, or NAME-single or NAME-gan out of ``folder``."""
    base = name.removesuffix("-single").removesuffix("-gan")
    builder = base.removeprefix("pv-restore-").removesuffix("-denoise").replace("-", "_")
    net: Restore = getattr(pv_restore, builder)(recurrent=not name.endswith("-single"))
    net.load_state_dict(read_weights(folder / "weights" / f"{name}.safetensors"))
    return net.eval()


def bilinear(frames: np.ndarray) -> np.ndarray:
    """Twice the height and width, bilinear."""
    size = (2 * frames.shape[2], 2 * frames.shape[1])
    return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_LINEAR) for f in frames])


def nl_means(frames: np.ndarray, luma: float, colour: float) -> np.ndarray:
    """OpenCV's fastNlMeansDenoisingColored on each frame; frames are rounded to 8 bits, as it takes them."""
    eight = np.ascontiguousarray(np.rint(degrade.rounded(frames) * 255).astype(np.uint8))
    clean = [cv2.fastNlMeansDenoisingColored(f[..., ::-1], None, luma, colour, 7, 21) for f in eight]
    return np.stack(clean)[..., ::-1] / 255.0


def tuned_nl_means(data: Path) -> dict[str, float]:
    """Strengths with the best PSNR on three frames of walk, a training clip, out of 25 pairs."""
    walk = next(s for s in SPLIT["train"] if "walk" in s.path)
    clean = read_source(data, walk)[[0, 10, 20], 120:360, 180:540]
    given = spoilt(clean, 1, np.random.default_rng(0))
    pairs = [(float(a), float(b)) for a in (10, 15, 20, 25, 30) for b in (10, 15, 20, 25, 30)]
    luma, colour = max(pairs, key=lambda p: pictures.psnr(clean, nl_means(given, *p)))
    return {"h": luma, "hColor": colour}


def short_clips(data: Path) -> dict[str, np.ndarray]:
    """Clean clips (20, H, W, 3) uint8 by name."""
    found = {Path(s.path).parts[-1 if "." in s.path else 0]: read_source(data, replace(s, frames=SHORT))
             for s in SPLIT["test"]}  # fmt: skip
    found["city.mkv"] = middle(found["city.mkv"], 288, 352)
    for i, path in enumerate(sorted((data / "stills/set12_gray").glob("*.png"))):
        found[f"set12-{path.stem}"] = drifting(np.asarray(cv2.imread(str(path))), i)
    return {name: clip[:, : clip.shape[1] // 4 * 4, : clip.shape[2] // 4 * 4] for name, clip in found.items()}


def drifting(still: np.ndarray, number: int, size: int = 192) -> np.ndarray:
    """A window that moves by whole pixels, 0, 1 or 2 per frame along each axis, bouncing at the edges."""
    room = np.array(still.shape[:2]) - size
    speed = np.array([number % 3, (number // 3) % 3])
    way = np.arange(SHORT)[:, None] * speed
    return np.stack([still[y : y + size, x : x + size] for y, x in room - np.abs(room - way % (2 * room))])


def long_clips(data: Path) -> dict[str, np.ndarray]:
    """Clean clips of 301 frames by name."""
    named = {Path(s.path).name: s for s in SPLIT["test"]}
    found = {n: read_source(data, replace(named[n], frames=LONG)) for n in ("car-detection.mp4", "vtest.avi")}
    city = middle(read_source(data, named["city.mkv"]), 288, 352)
    last = len(city) - 1
    found["city.mkv to and fro"] = city[last - np.abs(last - np.arange(LONG) % (2 * last))]
    return found


def interval(values: Sequence[float], *, digits: int = 3) -> dict[str, float]:
    """Mean, 95 % bootstrap interval, and how many there are."""
    v = np.asarray(values)
    means = v[np.random.default_rng(0).integers(len(v), size=(2000, len(v)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": round(float(v.mean()), digits), "low": round(float(low), digits),
            "high": round(float(high), digits), "n": len(v)}  # fmt: skip


def sharpness(truth: np.ndarray, got: np.ndarray) -> float:
    """Mean |Laplacian| of the restored frames over that of the true ones; 1 is as sharp as the truth."""
    bend = [
        np.mean([np.abs(cv2.Laplacian(np.clip(f, 0, 1).astype(np.float32), cv2.CV_32F)).mean() for f in clip])
        for clip in (degrade.as_float(truth), got)
    ]
    return float(bend[1] / bend[0])


def of_clip(clean: np.ndarray, got: np.ndarray) -> dict[str, float]:
    """Figures of one short clip; SSIM of every fourth frame."""
    return {
        "psnr": float(np.mean([pictures.psnr(a, b) for a, b in zip(clean, got)])),
        "ssim": float(np.mean([pictures.ssim(a, b) for a, b in zip(clean[::4], got[::4])])),
        "flicker": pictures.flicker(clean, got),
        "sharpness": sharpness(clean, got),
    }


def short_table(
    clips: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], methods: Mapping[str, Method]
) -> dict[str, Any]:
    """Per method: figures with their intervals over the clips, PSNR by clip."""
    table: dict[str, Any] = {}
    for name, method in methods.items():
        rows = [of_clip(clean, method(given[clip])) for clip, clean in clips.items()]
        table[name] = {k: interval([row[k] for row in rows], digits=4) for k in rows[0]} | {
            "psnr_of_clips": {clip: round(row["psnr"], 3) for clip, row in zip(clips, rows)},
        }
        print(f"{name}: {table[name]['psnr']}  ssim {table[name]['ssim']['mean']}", flush=True)
    return table


def compare(table: dict[str, Any], names: Sequence[str]) -> None:
    """Add to every row of a short table how much higher its PSNR is than that of ``names``, clip by clip."""
    for row in table.values():
        row["psnr_over"] = {}
        for name in filter(table.__contains__, names):
            base = table[name]["psnr_of_clips"]
            row["psnr_over"][name] = interval([row["psnr_of_clips"][clip] - base[clip] for clip in base])


def long_table(
    clips: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], methods: Mapping[str, Method]
) -> dict[str, Any]:
    """Per method: PSNR and SSIM by frame index, mean over the clips; the drift; the flicker."""
    table: dict[str, Any] = {}
    for name, method in methods.items():
        psnr, ssim, drift, blink = [], [], [], []
        for clip, clean in clips.items():
            got = method(given[clip])
            curve = [pictures.psnr(a, b) for a, b in zip(clean, got)]
            psnr.append(at_marks(curve))
            ssim.append([pictures.ssim(clean[m], got[m]) for m in MARKS])
            drift += [
                curve[t] - pictures.psnr(clean[t], method(given[clip][t - BACK + 1 : t + 1])[-1])
                for t in range(LONG - 10, LONG)
            ]
            blink.append(pictures.flicker(clean, got))
        table[name] = {
            "psnr": by_frame(np.mean(psnr, 0), digits=3),
            "psnr_of_clips": {c: np.round(row, 2).tolist() for c, row in zip(clips, psnr)},
            "ssim": by_frame(np.mean(ssim, 0), digits=4),
            "psnr_300_less_5": round(float(np.mean([row[-1] - row[1] for row in psnr])), 3),
            "drift_db": interval(drift),
            "flicker": round(float(np.mean(blink)), 5),
        }
        print(f"{name}: {table[name]['psnr']}  drift {table[name]['drift_db']}", flush=True)
    return table


def at_marks(curve: Sequence[float]) -> list[float]:
    """Mean of a curve around every mark."""
    return [float(np.mean(curve[max(0, m - 2) : m + 3])) for m in MARKS]


def by_frame(values: np.ndarray, *, digits: int) -> dict[str, float]:
    """Values at the marks, named by them."""
    return {str(mark): round(float(value), digits) for mark, value in zip(MARKS, values)}


def methods_of(names: Sequence[str], where: Where, wanted: Wanted) -> dict[str, Method]:
    """The nets by name; those that only serve to compare come from another folder, and only if there."""
    found: dict[str, Method] = {}
    for name in filter(wanted, names):
        folder = where.compare if name.endswith(("-single", "-gan")) else where.zoo
        if (folder / "weights" / f"{name}.safetensors").is_file():
            found[name] = partial(restored, of_net(folder, name))
        else:
            print(f"no weights of {name} in {folder}: left out", flush=True)
    return found


def denoise(where: Where, wanted: Wanted) -> dict[str, Any]:
    """All tables of the denoisers; nets get plain noise first, then the 8 bits a camera would deliver."""
    names = [f"pv-restore-{n}" for n in ("nano-denoise", "nano-denoise-single", "small-denoise")]
    nets = methods_of(names, where, wanted)
    eight = {f"{name}, 8 bits": partial(on_eight_bits, net) for name, net in nets.items()}
    given: dict[str, Method] = {"as given": lambda x: x} if wanted("as given") else {}
    tuned, means = None, {}
    if wanted("fastNlMeans"):
        tuned = tuned_nl_means(where.data)
        means = {"fastNlMeans": partial(nl_means, luma=tuned["h"], colour=tuned["hColor"])}
    short, long = short_clips(where.data), long_clips(where.data)
    return {
        "sigma": degrade.SIGMA,
        "short": short_table(short, spoilt_all(short, 1), given | means | nets | eight),
        "long": long_table(long, spoilt_all(long, 1), nets),
    } | ({"fastNlMeans": tuned} if tuned else {})


def on_eight_bits(method: Method, frames: np.ndarray) -> np.ndarray:
    """A method on frames that were clipped and rounded first."""
    return method(degrade.rounded(frames))


def spoilt_all(clips: Mapping[str, np.ndarray], up: int) -> dict[str, np.ndarray]:
    """What the methods are given, by clip; the noise of a clip is the same for all of them."""
    return {name: spoilt(c, up, np.random.default_rng((1, i))) for i, (name, c) in enumerate(clips.items())}


def x2(where: Where, wanted: Wanted) -> dict[str, Any]:
    """All tables of the enlargers."""
    names = [f"pv-restore-{n}" for n in ("nano-x2", "nano-x2-single", "small-x2", "nano-x2-gan")]
    nets = methods_of(names, where, wanted)
    plain: dict[str, Method] = {"bicubic": enlarged} if wanted("bicubic") else {}
    other: dict[str, Method] = {"bilinear": bilinear} if wanted("bilinear") else {}
    short, long = short_clips(where.data), long_clips(where.data)
    return {
        "short": short_table(short, spoilt_all(short, 2), plain | other | nets),
        "long": long_table(long, spoilt_all(long, 2), plain | nets),
    }


def int8(where: Where, wanted: Wanted) -> dict[str, Any]:
    """PSNR of the INT8 file for CPUs, early and late in city, against the float file."""
    city = long_clips(where.data)["city.mkv to and fro"]
    rows: dict[str, Any] = {}
    for name in filter(wanted, ("pv-restore-nano-denoise", "pv-restore-nano-x2")):
        net = of_net(where.zoo, name)
        clean = middle(city, 192, 192)
        given = spoilt(clean, net.up, np.random.default_rng(1))
        net.height, net.width = given.shape[1:3]
        with tempfile.TemporaryDirectory() as scratch:
            rows[name] = int8_rows(net, name, feeds_source(where.data, net), clean, given, Path(scratch))
    return rows


def feeds_source(data: Path, net: Restore) -> list[np.ndarray]:
    """Spoilt crops of the training clips, 24 frames each, as large as the frames of the net."""
    rng, clips = np.random.default_rng(2), []
    for source in SPLIT["train"]:
        clean = read_source(data, replace(source, frames=22))
        side = min(192, clean.shape[1] // 4 * 4, clean.shape[2] // 4 * 4)
        tile = np.pad(middle(clean, side, side), ((0, 0), (0, 192 - side), (0, 192 - side), (0, 0)), "wrap")
        clips.append(spoilt(tile, net.up, rng))
    return clips


def int8_rows(
    net: Restore, name: str, clips: Sequence[np.ndarray], clean: np.ndarray, given: np.ndarray, folder: Path
) -> dict[str, Any]:
    """Float, then either tool as it is, then with the arithmetic of the memory in eight bits as well."""
    base = lower(net.requires_grad_(False), spec_of(name, net), folder / "float.onnx")
    feeds = [feed for clip in clips for feed in stepped(base, folder, clip)[1][2::3]]
    rows = {"float": figures(base, folder, clean, given)}
    tools = {"onnxruntime": (int8_onnx, "q.onnx"), "nncf": (int8_openvino, "q.xml")}
    for tool, (module, file) in tools.items():
        eight = module.Step()(base, folder / file, Calibration(folder, feeds, "benchmark"))
        rows[tool] = figures(eight, folder, clean, given)
        with patch.object(module, "blends", lambda *_: []):
            rounded = module.Step()(base, folder / file, Calibration(folder, feeds, "benchmark"))
        rows[f"{tool}, memory too"] = figures(rounded, folder, clean, given)
    print(f"{name} in INT8: {rows}", flush=True)
    return rows


def stepped(variant: Variant, folder: Path, frames: np.ndarray) -> tuple[np.ndarray, list[Tensors]]:
    """(restored frames, what the graph was fed at each step) in the variant's engine."""
    assert variant.stream
    engine = open_engine(variant, folder)
    fed: list[Tensors] = []

    def infer(inputs: Tensors) -> Tensors:
        fed.append({name: value.copy() for name, value in inputs.items()})
        return engine.infer(inputs)

    stepper = Stepper(infer, variant.spec, variant.stream)
    images = [
        stepper.step(np.ascontiguousarray(f.transpose(2, 0, 1)[None]))["image"][0].copy() for f in frames
    ]
    engine.close()
    return np.stack(images).transpose(0, 2, 3, 1), fed


def figures(variant: Variant, folder: Path, clean: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """PSNR of frames 5 to 20 and 285 to 300, mean of the frames."""
    got, _ = stepped(variant, folder, given)
    curve = [pictures.psnr(a, b) for a, b in zip(clean, got)]
    early, late = (round(float(np.mean(part)), 3) for part in (curve[5:21], curve[285:]))
    return {"psnr_5_to_20": early, "psnr_285_to_300": late}


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old tables with the rows that were measured anew."""
    return old | {k: old.get(k, {}) | v if isinstance(v, dict) else v for k, v in new.items()}


def shipped(where: Where, wanted: Wanted) -> dict[str, Any]:
    """PSNR of the clips that `edgepv export` judges a restorer by, as given; all are cut from one film."""
    found = {}
    for name in filter(wanted, sorted(n for n in read_json(INDEX) if n.startswith("pv-restore"))):
        spec = checkpoint(name).spec
        each = []
        for clip in (c for c in find_clips(HERE / "film", ()) if c.split == "evaluation"):
            clean = clean_frames(clip.path, spec)[: TASKS.find("restoration").most_frames]
            given = degrade.as_float(np.stack(degraded(clean, spec)))
            given = enlarged(given) if spec.degrade == "half" else given
            each.append(psnr_db(np.stack(clean), given))
        found[name] = {"clips": len(each), "psnr_given": round(float(np.mean(each)), 3)}
    return found


PARTS: dict[str, Callable[[Where, Wanted], dict[str, Any]]] = {
    "denoise": denoise,
    "x2": x2,
    "int8": int8,
    "shipped": shipped,
}
BASELINES = {
    "denoise": ("as given", "fastNlMeans", "pv-restore-nano-denoise-single"),
    "x2": ("bicubic", "pv-restore-nano-x2-single"),
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with natural video and stills")
    parser.add_argument("--zoo", type=Path, default=HERE, help="folder with weights/ of the published nets")
    parser.add_argument("--compare", type=Path, default=HERE, help="folder with weights/ of the other nets")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="a part; default: all")
    parser.add_argument("--method", action="append", help="measure only this one; other rows stay")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    where = Where(args.data, args.zoo, args.compare)
    for part in args.only or PARTS:
        rows = read_json(args.out) if args.out.is_file() else {}
        fresh = PARTS[part](where, lambda name: not args.method or name in args.method)
        rows[part] = merged(rows.get(part, {}), fresh)
        compare(rows[part].get("short", {}), BASELINES.get(part, ()))
        rows["measured_at"] = rows.get("measured_at", {}) | {part: now()}
        write_json(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

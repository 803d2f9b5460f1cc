"""What a bundle's folder holds: golden answers, the report, the manifest."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgepv import bundle, report
from edgepv.base.files import write_json, write_text
from edgepv.base.machine import proof
from edgepv.base.optional import need
from edgepv.base.tasks import TASKS
from edgepv.bundle.manifest import Content, Measured
from edgepv.data.before import chained
from edgepv.data.calibration import preprocessing
from edgepv.data.clips import Clip
from edgepv.data.frames import at_model_size, hold_last
from edgepv.data.video import open_video, taken
from edgepv.pipeline.prepare import PreparedModel, clip_name
from edgepv.runtimes.engine import on_this_host, open_engine
from edgepv.types import Measurement, ModelSpec, Report, Target, Variant

PROBABILITIES = "probabilities as they are; a clip's answer is their mean over valid frames"
THUMBNAIL = 112


def thumbnails(rows: Sequence[Measurement], clips: Sequence[Clip]) -> dict[str, str]:
    """A small JPEG, base64, of the middle frame of every clip that a row names as one of its worst."""
    worst = [one for row in rows if row.parity for one in row.parity.worst]
    named = {one.clip for one in worst if one.agreement is None or one.agreement < 1}
    cv2 = need("cv2", extra="cpu")
    pictures = {}
    for clip in clips:
        if clip_name(clip) in named:
            frame = _middle(clip.path)
            size = (THUMBNAIL, max(1, round(THUMBNAIL * frame.shape[0] / frame.shape[1])))
            _, data = cv2.imencode(".jpg", cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
            pictures[clip_name(clip)] = base64.b64encode(data.tobytes()).decode("ascii")
    return dict(sorted(pictures.items()))


def _middle(path: Path) -> np.ndarray:
    """The frame in the middle of a video, found by reading it twice; one frame is held at a time."""
    with open_video(path) as video:
        count = sum(1 for _ in video)
    with open_video(path) as video:
        return next(itertools.islice(video, count // 2, None)).pixels


def write_bundle(
    prepared: PreparedModel,
    target: Target,
    folder: Path,
    kept: Sequence[Variant],
    results: Report,
    chosen: Measurement,
    prefer: str,
) -> None:
    """Golden vectors, report and manifest. prefer: what ``chosen`` was chosen by."""
    variants = tuple(replace(v, path=f"models/{v.path}", state_scales={}) for v in kept)
    golden = write_golden(prepared, variants, folder)
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    content = Content(
        name=prepared.lowered.base.spec.name,
        target=target.name,
        spec=prepared.lowered.base.spec,
        stream=prepared.lowered.base.stream,
        preprocessing=preprocessing(prepared.lowered.base.spec),
        postprocessing=_postprocessing(prepared.lowered.base.spec),
        calibration_digest=prepared.ready.calibration.digest if prepared.ready.calibration else None,
        steps=results.steps,
        variants=variants,
        golden=golden,
        files=bundle.digests(folder, files),
    )
    write_json(folder / "measured.json", results)
    write_text(folder / "report.md", report.to_markdown(results))
    write_text(folder / "report.html", report.to_html(results))
    measured = Measured(
        run=chosen.variant,
        status=target.status,
        verdict=chosen.drop.verdict if chosen.drop else "not measured",
        reasons=results.reasons,
        files=bundle.digests(folder, ["measured.json", "report.md", "report.html"]),
        proven={v.name: proof(on_this_host(v).engine) for v in variants},
        prefer=prefer,
        timed_on=(chosen.device,) if chosen.device and chosen.latency else (),
    )
    bundle.write(folder, content, measured)


def _postprocessing(spec: ModelSpec) -> str:
    return PROBABILITIES if spec.scores == "probabilities" else TASKS.find(spec.task).postprocessing


def write_golden(prepared: PreparedModel, variants: Sequence[Variant], folder: Path) -> dict[str, object]:
    """Frames of one held-out clip, and what the converted torch model and each variant answer.

    The frames have the model's size and its chain behind them: OpenCV rounds a few values to another grey
    level on Arm when it resizes, and golden answers are about engines.
    """
    from safetensors.numpy import save

    from edgepv.bundle.golden import all_golden_answers, place_of

    spec = prepared.lowered.base.spec
    with open_video(prepared.golden_clip.path) as video:
        first = itertools.islice(taken(video, spec.fps), prepared.evaluation.warmup + 4)
        small = np.stack([chained(at_model_size(frame.pixels, spec), spec) for frame in first])
    frames = hold_last(small, prepared.evaluation.warmup + 2)
    said = {"torch": all_golden_answers(prepared.model(1), prepared.lowered.base, frames)}
    for variant in variants:
        engine = open_engine(on_this_host(variant), folder)
        said[variant.name] = all_golden_answers(engine, variant, frames)
    tensors = {"frames": frames} | {who: answers[spec.answer.name] for who, answers in said.items()}
    for number in spec.numbers:
        tensors |= {place_of(who, number): answers[number] for who, answers in said.items()}
    (folder / bundle.GOLDEN).write_bytes(save(tensors))
    return {"file": bundle.GOLDEN, "frames": len(frames)}

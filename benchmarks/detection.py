"""What INT8 takes from detectors: AP50 of persons of each way to make it, against the float file.

``python benchmarks/detection.py --data ../shared/data/detect`` reads YOLOX-nano and the built-in person
detector, sets ranges on a quarter of the pictures and judges on the others. Writes detection.json. The
pictures do not ship.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now

from edgepv.base.files import write_json
from edgepv.data.annotated import survey_boxes
from edgepv.data.split import split_clips
from edgepv.data.truth import EvalClip, eval_clip
from edgepv.export.from_onnx import read_onnx
from edgepv.measure.answers import clip_answers
from edgepv.metrics.detection import alike, found_on, rated, telling_rows
from edgepv.metrics.stats import sqnr_db
from edgepv.metrics.tasks import figures, groups_of, task_drop
from edgepv.model.spec import read_spec
from edgepv.pipeline.source import CALIBRATION_CLIPS
from edgepv.quantize import int8_onnx
from edgepv.quantize.step import Calibration, step_named
from edgepv.runtimes.engine import open_engine
from edgepv.types import ModelSpec, Variant, encode
from edgepv.zoo import detector

HERE = Path(__file__).resolve().parent
MAX_DROP = 1.0  # points, as edgepv export has it


def ways() -> dict[str, Callable[[Variant, Path, Calibration], Variant]]:
    """How INT8 may be made, by name."""

    def throughout(given: Variant, out: Path, aid: Calibration) -> Variant:
        plain = replace(given, spec=replace(given.spec, boxes=None))
        return replace(int8_onnx.Step()(plain, out, aid), spec=given.spec)

    nncf = step_named("int8-openvino").of({}, 0)
    return {
        "throughout": throughout,
        "onnxruntime": int8_onnx.Step(),
        "onnxruntime, percentile": int8_onnx.Step((), "percentile"),
        "openvino": lambda given, out, aid: nncf(given, out.with_suffix(".xml"), aid),
    }


def answers(variant: Variant, folder: Path, clips: list[EvalClip], engine: str) -> list[np.ndarray]:
    """What a file answers to the pictures."""
    opened = open_engine(replace(variant, engine=engine), folder)
    try:
        return clip_answers(opened.infer, variant, [c.frames for c in clips])
    finally:
        opened.close()


def measured(file: Path, spec: ModelSpec, data: Path) -> dict[str, Any]:
    """Every way, on one detector."""
    chosen, held_out = split_clips(list(survey_boxes(data).clips), calibration=CALIBRATION_CLIPS)
    shown = [eval_clip(c, spec) for c in held_out]
    feeds = [{spec.input.name: eval_clip(c, spec).frames} for c in chosen]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given, _ = read_onnx(file, spec, folder / "float.onnx")
        aid = Calibration(folder, feeds, "")
        original = answers(given, folder, shown, "onnxruntime")
        before = figures(spec, original, shown, 1)
        table: dict[str, Any] = {}
        for name, make in ways().items():
            variant = make(given, folder / f"{name.replace(', ', '-')}.onnx", aid)
            engine = "openvino" if variant.path.endswith(".xml") else "onnxruntime"
            got = answers(variant, folder, shown, engine)
            drop = task_drop(spec, before, figures(spec, got, shown, 1), MAX_DROP, groups_of(shown))
            both = [np.concatenate([telling_rows(spec, a, b) for a, b in zip(x, original)])
                    for x in (original, got)]  # fmt: skip
            table[name] = {
                "ap50": rated(spec, got, shown, None).value,
                "drop": encode(drop),
                "sqnr_db": sqnr_db(*both),
                "boxes": alike(*(found_on(spec, x, shown, None) for x in (original, got))),
            }
            print(spec.name, name, table[name], flush=True)
        return {"float": encode(rated(spec, original, shown, None)), "int8": table}


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="with images/, models/, persons.csv")
    data = arguments.parse_args().data
    shipped = detector("person-detector")
    assert shipped is not None
    person = read_spec(shipped[1])
    yolox = replace(
        person,
        name="yolox-nano",
        input=replace(person.input, shape=(1, 3, 416, 416)),
        labels=("person", *(f"other {i}" for i in range(1, 80))),
        outputs=(replace(person.answer, shape=(1, 3549, 85)),),
    )
    results = {
        "measured_at": now(),
        "yolox-nano": measured(data / "models" / "yolox_nano_416.onnx", yolox, data),
        "person-detector": measured(shipped[0], person, data),
    }
    write_json(HERE / "detection.json", results)


if __name__ == "__main__":
    main()

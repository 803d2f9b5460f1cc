"""Who is to be covered in pictures that leave is found here: faces by YuNet, persons by a small detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgepv.base.files import sha256
from edgepv.base.optional import present
from edgepv.data.boxes import Detections
from edgepv.model.spec import read_spec
from edgepv.runtimes.picture.cover import Cover, Finder
from edgepv.runtimes.picture.faces import Faces
from edgepv.runtimes.session import open_session
from edgepv.types import ModelSpec, StreamSpec, Variant
from edgepv.zoo import DETECTORS, detector

FACE, PERSON = "face", "person"
FACES = DETECTORS / "yunet_n_dynamic.onnx"
SCORE = 0.2
"""Of a person, lower than for events: a cover too many costs less than one too few."""
PART = 0.65
"""Persons are looked for in the whole picture and, for small ones, in four parts so wide and high."""


def open_cover(
    what: Sequence[str], spec: ModelSpec | None, fault: Callable[[Exception], None], *, threads: int = 1
) -> Cover | None:
    """What covers faces or persons in one camera's pictures; None if nothing is to be covered.

    spec: of the running model, None if its answers do not come with the pictures; where that finds persons,
    its boxes are covered too, and without ONNX Runtime they alone. fault: hears what goes wrong while it
    runs. threads: of the person detector.
    Raises TargetUnavailableError if what finds them is not installed.
    """
    if not what:
        return None
    finders: list[Finder] = [Faces(FACES)] if FACE in what else []
    own = PERSON in what and spec is not None and spec.boxes is not None and PERSON in spec.labels
    alone = own and not present("onnxruntime")
    if PERSON in what and not alone:
        finders.append(Persons(threads))
    return Cover(finders, label=PERSON if own else None, alone=alone, fault=fault)


class Persons:
    """Finds persons in pictures (H, W, 3) uint8 BGR: boxes (N, 4) in shares of the picture."""

    def __init__(self, threads: int = 1) -> None:
        self._session = open_session(_variant(), DETECTORS, threads=threads)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(N, 4) x1, y1, x2, y2; of one person there may be several."""
        height, width = picture.shape[:2]
        tall, wide = max(1, round(PART * height)), max(1, round(PART * width))
        corners = [(x, y) for y in (0, height - tall) for x in (0, width - wide)]
        found = [self.found(picture).boxes]
        for x, y in corners:
            part = np.ascontiguousarray(picture[y : y + tall, x : x + wide])
            place = np.array([x, y, x, y]) + self.found(part).boxes * [wide, tall, wide, tall]
            found.append(place / [width, height, width, height])
        return np.concatenate(found)

    def found(self, picture: np.ndarray) -> Detections:
        """Those in the whole picture, with their scores."""
        found = self._session.step(picture).detections
        assert found is not None, "its spec has [boxes]"
        return found


def _variant() -> Variant:
    """The person detector as a variant of no bundle."""
    shipped = detector("person-detector")
    assert shipped is not None, "it is built in"
    file, spec = shipped[0], read_spec(shipped[1])
    assert spec.boxes is not None, "it is a detector"
    spec = replace(spec, boxes=replace(spec.boxes, score=SCORE))
    names = {spec.input.name: spec.input.name}, {spec.answer.name: spec.answer.name}
    stream = StreamSpec((), warmup=1)
    return Variant(PERSON, "onnxruntime", "fp32", "step", file.name, sha256(file), spec, stream, *names)

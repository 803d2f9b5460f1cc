"""AP is pycocotools', its error is that of repeated draws, and a paired loss is told from none."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from detectors import SIDE, grid_answer, grid_spec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgepv.data.annotated import NONE, TrueBoxes
from edgepv.data.boxes import Detections
from edgepv.data.truth import EvalClip
from edgepv.metrics.detection import Matches, alike, changed_boxes, jackknife, matches, mean_ap
from edgepv.metrics.stats import mean_drop, mean_interval
from edgepv.metrics.tasks import figures, rate, task_drop

SPEC = grid_spec()
EMPTY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def error_of(values: np.ndarray) -> float:
    """Standard error of a mean."""
    return float(values.std(ddof=1)) / len(values) ** 0.5


def drawn(rng: np.random.Generator, crowded: bool = False) -> tuple[Detections, TrueBoxes]:
    """A picture with up to four things, most of them found, not quite where they are, and false boxes."""
    count = int(rng.integers(0, 5))
    corner = rng.uniform(0, 0.7, (count, 2))
    true = np.concatenate([corner, corner + rng.uniform(0.1, 0.3, (count, 2))], 1)
    labels = rng.integers(0, 2, count)
    kept = rng.random(count) < 0.8
    found = (true + rng.normal(0, 0.02, true.shape))[kept]
    false = rng.uniform(0, 0.5, (2, 4)) + np.array([0, 0, 0.5, 0.5])
    scores = np.concatenate([rng.uniform(0.2, 1, len(found)), rng.uniform(0, 0.7, 2)])
    order = np.argsort(-scores)
    detections = Detections(
        np.concatenate([found, false])[order].astype(np.float32),
        scores[order].astype(np.float32),
        np.concatenate([labels[kept], rng.integers(0, 2, 2)])[order],
    )
    crowd = rng.random(count) < (0.2 if crowded else 0)
    return detections, TrueBoxes(true, tuple(SPEC.labels[i] for i in labels), crowd)


def by_pycocotools(pictures: Sequence[tuple[Detections, TrueBoxes]]) -> np.ndarray:
    """AP at ten overlaps as COCOeval.accumulate has it, mean over labels."""
    true: list[dict[str, object]] = []
    said: list[dict[str, object]] = []
    for number, (found, truth) in enumerate(pictures):
        for (x1, y1, x2, y2), name, crowd in zip(truth.boxes, truth.labels, truth.crowd):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            true.append(box | {"id": len(true) + 1, "image_id": number, "iscrowd": int(crowd),
                               "category_id": SPEC.labels.index(name)})  # fmt: skip
        for (x1, y1, x2, y2), score, label in zip(found.boxes, found.scores, found.labels):
            said.append({"image_id": number, "category_id": int(label), "score": float(score),
                         "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": i} for i in range(len(pictures))]
        coco.dataset = {"images": images, "annotations": true, "categories": [{"id": 0}, {"id": 1}]}
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(said), "bbox")
        judge.evaluate()
        judge.accumulate()
    precision: np.ndarray = judge.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, labels; all areas
    return precision.mean((1, 2))


def test_ap_is_that_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    pictures = [drawn(rng, crowded=True) for _ in range(60)]
    table = matches(SPEC, [[found] for found, _ in pictures], [[truth] for _, truth in pictures])
    np.testing.assert_allclose(mean_ap(table, np.ones(60)), by_pycocotools(pictures), atol=1e-12)


def simulated(rng: np.random.Generator, clips: int, quality: float) -> Matches:
    """What was matched of one label, straight away: two true boxes a clip, found with some chance."""
    hit = rng.random((clips, 2)) < quality
    scores = np.where(hit, rng.beta(4, 2, hit.shape), rng.beta(2, 4, hit.shape))
    every = np.tile(hit.ravel(), (10, 1))
    return Matches("x", scores.ravel(), np.repeat(np.arange(clips), 2), every, np.zeros_like(every),
                   np.full(clips, 2.0))  # fmt: skip


def test_the_mean_of_the_figures_is_ap_and_their_error_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(1)
    ap, errors = [], []
    for _ in range(150):
        one = simulated(rng, 40, 0.7)
        values = jackknife([one], 40)
        assert values.mean() == pytest.approx(mean_ap([one], np.ones(40))[0])
        ap.append(values.mean())
        errors.append(error_of(values))
    assert np.mean(errors) == pytest.approx(np.std(ap), rel=0.2)


def test_views_of_a_picture_are_one_picture() -> None:
    """Four views of each as a clip of four frames, or as four clips of one group: the same interval."""
    draw = np.random.default_rng(4)
    real, noise = draw.random((30, 2)) < 0.7, draw.normal(0, 0.1, (2, 30, 4, 2))
    score = np.where(real, 0.7, 0.4)[:, None] + noise[0]
    hit = (real[:, None] & (noise[1] > -0.1)).ravel()
    every = np.tile(hit, (10, 1))

    def clips(of_box: np.ndarray, count: int) -> Matches:
        support = np.bincount(of_box, minlength=count).astype(float)
        return Matches("x", score.ravel(), of_box, every, np.zeros_like(every), support)

    frames = jackknife([clips(np.repeat(np.arange(30), 8), 30)], 30)
    groups = np.repeat(np.arange(30), 4).astype(str).tolist()
    grouped = jackknife([clips(np.repeat(np.arange(120), 2), 120)], 120, groups)
    assert grouped.mean() == pytest.approx(frames.mean())
    np.testing.assert_allclose(mean_interval(grouped, groups), mean_interval(frames))
    assert error_of(grouped) < error_of(frames)  # as if there were four times as many pictures
    alone = jackknife([clips(np.zeros(240, int), 1)], 1)
    assert alone == pytest.approx(frames.mean())


def test_a_paired_loss_is_told_where_each_alone_is_not() -> None:
    """The same boxes but for one in five that was right: a loss that is known better than AP itself."""
    one = simulated(np.random.default_rng(2), 40, 0.7)
    lost = np.flatnonzero(one.hit[0])[::5]
    hit = one.hit.copy()
    hit[:, lost] = False
    before, after = (100 * jackknife([m], 40) for m in (one, replace(one, hit=hit)))
    drop = mean_drop(before, after, max_drop=1.0, unit="points")
    assert drop.points == pytest.approx(before.mean() - after.mean()) and drop.low > 0
    scores = one.scores + np.random.default_rng(3).normal(0, 0.01, one.scores.shape)
    rounded = mean_drop(
        before, 100 * jackknife([replace(one, scores=scores)], 40), max_drop=5.0, unit="points"
    )
    assert rounded.verdict == "pass" and rounded.high - rounded.low < error_of(before)


def test_a_model_is_rated_and_its_loss_is_in_points() -> None:
    true = TrueBoxes(np.array([[12, 20, 28, 52]]) / SIDE, ("dog",), np.zeros(1, bool))
    frames = np.zeros((1, 3, SIDE, SIDE), np.float32)
    clips = [EvalClip(frames, (true,), size=(SIDE, SIDE)) for _ in range(3)]
    clips.append(EvalClip(frames, (NONE,), size=(SIDE, SIDE)))
    right = grid_answer(SPEC, [(20, 36, 16, 32, 1, 0.75)])[None]
    wrong = grid_answer(SPEC, [(50, 20, 16, 32, 1, 0.2)])[None]
    nothing = np.zeros_like(right)
    accuracy = rate(SPEC, [right, right, wrong, nothing], clips, 1)
    assert accuracy.metric == "ap50" and accuracy.value == pytest.approx(67 / 101)
    assert accuracy.ap50_95 == pytest.approx(67 / 101)
    (dog,) = accuracy.classes  # the wrong box is below the spec's score of 0.3
    assert (dog.label, dog.precision, dog.n) == ("dog", 1.0, 3) and dog.recall == pytest.approx(2 / 3)
    before, after = (
        figures(SPEC, answers, clips, 1)
        for answers in ([right, right, right, nothing], [right, right, wrong, nothing])
    )
    drop = task_drop(SPEC, before, after, 1.0)
    assert drop.points == pytest.approx(100 * (1 - 67 / 101)) and drop.unit == "points"


def test_boxes_that_change_on_footage_are_counted_over_films() -> None:
    """Four films; a box in each, and one of them loses it; the others' scores fall by 0.1 on average."""
    clips = [EvalClip(np.zeros((1, 3, SIDE, SIDE), np.float32), None, group=str(i), size=(SIDE, SIDE))
             for i in range(4)]  # fmt: skip

    def said(*scores: float) -> list[np.ndarray]:
        return [grid_answer(SPEC, [(20, 36, 16, 32, 1, s)])[None] for s in scores]

    flips = changed_boxes(SPEC, said(0.9, 0.9, 0.9, 0.9), said(0.8, 0.85, 0.75, 0.1), clips)
    assert flips and (flips.per_1000, flips.changed, flips.n, flips.groups) == (250, 1, 4, 4)
    assert flips.low < 250 < flips.high and flips.surer and flips.surer[0] == pytest.approx(-0.1)
    assert flips.surer[1] < -0.1 < flips.surer[2] and "scores of the others move by -0.100 (" in str(
        flips.drift()
    )
    same = changed_boxes(SPEC, said(0.9, 0.9), said(0.9, 0.9), clips[:2])
    assert (
        same and same.changed == 0 and same.high > 0
    )  # two films do not prove that the next one is the same
    assert changed_boxes(SPEC, said(0.1), said(0.2), clips[:1]) is None  # nothing is said at the spec's 0.3


def test_boxes_are_held_against_boxes() -> None:
    box = np.array([[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.8, 0.8]], np.float32)
    one = Detections(box, np.array([0.9, 0.5], np.float32), np.array([0, 1]))
    other = Detections(box + 0.01, np.array([0.8, 0.5], np.float32), np.array([0, 0]))
    assert alike([[one]], [[one]]) == (1.0, 0.0)
    shared, moved = alike([[one]], [[other]])  # one of two on each side; the other has another label
    assert shared == 0.5 and moved == pytest.approx(0.1)
    assert alike([[EMPTY]], [[EMPTY]]) == (1.0, 0.0) and alike([[one]], [[EMPTY]]) == (0.0, 0.0)

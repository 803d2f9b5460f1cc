"""mIoU is that of a plain confusion matrix, its error the jackknife's; a paired loss is told from none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from segmenters import spec_of

from edgepv.data.truth import EvalClip, Masks
from edgepv.metrics.baselines import baselines
from edgepv.metrics.segmentation import confusions, iou_figures, jackknife, mean_iou, same_places
from edgepv.metrics.stats import mean_drop
from edgepv.metrics.tasks import Pictures, figures, rate, task_drop
from edgepv.pipeline.spoilt import begun

SPEC = spec_of()


def answer(mask: np.ndarray, labels: int = 3) -> np.ndarray:
    """Scores (1, labels, h, w) that say ``mask``."""
    return np.eye(labels, dtype=np.float32)[mask].transpose(2, 0, 1)[None]


def clip(mask: np.ndarray, group: str | None = None) -> EvalClip:
    return EvalClip(np.zeros((1, 3, 32, 32), np.float32), Masks((mask,)), size=mask.shape[:2], group=group)


def noisy(rng: np.random.Generator, mask: np.ndarray, share: float) -> np.ndarray:
    """The mask with so many places said wrongly."""
    return np.where(rng.random(mask.shape) < share, rng.integers(0, 3, mask.shape), mask)


def drawn(rng: np.random.Generator, count: int, share: float) -> tuple[list[np.ndarray], list[EvalClip]]:
    """(answers, clips) of pictures whose hardness differs."""
    masks = [rng.integers(0, 3, (16, 16)).repeat(2, 0).repeat(2, 1).astype(np.uint8) for _ in range(count)]
    said = [noisy(rng, m[::2, ::2], share * rng.uniform(0.2, 1.8)) for m in masks]
    return [answer(s) for s in said], [clip(m) for m in masks]


def test_a_case_that_can_be_counted_by_hand() -> None:
    mask = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    said = np.array([[0, 1, 1, 1], [0, 0, 2, 2]], np.uint8)
    table = confusions(SPEC, [answer(said)], [clip(mask)])[0]
    assert table.tolist() == [[3, 1, 0], [0, 2, 1], [0, 0, 0]]  # the px of 255 counts nowhere
    # floor: 3 shared of 4; red: 2 shared of 4; green has no true px and is not judged
    assert mean_iou(SPEC, table) == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_it_is_that_of_a_plain_confusion_matrix_over_all_pictures() -> None:
    answers, clips = drawn(np.random.default_rng(0), 6, 0.3)
    true = np.concatenate([np.ravel(c.truth.of_frame[0]) for c in clips])  # type: ignore[union-attr, arg-type]
    said = np.concatenate([a[0].argmax(0).repeat(2, 0).repeat(2, 1).ravel() for a in answers])
    shares = []
    for label in range(3):
        one, other = true == label, said == label
        shares.append((one & other).sum() / (one | other).sum())
    row = rate(SPEC, answers, clips, 1)
    assert row.value == pytest.approx(np.mean(shares), abs=1e-12) and row.metric == "miou"
    assert row.low < row.value < row.high
    red = row.classes[1]
    assert (red.label, red.n) == ("red", 6)
    assert red.recall == pytest.approx(((true == 1) & (said == 1)).sum() / (true == 1).sum())
    assert red.precision == pytest.approx(((true == 1) & (said == 1)).sum() / (said == 1).sum())


def test_the_figures_spread_as_miou_does_from_draw_to_draw() -> None:
    rng, values, errors = np.random.default_rng(1), [], []
    for _ in range(60):
        each = iou_figures(SPEC, *drawn(rng, 20, 0.3), 0, 0)
        values.append(each.mean())
        errors.append(each.std(ddof=1) / 20**0.5)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.35)


def test_leaving_a_clip_out_is_what_it_adds() -> None:
    tables = np.array([[[8, 0, 0], [0, 2, 0], [0, 0, 0]], [[4, 4, 0], [2, 6, 0], [0, 0, 0]]])
    whole = [mean_iou(SPEC, table) for table in (tables.sum(0), tables[1], tables[0])]
    apart = jackknife(SPEC, tables)
    assert apart.mean() == pytest.approx(whole[0])
    assert apart[0] - apart[1] == pytest.approx(whole[2] - whole[1])  # (n - 1) of 2 clips is 1


def test_views_of_a_picture_tell_no_more_than_the_picture() -> None:
    answers, clips = drawn(np.random.default_rng(3), 8, 0.3)
    tables = confusions(SPEC, answers, clips)
    twice = jackknife(SPEC, tables.repeat(2, 0), [f"picture {i // 2}" for i in range(16)])
    np.testing.assert_allclose(twice.reshape(8, 2).mean(1), jackknife(SPEC, tables), atol=1e-12)


def test_a_paired_loss_is_known_better_than_its_parts() -> None:
    rng = np.random.default_rng(2)
    before, clips = drawn(rng, 30, 0.3)
    after = [answer(noisy(rng, a[0].argmax(0), 0.02)) for a in before]
    one, other = (figures(SPEC, rows, clips, 1) for rows in (before, after))
    drop = task_drop(SPEC, one, other, 5.0)
    assert drop.verdict == "pass" and drop.unit == "points" and 0 < drop.low < drop.points < 5
    apart = mean_drop(100 * one, 100 * rng.permutation(other), max_drop=5.0, unit="points")
    assert drop.high - drop.low < 0.5 * (apart.high - apart.low)
    same = task_drop(SPEC, one, one, 0.5)
    assert (same.points, same.lost, same.won) == (0.0, 0, 0)


def test_masks_that_are_all_the_same_do_not_prove_that_the_next_is() -> None:
    before, clips = drawn(np.random.default_rng(2), 12, 0.3)
    figure = figures(SPEC, before, clips, 1)
    drop = task_drop(SPEC, figure, figure, 1.0)
    assert (drop.points, drop.verdict) == (0.0, "inconclusive") and drop.high > 20  # 12 clips: t^2 / 12


def test_what_loses_just_what_is_allowed_seldom_passes_where_few_clips_lose_most() -> None:
    """Losses of clips spread over two orders of size; the interval holds the truth, Student's does not."""
    draw, found = np.random.default_rng(3), []
    for _ in range(500):
        loss = 0.01 * np.exp(1.3 * draw.normal(size=40) - 1.3**2 / 2)
        after, before = np.zeros(40), loss
        drop = task_drop(SPEC, before, after, 1.0)
        plain = mean_drop(100 * before, 100 * after, max_drop=1.0, unit="points")
        found.append([drop.low <= 1 <= drop.high, drop.verdict == "pass", plain.verdict == "pass"])
    held, ours, students = np.mean(found, 0)
    assert held >= 0.93 and ours <= 0.03 < 0.08 < students


def test_frames_before_the_warm_up_and_without_a_mask_are_not_judged() -> None:
    right, wrong = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    truth = Masks((right, None, right, right))
    film = EvalClip(np.zeros((4, 3, 32, 32), np.float32), truth, size=(4, 4))
    rows = np.concatenate([answer(m) for m in (wrong, wrong, right, wrong)])
    assert confusions(SPEC, [rows], [film], first=2)[0].tolist()[0] == [16, 16, 0]
    late = np.concatenate([answer(m) for m in (wrong, right, wrong, wrong)])
    assert confusions(SPEC, [late], [film], late=1)[0].tolist()[0] == [16, 16, 0]  # frame 3 has no answer yet


def test_a_picture_that_is_held_for_a_warm_up_is_judged_by_the_last_answer() -> None:
    mask = np.ones((4, 4), np.uint8)
    rows = np.concatenate([answer(m) for m in (mask * 0, mask * 0, mask)])
    assert confusions(SPEC, [rows], [clip(mask)], first=2)[0][1, 1] == 16


def test_a_mask_from_before_the_warm_up_is_not_held_against_a_later_answer() -> None:
    mask = np.ones((4, 4), np.uint8)
    film = EvalClip(np.zeros((4, 3, 32, 32), np.float32), Masks((mask, None, None, None)), size=(4, 4))
    rows = np.concatenate([answer(mask)] * 4)
    assert not confusions(SPEC, [rows], [film], first=2).any()  # frame 0 is seen too early, 3 has no mask


def test_clips_that_are_spoilt_keep_the_frames_that_have_masks() -> None:
    mask = np.zeros((4, 4), np.uint8)
    film = EvalClip(np.zeros((32, 3, 32, 32), np.float32), Masks((*[None] * 31, mask)), size=(4, 4))
    short = begun(film, 20)
    assert confusions(SPEC, [np.concatenate([answer(mask)] * len(short.frames))], [short])[0, 0, 0] == 16


def test_of_one_label_the_rest_is_nothing_and_the_label_alone_is_judged() -> None:
    spec = replace(spec_of(("car",)), masks=None)
    mask = np.array([[1, 1], [0, 0]], np.uint8)
    rows = np.array([[[[2.0, -2.0], [2.0, -2.0]]]], np.float32)
    assert mean_iou(spec, confusions(spec, [rows], [clip(mask)])[0]) == pytest.approx(1 / 3)


def test_the_baseline_says_one_label_everywhere() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[:2] = 1
    mask[0, 0] = 2
    clips = [clip(mask), clip(np.zeros((4, 4), np.uint8))]
    (row,) = baselines(SPEC, clips, Pictures(0, 0, 0))
    assert row.accuracy.value == pytest.approx(24 / 32 / 3) and row.told.startswith("floor everywhere")


@pytest.mark.parametrize("score", [0.5, 0.9])
def test_the_baseline_of_one_label_says_it_whatever_score_it_wants(score: float) -> None:
    spec, mask = spec_of(("car",), score=score), np.ones((4, 4), np.uint8)
    (row,) = baselines(spec, [clip(mask), clip(mask)], Pictures(0, 0, 0))
    assert row.told.startswith("car everywhere") and row.accuracy.value == 1.0


def test_parity_counts_places_that_say_the_same() -> None:
    one, other = (np.array([[0, 1], [2, 0]], np.uint8), np.array([[0, 1], [1, 0]], np.uint8))
    assert same_places(SPEC, [answer(one)], [answer(other)]) == 0.75

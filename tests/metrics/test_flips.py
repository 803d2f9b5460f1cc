"""Answers that change on video without labels: by hand, against counting, and against known truth."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.metrics.flips import flips_per_1000

RNG = np.random.default_rng
FRAMES = 16


def footage(rng: np.random.Generator, clips: int, labels: int, db: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (clips * FRAMES, labels) of an original and of a variant; frames of a clip are alike."""
    scene, drift = rng.normal(size=(clips, 1, labels)), rng.normal(size=(clips, FRAMES, labels))
    scene[..., 0] += 1.8 * rng.choice([-1, 1], clips)[:, None]
    logits = scene + 0.5 * drift
    noise = rng.normal(size=(clips, 1, labels)) + rng.standard_t(6, logits.shape) / np.sqrt(1.5)
    changed = logits + np.sqrt(0.5) * np.sqrt((logits**2).mean()) * 10 ** (-db / 20) * noise
    return logits.reshape(-1, labels), changed.reshape(-1, labels)


def clips_of(count: int) -> list[str]:
    return [str(k) for k in np.repeat(np.arange(count), FRAMES)]


def test_equal_answers_never_flip() -> None:
    original, _ = footage(RNG(0), 40, 2, 25)
    found = flips_per_1000(original, original.copy(), clips_of(40))
    assert (found.per_1000, found.low, found.high, found.changed, found.why) == (0, 0, 0, 0, None)
    assert found.counted[2] > 1 and found.n == 40 * FRAMES and found.groups == 40


def test_a_shift_flips_the_answers_that_stand_at_the_border() -> None:
    side = RNG(1).normal(0.0, 1.6, 40_000)
    original = np.stack([side / 2, -side / 2], 1)
    clips = [str(n // 10) for n in range(40_000)]
    found = flips_per_1000(original, original + np.array([-0.03, 0.03]), clips)
    expected = 1000 * 0.06 / (1.6 * np.sqrt(2 * np.pi))
    assert found.per_1000 == pytest.approx(expected, rel=0.06)
    assert found.low < expected < found.high


def test_its_interval_is_narrower_than_that_of_counting() -> None:
    found = flips_per_1000(*footage(RNG(2), 60, 2, 30), clips_of(60))
    assert found.why is None
    assert found.high - found.low < 0.8 * (found.counted[2] - found.counted[1])


def test_one_clip_tells_no_interval() -> None:
    found = flips_per_1000(*footage(RNG(3), 1, 2, 20), clips_of(1))
    assert found.low == found.per_1000 == found.high == found.counted[0] and found.why
    assert "no interval" in found.told()


def test_changes_as_large_as_the_margins_are_counted() -> None:
    found = flips_per_1000(*footage(RNG(4), 60, 3, 0), clips_of(60))
    assert found.why and "large" in found.why and (found.per_1000, found.low, found.high) == found.counted


@pytest.mark.parametrize("labels", [2, 5])
def test_its_interval_holds_the_truth_as_often_as_it_says(labels: int) -> None:
    original, changed = footage(RNG(5), 20_000, labels, 20)
    truth = 1000 * float(np.mean(original.argmax(1) != changed.argmax(1)))
    rng, runs = RNG(6), 100
    found = [flips_per_1000(*footage(rng, 52, labels, 20), clips_of(52)) for _ in range(runs)]
    assert sum(one.low <= truth <= one.high for one in found) / runs >= 0.9
    assert np.mean([one.per_1000 for one in found]) == pytest.approx(truth, rel=0.1)

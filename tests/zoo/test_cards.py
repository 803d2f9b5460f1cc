"""Cards hold what the result files hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import ROOT

from edgepv import zoo
from edgepv.base.files import digest, read_json, write_json
from edgepv.errors import UsageError
from edgepv.zoo import cards

NAMES = sorted(read_json(zoo.INDEX))
DRAWN = [n for n in NAMES if "accuracy" in read_json(cards.FOLDER / f"{n}.json")["test"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_exactly_what_its_results_give(name: str) -> None:
    assert (cards.FOLDER / f"{name}.md").read_text(encoding="utf-8") == cards.text_of(name)


@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_was_drawn_from_the_same_confusion_matrix(name: str) -> None:
    image = pytest.importorskip("PIL.Image").open(cards.FOLDER / f"{name}.png")
    matrix = read_json(cards.FOLDER / f"{name}.json")["test"]["accuracy"]["confusion"]
    assert image.text["Description"] == digest(matrix)
    assert (cards.FOLDER / f"{name}.png").stat().st_size < 40_000


def test_a_changed_result_changes_the_card(tmp_path: Path) -> None:
    result = read_json(cards.FOLDER / "pv-conv-small-fight.json")
    result["test"]["accuracy"]["value"] = 0.5
    write_json(tmp_path / "pv-conv-small-fight.json", result)
    text = cards.card("pv-conv-small-fight", tmp_path)
    assert "**50.0 %" in text
    assert text.count("not measured") >= 3
    assert "Cross-validation by group: not measured." in text


def test_a_card_does_not_say_that_a_validation_loss_chose_what_none_chose() -> None:
    fight, handwash = (cards.card(f"pv-conv-small-{task}") for task in ("fight", "handwash"))
    assert "the lowest validation loss" in fight
    assert "by no validation loss" in handwash and "the lowest" not in handwash


def test_a_card_begins_with_cross_validation_and_names_what_no_group_differs_in() -> None:
    text = cards.card("pv-conv-small-handwash")
    first, second = text.split("## Accuracy\n\n")[1].split("\n\n")[:2]
    assert first.startswith("Cross-validation by group: top-1 **57.7 %** of 338 clips in 3 folds")
    assert "131 of 146 clips in 16 groups" in second and "shows one sink" in second


@pytest.mark.parametrize("name", ["pv-track-nano", "pv-track-small"])
def test_a_trackers_card_says_what_it_reaches_on_photographs(name: str) -> None:
    found = read_json(ROOT / "benchmarks" / "track.json")["photographs"]
    kept = read_json(cards.FOLDER / f"{name}.json")["photographs"]
    assert kept == {"clips": found["clips"], "delta_avg": found[name]["delta_avg"]["value"]}
    assert f"**{100 * kept['delta_avg']:.1f} %**" in cards.text_of(name)


def test_the_card_of_particles_says_what_the_benchmark_found_whoever_wins() -> None:
    found = read_json(ROOT / "benchmarks" / "particles.json")
    kept = read_json(cards.FOLDER / "pv-particle-nano.json")["compared"]
    text = cards.text_of("pv-particle-nano")
    for row in kept["pictures"]:
        over = found["pictures"][str(row["count"])]["particles_over"][row["other"]]
        assert (row["mean"], row["films_ahead"]) == (over["psnr"]["mean"], over["films_ahead"])
        assert f"{row['mean']:+.2f} dB" in text
    for row in kept["next"]:
        assert row["mean"] == found["next"]["messages_over"][row["other"]]["psnr"]["mean"]
    assert {row["other"] for row in kept["pictures"]} == {"autoencoder", "bicubic"}


def test_no_results_no_cards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cards.main(["--out", str(tmp_path)]) == 2
    assert "holds no result" in capsys.readouterr().err


def test_a_result_without_a_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        cards.card("pv-conv-nano-fight", tmp_path)

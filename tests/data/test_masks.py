"""Masks are laid over the camera's picture as that lay in the input, and read as data sets have them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from segmenters import drawn, film, pictures, spec_of, write_png

from edgepv.base.files import sha256
from edgepv.data.frames import at_model_size
from edgepv.data.masked import read_mask, survey_masks, true_masks
from edgepv.data.masks import how, mask_of, said, sampled
from edgepv.data.truth import Masks, eval_clip
from edgepv.data.video import open_video
from edgepv.errors import UsageError

PALETTE = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


@pytest.mark.parametrize("place", ["corner", "centre"])
@pytest.mark.parametrize("size", [(64, 128), (128, 64), (45, 77), (32, 32)])
def test_a_letterboxed_mask_comes_back_where_it_was(
    place: Literal["corner", "centre"], size: tuple[int, int]
) -> None:
    spec = spec_of(fit="letterbox", place=place)
    true = np.zeros(size, np.uint8)
    true[: size[0] // 2, size[1] // 2 :] = 1
    fitted = at_model_size(np.repeat(255 * true[..., None], 3, 2), spec)[..., 0]
    scores = np.stack([fitted < 128, fitted >= 128, np.zeros_like(fitted)]).astype(np.float32)
    back = sampled(spec, said(spec, scores), size, size)
    edges = np.zeros(size, bool)
    margin = max(size) // 32 + 1  # px of the picture in one of the input, where the two may differ
    edges[size[0] // 2 - margin : size[0] // 2 + margin] = True
    edges[:, size[1] // 2 - margin : size[1] // 2 + margin] = True
    assert (back == true)[~edges].all()
    laid = mask_of(spec, {"scores": scores}, size).on_picture(size)
    assert (laid == true)[~edges].all()


def test_what_lies_in_the_padding_is_not_part_of_the_picture() -> None:
    spec = spec_of(fit="letterbox")
    scores = np.zeros((3, 16, 16), np.float32)
    scores[0, :8], scores[1, 8:] = 1, 1  # red fills the grey below a picture that is twice as wide as high
    mask = mask_of(spec, {"scores": scores}, (20, 40))
    assert mask.labels.shape == (8, 16) and mask.areas() == {"red": 0.0, "green": 0.0}


def test_areas_are_shares_of_the_picture_and_of_a_part_of_it() -> None:
    scores = np.zeros((3, 16, 16), np.float32)
    scores[0], scores[2, :, :4] = 0.5, 1  # the left quarter is green
    mask = mask_of(spec_of(), {"scores": scores}, (480, 640))
    assert mask.areas() == {"red": 0.0, "green": 0.25}
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    assert mask.areas_within(left)["green"] == pytest.approx(0.5, abs=0.06)
    assert mask_of(spec_of(background=False), {"scores": scores}, (480, 640)).areas()["floor"] == 0.75


@pytest.mark.parametrize(("least", "share"), [(0.5, 0.5), (0.9, 0.25), (0.0, 1.0), (1.0, 0.0)])
def test_one_label_is_said_from_its_probability_on(least: float, share: float) -> None:
    logits = np.array([[[3.0, 1.0], [-1.0, -3.0]]], np.float32)
    spec = spec_of(("car",), score=least)
    assert mask_of(spec, {"scores": logits}, (4, 4)).areas() == {"car": share}
    plain = replace(spec, masks=replace(how(spec), scores="probabilities"))
    said = mask_of(plain, {"scores": 1 / (1 + np.exp(-logits))}, (4, 4))
    assert said.areas() == {"car": share}


def test_a_palette_is_read_as_its_numbers(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    write_png(tmp_path / "a.png", mask, PALETTE)
    assert read_mask(tmp_path / "a.png").tolist() == mask.tolist()
    cv2.imwrite(str(tmp_path / "b.png"), mask)
    assert read_mask(tmp_path / "b.png").tolist() == mask.tolist()
    cv2.imwrite(str(tmp_path / "c.png"), mask * 0 + 1, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert read_mask(tmp_path / "c.png").tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [(), [(9, 9, 9)] * 256], ids=["grey", "palette"])
def test_fewer_bits_a_px_are_numbers_too(
    tmp_path: Path, bits: int, palette: list[tuple[int, int, int]]
) -> None:
    mask = (np.arange(2 * 11).reshape(2, 11) % 2**bits).astype(np.uint8)
    write_png(tmp_path / "a.png", mask, palette[: 2**bits], bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)


def test_what_is_no_mask_is_refused_in_one_line(tmp_path: Path) -> None:
    file, colour = tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8)
    cv2.imwrite(str(file), colour)
    with pytest.raises(UsageError, match="a.png is no mask: a PNG of one channel"):
        read_mask(file)
    cv2.imwrite(str(tmp_path / "b.jpg"), colour[..., 0])
    file.write_bytes((tmp_path / "b.jpg").read_bytes())
    with pytest.raises(UsageError, match="a.png is no mask: a PNG of one channel"):
        read_mask(file)
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 9, (40, 40)).astype(np.uint8))
    whole = file.read_bytes()
    file.write_bytes(whole[:-12])
    with pytest.raises(UsageError, match="a.png is truncated: the picture has no end"):
        read_mask(file)
    file.write_bytes(whole[:200] + whole[-12:])
    with pytest.raises(UsageError, match="a.png cannot be decoded \\(.*copy it again"):
        read_mask(file)


def test_a_picture_has_its_mask_beside_it(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    (tmp_path / "masks" / "02.png").unlink()
    found = survey_masks(tmp_path)
    assert [c.path.name for c in found.clips] == ["00.png", "01.png"]
    assert found.left_out == "1 without a mask (the first: images/02.png)"
    one = eval_clip(found.clips[0], spec_of())
    assert isinstance(one.truth, Masks) and one.size == (32, 64) and one.frames.shape == (1, 3, 32, 32)
    mask = one.truth.of_frame[0]
    assert mask is not None and (mask == drawn(np.random.default_rng(0))[1]).all()


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("JPEGImages", "Annotations"), ("JPEGImages", "SegmentationClass")],
)
def test_a_video_has_the_masks_of_some_frames(tmp_path: Path, images: str, masks: str) -> None:
    frames = [drawn(np.random.default_rng(k)) for k in range(4)]
    film(tmp_path / "test" / images / "one.avi", [picture for picture, _ in frames])
    folder = tmp_path / "train" / images / "two"
    folder.mkdir(parents=True)
    for name, split in (("one", "test"), ("two", "train")):
        (tmp_path / split / masks / name).mkdir(parents=True)
    for k, (picture, mask) in enumerate(frames):
        cv2.imwrite(str(folder / f"{k:05}.jpg"), picture)
        if k % 2:
            write_png(tmp_path / "test" / masks / "one" / f"{k:05}.png", mask, PALETTE)
            write_png(tmp_path / "train" / masks / "two" / f"{k:05}.png", mask, PALETTE)
    one, two = survey_masks(tmp_path).clips
    assert (one.path.name, one.split, two.path.name, two.split) == ("one.avi", "test", "two", "train")
    for clip in (one, two):
        truth = eval_clip(clip, spec_of()).truth
        assert isinstance(truth, Masks) and [m is not None for m in truth.of_frame] == [
            False,
            True,
            False,
            True,
        ]
        np.testing.assert_array_equal(truth.of_frame[3], frames[3][1])


def test_numbered_pictures_in_a_folder_of_a_split_are_no_video(tmp_path: Path) -> None:
    """As COCO has them: one film of all of them would be judged by its first frames alone."""
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (tmp_path / name / split).mkdir(parents=True)
        picture, mask = drawn(np.random.default_rng(0))
        for number in (9, 25):
            cv2.imwrite(str(tmp_path / "images" / split / f"{number:012}.jpg"), picture)
            cv2.imwrite(str(tmp_path / "masks" / split / f"{number:012}.png"), mask)
    clips = survey_masks(tmp_path).clips
    assert [(c.path.name, c.split, len(c.truth)) for c in clips] == [
        ("000000000009.jpg", "train", 1),
        ("000000000025.jpg", "train", 1),
        ("000000000009.jpg", "validation", 1),
        ("000000000025.jpg", "validation", 1),
    ]


def test_a_folder_of_numbered_pictures_is_a_video(tmp_path: Path) -> None:
    for k in (10, 9):  # in the order of numbers, not of letters
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((4, 6, 3), k, np.uint8))
    with open_video(tmp_path) as video:
        frames = list(video)
    assert [f.pixels[0, 0, 0] for f in frames] == [9, 10]
    assert [f.time_s for f in frames] == [0, Fraction(1, 10)] and video.doubt
    before = sha256(tmp_path)
    cv2.imwrite(str(tmp_path / "10.png"), np.zeros((4, 6, 3), np.uint8))
    assert sha256(tmp_path) != before
    (tmp_path / "9.png").rename(tmp_path / "nine.png")
    with pytest.raises(UsageError, match="no pictures called by numbers"), open_video(tmp_path):
        pass


def test_the_manifest_says_groups_and_splits(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    (tmp_path / "manifest.csv").write_text("path,label,split,group\nimages/00.png,,test,room\n")
    first, second = survey_masks(tmp_path).clips
    assert (first.split, first.group, second.split, second.group) == ("test", "room", None, "images/01.png")


def test_masks_of_0_and_255_are_refused_before_they_judge_nothing(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    for path in (tmp_path / "masks").iterdir():
        cv2.imwrite(str(path), 255 * (read_mask(path) > 0).astype(np.uint8))
    with pytest.raises(UsageError, match="hold 0 and 255 alone, and 255 is not judged"):
        survey_masks(tmp_path)


def test_a_mask_that_does_not_fit_is_named(tmp_path: Path) -> None:
    clip = survey_masks(pictures(tmp_path, 2)).clips[0]
    with pytest.raises(UsageError, match=r"00.png has 32 x 64 px, its picture 64 x 64"):
        true_masks(clip, [0], (64, 64), 3)
    with pytest.raises(UsageError, match=r"00.png says label 2; the model has the numbers 0 to 1"):
        true_masks(clip, [0], (32, 64), 2)


def test_a_folder_without_pictures_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"images/NAME.jpg with masks/NAME.png"):
        survey_masks(tmp_path)


@pytest.mark.parametrize(
    ("images", "masks", "holder"),
    [
        ("frames/{}.png", "masks/{}.png", "frames"),
        ("frames/room/{}.png", "masks/room/{}.png", "frames"),
        ("day/pictures/{}.png", "day/Annotations/{}.png", "day/pictures"),
        ("{}.png", "masks/{}.png", ""),
    ],
)
def test_masks_beside_a_folder_of_another_name_are_told_and_not_passed_over(
    tmp_path: Path, images: str, masks: str, holder: str
) -> None:
    """Numbered pictures there were one film, which nothing judged."""
    for number in range(3):
        picture, mask = drawn(np.random.default_rng(number))
        for name, pixels in ((images, picture), (masks, mask)):
            place = tmp_path / name.format(f"{number:05}")
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), pixels)
    with pytest.raises(UsageError) as e:
        survey_masks(tmp_path)
    right = (tmp_path / masks).parents[1 + ("room" in masks)] / "images"
    assert f"has masks for the pictures in {tmp_path / holder}, and masks are" in str(e.value)
    assert str(e.value).endswith(f"beside a folder called images. Put the pictures into {right}")


def test_numbered_pictures_without_masks_are_still_a_film(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "frames").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "frames" / f"{number:05}.png"), drawn(np.random.default_rng(number))[0])
    (clip,) = survey_masks(tmp_path).clips
    assert clip.path == tmp_path / "frames" and not clip.truth

"""Pictures and videos with true masks, as data sets for segmentation have them.

A picture ``images/NAME.jpg`` has its mask in ``masks/NAME.png``; a video, a file ``images/NAME.mp4`` or a
folder of numbered pictures ``images/NAME/00000.jpg``, has those of its frames in ``masks/NAME/00000.png``,
not of all if need be; a folder that is called like a split holds single pictures. A mask is a PNG with one
number for each px, a palette or not: which label stands there, ``UNJUDGED`` where none is right or wrong.
Pascal VOC's and DAVIS' own names of the folders are known.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgepv.base.optional import need
from edgepv.data.clips import SPLITS, Clip, Survey, manifest_rows, split_named, told_by_reason, videos_below
from edgepv.data.container import picture_ends
from edgepv.data.masks import UNJUDGED
from edgepv.data.video import PICTURES, SUFFIXES, film_frames
from edgepv.errors import UsageError

IMAGES = ("images", "JPEGImages")
MASKS = ("masks", "Annotations", "SegmentationClass")
LAYOUT = "images/NAME.jpg with masks/NAME.png, or images/NAME.mp4 with masks/NAME/00000.png"
PEEKED = 20
"""Masks that are looked at for a kind that would silently judge nothing."""
LONGEST = 1024
"""Side of a mask, px, above which it is judged at fewer places: those of a 4K film would fill the memory."""
DEPTH = 24
"""Where a PNG says its bits, in its first chunk (PNG specification, 11.2.1)."""


def survey_masks(folder: Path) -> Survey:
    """Every picture and video below the ``images`` folders of a folder, with their masks, sorted by path.

    Those without a mask that may judge are left out where others have one. The group is the file itself, and
    the split what a folder on its path is called, unless ``manifest.csv`` says them. Raises UsageError for a
    folder without pictures, for pictures whose masks lie beside a folder of another name, and for masks that
    hold 0 and 255 alone.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. --clips wants a folder with {LAYOUT}")
    paths, left_out = videos_below(folder, (*SUFFIXES, *PICTURES), beside=(".csv",))
    images = [p for p in paths if not _parts(p, folder) & set(MASKS)]
    _refuse_misplaced(images, folder)
    flat = {*(name.lower() for name in IMAGES), *SPLITS}  # folders of pictures, each a clip of its own
    films = {p for p in {image.parent for image in images} if p.name.lower() not in flat and film_frames(p)}
    clips = sorted({p.parent if p.parent in films else p for p in images})
    if not clips:
        raise UsageError(f"{folder} holds no picture and no clip. It wants {LAYOUT}")
    listed = _listed(folder)
    found = [_clip(path, folder, listed) for path in clips]
    if any(clip.truth for clip in found):
        bare = [c for c in found if not c.truth and c.split not in ("calibration", "train")]
        left_out["without a mask"] = [str(c.path.relative_to(folder)) for c in bare]
        found = [c for c in found if c not in bare]
    _refuse_binary(list(itertools.islice((mask for clip in found for mask in clip.truth), PEEKED)))
    return Survey(tuple(found), told_by_reason(left_out))


def _parts(path: Path, folder: Path) -> set[str]:
    """The names of the folders between a folder and a file in it."""
    return set(path.relative_to(folder).parts[:-1])


def _refuse_misplaced(pictures: Sequence[Path], folder: Path) -> None:
    """Raise UsageError where masks lie beside pictures, and none of them in a folder called ``images``.

    Nothing would be judged by those masks, and numbered pictures would be taken for one film.
    """
    if any(_parts(path, folder) & set(IMAGES) for path in pictures):
        return
    for path in pictures:
        inside = path.relative_to(folder).parts
        for place, name in itertools.product(range(len(inside)), MASKS):
            above, own = folder.joinpath(*inside[:place]), inside[place : place + 1]
            beside = above.joinpath(name, *(inside[place + 1 :] or own))
            if beside.with_suffix(".png").is_file() or beside.with_suffix("").is_dir():
                holder = above.joinpath(*own) if inside[place + 1 :] else above
                raise UsageError(
                    f"{above / name} has masks for the pictures in {holder}, and masks are looked for beside "
                    f"a folder called images. Put the pictures into {above / IMAGES[0]}"
                )


def _listed(folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Rows of the manifest by their paths; none without one."""
    manifest = folder / "manifest.csv"
    return {row["path"]: row for row in manifest_rows(manifest)} if manifest.is_file() else {}


def _clip(path: Path, folder: Path, listed: Mapping[str, Mapping[str, str]]) -> Clip:
    inside = path.relative_to(folder)
    row = listed.get(str(inside), {"group": str(inside), "split": ""})
    by_folder = next((SPLITS[p.lower()] for p in inside.parts[:-1] if p.lower() in SPLITS), None)
    split = split_named(row["split"], folder / "manifest.csv") or by_folder
    return Clip(path, None, row["group"], split, _masks_of(path, folder))


def _masks_of(path: Path, folder: Path) -> tuple[Path, ...]:
    """The masks of a picture, one, or of a video; () where there are none."""
    inside = path.relative_to(folder).parts
    for place, name in ((i, name) for i, part in enumerate(inside) if part in IMAGES for name in MASKS):
        beside = folder.joinpath(*inside[:place], name, *inside[place + 1 :])
        if path.suffix.lower() in PICTURES and beside.with_suffix(".png").is_file():
            return (beside.with_suffix(".png"),)
        frames = beside if path.is_dir() else beside.with_suffix("")
        if path.suffix.lower() not in PICTURES and frames.is_dir():
            return tuple(sorted(p for p in frames.glob("*.png") if p.stem.isdecimal()))
    return ()


def _refuse_binary(masks: Sequence[Path]) -> None:
    """Raise UsageError for masks of which none holds another number than 0 and 255, which is not judged."""
    held = {int(v) for path in masks for v in np.unique(read_mask(path))}
    if UNJUDGED in held and held <= {0, UNJUDGED}:
        raise UsageError(
            f"{masks[0]} and others hold 0 and 255 alone, and 255 is not judged. Write the label's "
            "number, 1, where the object is"
        )


def true_masks(
    clip: Clip, frames: Sequence[int], size: tuple[int, int], labels: int
) -> tuple[np.ndarray | None, ...]:
    """The masks (h, w) uint8 of these frames of a clip, None for a frame without one.

    size: (height, width) of its pictures. labels: how many a mask may hold. Raises UsageError for a mask that
    does not fit either.
    """
    of_frame = {0: clip.truth[0]} if clip.path.suffix.lower() in PICTURES else dict(_numbered(clip))
    return tuple(_checked(of_frame[frame], size, labels) if frame in of_frame else None for frame in frames)


def _numbered(clip: Clip) -> Iterator[tuple[int, Path]]:
    """(frame, mask): by the number in its name, of a folder of pictures that of the picture of that name."""
    if clip.path.is_dir():
        names = [p.stem for p in film_frames(clip.path)]
        yield from ((names.index(mask.stem), mask) for mask in clip.truth if mask.stem in names)
    else:
        yield from ((int(mask.stem), mask) for mask in clip.truth)


def _checked(path: Path, size: tuple[int, int], labels: int) -> np.ndarray:
    mask = read_mask(path)
    if mask.shape != size:
        (tall, wide), (height, width) = mask.shape, size
        raise UsageError(
            f"{path} has {tall} x {wide} px, its picture {height} x {width}. Save it in that size"
        )
    most = int(mask[mask != UNJUDGED].max(initial=0))
    if most >= labels:
        raise UsageError(
            f"{path} says label {most}; the model has the numbers 0 to {labels - 1}. Give the labels of the "
            "spec in the order of the masks' numbers, or write other numbers"
        )
    every = -(-max(size) // LONGEST)
    return mask[every // 2 :: every, every // 2 :: every]


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8: the number at each px of a PNG of one channel, or of its palette.

    By Pillow: OpenCV makes colours of a palette. Raises UsageError for another file, or one that is cut off.
    """
    image, data = need("PIL.Image", extra="compress"), path.read_bytes()
    if not picture_ends(data):
        raise UsageError(f"{path} is truncated: the picture has no end. Copy the file again")
    try:
        with image.open(io.BytesIO(data), formats=("PNG",)) as png:
            kind, mask = png.mode, np.asarray(png)
    except image.UnidentifiedImageError:
        kind = "no PNG"
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as e:
        raise UsageError(f"{path} cannot be decoded ({e}). It may be truncated: copy it again") from e
    if kind not in ("1", "L", "P"):
        raise UsageError(
            f"{path} is no mask: a PNG of one channel, with the number of a label at each px. Save it as such"
        )
    spread = 255 // (2 ** data[DEPTH] - 1) if kind == "L" else 1  # grey of fewer bits is spread over 0 to 255
    return np.asarray(mask // spread, np.uint8)

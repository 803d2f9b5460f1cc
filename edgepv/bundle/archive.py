"""Bundles as zips, read without trusting them.

Sizes, names and paths are checked before anything is written.
"""

from __future__ import annotations

import contextlib
import errno
import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from edgepv.base.files import inside, whole_file
from edgepv.bundle.manifest import MANIFEST, MOST_BYTES, MOST_FILES, Bundle, check_path, is_dropping, read
from edgepv.errors import DeviceError, EdgepvError, UsageError

MOST_DIRECTORY = 4 << 20  # bytes of a zip's list of files

PIECE = 1 << 20  # bytes unpacked at a time, so a bomb is stopped within 1 MiB of its limit


def is_bundle(path: Path) -> bool:
    """Whether a folder or a zip looks like one of our bundles: only such may be replaced."""
    if path.is_dir():
        return (path / MANIFEST).is_file()
    try:
        return MANIFEST in zipfile.ZipFile(path).namelist()
    except Exception:  # zipfile raises whatever its damage leads to
        return False


def zip_bundle(folder: Path, out: Path) -> None:
    """The folder as one zip: sorted names, fixed dates, so equal folders give equal bytes."""
    with whole_file(out) as tmp, zipfile.ZipFile(tmp, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """A bundle from a folder, or from a zip unpacked for as long as the block lasts."""
    with unpacked(path) as folder:
        yield read(folder)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder of a bundle that is a folder, or a zip, unpacked for as long as the block lasts.

    A zip may hold the files in one folder, beside what macOS and Windows put there; nothing in it is looked
    at. Raises UsageError for a zip that is damaged, holds no or several bundles, or is beyond what a bundle
    may be. What is raised within the block names the zip, not the place where it was unpacked.
    """
    if path.suffix.lower() != ".zip":
        yield path
        return
    if not path.is_file():
        raise UsageError(f"{path} does not exist. Check the path of the bundle")
    with tempfile.TemporaryDirectory(prefix="edgepv-") as scratch:
        _unzip(path, Path(scratch))
        try:
            yield Path(scratch)
        except EdgepvError as e:
            e.args = tuple(a.replace(scratch, str(path)) if isinstance(a, str) else a for a in e.args)
            raise


class _Sips(io.FileIO):
    """A file that refuses to be read in one go, as zipfile reads a directory of any size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_DIRECTORY:
            raise zipfile.BadZipFile("its directory is larger than any bundle's")
        return super().read(MOST_DIRECTORY if size is None or size < 0 else size) or b""


def _unzip(path: Path, into: Path) -> None:
    try:
        with _Sips(path) as file, zipfile.ZipFile(file) as archive:
            entries = [e for e in archive.infolist() if e.filename[-1:] not in ("/", "\\")]
            if len(entries) > 2 * MOST_FILES:
                raise zipfile.BadZipFile(f"it holds more than {MOST_FILES} files")
            parts = zip(entries, _within(path, [e.filename for e in entries]))
            named = [(entry, name) for entry, name in parts if name is not None]
            if len(named) > MOST_FILES or len({name for _, name in named}) < len(named):
                raise zipfile.BadZipFile(f"it holds more than {MOST_FILES} files, or one twice")
            left = MOST_BYTES
            for entry, name in named:
                check_path(name)
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise zipfile.BadZipFile(f"{entry.filename} is compressed in a way that no bundle is")
                left -= _unpack(archive, entry, inside(into, name), left)
                if left < 0:
                    raise UsageError(f"{path} unpacks to more than 2 GiB; no edgepv bundle is that large")
    except UsageError:
        raise
    except Exception as e:  # zipfile raises whatever its damage leads to
        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            raise DeviceError(f"{path} cannot be unpacked: no space left in {into.parent}. Free some") from e
        raise UsageError(f"{path} is not a whole zip file ({e}). Copy it again") from e


def _within(path: Path, names: list[str]) -> list[str | None]:
    """The zip's names as they are in the bundle, without the folder that holds it; None for no part of it.

    Raises UsageError if it holds several bundles, or a path that leads out of it.
    """
    if not any("/" in name for name in names):
        names = [name.replace("\\", "/") for name in names]  # older zips from Windows
    kept = [None if any(map(is_dropping, name.split("/"))) else name for name in names]
    members = [name for name in kept if name is not None]
    tops: list[str] = []
    for top in sorted(
        n.removesuffix(MANIFEST) for n in members if n == MANIFEST or n.endswith(f"/{MANIFEST}")
    ):
        if not tops or not top.startswith(tops[-1]):
            tops.append(top)
    if not tops or tops == [""]:
        return kept
    if len(tops) > 1:
        several = ", ".join(top.rstrip("/") for top in tops[:5])
        raise UsageError(f"{path} holds {len(tops)} bundles: {several}. Unpack it, and give one of them")
    for name in members:
        check_path(name)
    top = tops[0]
    return [n.removeprefix(top) if n is not None and n.startswith(top) else None for n in kept]


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, most: int) -> int:
    """Bytes that one entry really has, written to ``target``; not many more than ``most`` are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with archive.open(entry) as packed, target.open("xb") as out:
        while size <= most and (piece := packed.read(PIECE)):
            size += out.write(piece)
    return size

"""What a video file's own structure says of itself: bytes that are missing at its end, and how long it shows.

Only what is certain. MP4 and MOV (ISO/IEC 14496-12), AVI (RIFF) and Matroska (RFC 9559) write down how long
their parts are, so a part that reaches beyond the end of the file was cut off. A stream without such an index
(MPEG-TS, raw H.264) ends anywhere, and nobody can tell.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

_UNKNOWN_RIFF = (0, 0xFFFFFFFF)
_MOST_BOXES = 200_000
_SEGMENT = b"\x18\x53\x80\x67"


@dataclass(frozen=True)
class Structure:
    """What the structure of a video file says.

    missing: bytes that it promises beyond the end of the file. counted: whether the header counts the frames
    of the picture itself, not the seconds of its longest track. shown_s: seconds of the picture that an edit
    list shows; None where it shows all of it. media_s: of an MP4, seconds that the picture's own
    track has. indexed: whether the header was written when it was known how long all of the file is. stamped:
    whether there are time stamps at all; a raw stream of pictures has none.
    """

    missing: int = 0
    counted: bool = False
    shown_s: Fraction | None = None
    media_s: Fraction | None = None
    indexed: bool = False
    stamped: bool = True


def structure(path: Path) -> Structure:
    """Of a file of any kind; what is not known is left at its default."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _mp4(file, size)
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            length = struct.unpack("<I", head[4:8])[0]
            known = length not in _UNKNOWN_RIFF
            return Structure(max(0, length + 8 - size) if known else 0, counted=True, indexed=known)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            missing = _matroska(file, size)
            return Structure(missing or 0, indexed=missing is not None)
    return Structure(stamped=not _raw(head))


def _raw(head: bytes) -> bool:
    """Whether a file begins as MPEG, H.264, H.265 or JPEG pictures do, with nothing around them."""
    start_code = head[:4] == b"\0\0\0\1" or (head[:3] == b"\0\0\1" and head[3:4] != b"\xba")
    return start_code or head[:3] == b"\xff\xd8\xff"


def _matroska(file: BinaryIO, size: int) -> int | None:
    """Bytes that the segment has beyond the end; None where nobody knew its length when it was written."""
    file.seek(4)
    head = _vint(file)
    if head is None:
        return None
    file.seek(file.tell() + head)
    if file.read(4) != _SEGMENT:
        return None
    length = _vint(file)
    return None if length is None else max(0, file.tell() + length - size)


def _vint(file: BinaryIO) -> int | None:
    """A length as EBML writes it; None for "unknown" and for none."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = first[0] & (1 << (7 - more)) - 1
    for byte in file.read(more):
        value = value << 8 | byte
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _mp4(file: BinaryIO, size: int) -> Structure:
    missing, fragments, media, shown = 0, False, None, None
    for kind, start, end in _boxes(file, 0, size):
        fragments = fragments or kind == b"moof"
        if kind in (b"mdat", b"moov", b"moof"):
            missing = max(missing, end - size)
        if kind == b"moov" and end <= size:
            media, shown = _picture_s(file, start, end)
    return Structure(missing, not fragments, shown, media, indexed=not fragments and media is not None)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, where its content starts, where it ends) of the boxes between two places."""
    for _ in range(_MOST_BOXES):
        file.seek(start)
        head = file.read(8)
        if start + 8 > end or len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        inner = start + 8
        if length == 1:
            wide = file.read(8)
            length, inner = (struct.unpack(">Q", wide)[0], start + 16) if len(wide) == 8 else (0, inner)
        if length == 0:
            length = end - start
        if length < inner - start:
            return
        yield kind, inner, start + length
        start += length


def _inside(file: BinaryIO, start: int, end: int, *names: bytes) -> tuple[int, int] | None:
    """Where the content of a box is, named by the boxes that it lies in; None if there is none."""
    for name in names:
        span = next(((a, b) for kind, a, b in _boxes(file, start, end) if kind == name and b <= end), None)
        if span is None:
            return None
        start, end = span
    return start, end


def _picture_s(file: BinaryIO, start: int, end: int) -> tuple[Fraction | None, Fraction | None]:
    """Seconds that the first video track has, and that its edit list shows, if that is less."""
    scale = _ticks(file, _inside(file, start, end, b"mvhd"))
    for kind, a, b in list(_boxes(file, start, end)):
        handler = _inside(file, a, b, b"mdia", b"hdlr") if kind == b"trak" else None
        if handler is None or _read(file, handler[0] + 8, 4) != b"vide":
            continue
        media = _ticks(file, _inside(file, a, b, b"mdia", b"mdhd"))
        edits = _inside(file, a, b, b"edts", b"elst")
        if media is None:
            return None, None
        lasts = Fraction(media[1], media[0])
        if scale is None or edits is None:
            return lasts, None
        shown = Fraction(_shown_ticks(_read(file, edits[0], edits[1] - edits[0])), scale[0])
        return lasts, shown if shown < lasts else None
    return None, None


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(min(count, 1 << 20))


def _ticks(file: BinaryIO, box: tuple[int, int] | None) -> tuple[int, int] | None:
    """(ticks in a second, duration in ticks) of an mvhd or mdhd box."""
    data = _read(file, box[0], 32) if box else b""
    if len(data) < 32:
        return None
    scale, duration = struct.unpack(">IQ", data[20:32]) if data[0] == 1 else struct.unpack(">II", data[12:20])
    return (scale, duration) if scale else None


def _shown_ticks(data: bytes) -> int:
    """What an elst box shows of the media, in the movie's ticks; a wait before it is no part of that."""
    row = struct.Struct(">QqI" if data[:1] == b"\1" else ">IiI")
    rows = data[8 : 8 + (len(data) - 8) // row.size * row.size]
    return sum(ticks for ticks, place, _ in row.iter_unpack(rows) if place >= 0) if len(data) > 8 else 0


def picture_ends(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end: decoders paint grey what was cut off. Of other files True.

    What may follow, such as the film of a phone's motion photo, is not looked at. Of a JPEG the end is
    searched behind the header of its first scan (ITU-T T.81, annex B), so that of a thumbnail is none.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" in data
    if data[:3] != b"\xff\xd8\xff":
        return True
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if data[at + 1 : at + 2] != b"\xff" else 1
    return data.find(b"\xff\xd9", at) >= 0

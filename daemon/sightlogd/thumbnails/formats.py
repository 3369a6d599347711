"""Which pictures are taken, and which JPEG is kept as it was sent, found out without decoding it. No I/O.

Every decoder is code that reads what a stranger sent. TIFF and the camera makers' raw formats have the worst record,
GIF is for animations; nobody needs them to report an event.

The markers of a JPEG are those of ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
"""What cameras and the libraries beside them write, by Pillow's names."""

SEGMENTS_MAX: Final = 1_000
"""A progressive picture has some dozen. Without a bound, a stranger's empty segments would keep the writer busy."""

_SOI: Final = b"\xff\xd8"
_EOI: Final = b"\xff\xd9"
_DHT, _SOS, _DQT, _DRI, _COM = 0xC4, 0xDA, 0xDB, 0xDD, 0xFE
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
"""Baseline, extended sequential and progressive, Huffman coded: what every program can show."""
_PASSED_OVER: Final = frozenset((_DRI, _COM, *range(0xE0, 0xF0)))
# In entropy-coded data 0xFF is followed by 0 (stuffed), D0 to D7 (restart) or 0xFF (fill); anything else is a marker.
_next_marker = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]").search


class NotAcceptable(Exception):
    """It is not kept as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    pixels_max: int
    """Of the longer side."""
    bytes_max: int


def looks_like_one(data: bytes) -> bool:
    """By its first bytes only: what is no picture at all need not be written down to find that out."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")) or (
        data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    )


def check(data: bytes, limits: PictureLimits) -> None:
    """Raises NotAcceptable, and nothing else, whatever the bytes are."""
    if len(data) > limits.bytes_max:
        raise NotAcceptable(f"{len(data)} bytes; at most {limits.bytes_max}")
    width, height = size_of(data)
    if max(width, height) > limits.pixels_max:
        raise NotAcceptable(f"{width}x{height} pixels; at most {limits.pixels_max}")


def has_ends(first: bytes, last: bytes) -> bool:
    """Whether these are the first and the last two bytes of a whole JPEG."""
    return (first, last) == (_SOI, _EOI)


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height) of a whole JPEG that every program can show: 8 bit, grey or three colours, with its tables.

    Raises NotAcceptable, and nothing else. What is between the markers is not looked at.
    """
    if not data.startswith(_SOI):
        raise NotAcceptable("not a JPEG")
    size: tuple[int, int] | None = None
    tables: set[int] = set()
    scanned = False
    at = 2
    for _ in range(SEGMENTS_MAX):
        if scanned and data.startswith(_EOI, at):
            if at + 2 != len(data):
                raise NotAcceptable(f"{len(data) - at - 2} bytes behind the end of the JPEG")
            assert size is not None  # no scan without it
            return size
        marker, end = _segment(data, at)
        if marker in _FRAMES and size is None:
            size = _frame(data[at + 4 : end])
        elif marker in (_DHT, _DQT):
            tables.add(marker)
        elif marker == _SOS:
            if size is None or tables != {_DHT, _DQT}:
                raise NotAcceptable("a JPEG without its size or its tables")
            found = _next_marker(data, end)
            if found is None or found.start() == end:
                raise NotAcceptable("the JPEG is cut short")
            scanned, end = True, found.start()
        elif marker not in _PASSED_OVER:
            raise NotAcceptable(f"a JPEG with an unexpected marker {marker:02X}")
        at = end
    raise NotAcceptable(f"a JPEG with more than {SEGMENTS_MAX} segments")


def _segment(data: bytes, at: int) -> tuple[int, int]:
    """The marker at `at`, and where its segment ends."""
    head = data[at : at + 4]
    if len(head) < 4:
        raise NotAcceptable("the JPEG is cut short")
    length = int.from_bytes(head[2:])
    if head[0] != 0xFF or length < 2 or at + 2 + length > len(data):
        raise NotAcceptable(f"the JPEG is damaged or cut short at byte {at}")
    return head[1], at + 2 + length


def _frame(header: bytes) -> tuple[int, int]:
    if len(header) < 6 or len(header) != 6 + 3 * header[5]:
        raise NotAcceptable("the JPEG's frame header is damaged")
    if header[0] != 8 or header[5] not in (1, 3):
        raise NotAcceptable(f"a JPEG of {header[0]} bit and {header[5]} components; expected 8 bit and 1 or 3")
    height, width = int.from_bytes(header[1:3]), int.from_bytes(header[3:5])
    if not width or not height:
        raise NotAcceptable("a JPEG without its width or height")
    return width, height

"""Real pictures, small and large, whole and hostile."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RED, BLUE = (200, 30, 30), (30, 30, 200)


def jpeg(seed: int = 0, size: tuple[int, int] = (32, 24), **options: Any) -> bytes:
    """Each seed gives other bytes."""
    return encoded(Image.new("RGB", size, (seed % 256, seed // 256 % 256, 128)), "JPEG", **options)


def jpeg_of(count: int) -> bytes:
    """A JPEG of exactly so many bytes (a few hundred at least), by comments."""
    picture = jpeg()
    body = b""
    while missing := count - len(picture) - len(body):
        part = missing if missing <= 60_000 else min(60_000, missing - 4)
        body += b"\xff\xfe" + (part - 2).to_bytes(2) + b"x" * (part - 4)
    return picture[:2] + body + picture[2:]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(size: tuple[int, int] = (64, 48), colour: tuple[int, int, int] = RED) -> bytes:
    return encoded(Image.new("RGB", size, colour), "PNG")


def noise(size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


def slow_png() -> bytes:
    """It takes about half a second to decode: 24 megapixels in seven passes, and 0.1 MB."""
    side = 4_800
    return _png(side, side, _interlaced_rows(side), interlaced=True)


def _interlaced_rows(side: int) -> bytes:
    rows = bytearray()
    for x0, y0, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        width, height = -(-(side - x0) // dx), -(-(side - y0) // dy)
        rows += (b"\x04" + b"\x01" * (3 * width)) * height  # filter 4, Paeth: the slowest
    return bytes(rows)


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 50,000 x 50,000 pixels."""
    return _png(50_000, 50_000, bytes(1_000_000), interlaced=False)


def _png(width: int, height: int, rows: bytes, *, interlaced: bool) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def is_near(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    """JPEG changes colours a little."""
    found = image.convert("RGB").getpixel(at)
    return all(abs(a - b) < 16 for a, b in zip(found, colour, strict=True))

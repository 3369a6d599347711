"""Pictures as broken cameras and strangers send them: cut, mixed, lying about their size, two things at once."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib

import pictures
from PIL import Image

ODD_SIZES = [0, 1, 7, 640, 4_096, 23_999, 24_001, 50_000, 65_535, 2**31 - 1, 2**31, 2**32 - 1]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes) -> bytes:
    """A PNG whose header says so, whatever `data`, its deflated rows, holds."""
    head = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """Kilobytes that become `side` x `side` pixels."""
    return png_of(side, side, 1, 0, zlib.compress(bytes((side // 8 + 1) * side)))


class Pictures:
    def __init__(self, choose: random.Random) -> None:
        self._choose = choose
        noise = pictures.noise((120, 90))
        self._whole = [
            pictures.jpeg(3), pictures.jpeg(4, (300, 200), progressive=True), pictures.jpeg(size=(700, 20)),
            pictures.png(), *(pictures.encoded(noise, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF",
            "TIFF", "PPM", "ICO", "TGA")), pictures.encoded(noise.convert("CMYK"), "JPEG"),
            pictures.encoded(noise.convert("P"), "PNG"),
            pictures.encoded(Image.new("I;16", (50, 40), 40_000), "PNG"), pictures.encoded(noise.convert("L"), "JPEG"),
            self._animated("PNG"), self._animated("WEBP"), self._turned(),
        ]  # fmt: skip
        self._first = iter(self._whole)

    @staticmethod
    def _animated(kind: str) -> bytes:
        frames = [Image.new("RGB", (40, 30), colour) for colour in (pictures.RED, pictures.BLUE)]
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:] * 20)
        return out.getvalue()

    @staticmethod
    def _turned() -> bytes:
        exif = Image.Exif()
        exif[0x0112] = 6
        return pictures.encoded(Image.new("RGB", (60, 40), pictures.RED), "JPEG", exif=exif)

    def next(self) -> bytes:
        """At first each whole picture once, so that some are kept and some made, whatever the seed."""
        if (whole := next(self._first, None)) is not None:
            return whole
        choose = self._choose
        data = choose.choice(self._whole)
        what = choose.randrange(9)
        if what == 0:
            return data[: choose.randrange(1, len(data))]
        if what == 1:
            return self._flipped(data)
        if what == 2:  # two things at once
            return self._both(data)
        if what == 3:  # a size that is a lie
            return self._resized()
        if what == 4:  # the magic of another
            other = choose.choice(self._whole)
            cut = choose.choice([2, 4, 8, 12, 33])
            return other[:cut] + data[cut:]
        if what == 5:  # the middle of another
            other = choose.choice(self._whole)
            at = choose.randrange(len(data))
            return data[:at] + other[choose.randrange(len(other)) :]
        if what == 6:
            return choose.choice(
                [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"BM", b""]
            ) + choose.randbytes(300)
        if what == 7:
            return self._packed()
        return data

    def _flipped(self, data: bytes) -> bytes:
        choose = self._choose
        changed = bytearray(data)
        for _ in range(choose.choice([1, 1, 8, 100])):
            # Headers more often than pixels.
            at = choose.randrange(len(changed)) if choose.random() < 0.5 else choose.randrange(min(len(changed), 200))
            changed[at] = choose.randrange(256)
        return bytes(changed)

    def _both(self, data: bytes) -> bytes:
        choose = self._choose
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("../../etc/passwd", b"0" * choose.choice([10, 1_000_000]))
        other = choose.choice(
            [archive.getvalue(), *self._whole, b"%PDF-1.7\n", b"#!/bin/sh\nreboot\n", b"<script>1</script>"]
        )
        if data.startswith(b"\xff\xd8") and choose.random() < 0.5:  # within a comment: the JPEG is whole
            part = other[:65_000]
            return data[:2] + b"\xff\xfe" + (len(part) + 2).to_bytes(2, "big") + part + data[2:]
        return data + other if choose.random() < 0.7 else other + data

    def _resized(self) -> bytes:
        choose = self._choose
        width, height = choose.choice(ODD_SIZES), choose.choice(ODD_SIZES)
        if choose.random() < 0.5:
            rows = zlib.compress(bytes(choose.choice([0, 10, 100_000])))
            return png_of(width, height, choose.choice([1, 8, 16, 3]), choose.choice([0, 2, 3, 4, 6, 9]), rows)
        data = bytearray(pictures.jpeg(size=(64, 48)))
        at = data.find(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height % 65_536, width % 65_536)
        return bytes(data)

    def _packed(self) -> bytes:
        """Much out of little: rows, texts, profiles."""
        choose = self._choose
        zeros = zlib.compress(bytes(20_000_000))
        what = choose.randrange(4)
        if what == 0:
            return bomb(choose.choice([4_000, 9_000]))
        if what == 1:
            return png_of(8, 8, 8, 0, zlib.compress(bytes(72)), chunk(b"zTXt", b"Comment\0\0" + zeros))
        if what == 2:
            return png_of(8, 8, 8, 0, zlib.compress(bytes(72)), chunk(b"iCCP", b"icc\0\0" + zeros))
        return png_of(8, 8, 8, 0, zeros, *[chunk(b"tEXt", b"a\0b")] * 5_000)

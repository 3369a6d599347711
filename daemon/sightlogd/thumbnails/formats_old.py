"""Which pictures are made into thumbnails: what cameras and the libraries beside them write.

Every decoder is code that reads what a stranger sent. TIFF and the camera makers' raw formats have the worst record,
GIF is for animations; nobody needs them to report an event.
"""

from __future__ import annotations

from typing import Final

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
"""By Pillow's names."""


def looks_like_one(data: bytes) -> bool:
    """By its first bytes only: what is no picture at all need not be written down to find that out."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")) or (
        data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    )

"""Bytes as people read them."""

from __future__ import annotations

from typing import Final

GB: Final = 10**9


def gigabytes(count: int) -> str:
    """Decimal, as a card's are: 4GB, 3.2GB; below 0.1 GB in MB."""
    if count < GB // 10:
        return f"{count / 10**6:.1f}".removesuffix(".0") + "MB"
    return f"{count / GB:.1f}".removesuffix(".0") + "GB"

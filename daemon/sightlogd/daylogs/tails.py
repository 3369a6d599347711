"""Where a day log ends: a crash leaves half a line there, a power cut blocks of zeros."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

TAIL_BYTES: Final = 4 * 1024 * 1024
"""Read at once when looking for the last whole line: more than the longest line takes."""


def repair(fd: int, whole: Callable[[bytes], int], before_loss: Callable[[], None] | None = None) -> int:
    """Cut the file back to its last whole line; returns the bytes cut off. `whole` says how much of a tail is whole.

    `before_loss`: to be called when lines without zeros are among them. A bit that flips in a blank makes a zero.
    """
    size = os.fstat(fd).st_size
    keep = whole_size(fd, size, whole)
    if keep != size:
        if before_loss is not None and _has_lines(fd, keep, size):
            before_loss()
        os.ftruncate(fd, keep)
    return size - keep


def _has_lines(fd: int, start: int, end: int) -> bool:
    """Whether there is a whole line without zeros. It may be gigabytes of them."""
    is_line, has_text = True, False
    for at in range(start, end, TAIL_BYTES):
        *whole, rest = os.pread(fd, min(TAIL_BYTES, end - at), at).split(b"\n")
        for part in whole:
            if is_line and (has_text or part) and b"\0" not in part:
                return True
            is_line, has_text = True, False
        is_line, has_text = is_line and b"\0" not in rest, has_text or bool(rest)
    return False


def whole_size(fd: int, size: int, whole: Callable[[bytes], int]) -> int:
    """How many of the first `size` bytes are whole lines."""
    while size:
        start = max(0, size - TAIL_BYTES)
        keep = start + whole(os.pread(fd, size - start, start))
        if keep == size:
            break
        size = keep
    return size


def whole_lines(tail: bytes) -> int:
    # After a power cut blocks may be there with zeros in them. Any other line stays, also one that only a newer version
    # understands.
    zeros = tail.find(b"\0")
    return tail.rfind(b"\n", 0, zeros if zeros >= 0 else len(tail)) + 1


def whole_entries(tail: bytes) -> int:
    zeros = tail.find(b"\0")
    end = tail.rfind(b"\n\n", 0, zeros if zeros >= 0 else len(tail))
    return end + 2 if end >= 0 else 0

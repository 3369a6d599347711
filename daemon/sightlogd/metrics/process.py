"""What the system says this process uses, from /proc/self (proc(5))."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from sightlogd import descriptors

from .metrics import Usage

_PROC = Path("/proc/self")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def usage() -> Usage:
    """Costs about a fifth of a millisecond: for every few seconds, not for every batch. Raises OSError."""
    found = descriptors.count()
    return Usage(
        time.process_time(),
        resident_bytes(),
        _pss_bytes(),
        _field(_PROC / "io", b"write_bytes:"),
        found.open,
        found.admitted,
    )


def resident_bytes() -> int:
    """Some 15 µs. Raises OSError."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def give_back() -> None:
    """What was freed and is kept for later: of messages of megabytes that is much. glibc's; others keep less."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _pss_bytes() -> int | None:
    try:
        return _field(_PROC / "smaps_rollup", b"Pss:") * 1024
    except FileNotFoundError:  # a kernel before 4.14
        return None


def _field(path: Path, name: bytes) -> int:
    for line in path.read_bytes().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0

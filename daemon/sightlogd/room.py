"""What of a disk has run out, when a write found no room: bytes, inodes, a quota, or how large a file may be."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

NO_INODES: Final = "no inodes left"
_FULL: Final = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file may not grow any more: its file system, or a limit of the process, ends there",
}


def ran_out(number: int | None, path: Path) -> str | None:
    """In words, by the system's error number of a write to `path`; None when that is of something else."""
    if number == errno.ENOSPC and _has_space_alone(path):
        return NO_INODES
    return _FULL.get(number or 0)


def _has_space_alone(path: Path) -> bool:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    # Some file systems have no number of inodes that could run out: btrfs, FAT.
    return bool(disk.f_bavail and disk.f_files and not disk.f_favail)

"""On which file systems a store may be: where a lock excludes every other process that can reach the file."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from .errors import EXIT_CONFIG, Stop

# f_type of statfs(2). /proc/self/mountinfo would have names, but for btrfs another device than stat(2), and not every
# container has a /proc.
REFUSED: Final = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x564C: "NCP",
    0x01021997: "9p",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x01161970: "GFS2",
    0x7461636F: "OCFS2",
    0x0BD00BD0: "Lustre",
    0x20030528: "OrangeFS",
    0x47504653: "GPFS",
    0x786F4256: "vboxsf",
    0xBACBACBC: "vmhgfs",
}
_STATFS_BYTES: Final = 256
"""More than struct statfs has anywhere."""


def check(path: Path) -> None:
    """`path`, or where it would be made. Raises Stop, OSError."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    name = REFUSED.get(_type_of(there))
    if name is not None:
        raise Stop(
            EXIT_CONFIG,
            f"{path} is on a file system of type {name}, where a lock does not keep other machines out: two daemons "
            "could write at once. Nothing was changed. Give a --data-dir on a disk of this machine",
        )


def _type_of(path: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(path), found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF  # the first member; CIFS would be negative in 32 bits

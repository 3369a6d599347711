"""sightlogd backup or restore that kills itself with SIGKILL before the NTH step that changes a disk.

    python tests/crashing_backup.py NTH backup --data-dir …

The product's own code, wrapped from outside.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sightlogd.__main__ import main
from sightlogd.backups import io
from sightlogd.backups.manifest import Writer
from sightlogd.directory import Directory
from sightlogd.store.tools import copying

left = int(sys.argv[1])


def or_die(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return wrapped


def half_then_die(fd: int, data: bytes) -> None:
    """A write that only half arrives."""
    global left
    left -= 1
    if left == 0:
        os.write(fd, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write_all(fd, data)


write_all = io.write_all

if __name__ == "__main__":
    for module, names in (
        (os, ("replace", "rename", "ftruncate", "rmdir")),
        (Directory, ("create", "remove")),
        (io, ("sync",)),
        (copying, ("copy", "finish", "to_wal")),
        (Writer, ("add", "end", "close")),
        (shutil, ("rmtree",)),
        (Path, ("unlink", "rmdir")),
    ):
        for name in names:
            setattr(module, name, or_die(getattr(module, name)))
    io.write_all = half_then_die
    sys.exit(main(sys.argv[2:]))

"""A process that locks bytes of a file that it may only read, until its standard input ends.

    python tests/locker.py FILE FIRST COUNT posix|ofd|flock [UID]

What a member of the readers' group can do to a store.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock(path: str, first: int, count: int, how: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    if how == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX)
    else:
        command = fcntl.F_SETLKW if how == "posix" else fcntl.F_OFD_SETLKW
        fcntl.fcntl(fd, command, struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, first, count, 0))


@contextmanager
def locked(path: Path, first: int, count: int = 1, how: str = "posix", user: int = 0) -> Iterator[subprocess.Popen]:
    """The process that has locked them."""
    command = [sys.executable, __file__, path, first, count, how, user]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    file, first, count, how, user = sys.argv[1:]
    if user != "0":
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    lock(file, int(first), int(count), how)
    print("locked", flush=True)
    sys.stdin.read()

"""Pictures that wait to be re-encoded: `incoming/<event_id>`, durable before their events are acked."""

from __future__ import annotations

import os
import stat
from itertools import count
from pathlib import Path
from typing import Final

from sightlogd import durable
from sightlogd.directory import Odd

from .own import is_event_id

INCOMING_MAX: Final = 256
INCOMING_BYTES_MAX: Final = 64 * 1024 * 1024
UNFINISHED: Final = ".tmp"
"""The name of every picture while it is written. One is enough for one writer, and no id begins with a dot."""
ENCODED: Final = ".jpg"
"""What the decoder makes of one of them."""


class Incoming:
    """The directory, and in which order its pictures are taken up. Raises OSError. What is not ours stays there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unfinished = _free(directory / UNFINISHED)
        self.encoded = _free(directory / ENCODED)
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        if directory.is_dir():
            user_id = directory.stat().st_uid
            with os.scandir(directory) as entries:
                sizes = {
                    entry.name: entry.stat(follow_symlinks=False).st_size
                    for entry in entries
                    if is_event_id(entry.name)
                    and entry.is_file(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_uid == user_id
                }
            for name in sorted(sizes):  # ids that grow with time, so in the order of the events
                self._add(name, sizes[name])

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._sizes

    @property
    def first(self) -> str | None:
        return next(iter(self._sizes), None)

    def has_room(self, size: int) -> bool:
        return len(self._sizes) < INCOMING_MAX and self._bytes + size <= INCOMING_BYTES_MAX

    def put(self, event_id: str, image: bytes) -> None:
        """Durable once `durable.sync` ran on the directory too. Raises OSError, Odd."""
        check_free(self.directory / event_id)
        durable.write(self.directory / event_id, image, self.unfinished)
        self._add(event_id, len(image))

    def _add(self, event_id: str, size: int) -> None:
        self._sizes[event_id] = size
        self._bytes += size

    def postpone(self, event_id: str) -> None:
        """Behind all others: what fails again and again must not stand in their way."""
        self._sizes[event_id] = self._sizes.pop(event_id)

    def remove(self, event_id: str) -> None:
        """Not made durable: one that comes back after a power cut is found to be done already."""
        self._bytes -= self._sizes.pop(event_id)
        (self.directory / event_id).unlink(missing_ok=True)


def check_free(path: Path) -> int:
    """Whether a picture may be put there: nobody else's has its name. Returns the bytes of ours that is there.

    Raises OSError, Odd.
    """
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return 0
    except NotADirectoryError:
        raise Odd(os.lstat(path.parent).st_mode, os.fspath(path.parent)) from None
    if not stat.S_ISREG(there.st_mode) or there.st_uid != os.lstat(path.parent).st_uid:
        raise Odd(there.st_mode, os.fspath(path))
    return durable.allocated(path)


def _free(path: Path) -> Path:
    """This name, or one like it that nothing has; a file that an earlier life left there is removed."""
    for number in count():
        free = path.with_name(f"{path.name}{number or ''}")
        try:
            check_free(free)
        except Odd:
            continue
        free.unlink(missing_ok=True)
        return free
    raise AssertionError("numbers end")

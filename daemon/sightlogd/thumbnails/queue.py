"""Pictures that wait to be re-encoded, or for a folder that can be written: durable before their events are acked."""

from __future__ import annotations

import math
import os
import stat
from itertools import count
from pathlib import Path
from typing import Final

from sightlogd import durable
from sightlogd.daylogs.days import INCOMING, check_folder, make_folder
from sightlogd.daylogs.own import is_event_id
from sightlogd.directory import Odd

INCOMING_MAX: Final = 256
INCOMING_BYTES_MAX: Final = 64 * 1024 * 1024
UNFINISHED: Final = ".tmp"
"""The name of every picture while it is written. One is enough for one writer, and no id begins with a dot."""
ENCODED: Final = ".jpg"
"""What the decoder makes of one of them."""


class Incoming:
    """The directory, and in which order its pictures are taken up. Raises OSError. What is not ours stays there."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.directory = directory = data_dir / INCOMING
        self.unfinished = directory / UNFINISHED
        self.encoded = directory / ENCODED
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._not_before: dict[str, float] = {}
        """When those that could not be put in their places are tried again: seconds of a monotonic clock."""

    def load(self) -> None:
        """What earlier sessions left. Raises Odd too."""
        try:
            for path in (self.directory.parent, self.directory):
                check_folder(path)
        except FileNotFoundError:
            return
        self.unfinished, self.encoded = _free(self.unfinished), _free(self.encoded)
        user_id = self.directory.stat().st_uid
        with os.scandir(self.directory) as entries:
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

    def first(self, now: float) -> str | None:
        """The one to be taken up now."""
        return next((name for name in self._sizes if self._not_before.get(name, 0.0) <= now), None)

    @property
    def due(self) -> float:
        """When the next is to be taken up."""
        return min((self._not_before.get(name, 0.0) for name in self._sizes), default=math.inf)

    def has_room(self, size: int, share: float = 1.0) -> bool:
        """`share`: what is put there for long leaves room for others."""
        return len(self._sizes) < share * INCOMING_MAX and self._bytes + size <= share * INCOMING_BYTES_MAX

    def put(self, event_id: str, image: bytes) -> None:
        """Durable once `durable.sync` ran on the directory too. Raises OSError, Odd."""
        make_folder(self._data_dir, INCOMING)
        check_free(self.directory / event_id)
        durable.write(self.directory / event_id, image, self.unfinished)
        self._add(event_id, len(image))

    def _add(self, event_id: str, size: int) -> None:
        self._sizes[event_id] = size
        self._bytes += size

    def postpone(self, event_id: str, until: float = 0.0) -> None:
        """Behind all others, and not before that time: what fails again and again must not stand in their way."""
        self._sizes[event_id] = self._sizes.pop(event_id)
        self._not_before[event_id] = until

    def remove(self, event_id: str) -> None:
        """Not made durable: one that comes back after a power cut is found to be done already."""
        self._bytes -= self._sizes.pop(event_id)
        self._not_before.pop(event_id, None)
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
    """This name, or one like it that nothing has; a file that an earlier session left there is removed."""
    for number in count():
        free = path.with_name(f"{path.name}{number or ''}")
        try:
            check_free(free)
        except Odd:
            continue
        free.unlink(missing_ok=True)
        return free
    raise AssertionError("numbers end")

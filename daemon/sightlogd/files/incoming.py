"""Pictures that wait to be re-encoded: `incoming/<event_id>`, durable before their events are acked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sightlog.records import ID_PATTERN
from sightlogd import durable

INCOMING_MAX: Final = 256
INCOMING_BYTES_MAX: Final = 64 * 1024 * 1024
UNFINISHED: Final = ".tmp"
"""The name of every picture while it is written. One is enough for one writer, and no id begins with a dot."""
ENCODED: Final = ".jpg"
"""What the decoder makes of one of them."""

_is_id = re.compile(ID_PATTERN).fullmatch


class Incoming:
    """The directory, and in which order its pictures are taken up. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unfinished = directory / UNFINISHED
        self.encoded = directory / ENCODED
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        if directory.is_dir():
            for leftover in (self.unfinished, self.encoded):
                leftover.unlink(missing_ok=True)
            # Ids that grow with time, so in the order of the events.
            for path in sorted(directory.iterdir()):
                if _is_id(path.name) and path.is_file():
                    self._add(path.name, path.stat().st_size)

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
        """Durable once `durable.sync` ran on the directory too."""
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

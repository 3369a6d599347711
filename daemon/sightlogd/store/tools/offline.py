"""The store of a daemon that is stopped, read as its files are: for who only wants to know."""

from __future__ import annotations

import os
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from sightlogd.calendar import Days
from sightlogd.errors import EXIT_TRY_AGAIN, Stop
from sightlogd.store import signature
from sightlogd.store.opening import DATABASE, explained
from sightlogd.store.ranges import Ranges
from sightlogd.store.store import Store

from .view import check_version


class StillStore(Store):
    """No lock is taken, no file made, nothing changed, and what writes fails. Call `check` at the end. Raises Stop.

    A database of another schema is refused: only a start migrates it.
    """

    def __init__(self, data_dir: Path, zone: tzinfo | None = None) -> None:
        # Nothing of Store's: it opens to write.
        self.path = data_dir / DATABASE
        self.wal_pages = 0
        self._clock = lambda: datetime.now(UTC)
        self._found = self._moment()
        with explained(self.path):
            self._connection = signature.connect(self.path)
            check_version(self._connection, self.path)
            self._page_bytes = int(self._connection.execute("PRAGMA page_size").get)
            self._days = Ranges(self._connection, Days(zone))

    def _moment(self) -> list[tuple[int, int, int]]:
        found = []
        for path in (self.path, self.path.with_name(f"{DATABASE}-wal")):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def check(self) -> None:
        """Whether all that was read is of one moment. Raises Stop."""
        if self._moment() != self._found:
            raise Stop(
                EXIT_TRY_AGAIN, f"a process has written to {self.path} meanwhile: what was read says nothing. Try again"
            )

    def close(self) -> None:
        self._connection.close()

"""Changes that are committed and not yet in the day logs, in their order. No I/O.

Producers wait for acks, nobody waits for a line: in a burst the lines come behind it. What may wait is bounded.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sightlogd.store.written import Change, Changes, EventAmended, EventsStored

RECORDS_MAX: Final = 4_000
BYTES_MAX: Final = 4 * 1024 * 1024
"""As they were sent; in memory small ones take about six times as much."""
DETECTION_BYTES: Final = 24
"""So much more counts each detection: one that was sent in four bytes takes 120 in memory."""
LINES_SHARE: Final = 2
"""Two logs have each text."""


class Backlog:
    def __init__(self) -> None:
        self._batches: deque[tuple[deque[Change], int, int]] = deque()
        self._records = 0
        self._bytes = 0

    @property
    def lines_bytes(self) -> int:
        """About what it will take in the logs."""
        return LINES_SHARE * self._bytes

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def over(self) -> bool:
        """Whether more waits than may."""
        return self._records > RECORDS_MAX or self._bytes > BYTES_MAX

    def add(self, changes: Changes, size: int) -> None:
        """What a transaction changed, and the bytes of the messages it came in."""
        if changes:
            count = 0
            for change in changes:
                if isinstance(change, EventsStored):
                    count += len(change.records)
                    size += DETECTION_BYTES * sum(len(record.detections) for record in change.records)
                else:
                    count += 1
                    if isinstance(change, EventAmended):
                        size += DETECTION_BYTES * len(change.amendment.detections)
            self._batches.append((deque(changes), count, size))
            self._records += count
            self._bytes += size

    def take(self, limit: int) -> list[Change]:
        """The oldest, so many records or less; [] when nothing waits."""
        if not self._batches:
            return []
        changes, count, size = self._batches[0]
        taken: list[Change] = []
        while changes and limit > 0:
            change = changes.popleft()
            if isinstance(change, EventsStored):
                ids, records = change.ids, change.records
                if len(records) > limit:
                    changes.appendleft(change._replace(ids=ids[limit:], records=records[limit:]))
                    change = change._replace(ids=ids[:limit], records=records[:limit])
                limit -= len(change.records)
            else:
                limit -= 1
            taken.append(change)
        if not changes:
            self._batches.popleft()
            self._records -= count
            self._bytes -= size
        return taken

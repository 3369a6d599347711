"""What the daemon does between batches, in slices: the loop never waits for more than one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from .errors import WriteRefused
from .files import catchup
from .files.daylog import DayLogs
from .logs import RateLimit
from .store import Store

log = structlog.get_logger()

MARK_SECONDS: Final = 60.0
"""How often the day logs are made durable: after a crash, what is younger is compared with the database."""
LOG_SECONDS: Final = 10.0


class Upkeep:
    """Call `step` when `due` (seconds of the monotonic clock) has come."""

    def __init__(self, store: Store, logs: DayLogs) -> None:
        self._store = store
        self._logs = logs
        self._warnings = RateLimit(LOG_SECONDS)
        self._mark_at = time.monotonic() + MARK_SECONDS
        torn = logs.repair()
        if torn:
            log.warning("cut off torn lines of day logs", days=torn)
        self._catching_up: Iterator[int] | None = catchup.catch_up(store, logs)
        self._caught_up = 0

    @property
    def due(self) -> float:
        return 0.0 if self._catching_up else self._mark_at

    def step(self, now: float) -> None:
        """One slice of what is due."""
        if now >= self._mark_at:
            self._mark_at = now + MARK_SECONDS
            if self._logs.behind:
                self._catching_up = self._catching_up or catchup.catch_up(self._store, self._logs)
            elif self._logs.unmarked and not self._catching_up:
                self._attempt(lambda: catchup.mark(self._store, self._logs))
        if self._catching_up:
            self._attempt(self._catch_up)

    def _catch_up(self) -> None:
        job, self._catching_up = self._catching_up, None
        added = next(job, None) if job else None
        if added is not None:
            self._catching_up, self._caught_up = job, added
        elif self._caught_up:
            log.warning("added to the day logs what they missed", lines=self._caught_up)
            self._caught_up = 0

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, WriteRefused) as error:
            self._logs.behind = True
            if (held := self._warnings.take()) is not None:
                log.warning("cannot keep the day logs up to date", reason=str(error), held_back=held)

    def finish(self) -> None:
        """At a clean stop."""
        if self._logs.unmarked and not self._catching_up:
            self._attempt(lambda: catchup.mark(self._store, self._logs))
        self._logs.close_all()

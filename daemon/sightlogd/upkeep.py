"""What the daemon does between batches, in slices: the loop never waits for more than one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from .config import Config
from .errors import WriteRefused
from .files import catchup
from .files.daylog import DayLogs
from .keeper import Keeper
from .logs import RateLimit
from .store import Store

log = structlog.get_logger()

ROUND_SECONDS: Final = 60.0
"""How often the day logs are made durable (after a crash, what is younger is compared with the database), and the
storage is looked at when nothing is stored."""
LOG_SECONDS: Final = 10.0


class Upkeep:
    """Call `step` when `due` (seconds of the monotonic clock) has come."""

    def __init__(self, config: Config, store: Store, logs: DayLogs, keeper: Keeper) -> None:
        self._store = store
        self._logs = logs
        self._keeper = keeper
        self._check_interval = config.storage.storage_check_interval
        self._unchecked = 0
        self._warnings = RateLimit(LOG_SECONDS)
        self._round_at = time.monotonic() + ROUND_SECONDS
        torn = logs.repair()
        if torn:
            log.warning("cut off torn lines of day logs", days=torn)
        self._catching_up: Iterator[int] | None = catchup.catch_up(store, logs)
        self._caught_up = 0

    @property
    def due(self) -> float:
        return 0.0 if self._catching_up or self._keeper.busy else self._round_at

    def step(self, now: float) -> None:
        """One slice of what is due. Raises Stop."""
        if now >= self._round_at:
            self._round_at = now + ROUND_SECONDS
            if self._logs.behind:
                self._catching_up = self._catching_up or catchup.catch_up(self._store, self._logs)
            elif self._logs.unmarked and not self._catching_up:
                self._attempt(lambda: catchup.mark(self._store, self._logs))
            self._keeper.look_around(now)
        if self._catching_up:
            self._attempt(self._catch_up)
        else:
            self._keeper.step()

    def stored(self, records: int) -> None:
        """So many more. Raises Stop."""
        self._unchecked += records
        if self._unchecked >= self._check_interval:
            self._unchecked = 0
            self._keeper.check()

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

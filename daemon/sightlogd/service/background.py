"""What the daemon does between batches, in slices: the loop never waits for more than one of them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from sightlog import volatile
from sightlogd.config import Config
from sightlogd.daylogs import reconcile
from sightlogd.daylogs.days import prepare
from sightlogd.daylogs.writer import DayLogs
from sightlogd.errors import EXIT_IO_ERROR, EXIT_TRY_AGAIN, STORAGE_FULL, STORAGE_LIMIT, Stop, WriteRefused
from sightlogd.logs import Warnings
from sightlogd.metrics.metrics import PRODUCERS_MAX, Metrics
from sightlogd.metrics.report import Reporter
from sightlogd.protocol.session import Chunk
from sightlogd.retention.budget import Budget
from sightlogd.retention.usage import Storage
from sightlogd.store import Store
from sightlogd.store.written import Changes, EventsStored, ObservationStored
from sightlogd.thumbnails.formats import PictureLimits
from sightlogd.thumbnails.pipeline import Thumbnails

from . import purge_request
from .control import Client, PurgeRequest

log = structlog.get_logger()

ROUND_SECONDS: Final = 60.0
"""How often the day logs are made durable (after a crash, what is younger is compared with the database), and the
storage is looked at when nothing is stored."""


class Maintenance:
    """Owns everything beside the database: day folders, their budget, and the work on them.

    Call `step` when `due` (seconds of the monotonic clock) has come, or `fileno()` is readable. `show` is given
    a line of figures now and then. Raises Stop.
    """

    def __init__(
        self, config: Config, store: Store, metrics: Metrics, warn: Warnings, show: Callable[[str], None]
    ) -> None:
        self._store = store
        self._metrics = metrics
        if on := volatile.why(config.data_dir):
            metrics.volatile = on
            log.warning(
                f"{config.data_dir} is on {on}: what is stored, and acked, is gone when the power is. Give a data_dir "
                'on a disk, or mount one there ("A root that is in memory" in systemd/README.md)'
            )
        self._warn = warn
        prepare(config.data_dir, lambda text: warn.error("folders", text))
        self._check_interval = config.storage.storage_check_interval
        self._unchecked = 0
        storage = Storage(config.data_dir, config.storage)
        self.logs = DayLogs(config.data_dir, store, self._log_failed, storage.grew, debug_line=config.files.debug_line)
        self.budget = Budget(config, store, self.logs, storage)
        pictures = PictureLimits(config.files.thumbnail_pixels_max, config.files.thumbnail_bytes_max)
        self.thumbnails = Thumbnails(config.data_dir, pictures, store, self.logs, storage.grew, metrics.pictures)
        self._reporter = Reporter(
            config.data_dir / "metrics",
            config.metrics.metrics_interval,
            metrics,
            lambda: store.producers(PRODUCERS_MAX),
            lambda: store.wal_bytes,
            show,
        )
        # A clean stop too may have been behind an fsync that failed. What is marked is not written again.
        self.logs.doubtful = True
        torn = self.logs.repair(self._forget_logged)
        if torn:
            log.warning("cut off torn lines of day logs", days=torn)
        self._metrics.schema = store.schema
        self._round_at = time.monotonic() + ROUND_SECONDS
        self._catching_up: Iterator[int] | None = reconcile.catch_up(store, self.logs)
        self._caught_up = 0

    def _forget_logged(self) -> None:
        """At the start. Raises Stop."""
        try:
            try:
                self._store.forget_logged()
            except WriteRefused as error:
                if error.code != STORAGE_FULL:
                    raise
                self.budget.disk_full()
                self._store.forget_logged()
        except WriteRefused as error:
            raise Stop(
                EXIT_IO_ERROR, f"a day log lost lines, and that cannot be noted: {error}. Start again"
            ) from error

    def _log_failed(self, reason: str) -> None:
        self._metrics.file_write_failed()
        self._warn.error("day log", f"{reason}; it is added when that works again")

    # -- around a commit ---------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Before a commit. Raises WriteRefused when there is no room for it."""
        self.budget.admit()

    def stored(self, records: int, size: int, changes: Changes) -> None:
        """So many more records, in messages of `size` bytes, and what they changed."""
        self.logs.add(changes, size)
        self.budget.events_total += sum(len(change.records) for change in changes if type(change) is EventsStored)
        self.budget.observations_total += sum(type(change) is ObservationStored for change in changes)
        self._unchecked += records
        if self._unchecked >= self._check_interval:
            self._unchecked = 0
            self.budget.check()

    def refused(self, error: WriteRefused, chunks: list[Chunk]) -> None:
        """These could not be stored; their producers keep them."""
        if error.code != STORAGE_LIMIT:  # the logs would be part of what is over the limit
            self.logs.write_unstored(chunks, self._store.now())
            self.logs.behind = True  # it may have taken effect all the same, and nobody else would log it

    def disk_full(self, error: WriteRefused) -> None:
        """After a refused commit: make what room can be made."""
        if error.code == STORAGE_FULL:
            self.budget.disk_full()

    # -- between commits ---------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self.thumbnails.fileno()

    @property
    def due(self) -> float:
        if self._catching_up or self.budget.busy or self.logs.waiting:
            return 0.0
        report_at = self._reporter.due if self.budget.counted else math.inf
        return min(self._round_at, self.thumbnails.deadline, report_at, self._reporter.refresh_due)

    def step(self, now: float) -> None:
        """One slice of each that is due."""
        self.logs.write_some()
        pictures = self._metrics.pictures.total
        self.thumbnails.collect(now)
        self._metrics.has_news |= self._metrics.pictures.total != pictures
        if now >= self._round_at:
            self._round_at = now + ROUND_SECONDS
            self.budget.look_around(now)
            if not self.logs.behind and self.logs.unmarked and not self._catching_up:
                self._attempt(lambda: reconcile.mark(self._store, self.logs))
            if self.logs.behind and not self._catching_up and self.logs.can_catch_up:
                self._catching_up = reconcile.catch_up(self._store, self.logs)
        if self._catching_up and not self.budget.removing:
            self._attempt(self._catch_up)
        self.budget.may_remove = self._catching_up is None
        if self.budget.busy:
            self.budget.step()
            self._metrics.has_news |= not self.budget.busy
        if now >= self._reporter.due and self.budget.counted:
            self._look()
            self._reporter.report()
        elif now >= self._reporter.refresh_due:
            self._look()
            self._reporter.refresh()

    def look_at_database(self) -> None:
        """Whether its files have their names, and what other programs did to it: that is said when they do it."""
        before = self._store.schema
        try:
            self._store.check_files()
            if not self._store.look_at_schema():
                return
        except WriteRefused:
            return  # told where something is written
        schema = self._metrics.schema = self._store.schema
        self._reporter.due = 0.0
        if schema.foreign != before.foreign:
            log.warning("what other programs keep in the database has changed", objects=schema.foreign)
        if schema.changed:
            log.error(
                "somebody changed the database; it goes on, and the next start refuses it",
                changed=schema.changed,
                undo=schema.remedy(self._store.path),
            )
        elif before.changed:
            log.info("the database's schema is as it should be again")

    def _look(self) -> None:
        """What the snapshot is to have of what others know."""
        stats = self.budget.now()
        if stats is not None:
            self._metrics.storage_bytes, self._metrics.storage_limit_bytes = stats.total_bytes, stats.limit_bytes
            self._metrics.events_total = self.budget.events_total
        self._metrics.last_id = self._store.last_id()
        self._metrics.storage_warnings = self.budget.warnings
        with contextlib.suppress(WriteRefused):  # told with the producers' own figures
            self._metrics.producers_known = self._store.count_producers()
        self._metrics.wal_held_by = [str(holder) for holder in self._store.wal_holders()]

    def answer(self, request: PurgeRequest, client: Client) -> None:
        """Somebody asked, by the control socket."""
        if not self.budget.do(purge_request.purge(request, self.budget, client)):
            client.tell("the daemon has too much to do already; try again later")
            client.end(EXIT_TRY_AGAIN)

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
            self.logs.behind = True
            self._warn("catch up", f"cannot keep the day logs up to date: {error}")

    def finish(self) -> None:
        """At a clean stop, behind the last commit."""
        self.logs.write_all()
        if self.logs.unmarked and not self._catching_up:
            self._attempt(lambda: reconcile.mark(self._store, self.logs))
        self._look()
        self._reporter.report()

    def close(self) -> None:
        self.thumbnails.close()
        self.logs.close_all()

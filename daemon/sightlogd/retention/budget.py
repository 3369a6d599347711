"""Keeps the data directory within its budget: measures, warns, removes the oldest days, refuses when nothing may go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from sightlogd.config import Config
from sightlogd.config import Storage as Limits
from sightlogd.daylogs.days import EVENTS, unfinished
from sightlogd.daylogs.writer import DayLogs
from sightlogd.errors import EXIT_STORAGE_FULL, STORAGE_FULL, STORAGE_LIMIT, Stop, WriteRefused
from sightlogd.logs import RateLimit
from sightlogd.store import Store
from sightlogd.units import GB, gigabytes

from . import orphans, policy, purge
from .policy import Day, Level, Plan, Rules, StorageStats
from .usage import Storage

log = structlog.get_logger()

RECOUNT_SECONDS: Final = 6 * 3_600.0
RETRY_SECONDS: Final = 60.0
"""After a removal that failed, or when nothing may go: until it is looked at again."""
QUEUE_MAX: Final = 8
COUNT_ROWS: Final = 10_000
"""That many rows not counted yet are: more make `sightlog status` slower, and each count is an fsync."""
REPEAT_SECONDS: Final = 3_600.0
"""A state of the storage that lasts is told once in this time."""


class Budget:
    """Call `step` while `busy`: a slice of work each time. Call `check` when much was stored, and now and then."""

    def __init__(self, config: Config, store: Store, logs: DayLogs, storage: Storage) -> None:
        self._limits = config.storage
        self._data_dir: Path = config.data_dir
        self._store = store
        self._logs = logs
        self._storage = storage
        self._rules = Rules(config.storage.min_retention_days, config.storage.purge_share_max)
        self._told = RateLimit(REPEAT_SECONDS)
        self._level = Level.FINE
        self.counted = False
        self._failed = False
        self._rotating = False
        self._rotate_at = 0.0
        self._recount_at = time.monotonic() + RECOUNT_SECONDS
        self._wants_reserve = False
        self.warnings = 0
        self.events_total = self.observations_total = 0
        self.over_limit: WriteRefused | None = None
        """Why nothing may be written."""
        self.removing = bool(unfinished(config.data_dir))
        """A day is on its way out: its folder is gone, and rows of it are there. Nobody may log them again."""
        self.may_remove = True
        """False while somebody writes down again what the day logs miss: he may have rows of any day in his hands."""
        self._work: Iterator[None] | None = self._look_at_everything()
        self._queue: deque[Iterator[None]] = deque()
        self._stuck: dict[str, str] = {}
        """Days whose folders cannot be moved, and why: they stay, and others go."""

    def change(self, limits: Limits) -> None:
        """These hold from now on. Raises Stop by `over_limit_action`."""
        self._limits = limits
        self._rules = Rules(limits.min_retention_days, limits.purge_share_max)
        self._storage.change(limits)
        self.check()

    # -- work, in slices ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return self._work is not None

    def step(self) -> None:
        """One slice. Raises Stop."""
        if self._work is None:
            return
        had_counted = self.counted
        try:
            next(self._work)
            if self.counted and not had_counted:
                self.check()
        except StopIteration:
            self._work = self._queue.popleft() if self._queue else None
            self.check()
        except (OSError, WriteRefused) as error:
            self._work = self._queue.popleft() if self._queue else None
            self._failed, self.removing = True, False
            log.warning("cannot keep the storage in order; it is tried again", reason=str(error))
            self.check()

    def look_around(self, now: float) -> None:
        """Now and then; `now` is of a monotonic clock. Raises Stop."""
        if self._work is None and (self._failed or now >= self._recount_at):
            self._recount_at = now + RECOUNT_SECONDS
            self._failed = False
            self._work = self._look_at_everything()
        if self._work is None:
            self._work = self._count_up()
        self._storage.recount_rest()
        self.check()

    def do(self, work: Iterator[None]) -> bool:
        """Take on more, to be done behind what is under way; False when too much waits already."""
        if len(self._queue) >= QUEUE_MAX:
            return False
        if self._work is None:
            self._work = work
        else:
            self._queue.append(work)
        return True

    def _do_now(self, work: Iterator[None]) -> None:
        """What is under way goes on afterwards."""
        if self._work is not None:
            self._queue.appendleft(self._work)
        self._work = work

    def _look_at_everything(self) -> Iterator[None]:
        self._stuck.clear()
        # First of all: without it there is no budget, whatever fails below.
        yield from self.recount()
        if not self._storage.has_reserve() and not self._wants_reserve and not self._storage.make_reserve():
            log.warning("no room for the reserve file; a disk that gets full has to be cleared by hand")
        for leaving in unfinished(self._data_dir):
            log.warning("going on with the removal of a day", day=leaving.day)
            if kept := (yield from purge.finish(leaving, self._store)):
                log.warning(f"of {leaving.day}, {purge.kept_files(kept, leaving.day)}")
                yield from self._storage.recount_day(leaving.day)
        self.removing = False
        for day in sorted(self._storage.days):
            yield from orphans.resolve(self._data_dir, day, self._store, self._logs, self._orphans_resolved)
        yield from self._count_up()

    def _count_up(self) -> Iterator[None]:
        """What each site has, for those who want to know. Few rows wait for others."""
        while self._store.uncounted() >= COUNT_ROWS:
            self._store.count_up(COUNT_ROWS)
            self._store.checkpoint_if_due()
            yield

    def _orphans_resolved(self, text: str) -> None:
        log.warning(text)
        self._logs.behind = True  # what the database says of them has changed

    def recount(self) -> Iterator[None]:
        """Look at every file: what was added up since the last time drifts."""
        yield from self._storage.recount()
        yield from self._count_rows()
        self.counted = True

    def _count_rows(self) -> Iterator[None]:
        """All of them: a day may have lost its folder."""
        events, observations = self.events_total, self.observations_total
        totals = 0, 0
        for so_far in self._store.totals(COUNT_ROWS):
            totals = so_far
            yield
        # What is stored meanwhile is added by who stores it.
        self.events_total += totals[0] - events
        self.observations_total += totals[1] - observations

    def purge(self, days: Sequence[Day], tell: Callable[[str], None] | None = None) -> Iterator[None]:
        """Remove these days, in slices. Raises OSError, WriteRefused, Stop."""
        for day in days:
            while not self.may_remove:
                yield
            self.removing = True
            try:
                leaving = purge.begin(self._data_dir, day.name, self._store, self._logs, self._store.now())
            except purge.Immovable as error:
                self.removing = False
                self._stuck[day.name] = str(error.strerror)
                text = f"cannot remove {day.name}, its files and rows stay: {EVENTS}/{day.name}: {error.strerror}"
                log.error(text)
                if tell is not None:
                    tell(text)
                continue
            yield
            kept = yield from purge.finish(leaving, self._store)
            self.removing = False
            self._storage.forget(day.name)
            yield from self._count_rows()
            text = f"removed {day.name}: {gigabytes(day.bytes)} freed, {day.contents}"
            if kept:
                text += f"; {purge.kept_files(kept, day.name)}"
                yield from self._storage.recount_day(day.name)
            log.warning(
                text, day=day.name, mb=round(day.bytes / 10**6, 1), events=day.events, observations=day.observations
            )
            if tell is not None:
                tell(text)

    def _rotate(self) -> Iterator[None]:
        pause = RETRY_SECONDS
        try:
            while (plan := self.plan()).days:
                yield from self.purge(plan.days[:1])
            pause = 0.0
        finally:
            # When it failed, the limit holds until it is tried again.
            self._rotating = False
            self._rotate_at = time.monotonic() + pause

    # -- what may go -------------------------------------------------------------------------------------------------

    @property
    def today(self) -> str:
        return self._store.day_of(self._store.now())

    def _days(self) -> set[str]:
        """Those that have a folder, and those that somebody removed the folder of."""
        return {*self._storage.days, *self._store.stored_days()}

    def _last_day(self) -> str:
        """The days behind this one are ahead of the clock."""
        return self._store.day_of(self._store.ahead_from())

    def has(self, name: str) -> bool:
        """Whether anything is there of a day."""
        return name in self._storage.days or any(self._store.count_of(name))

    def old_days(self, wanted: Callable[[str], bool] = lambda _: True, *, force: bool = False) -> Iterator[Day]:
        """Of the wanted days those that may go, in the order in which they do; with `force` all but today."""
        today, last_day, clock_days = self.today, self._last_day(), self._store.clock_days()
        for name in policy.in_order(self._days(), last_day):
            is_old = force or policy.is_old(name, today, last_day, self._rules)
            if name == today or not is_old or not wanted(name):
                continue
            day = self._day(name)
            if (name not in self._storage.days or self._storage.is_foreign(name)) and not (
                day.events or day.observations
            ):
                continue
            if force or policy.may_go(day, today, last_day, clock_days, self._rules):
                yield day

    def _day(self, name: str) -> Day:
        events, others = self._store.count_of(name)
        total = max(events + others, self.events_total + self.observations_total, 1)
        rows = self._store.bytes * (events + others) // total
        last_id = self._store.last_id_of(name)
        files = self._storage.files.get(name, 0)
        return Day(name, self._storage.days.get(name, 0) + rows, events, others, last_id, files)

    def plan(self, *, force: bool = False) -> Plan:
        """What has to go now; with `force` whatever the rules say, but never today."""
        # A reader that holds up the checkpoint makes the WAL grow: no day has to go for that.
        stats = self.measure()
        stats = replace(stats, total_bytes=stats.total_bytes - self._storage.wal_excess)
        if policy.level_of(stats) is Level.FINE:
            return Plan()
        rules = self._rules._replace(share_max=1.0) if force else self._rules
        return policy.plan(self.old_days(lambda name: name not in self._stuck, force=force), stats, rules)

    def nothing_may_go(self) -> str:
        """Why the plan is empty."""
        last_day = self._last_day()
        ahead = sorted(name for name in self._days() if name > last_day)
        future = (
            f" {len(ahead)} are ahead of the clock, {policy.span(ahead)}: a sensor's clock is wrong. They go first, "
            "once they are not written to any more; `sightlogd purge --day DAY --force` removes one now."
            if ahead
            else ""
        )
        stuck = "".join(f" {day} cannot be removed: {why}." for day, why in sorted(self._stuck.items()))
        return (
            f"No day may go: each is today's, or younger than min_retention_days = {self._rules.min_retention_days}, "
            f"or was written to that recently.{future}{stuck} `sightlogd purge --force` removes days all the same; or "
            "make room, or raise max_storage_gb"
        )

    # -- the budget --------------------------------------------------------------------------------------------------

    def measure(self) -> StorageStats:
        """Raises OSError, WriteRefused, Stop."""
        return self._storage.measure(self._store.bytes, self._logs.waiting_bytes)

    def now(self) -> StorageStats | None:
        """None while it has not counted everything, or cannot. Raises Stop."""
        try:
            return self.measure() if self.counted else None
        except (OSError, WriteRefused):
            return None

    def check(self) -> None:
        """Measure, tell, and begin to make room where that is due. Raises Stop by `over_limit_action`."""
        if not self.counted:
            return
        try:
            stats = self.measure()
            if policy.level_of(stats) is Level.OVER and self._storage.wal_excess:
                self._store.cut_wal()  # the reader that held it up may be gone, and no commit would find that out
                stats = self.measure()
        except (OSError, WriteRefused) as error:
            self._warn(f"cannot measure the storage: {error}")
            return
        level = policy.level_of(stats)
        if level is not self._level:
            self._level, self._told = level, RateLimit(REPEAT_SECONDS)
        if level is Level.WARN:
            self._warn(f"Storage at {stats}, approaching limit")
        if level in (Level.PURGE, Level.OVER) and not self._makes_room and time.monotonic() >= self._rotate_at:
            self._begin_to_make_room(stats)
        if level is not Level.OVER or self._makes_room:
            self.over_limit = None
        else:
            self._over(stats)

    @property
    def _makes_room(self) -> bool:
        """A day that is on its way out goes first: one in front of it would wait for the day logs, and they for it."""
        return self._rotating or self.removing

    def _begin_to_make_room(self, stats: StorageStats) -> None:
        plan = self.plan()
        if plan.days:
            going = policy.span([day.name for day in plan.days])
            self._warn(f"Storage at {self._described(stats)}, removing {going}")
            self._rotating = True
            self._do_now(self._rotate())
        else:
            self._rotate_at = time.monotonic() + RETRY_SECONDS
            self._warn(f"Storage at {self._described(stats)}: {plan.refusal or self.nothing_may_go()}")

    def _over(self, stats: StorageStats) -> None:
        text = self._described(stats)
        if self._limits.over_limit_action == "shutdown":
            raise Stop(EXIT_STORAGE_FULL, f"Storage limit exceeded: {text}")
        if self.over_limit is None:
            log.error(f"Storage limit exceeded: {text}")
        self.over_limit = WriteRefused(
            STORAGE_LIMIT,
            f"storage limit exceeded: {text}. Make room with sightlogd purge, or {self._way_out(stats)}"
            f"{self._held_up()}",
        )

    def _held_up(self) -> str:
        who = ", ".join(map(str, self._store.wal_holders()))
        return f"; the WAL takes {self._store.wal_bytes >> 20} MB of it, held up by {who}" if who else ""

    def _is_own_limit(self, stats: StorageStats) -> bool:
        """And not what the disk has left."""
        return stats.limit_bytes >= int(self._limits.max_storage_gb * GB)

    def _way_out(self, stats: StorageStats) -> str:
        if stats.is_short_of_files:
            return "on the disk: remove files of others, or make its file system anew with more inodes (mkfs -N)"
        return "raise max_storage_gb" if self._is_own_limit(stats) else "on the disk, or lower keep_free_gb"

    def _described(self, stats: StorageStats) -> str:
        limits = self._limits
        if stats.is_short_of_files:
            return f"{stats}, and {self._storage.free_files:,} inodes are left"
        if self._is_own_limit(stats):
            return str(stats)
        used, free = map(gigabytes, (stats.total_bytes, self._storage.free_bytes))
        return f"{used}, and the disk has {free} free where keep_free_gb is {limits.keep_free_gb:g}"

    def _warn(self, text: str) -> None:
        if self._told.take() is not None:
            self.warnings += 1
            log.warning(text)

    # -- around a commit ---------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Before a commit. Raises WriteRefused when there is no room for it, by the budget or on the disk."""
        if self._wants_reserve:
            if not self._storage.make_reserve():
                raise WriteRefused(STORAGE_FULL, f"the disk of {self._data_dir} is full")
            self._wants_reserve = False
        if self.over_limit is not None:
            self.check()
            if self.over_limit is not None:
                raise self.over_limit

    def disk_full(self) -> None:
        """A write found no room: use what was put by, to write the WAL into the database and to remove days."""
        if self._storage.has_reserve():
            self._storage.drop_reserve()
            self._wants_reserve = True
        self._store.cut_wal()
        self._rotate_at = 0.0
        self.check()

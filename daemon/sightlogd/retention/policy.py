"""The storage budget: how full it is, and which days may go. Policy alone: no I/O, no clock.

A day is its folder and its rows. What is ahead of the clock goes first, a sensor's clock was wrong; then the oldest.
Never today, never a day that is younger than
`min_retention_days` or was written to within that many days on which the daemon ran: the wall clock alone makes nothing
old, because it jumps. Days on which the daemon ran are counted; a jump adds one of them at most, so that one more than
those is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum
from typing import Final, NamedTuple

from sightlogd.units import gigabytes

WARN_SHARE: Final = 0.8
PURGE_SHARE: Final = 0.9
TARGET_SHARE: Final = 0.8
"""Purging goes on until less than this is used."""
KEEP_FREE_FILES: Final = 1_000
"""Inodes that are left to others, and to what makes room; a twentieth where that is fewer."""


@dataclass(frozen=True, slots=True)
class StorageStats:
    """Bytes and files of everything in the data directory, against what it may take."""

    total_bytes: int
    limit_bytes: int
    total_files: int = 0
    limit_files: int = 0
    """For as many the file system has inodes; 0: it has no number of them."""

    @property
    def share_of_files(self) -> float:
        return self.total_files / self.limit_files if self.limit_files else 0.0

    @property
    def is_short_of_files(self) -> bool:
        """Whether inodes are scarcer than bytes, and it matters."""
        return self.share_of_files >= max(WARN_SHARE, self.total_bytes / self.limit_bytes)

    @property
    def share(self) -> float:
        """Of what is scarcer."""
        return max(self.total_bytes / self.limit_bytes, self.share_of_files)

    @property
    def percentage_used(self) -> float:
        return 100 * self.share

    @property
    def is_over_limit(self) -> bool:
        return self.share > 1

    def __str__(self) -> str:
        share = "over 999" if self.percentage_used >= 1000 else f"{int(self.percentage_used)}"
        if self.is_short_of_files:
            return f"{self.total_files:,} files / {self.limit_files:,} by the inodes of the disk ({share}%)"
        return f"{gigabytes(self.total_bytes)} / {gigabytes(self.limit_bytes)} ({share}%)"


def measured(
    used: int, limit: int, free: int, keep_free: int, files: int = 0, free_files: int | None = None
) -> StorageStats:
    """In bytes, and in files. `free` is what the file system has left; where that gets scarce, the limit is lower.

    `free_files`: inodes that are left, None where they are not counted. Of those some are kept too.
    """
    bytes_allowed = max(1, min(limit, used + free - keep_free))
    if free_files is None:
        return StorageStats(used, bytes_allowed)
    whole = files + free_files
    return StorageStats(used, bytes_allowed, files, max(1, whole - min(KEEP_FREE_FILES, whole // 20)))


class Level(Enum):
    FINE = "fine"
    WARN = "warn"
    PURGE = "purge"
    OVER = "over"


def level_of(stats: StorageStats) -> Level:
    share = stats.share
    if share > 1:
        return Level.OVER
    if share > PURGE_SHARE:
        return Level.PURGE
    return Level.WARN if share >= WARN_SHARE else Level.FINE


@dataclass(frozen=True, slots=True)
class Day:
    """`bytes` is what goes with it: files, and the share of the database its rows have."""

    name: str
    bytes: int
    events: int
    observations: int
    last_id: int
    """The largest id of what is of it, 0 when there is nothing: ids grow with every commit, whatever the clock does."""
    files: int = 0

    @property
    def contents(self) -> str:
        """What goes with it, in words."""
        return f"{self.events} events" + (f", {self.observations} observations" if self.observations else "")


class Rules(NamedTuple):
    min_retention_days: int
    share_max: float


def is_past(name: str, today: str, rules: Rules) -> bool:
    """Whether a day is old by its name and the wall clock."""
    try:
        oldest_kept = (date.fromisoformat(today) - timedelta(days=rules.min_retention_days)).isoformat()
    except OverflowError:  # the clock stands at the beginning of time
        return False
    return name < min(today, oldest_kept)


def in_order(names: Iterable[str], last_day: str) -> list[str]:
    """The order in which days go: those behind `last_day` are ahead of the clock."""
    return sorted(names, key=lambda name: (name <= last_day, name))


def is_old(name: str, today: str, last_day: str, rules: Rules) -> bool:
    """Whether a day may go by its name and the wall clock; those behind `last_day` are ahead of that."""
    return name > last_day or is_past(name, today, rules)


def may_go(day: Day, today: str, last_day: str, clock_days: Iterable[int], rules: Rules) -> bool:
    """Whether a day is old enough, or ahead of the clock, and not written to any more.

    `clock_days` are the days on which the daemon ran, each as the id that its first event got or would have got: those
    that began behind the day's last event came after it, however wrong the clock was then.
    """
    if not is_old(day.name, today, last_day, rules):
        return False
    began_since = sum(first_id > day.last_id for first_id in clock_days)
    return rules.min_retention_days == 0 or began_since > rules.min_retention_days


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go, in this order; nothing when `refusal` says why."""

    days: tuple[Day, ...] = ()
    refusal: str | None = None


def plan(days: Iterable[Day], stats: StorageStats, rules: Rules) -> Plan:
    """Of the `days` that may go, the first ones that bring the use below 80 %."""
    excess = stats.total_bytes - TARGET_SHARE * stats.limit_bytes
    excess_files = stats.total_files - TARGET_SHARE * stats.limit_files if stats.limit_files else -1.0
    going: list[Day] = []
    freed = freed_files = 0
    for day in days:
        if freed > excess and freed_files > excess_files:
            break
        going.append(day)
        freed += day.bytes
        freed_files += day.files
    if going and max(freed / stats.total_bytes, freed_files / max(stats.total_files, 1)) > rules.share_max:
        return Plan(
            refusal=f"{len(going)} days with {gigabytes(freed)} of {gigabytes(stats.total_bytes)} would have to go at "
            "once, more than purge_share_max. `sightlogd purge --dry-run` lists them, `sightlogd purge --force` does it"
        )
    return Plan(tuple(going))


def span(names: Sequence[str]) -> str:
    return f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]

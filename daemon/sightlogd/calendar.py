"""Which day a moment belongs to, in a time zone, and the range of time that a day has in it. No I/O."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from sightlog.protocol.encoding import format_time

BEGINNING: Final = ""
"""In front of every stored time."""
END: Final = "~"
"""Behind every stored time."""
_MINUTES_MAX: Final = 10_000


class DayRange(NamedTuple):
    """The day has what was recorded from `first` on and before `after`, both stored times."""

    day: str
    first: str
    after: str
    zone: str
    """The time zone of the calendar that said so, by its name; '': the system's, which had none."""

    def has(self, moment: str) -> bool:
        return self.first <= moment < self.after


class Days:
    """The calendar of a time zone, None: the system's as the C library has it."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self.zone_name = "" if zone is None else str(zone)
        self._minutes: dict[str, tuple[str, str]] = {}

    def day_of(self, moment: str) -> str:
        """YYYY-MM-DD of a stored time."""
        return self.local(moment)[0]

    def local(self, moment: str) -> tuple[str, str]:
        """A stored time (UTC, 2026-11-20T10:00:00.000Z) by the clock on the wall: YYYY-MM-DD, YYYY-MM-DD HH:MM:SS."""
        # Offsets are whole minutes since 1972, and a camera's events share theirs.
        known = self._minutes.get(moment[:16])
        if known is None:
            if moment < "1973":
                return self._local(moment)
            if len(self._minutes) >= _MINUTES_MAX:
                self._minutes.clear()
            day, time = self._local(f"{moment[:16]}:00.000Z")
            known = self._minutes[moment[:16]] = day, time[:-2]
        return known[0], known[1] + moment[17:19]

    def _local(self, moment: str) -> tuple[str, str]:
        try:
            there = datetime.fromisoformat(moment).astimezone(self._zone)
        except OverflowError:  # the first or last day there is
            return moment[:10], f"{moment[:10]} {moment[11:19]}"
        day = there.date()
        # Clocks have gone back over midnight at 00:01: what came after the first midnight is of the new day.
        if moment >= self.range_of(day.isoformat()).after:
            day += timedelta(days=1)
        return day.isoformat(), there.isoformat(" ", "seconds")[:19]

    def range_of(self, day: str) -> DayRange:
        first = date.fromisoformat(day)
        try:
            after = self._midnight(first + timedelta(days=1))
        except OverflowError:
            after = END
        return DayRange(day, self._midnight(first) if first > date.min else BEGINNING, after, self.zone_name)

    def _midnight(self, day: date) -> str:
        try:
            midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
            first = midnight.astimezone(UTC)
            earliest = midnight.replace(fold=1).astimezone(UTC)
            if earliest < first:  # no clock showed it: they were set forward over it, or from it on
                return format_time(self._first_of(day, earliest, first))
            return format_time(first)
        except (OverflowError, ValueError):  # year 0: which of them depends on whose zone it is
            return f"{day.isoformat()}T00:00:00.000Z"

    def _first_of(self, day: date, low: datetime, high: datetime) -> datetime:
        """The second between these from which on clocks show that day."""
        while (seconds := int((high - low).total_seconds())) > 1:
            middle = low + timedelta(seconds=seconds // 2)
            low, high = (low, middle) if middle.astimezone(self._zone).date() >= day else (middle, high)
        return high

"""The table `days`: which day a moment belongs to, and which range of time a day has. Who writes has a transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final
from zoneinfo import ZoneInfo

import apsw

from sightlogd.calendar import DayRange, Days
from sightlogd.dayranges import place

from .by_day import any_between

_COLUMNS: Final = "SELECT day, first, after, zone FROM days"
_MINUTES_MAX: Final = 10_000


def range_of(connection: apsw.Connection, day: str) -> DayRange | None:
    """None: nothing that is stored is of that day."""
    return _one(connection, "WHERE day = ?", day)


def all_ranges(connection: apsw.Connection) -> list[DayRange]:
    """The oldest first."""
    return [DayRange(*row) for row in connection.execute(f"{_COLUMNS} ORDER BY first")]


def _one(connection: apsw.Connection, which: str, value: str) -> DayRange | None:
    row: Any = connection.execute(f"{_COLUMNS} {which}", (value,)).get
    return None if row is None else DayRange(*row)


class Ranges:
    """Asks the table, and the calendar for what is not in there. Raises apsw.Error.

    It remembers what it found: days keep their ranges. `forget` after a rollback.
    """

    def __init__(self, connection: apsw.Connection, calendar: Days) -> None:
        self._connection = connection
        self._calendar = calendar
        self._calendars = {calendar.zone_name: calendar}
        self.forget()

    def forget(self) -> None:
        self._last = DayRange("", "~", "", "")  # no moment is in there
        self._minutes: dict[str, tuple[str, str]] = {}

    # -- asking ------------------------------------------------------------------------------------------------------

    def range_of(self, day: str) -> DayRange | None:
        return range_of(self._connection, day)

    def day_of(self, moment: str) -> str:
        """The day that has it; or that would get it, if something of that moment came now."""
        return self._around(moment).day

    def local(self, moment: str) -> tuple[str, str]:
        """Its day, and what the clock on the wall said: YYYY-MM-DD, YYYY-MM-DD HH:MM:SS. In the day's own time zone."""
        known = self._minutes.get(moment[:16])
        if known is None:
            found = self._around(moment)
            day, time = found.day, self._calendar_of(found.zone).local(moment)[1]
            # Ranges begin and end with a minute, unless they were made anew from what was left of them.
            whole = found.has(f"{moment[:16]}:00.000Z") and found.has(f"{moment[:16]}:59.999Z")
            if not whole or found != self._last or moment < "1973":  # offsets had seconds before
                return day, time
            if len(self._minutes) >= _MINUTES_MAX:
                self._minutes.clear()
            known = self._minutes[moment[:16]] = day, time[:-2]
        return known[0], known[1] + moment[17:19]

    def _calendar_of(self, zone: str) -> Days:
        if zone not in self._calendars:
            try:
                self._calendars[zone] = Days(ZoneInfo(zone))
            except (ValueError, KeyError, OSError):  # not on this machine
                return self._calendar
        return self._calendars[zone]

    def _around(self, moment: str) -> DayRange:
        """The range that has it, or would."""
        if not self._last.has(moment):
            before = _one(self._connection, "WHERE first <= ? ORDER BY first DESC LIMIT 1", moment)
            if before is None or not before.has(moment):
                behind = _one(self._connection, "WHERE first > ? ORDER BY first LIMIT 1", moment)
                return place(moment, before, behind, self._calendar)
            self._last = before
        return self._last

    # -- writing -----------------------------------------------------------------------------------------------------

    def cover(self, moments: Collection[str]) -> list[DayRange]:
        """Of records that were added. Returns the ranges that are new, or have grown."""
        if not moments or (self._last.has(min(moments)) and self._last.has(max(moments))):
            return []
        changed = {}
        for moment in sorted(moments):  # so that each day is looked up once
            found = self._around(moment)
            if found != self._last:
                self._connection.execute(
                    "INSERT INTO days VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (day) DO UPDATE SET first = excluded.first, after = excluded.after",
                    found,
                )
                self._last = changed[found.day] = found
        return list(changed.values())

    def add(self, ranges: Iterable[DayRange]) -> None:
        """Of days that have none."""
        self._connection.executemany("INSERT INTO days VALUES (?, ?, ?, ?)", ranges)

    def drop(self, day: str, folders: Collection[str]) -> None:
        """Rows of that day were removed: without a row, and without a folder, it loses its range."""
        found = self.range_of(day)
        if found and day not in folders and not any_between(self._connection, found.first, found.after):
            self._connection.execute("DELETE FROM days WHERE day = ?", (day,))
            self.forget()

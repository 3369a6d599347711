"""Which range of time each day has: fixed with the day's first row. Inside somebody else's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import apsw

from sightlogd.calendar import Days

from .days import any_between


class Ranges:
    """Writes the table `days`. Remembers one range, because most batches are of one day; `forget` after a rollback."""

    def __init__(self, connection: apsw.Connection, days: Days) -> None:
        self._connection = connection
        self._days = days
        self.forget()

    def forget(self) -> None:
        self._first = self._after = ""  # no moment is in there

    def cover(self, moments: Sequence[str]) -> None:
        """`recorded_at` of rows that were added: their days get a range, as far as they have none."""
        if moments and not (self._first <= min(moments) and max(moments) < self._after):
            for moment in sorted(moments):  # so that each day is looked up once
                if not self._first <= moment < self._after:
                    self._look_up(moment)

    def _look_up(self, moment: str) -> None:
        before: Any = self._get("SELECT first, after FROM days WHERE first <= ? ORDER BY first DESC LIMIT 1", moment)
        if before is None or before[1] <= moment:
            day = self._days.day_of(moment)
            first, after = self._days.range_of(day)
            behind: Any = self._get("SELECT min(first) FROM days WHERE first > ?", moment)
            before = max(first, before[1]) if before else first, min(after, behind) if behind else after
            # A day that is there keeps its range: the time zone was changed within it.
            self._connection.execute(
                "INSERT INTO days VALUES (?, ?, ?, ?) ON CONFLICT (day) DO NOTHING",
                (day, *before, self._days.zone_name),
            )
            if not self._connection.changes():
                return
        self._first, self._after = before

    def _get(self, query: str, moment: str) -> Any:
        return self._connection.execute(query, (moment,)).get

    def drop(self, first: str, after: str, folders: Collection[str]) -> None:
        """Rows of that time were removed: days in there lose their range that have neither a row nor a folder left."""
        there: list[Any] = self._connection.execute(
            "SELECT day, first, after FROM days WHERE first < ? AND after > ?", (after, first)
        ).fetchall()
        for day, *of in there:
            if day not in folders and not any_between(self._connection, *of):
                self._connection.execute("DELETE FROM days WHERE day = ?", (day,))
                self.forget()

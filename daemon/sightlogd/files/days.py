"""Which day a moment belongs to, in the configured time zone, and where that day's folder is."""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final, NamedTuple

from sightlog.encoder import format_time

EVENTS: Final = "events"
"""The day folders' folder in the data directory."""
_MINUTES_MAX: Final = 10_000
_is_day = re.compile(r"\d{4}-\d\d-\d\d").fullmatch


class Local(NamedTuple):
    """A moment by the clock on the wall."""

    day: str
    """YYYY-MM-DD"""
    time: str
    """YYYY-MM-DD HH:MM:SS"""


class Days:
    """`zone` None: the system's."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._minutes: dict[str, Local] = {}

    def local(self, moment: str) -> Local:
        """Of a stored time (UTC, 2026-11-20T10:00:00.000Z)."""
        # Offsets are whole minutes since 1972, and a camera's events share theirs.
        if moment < "1973":
            return self._local(moment)
        minute = self._minutes.get(moment[:16])
        if minute is None:
            if len(self._minutes) >= _MINUTES_MAX:
                self._minutes.clear()
            minute = self._minutes[moment[:16]] = self._local(f"{moment[:16]}:00.000Z")
        return Local(minute.day, minute.time[:-2] + moment[17:19])

    def _local(self, moment: str) -> Local:
        try:
            there = datetime.fromisoformat(moment).astimezone(self._zone)
        except OverflowError:  # the first or last day there is
            return Local(moment[:10], f"{moment[:10]} {moment[11:19]}")
        return Local(there.date().isoformat(), f"{there:%Y-%m-%d %H:%M:%S}".rjust(19, "0"))

    def range_of(self, day: str) -> tuple[str, str]:
        """The stored times from which on, and before which, a moment is of this day."""
        first = date.fromisoformat(day)
        try:
            after = self._midnight(first + timedelta(days=1))
        except OverflowError:
            after = "~"  # behind every time
        return self._midnight(first), after

    def _midnight(self, day: date) -> str:
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        try:
            return format_time(midnight.astimezone(UTC))
        except OverflowError:
            return f"{day.isoformat()}T00:00:00.000Z"


def folders(data_dir: Path) -> list[str]:
    """The days that have a folder, the oldest first."""
    try:
        with os.scandir(data_dir / EVENTS) as entries:
            return sorted(
                entry.name for entry in entries if _is_day(entry.name) and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []

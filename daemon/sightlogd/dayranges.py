"""Which range of time each day has: decided once, with the day's first record. Policy alone: no I/O.

The calendar is asked for a moment that no day has. What it says then is kept, because it may say something else later:
the owner changes the time zone, a government does, the card is put into a Pi of another zone. Ranges do not overlap,
are in the order of their days, and only grow, into moments that no day has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sightlog.protocol.encoding import format_time

from .calendar import BEGINNING, END, DayRange, Days

_ZONES_REACH: Final = timedelta(days=1)
"""No clock on a wall is further from UTC than that."""
_RESOLUTION: Final = timedelta(milliseconds=1)


def place(moment: str, before: DayRange | None, behind: DayRange | None, calendar: Days) -> DayRange:
    """The range that a moment gets which none has: a new day's, or that of a neighbour, grown.

    `before` and `behind` are the ranges on both sides of it.
    """
    new = calendar.range_of(calendar.day_of(moment))
    new = new._replace(
        first=max(new.first, before.after) if before else new.first,
        after=min(new.after, behind.first) if behind else new.after,
    )
    # In the zone of then the moment would be of that day too.
    if before and new.day <= before.day:
        return before._replace(after=new.after)
    if behind and new.day >= behind.day:
        return behind._replace(first=new.first)
    return new


def can_be(found: DayRange) -> bool:
    """Whether the calendar of any zone could have decided so: a card may have flipped a bit in it."""
    earliest, latest = _reach(found.day)
    return earliest <= found.first < found.after <= latest


def _reach(day: str) -> tuple[str, str]:
    """What the day may have at most, whatever the zone."""
    midnight = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    try:
        earliest = format_time(midnight - _ZONES_REACH)
    except OverflowError:
        earliest = BEGINNING
    try:
        latest = format_time(midnight + timedelta(days=1) + _ZONES_REACH)
    except OverflowError:
        latest = END
    return earliest, latest


class Folder(NamedTuple):
    """What a day's folder tells of its range."""

    day: str
    noted: DayRange | None
    """As it is written in there; None: no such line is left."""
    first: str = END
    last: str = BEGINNING
    """The times of the first and the last record in it, when there is one."""

    @property
    def after(self) -> str:
        """The first time behind its records."""
        try:
            return format_time(datetime.fromisoformat(self.last) + _RESOLUTION) if self.last else BEGINNING
        except OverflowError:
            return END

    def is_within(self, found: DayRange | None) -> bool:
        return self.first > self.last or (found is not None and found.first <= self.first and self.last < found.after)


def of_folders(folders: Iterable[Folder], calendar: Days) -> list[DayRange]:
    """The ranges of days of which the folders are all that is left, the oldest first.

    What is noted holds. Where that is lost, a folder gets the time of its records, and what the calendar adds to it.
    """
    ordered = sorted(folders)
    noted: dict[str, DayRange] = {}
    end = BEGINNING
    for folder in ordered:
        if folder.noted and can_be(folder.noted) and end <= folder.noted.first:
            noted[folder.day] = folder.noted
            end = folder.noted.after
    found: list[DayRange] = []
    for folder, ceiling in zip(ordered, _ceilings(ordered, noted), strict=True):
        low = found[-1].after if found else BEGINNING
        earliest, latest = _reach(folder.day)
        own = noted.get(folder.day)
        claim = own or calendar.range_of(folder.day)
        if not own and earliest <= folder.first <= folder.last < latest:
            claim = claim._replace(first=folder.first, after=folder.after)
        # Beyond what any zone gives a day the time of a record is damaged.
        first = max(low, min(claim.first, folder.first if folder.first >= earliest else END))
        after = min(ceiling, max(claim.after, folder.after if folder.last < latest else BEGINNING))
        if first < after and (own or folder.first <= folder.last):
            found.append(DayRange(folder.day, first, after, own.zone if own else calendar.zone_name))
    for n, one in enumerate(found):
        if one.day not in noted:
            by_calendar = calendar.range_of(one.day)
            found[n] = one._replace(
                first=max(found[n - 1].after if n else BEGINNING, min(one.first, by_calendar.first)),
                after=min(found[n + 1].first if n + 1 < len(found) else END, max(one.after, by_calendar.after)),
            )
    return found


def _ceilings(ordered: Sequence[Folder], noted: Mapping[str, DayRange]) -> list[str]:
    """For each, where the next noted range begins."""
    ceilings, ceiling = [], END
    for folder in reversed(ordered):
        ceilings.append(ceiling)
        if folder.day in noted:
            ceiling = noted[folder.day].first
    return ceilings[::-1]

"""How many events there are of each day, camera, person, type and label. Whoever calls holds the transaction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

from sightlog.errors import UsageError
from sightlog.protocol.encoding import format_time

from .filters import Span
from .rows import Connection

Counts = list[tuple[str | None, int]]
_SECOND: Final = timedelta(seconds=1)
_TWO_DAYS: Final = timedelta(hours=50)
_BY_TIME: Final = "events INDEXED BY events_by_time"
_WITHIN: Final = "WHERE site = ? AND recorded_at >= ? AND recorded_at < ?"


class _Group(NamedTuple):
    column: str
    drive: str
    condition: str = ""
    """Of the partial index."""
    left_out: tuple[str | None, ...] = ()
    """What that has no rows of: it is what is left of all events."""


_GROUPS: Final = {
    "camera": _Group("camera_id", "events_by_camera"),
    "person": _Group("person_name", "events_by_person", "AND person_name IS NOT NULL", (None,)),
    "type": _Group("event_type", "events_by_type", "AND event_type <> 'motion'", ("motion",)),
}


def whole(connection: Connection, table: str, site: str) -> int:
    """How many rows of events or observations a site has: what the daemon has counted, and the few behind that."""
    counted_up_to = connection.execute("SELECT last_id FROM counted WHERE one = 1").fetchone()[0]
    if not counted_up_to:  # perhaps many: an index is smaller than the rows
        query = f"SELECT count(*) FROM {table} INDEXED BY {table}_by_time WHERE site = ?"
        return int(connection.execute(query, (site,)).fetchone()[0])
    query = (
        "SELECT coalesce((SELECT rows FROM counts WHERE site = :site AND kind = :table), 0) "
        f"+ (SELECT count(*) FROM {table} NOT INDEXED WHERE id > :counted AND site = :site)"
    )
    of = {"site": site, "table": table, "counted": counted_up_to}
    return int(connection.execute(query, of).fetchone()[0])  # type: ignore[arg-type]


def counts(connection: Connection, by: str, site: str, times: Span) -> Counts:
    """Days in their order, all others the largest first. Raises UsageError for what cannot be counted by."""
    bounds = (site, times.low[0], times.high[0])
    if by == "day":
        return list(_days(connection, *bounds))
    if by == "label":
        found = _labels(connection, *bounds)
    elif by in _GROUPS:
        group = _GROUPS[by]
        found = connection.execute(
            f"SELECT {group.column}, count(*) FROM events INDEXED BY {group.drive} {_WITHIN} {group.condition} "
            f"GROUP BY {group.column}",
            bounds,
        ).fetchall()
        for name in group.left_out:
            left = _count(connection, *bounds) - sum(count for _, count in found)
            found += [(name, left)] if left else []
    else:
        raise UsageError(f"by={by!r:.80}: expected one of day, label, {', '.join(_GROUPS)}")
    return sorted(((name, count) for name, count in found), key=lambda one: (-one[1], one[0] or ""))


def _count(connection: Connection, site: str, start: str, end: str) -> int:
    query = f"SELECT count(*) FROM {_BY_TIME} {_WITHIN}"
    return int(connection.execute(query, (site, start, end)).fetchone()[0])


def _labels(connection: Connection, site: str, start: str, end: str) -> Counts:
    """Events that have it, however often."""
    return list(
        connection.execute(
            f"SELECT label, count(*) FROM {_BY_TIME} CROSS JOIN detections ON detections.event_id = events.id "
            f"{_WITHIN} AND NOT EXISTS (SELECT 1 FROM detections AS before WHERE before.event_id = detections.event_id "
            "AND before.position < detections.position AND before.label = detections.label) GROUP BY label",
            (site, start, end),
        )
    )


def _days(connection: Connection, site: str, start: str, end: str) -> Iterator[tuple[str, int]]:
    """Each day from midnight to midnight; where nothing happened, on to the next event."""
    first = f"SELECT recorded_at FROM {_BY_TIME} {_WITHIN} ORDER BY recorded_at LIMIT 1"
    while row := connection.execute(first, (site, start, end)).fetchone():
        day, midnight = _day_of(datetime.fromisoformat(row[0]))
        until = min(end, midnight)
        yield day, _count(connection, site, row[0], until)
        start = until


def _day_of(moment: datetime) -> tuple[str, str]:
    """The local day that a moment is in, and when it ends.

    Looked for with the clock itself: a day may have 23 hours or 25, begin at 01:00, or be left out.
    """
    try:
        day = moment.astimezone().date()
        inside, beyond = moment.replace(microsecond=0), moment.replace(microsecond=0) + _TWO_DAYS
        while beyond - inside > _SECOND:
            middle = inside + (beyond - inside) // _SECOND // 2 * _SECOND
            if middle.astimezone().date() == day:
                inside = middle
            else:
                beyond = middle
    except (OverflowError, ValueError):  # at the ends of the calendar UTC has to do
        last = moment.date()
        return last.isoformat(), "~" if last == date.max else f"{last + timedelta(days=1)}T00:00:00.000Z"
    return day.isoformat(), format_time(beyond)

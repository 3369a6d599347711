"""What is asked for, as SQL: filters, the index to drive from, places in the order of time. No I/O."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NamedTuple

from sightlog.errors import UsageError
from sightlog.protocol.limits import DOOR_ACTIONS, INTEGER_MAX

Place = tuple[str, int]
"""(recorded_at, id): where a row stands in the order of time, and exactly one row stands there."""

_FIRST: Final[Place] = ("", 0)
_LAST: Final[Place] = ("~", 0)
_CURSOR: Final = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)/(\d{1,19})"
AT_LOCK: Final = "(unlock_granted IS NOT NULL OR door_action IN ('unlocked', 'locked'))"
"""The condition of events_at_lock, word for word: SQLite takes a partial index only where it finds that again."""


class Filter(NamedTuple):
    drive: str
    """The index to drive from: the one that has fewest rows for it. SQLite, without statistics, would guess."""
    condition: str
    """SQL, beginning with AND, or empty."""
    parameters: tuple[object, ...]


class Span(NamedTuple):
    """All places between two, which are not in it."""

    low: Place
    high: Place


ALWAYS: Final = Span(_FIRST, _LAST)


def events_filter(
    *,
    camera_id: str | None = None,
    event_type: str | None = None,
    person: str | None = None,
    stranger: bool = False,
    label: str | None = None,
    min_confidence: float | None = None,
    door_action: str | None = None,
    unlock_granted: bool | None = None,
    alert_sent: bool | None = None,
) -> Filter:
    """The events that pass all filters given. Raises UsageError for filters that contradict or mean nothing."""
    if stranger and person is not None:
        raise UsageError(f"stranger=True and person={person!r:.80}: an event has one or the other; give one of them")
    sure = 0.0
    if min_confidence is not None:
        from sightlog.protocol.encoding import to_number  # as in `times`

        if label is None:
            raise UsageError("min_confidence is of a detection: give its label too")
        sure = to_number(min_confidence)
        if not 0 <= sure <= 1:
            raise UsageError(f"min_confidence={min_confidence!r:.80}: expected a number from 0 to 1")
    if door_action is not None and door_action not in DOOR_ACTIONS:
        raise UsageError(f"door_action={door_action!r:.80}: expected one of {', '.join(DOOR_ACTIONS)}")
    at_lock = unlock_granted is not None or door_action in ("unlocked", "locked")
    rare_type = event_type is not None and event_type != "motion"
    conditions: list[tuple[str, tuple[object, ...]]] = []
    for column, value in (
        ("camera_id", camera_id), ("event_type", event_type), ("person_name", person), ("door_action", door_action),
        ("unlock_granted", unlock_granted), ("alert_sent", alert_sent),
    ):  # fmt: skip
        if value is not None:
            conditions.append((f"{column} = ?", (value,)))
    if stranger:
        conditions.append(("person_name IS NULL", ()))
    if at_lock:
        conditions.append((AT_LOCK, ()))
    if rare_type:
        conditions.append(("event_type <> 'motion'", ()))
    if label is not None:
        conditions.append(
            (
                "EXISTS (SELECT 1 FROM detections WHERE event_id = events.id AND label = ? AND confidence >= ?)",
                (label, sure),
            )
        )
    drive = next(
        name
        for name, drives in (
            ("events_by_person", person is not None),
            ("events_at_lock", at_lock),
            ("events_by_type", rare_type),
            ("events_by_camera", camera_id is not None),
            ("events_by_time", True),
        )
        if drives
    )
    return Filter(
        drive,
        "".join(f" AND {condition}" for condition, _ in conditions),
        tuple(value for _, values in conditions for value in values),
    )


def observations_filter(*, event_id: str | None = None, source: str | None = None) -> Filter:
    """The observations about an event, from a source."""
    given = [(column, value) for column, value in (("event_id", event_id), ("source", source)) if value is not None]
    return Filter(
        "observations_by_time" if event_id is None else "observations_by_event",
        "".join(f" AND {column} = ?" for column, _ in given),
        tuple(value for _, value in given),
    )


def times(start: datetime | None, end: datetime | None) -> Span:
    """All places with start <= recorded_at < end. Raises InvalidRecord for a time without a zone."""
    if start is None and end is None:
        return ALWAYS
    from sightlog.protocol.encoding import format_time  # with msgpack, and many who read give no times

    # No row has the id 0: its place is in front of all that happened in that millisecond.
    return Span(
        _FIRST if start is None else (format_time(start), 0),
        _LAST if end is None else (format_time(end), 0),
    )


def before(moment: str) -> Span:
    """All places with recorded_at < a stored time."""
    return Span(_FIRST, (moment, 0))


def narrowed(span: Span, *, after: str | None, before: str | None, newest_first: bool) -> Span:
    """What of it comes behind the cursor `after` and in front of the cursor `before`, in the order asked for."""
    low, high = (before, after) if newest_first else (after, before)
    return Span(
        span.low if low is None else max(span.low, place_of(low)),
        span.high if high is None else min(span.high, place_of(high)),
    )


def place_of(cursor: str) -> Place:
    """The place that `Event.cursor` names. Raises UsageError."""
    found = re.fullmatch(_CURSOR, cursor, re.ASCII) if isinstance(cursor, str) else None
    if found is None or int(found[2]) > INTEGER_MAX:
        raise UsageError(
            f"{cursor!r:.80} is no cursor: expected what Event.cursor gives, e.g. 2026-11-20T10:00:00.000Z/17"
        )
    return found[1], int(found[2])


def page(wanted: Filter, span: Span, *, newest_first: bool) -> tuple[str, tuple[object, ...]]:
    """The rows of a filter in a span, in order: what comes behind `WHERE site = ?`. LIMIT and OFFSET are left open."""
    order = "DESC" if newest_first else "ASC"
    return (
        f"AND (recorded_at, id) > (?, ?) AND (recorded_at, id) < (?, ?){wanted.condition} "
        f"ORDER BY recorded_at {order}, id {order} LIMIT ? OFFSET ?",
        (*span.low, *span.high, *wanted.parameters),
    )


def beyond(span: Span, place: Place, *, newest_first: bool) -> Span:
    """What is left of it when it was read up to `place`."""
    return Span(span.low, place) if newest_first else Span(place, span.high)

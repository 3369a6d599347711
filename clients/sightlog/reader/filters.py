"""What is asked for, as SQL: filters, the index to drive from, places in the order of time. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict, Unpack

from sightlog.errors import UsageError
from sightlog.protocol.fields import FILTERS, INDEXES
from sightlog.protocol.limits import DOOR_ACTIONS, INTEGER_MAX

if TYPE_CHECKING:
    from sightlog.records import DoorAction, Event

Place = tuple[str, int]
"""(recorded_at, id): where a row stands in the order of time, and exactly one row stands there."""

_FIRST: Final[Place] = ("", 0)
_LAST: Final[Place] = ("~", 0)
_CURSOR: Final = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)/(\d{1,19})"
# <made by make fields: filters>


class EventFilters(TypedDict, total=False):
    """All that is given has to hold."""

    camera_id: str | None
    """of this camera"""
    event_type: str | None
    """of this type: motion, ding, …"""
    person: str | None
    """where this person was recognised"""
    stranger: bool
    """where nobody was recognised"""
    unlock_granted: bool | None
    """where unlocking was granted or refused"""
    door_action: DoorAction | None
    """unlocked, locked or none"""
    alert_sent: bool | None
    """about which no alert was sent yet"""


# </made>


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
NAMES: Final = ("label", "min_confidence", *(one.name for one in FILTERS))
"""Arguments of `events_filter`."""


def events_filter(
    *, label: str | None = None, min_confidence: float | None = None, **given: Unpack[EventFilters]
) -> Filter:
    """The events that pass all filters given. Raises UsageError for filters that contradict or mean nothing.

    `label` is of those with a detection of it, of at least `min_confidence`.
    """
    wanted = _wanted(given)
    if "stranger" in wanted and "person" in wanted:
        raise UsageError(f"stranger=True and person={wanted['person']!r:.80}: an event has one or the other; give one")
    action = wanted.get("door_action", DOOR_ACTIONS[0])
    if action not in DOOR_ACTIONS:
        raise UsageError(f"door_action={action!r:.80}: expected one of {', '.join(DOOR_ACTIONS)}")
    conditions: list[str] = []
    parameters: list[object] = []
    driving = {"events_by_time"}
    for one in FILTERS:
        if one.name in wanted:
            conditions.append(one.sql)
            parameters += [wanted[one.name]] * one.sql.count("?")
            driving.add(one.drives(wanted[one.name]) or "events_by_time")
    if label is not None or min_confidence is not None:
        conditions.append(
            "EXISTS (SELECT 1 FROM detections WHERE event_id = events.id AND label = ? AND confidence >= ?)"
        )
        parameters += [label, _confidence(label, min_confidence)]
    conditions += [condition for name, condition in INDEXES.items() if name in driving and condition]
    return Filter(
        next(name for name in INDEXES if name in driving),
        "".join(f" AND {condition}" for condition in conditions),
        tuple(parameters),
    )


def matches(event: Event, given: Mapping[str, Any]) -> bool:
    """Whether `events_filter` with these arguments gives the event: for those that come by `follow`."""
    if given.get("label") is not None and not any(
        detection.label == given["label"] and detection.confidence >= (given.get("min_confidence") or 0)
        for detection in event.detections
    ):
        return False
    wanted = _wanted({name: value for name, value in given.items() if name not in ("label", "min_confidence")})
    return all(one.matches(event, wanted[one.name]) for one in FILTERS if one.name in wanted)


def _wanted(given: Mapping[str, Any]) -> dict[str, Any]:
    """Raises TypeError for what is no filter, as a call does."""
    if unknown := given.keys() - {one.name for one in FILTERS}:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}; filters are {', '.join(NAMES)}")
    return {name: value for name, value in given.items() if value is not None and (name != "stranger" or value)}


def _confidence(label: str | None, given: float | None) -> float:
    if label is None:
        raise UsageError("min_confidence is of a detection: give its label too")
    if given is None:
        return 0.0
    from sightlog.protocol.encoding import to_number  # as in `times`

    sure = to_number(given)
    if not 0 <= sure <= 1:
        raise UsageError(f"min_confidence={given!r:.80}: expected a number from 0 to 1")
    return sure


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

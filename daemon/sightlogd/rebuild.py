"""A new database from the day folders: events.json is a complete second copy.

What is not in there begins anew: counters of producers, dead letters. A producer whose records were stored, but not
acked, sends them again, and their events are found to be duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sightlog.encoder import format_time
from sightlog.records import now_utc

from .files.daylog import JSON_NAME
from .files.days import EVENTS, folders
from .files.lines import AMENDABLE, AmendmentLine, EventLine, Line, PersonLine, decode_line, replayed
from .store.refill import Pending, Refill, make
from .store.unlogged import EventRow


@dataclass(slots=True)
class Rebuilt:
    """What was found."""

    days: int = 0
    events: int = 0
    persons: int = 0
    waiting: int = 0
    """Amendments without their event."""
    unstored: int = 0
    """Events that came while the database could not be written, and are known from the logs alone."""
    unreadable: int = 0
    """Lines."""


def rebuild_from_logs(data_dir: Path, target: Path, progress: Callable[[str, Rebuilt], None]) -> Rebuilt:
    """Make `target` from the day folders of `data_dir`; `progress` is told each day that is done.

    Raises Stop, OSError; `target` is there complete, or not at all.
    """
    found = Rebuilt()
    now = format_time(now_utc())

    def fill(refill: Refill) -> None:
        pending: list[Pending] = []
        late_persons: list[tuple[Any, ...]] = []
        for day in folders(data_dir):
            lines = list(_lines(data_dir / EVENTS / day / JSON_NAME, found))
            _, events = replayed(lines)
            unstored = [line for line in lines if isinstance(line, EventLine) and not line.stored]
            lost = {line.event_id: line for line in unstored if line.event_id not in events}
            refill.add_events(_row(event, now) for event in (*events.values(), *lost.values()))
            refill.add_persons(_person(line) for line in lines if isinstance(line, PersonLine) and line.stored)
            unstored_persons = [line for line in lines if isinstance(line, PersonLine) and not line.stored]
            late_persons += [_person(line) for line in unstored_persons]
            pending += [_pending(line) for line in lines if isinstance(line, AmendmentLine) and line.waiting]
            found.days += 1
            found.unstored += len(lost)
            progress(day, found)
        refill.add_persons(late_persons)
        refill.finish(pending)
        found.events, found.persons, found.waiting = map(refill.count, ("events", "persons", "pending_amendments"))

    make(target, lambda: now, fill)
    return found


def _lines(path: Path, found: Rebuilt) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    yield decode_line(line)
                except msgspec.MsgspecError:
                    found.unreadable += 1
    except FileNotFoundError:
        return


def _row(event: EventLine, now: str) -> EventRow:
    columns = [getattr(event, field) for field in EventLine.__struct_fields__[:19]]
    columns[17] = event.created_at or now
    columns[18] = msgspec.json.encode(event.metadata).decode() if event.metadata else None
    return EventRow(tuple(columns), [(box.label, box.confidence, box.bbox) for box in event.detections])


def _person(line: PersonLine) -> tuple[Any, ...]:
    return line.id, line.site, line.name, line.display_name, line.created_at


def _pending(line: AmendmentLine) -> Pending:
    fields = {field: value for field in AMENDABLE if (value := getattr(line, field)) is not None}
    if line.detections:
        fields["detections"] = [(box.label, box.confidence, box.bbox) for box in line.detections]
    packed = msgspec.msgpack.encode({"kind": "amendment", "event_id": line.event_id, "site": line.site, **fields})
    return Pending(line.site, line.event_id, line.at, line.producer_id or "", line.epoch or 0, line.seq or 0, packed)

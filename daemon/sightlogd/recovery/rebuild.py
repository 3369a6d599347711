"""A new database from the day folders: events.json is a complete second copy.

A row is of the day in whose folder its line is, whatever the time zone is now. What is not in there begins anew:
counters of producers, dead letters. A producer whose records were stored, but not
acked, sends them again, and their events are found to be duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import Final

import msgspec

from sightlog.protocol.encoding import format_time
from sightlog.protocol.fields import AMENDABLE
from sightlog.records import now_utc
from sightlogd.calendar import Days
from sightlogd.daylogs.days import EVENTS, folders
from sightlogd.daylogs.index import lines_of
from sightlogd.daylogs.lines import (
    AmendmentLine,
    EventLine,
    Line,
    ObservationLine,
    PersonLine,
    Replay,
    decode_line,
    fault_of,
    row_of,
    row_of_observation,
)
from sightlogd.daylogs.writer import JSON_NAME
from sightlogd.dayranges import Folder
from sightlogd.directory import Directory, Odd
from sightlogd.findings import FINDINGS_MAX
from sightlogd.store.columns import ObservationColumns, PersonColumns
from sightlogd.store.log_marks import EventRow
from sightlogd.store.tools.refill import Pending, Refill, make

ID_MAX: Final = 2**53
"""No database has as many events: a bit has flipped, and ids that follow have to have room."""


@dataclass(slots=True)
class Rebuilt:
    """What was found."""

    days: int = 0
    events: int = 0
    persons: int = 0
    observations: int = 0
    waiting: int = 0
    """Amendments without their event."""
    unstored: int = 0
    """Events that came while the database could not be written, and are known from the logs alone."""
    strays: int = 0
    """Amendments of events that are gone: a day was being removed when they came."""
    unreadable: int = 0
    """Lines."""
    examples: list[str] = field(default_factory=list)
    """What the first of them are."""

    def leave_out(self, what: str) -> None:
        self.unreadable += 1
        if self.unreadable <= FINDINGS_MAX:
            self.examples.append(what)


def rebuild_from_logs(
    data_dir: Path, target: Path, progress: Callable[[str, Rebuilt], None], zone: tzinfo | None = None
) -> Rebuilt:
    """Make `target` from the day folders of `data_dir`; `progress` is told each day that is done.

    Where a folder lacks the range of its day, that is made out by its records and the calendar of `zone`, None: the
    system's.

    Raises Stop, OSError; `target` is there complete, or not at all.
    """
    found = Rebuilt()
    now = format_time(now_utc())

    def rows_of(lines: Iterable[EventLine], first: Mapping[str, EventLine]) -> Iterator[EventRow]:
        for line in lines:
            # What was learnt later may be what is damaged.
            sound = next((one for one in (line, first.get(line.event_id)) if one and not fault_of(one)), None)
            if sound is not line:
                found.leave_out(f"event {line.event_id!r:.140}")
            if sound is not None:
                yield row_of(sound, _sound_id(sound.id), now)

    def observation_rows(lines: Iterable[ObservationLine]) -> Iterator[ObservationColumns]:
        for line in lines:
            if not fault_of(line):
                yield row_of_observation(line, _sound_id(line.id), now)
            else:
                found.leave_out(f"observation {line.observation_id!r:.140}")

    def fill(refill: Refill) -> None:
        pending: list[Pending] = []
        late_persons: list[PersonColumns] = []
        days: list[Folder] = []
        for day in folders(data_dir):
            lines = list(_lines(events_folder, day, found))
            replay = Replay(lines)
            events = replay.state
            found.strays += len(replay.strangers)
            unstored = [line for line in lines if isinstance(line, EventLine) and not line.stored]
            lost = {line.event_id: line for line in unstored if line.event_id not in events}
            refill.add_events(rows_of((*events.values(), *lost.values()), replay.first))
            told = {line.observation_id: line for line in lines if isinstance(line, ObservationLine)}
            refill.add_observations(observation_rows({**told, **replay.observations}.values()))
            moments = [line.recorded_at for of in (events, lost, told, replay.observations) for line in of.values()]
            noted = replay.range if replay.range and replay.range.day == day else None
            days.append(Folder(day, noted, *((min(moments), max(moments)) if moments else ())))
            refill.add_persons(_person(line) for line in lines if isinstance(line, PersonLine) and line.stored)
            unstored_persons = [line for line in lines if isinstance(line, PersonLine) and not line.stored]
            late_persons += [_person(line) for line in unstored_persons]
            pending += [_pending(line) for line in lines if isinstance(line, AmendmentLine) and line.waiting]
            found.unstored += len(lost)
            progress(day, found)
        refill.add_late(late_persons)
        refill.finish(pending, days)
        found.events, found.persons = refill.count("events"), refill.count("persons")
        found.observations, found.waiting = refill.count("observations"), refill.count("pending_amendments")

    with Directory(data_dir / EVENTS) as events_folder:
        make(target, lambda: now, Days(zone), fill)
    return found


def _lines(events: Directory, day: str, found: Rebuilt) -> Iterator[Line]:
    name = f"{day}/{JSON_NAME}"
    try:
        fd = events.open_file(name)
    except FileNotFoundError:
        return
    except Odd as error:
        found.leave_out(f"{EVENTS}/{name} ({error.strerror})")
        return
    with open(fd, "rb") as file:
        found.days += 1
        for number, (_, line) in enumerate(lines_of(file), 1):
            try:
                if line is not None:
                    yield decode_line(line)
                    continue
            except msgspec.MsgspecError:
                pass
            found.leave_out(f"{EVENTS}/{name}:{number}")


def _sound_id(row_id: int | None) -> int:
    return row_id if row_id is not None and 0 < row_id <= ID_MAX else 0


def _person(line: PersonLine) -> PersonColumns:
    return PersonColumns(line.id or 0, line.site, line.name, line.display_name, line.created_at)


def _pending(line: AmendmentLine) -> Pending:
    fields = {field: value for field in AMENDABLE if (value := getattr(line, field)) is not None}
    if line.detections:
        fields["detections"] = [(box.label, box.confidence, box.bbox) for box in line.detections]
    packed = msgspec.msgpack.encode({"kind": "amendment", "event_id": line.event_id, "site": line.site, **fields})
    return Pending(line.site, line.event_id, line.at, line.producer_id or "", line.epoch or 0, line.seq or 0, packed)

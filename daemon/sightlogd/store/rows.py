"""How a batch becomes rows. Runs inside a transaction that somebody else began and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import apsw

from sightlog.ahead import ahead_from
from sightlog.protocol.messages import DUPLICATE, REJECTED, STORED
from sightlogd.protocol.decoder import AmendmentRecord, EventRecord, ObservationRecord, PersonRecord, Refusal
from sightlogd.protocol.session import Chunk, DeadLetter

from . import resolved, statements, texts
from .amendments import Amendments, add_detections
from .by_day import newest_clock_day
from .columns import event_row, observation_row
from .ranges import Ranges
from .statements import alone
from .texts import Face
from .written import AmendmentKept, Change, EventsStored, ObservationStored, PersonStored


class Written(NamedTuple):
    """What became of a batch: for each chunk the (seq, status, reason) of records not simply stored."""

    exceptions: list[list[tuple[int, str, str]]]
    duplicates: list[str]
    """What was there already: events and observations, by kind and id."""
    changes: list[Change]
    ahead: list[tuple[str, str]]
    """What was recorded more than a day ahead of the clock: the producer's name, and when."""
    unapplied: list[str]
    """What became of amendments that had waited for an event: nobody waits for the word about them."""


Thumbnails = Mapping[tuple[int, int], str]
"""Paths by the indices of chunk and record."""


def _paths_by_id(chunks: Sequence[Chunk], thumbnails: Thumbnails, first_id: int) -> dict[int, str]:
    """By the ids that events get: one after the other, whatever becomes of each."""
    places = (
        (index, offset)
        for index, chunk in enumerate(chunks)
        for offset, r in enumerate(chunk.records)
        if type(r) is EventRecord
    )
    return {row_id: thumbnails[place] for row_id, place in enumerate(places, first_id) if place in thumbnails}


class Rows:
    """The statements of the one writing connection, and what it remembers between batches.

    `forget` after a rollback: what is remembered is read again from the database.
    """

    def __init__(self, connection: apsw.Connection, days: Ranges) -> None:
        self._connection = connection
        self._one_by_one = False
        self._days = days
        self.forget()

    def forget(self) -> None:
        get = self._connection.execute
        # AUTOINCREMENT's own memory: ids of what was purged are not given again.
        query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name IN ('events', 'observations')"
        self._next_id = 1 + int(get(query).get)
        self._clock_day = ""
        self._days.forget()
        self._cameras = set(get("SELECT site, camera_id FROM cameras").fetchall())
        self.amendments = Amendments(self._connection)

    # -- a batch -----------------------------------------------------------------------------------------------------

    def write(
        self,
        chunks: Sequence[Chunk],
        thumbnails: Thumbnails,
        dead_letters: Sequence[DeadLetter],
        now: str,
        *,
        one_by_one: bool,
    ) -> Written:
        """`thumbnails` maps (chunk, record) to paths, `now` is the daemon's clock.

        Raises apsw.ConstraintError unless `one_by_one`: then each record has a savepoint, and one that breaks a
        constraint is resolved as a duplicate or rejected.
        """
        self._one_by_one = self.amendments.one_by_one = one_by_one
        first_id = self._next_id
        self._latest = ""
        self.amendments.unapplied = []
        written = Written([[] for _ in chunks], [], [], [], self.amendments.unapplied)
        ids = self._write_events(chunks, thumbnails, now, written)
        if self.amendments.are_waiting and ids:
            self.amendments.apply_pending(ids, now, written.changes)
        for index, chunk in enumerate(chunks):
            self._write_others(chunk, now, written.exceptions[index], written)
        # What is no event has its line in a day's folder too.
        moments = [
            change.observation.recorded_at if type(change) is ObservationStored else now
            for change in written.changes
            if type(change) in (ObservationStored, PersonStored, AmendmentKept)
        ]
        written.changes[:0] = self._days.cover(moments)
        if max(self._latest, *moments, "") > now:
            self._find_ahead(chunks, now, written)
        if now[:10] != self._clock_day:
            self._clock_day = now[:10]
            self._connection.execute("INSERT OR IGNORE INTO clock_days VALUES (?, ?)", (self._clock_day, first_id))
        skipped = {chunk.session: chunk.session.missing for chunk in chunks}
        for chunk, exceptions in zip(chunks, written.exceptions, strict=True):
            resolved.count(self._connection, chunk, exceptions, skipped.pop(chunk.session, 0), now)
        resolved.add_dead_letters(
            self._connection,
            [
                (now, dead_letter.producer_id, 0, 0, REJECTED, dead_letter.reason, None, dead_letter.message)
                for dead_letter in dead_letters
            ],
        )
        return written

    def _find_ahead(self, chunks: Sequence[Chunk], now: str, written: Written) -> None:
        limit = ahead_from(datetime.fromisoformat(now), newest_clock_day(self._connection))
        for chunk in chunks:
            for record in chunk.records:
                if isinstance(record, (EventRecord, ObservationRecord)) and record.recorded_at >= limit:
                    written.ahead.append((chunk.session.name, record.recorded_at))

    def _write_events(self, chunks: Sequence[Chunk], thumbnails: Thumbnails, now: str, written: Written) -> list[str]:
        """Returns the event ids of what was stored."""
        found = self._write_alone if self._one_by_one else self._write_together
        stored = found(chunks, thumbnails, now, written)
        ids, records, _, _ = stored
        if not records:
            return []
        moments = [r.recorded_at for r in records]
        self._latest = max(moments)
        written.changes.extend(self._days.cover(moments))
        written.changes.append(stored)
        texts.index_descriptions(
            self._connection,
            [
                (row_id, r.site, r.camera_id, r.llm_description)
                for row_id, r in zip(ids, records, strict=True)
                if r.llm_description is not None
            ],
        )
        texts.set_faces(
            self._connection,
            [
                (row_id, r.site, Face(r.embedding, r.embedding_model, r.embedding_version))
                for row_id, r in zip(ids, records, strict=True)
                if r.embedding is not None
            ],
        )
        self._next_id = ids[-1] + 1
        cameras = {(r.site, r.camera_id) for r in records}
        if not cameras <= self._cameras:
            new = [(site, camera_id, now) for site, camera_id in cameras - self._cameras]
            self._connection.executemany("INSERT OR IGNORE INTO cameras VALUES (?, ?, ?)", new)
            self._cameras |= cameras
        return [r.event_id for r in records]

    def _write_together(
        self, chunks: Sequence[Chunk], thumbnails: Thumbnails, now: str, written: Written
    ) -> EventsStored:
        """All events with few statements. Raises apsw.ConstraintError when one of them breaks a constraint."""
        records = [r for chunk in chunks for r in chunk.records if type(r) is EventRecord]
        ids = range(self._next_id, self._next_id + len(records))
        paths = _paths_by_id(chunks, thumbnails, self._next_id) if thumbnails else {}
        values: list[Any] = []
        detections: list[Any] = []
        for row_id, r in zip(ids, records, strict=True):
            values += event_row(r, row_id, paths.get(row_id), now)
            if r.detections:
                add_detections(detections, row_id, 0, r.detections)
        statements.EVENTS.run(self._connection, values)
        statements.DETECTIONS.run(self._connection, detections)
        return EventsStored(ids, records, paths, now)

    def _write_alone(self, chunks: Sequence[Chunk], thumbnails: Thumbnails, now: str, written: Written) -> EventsStored:
        """Event after event: one that breaks a constraint is a duplicate or rejected, and the others are stored."""
        ids: list[int] = []
        records: list[EventRecord] = []
        dead_letters = []
        paths = _paths_by_id(chunks, thumbnails, self._next_id)
        row_id = self._next_id - 1
        for index, chunk in enumerate(chunks):
            for offset, r in enumerate(chunk.records):
                if type(r) is not EventRecord:
                    continue
                row_id += 1
                try:
                    with alone(self._connection, self._one_by_one):
                        statements.EVENTS.run(self._connection, event_row(r, row_id, paths.get(row_id), now))
                        detections: list[Any] = []
                        add_detections(detections, row_id, 0, r.detections)
                        statements.DETECTIONS.run(self._connection, detections)
                except apsw.ConstraintError as error:
                    seq = chunk.first.seq + offset
                    if "events.event_id" in str(error):
                        status, reason = DUPLICATE, f"event {r.event_id} is there already"
                        written.duplicates.append(f"event {r.event_id}")
                    else:
                        status, reason = REJECTED, f"constraint: {error}"
                    written.exceptions[index].append((seq, status, reason))
                    dead_letters.append(resolved.dead_letter(chunk, seq, status, reason, now))
                else:
                    ids.append(row_id)
                    records.append(r)
        resolved.add_dead_letters(self._connection, dead_letters)
        return EventsStored(ids, records, paths, now)

    def _write_others(self, chunk: Chunk, now: str, exceptions: list[tuple[int, str, str]], written: Written) -> None:
        dead_letters = []
        for offset, record in enumerate(chunk.records):
            if type(record) is EventRecord:
                continue
            status = REJECTED
            reason: str | None
            if isinstance(record, AmendmentRecord):
                reason = self.amendments.amend_or_keep(chunk, offset, record, now, written.changes)
            elif isinstance(record, PersonRecord):
                reason = self._add_person(record, now, written.changes)
            elif isinstance(record, ObservationRecord):
                status, reason = self._add_observation(record, now, written)
            else:
                reason = record.reason if isinstance(record, Refusal) else f"unexpected {record!r}"
            if reason is not None:
                seq = chunk.first.seq + offset
                exceptions.append((seq, status, reason))
                dead_letters.append(resolved.dead_letter(chunk, seq, status, reason, now))
        resolved.add_dead_letters(self._connection, dead_letters)
        exceptions.sort()

    def _add_person(self, person: PersonRecord, now: str, changes: list[Change]) -> str | None:
        try:
            person_id = self._connection.execute(
                "INSERT INTO persons (site, name, display_name, created_at) VALUES (?, ?, ?, ?) RETURNING id",
                (person.site, person.name, person.display_name, now),
            ).get
        except apsw.ConstraintError:
            return f"constraint: site {person.site} has a person named {person.name!r} already"
        changes.append(PersonStored(person_id, person, now))
        return None

    def _add_observation(self, o: ObservationRecord, now: str, written: Written) -> tuple[str, str | None]:
        """A status, and the reason when it was not stored."""
        row = observation_row(o, self._next_id, now)
        try:
            texts.add_observation(self._connection, row)
        except apsw.ConstraintError as error:
            if "observations.observation_id" not in str(error):
                return REJECTED, f"constraint: {error}"
            written.duplicates.append(f"observation {o.observation_id}")
            return DUPLICATE, f"observation {o.observation_id} is there already"
        written.changes.append(ObservationStored(self._next_id, o, now))
        self._next_id += 1
        return STORED, None

    @property
    def last_id(self) -> int:
        """Of the event or observation stored last."""
        return self._next_id - 1

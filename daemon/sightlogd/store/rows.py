"""How a batch becomes rows. Runs inside a transaction that somebody else began and ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from sightlog.records import METADATA_KEYS_MAX
from sightlog.wire import DUPLICATE, REJECTED
from sightlogd.changes import AmendmentKept, Change, EventAmended, EventStored, PersonStored, Subject, ThumbnailSet
from sightlogd.decoder import (
    AmendmentRecord,
    Decoded,
    DetectionRecord,
    EventRecord,
    PersonRecord,
    Refusal,
    decode_record,
)
from sightlogd.session import DeadLetter, Parcel

from . import settled, unlogged

PENDING_AMENDMENTS_MAX: Final = 10_000

INSERT_EVENT: Final = f"INSERT INTO events VALUES ({', '.join('?' * 19)})"
INSERT_DETECTION: Final = f"INSERT INTO detections VALUES ({', '.join('?' * 8)})"
_NO_BOX: Final = (None, None, None, None)
# None leaves a column as it is.
_AMEND: Final = """
UPDATE events SET
    recording_id = coalesce(?, recording_id), motion_confidence = coalesce(?, motion_confidence),
    person_name = coalesce(?, person_name), face_confidence = coalesce(?, face_confidence),
    face_distance = coalesce(?, face_distance), unlock_granted = coalesce(?, unlock_granted),
    door_action = coalesce(?, door_action), image_path = coalesce(?, image_path),
    llm_description = coalesce(?, llm_description), alert_sent = coalesce(?, alert_sent),
    metadata = coalesce(?, metadata)
WHERE event_id = ? AND site = ? RETURNING id, event_id, site, camera_id, event_type, recorded_at"""


class Written(NamedTuple):
    """What became of a batch: for each parcel the (seq, status, reason) of records not simply stored."""

    exceptions: list[list[tuple[int, str, str]]]
    duplicates: list[str]
    """Event ids that were there already."""
    changes: list[Change]


Thumbnails = Mapping[tuple[int, int], str]
"""Paths by the indices of parcel and record."""
_EventRow = tuple[int, int, EventRecord, tuple[Any, ...]]
"""A parcel's index, the seq, the record, the row."""


class Rows:
    """The statements of the one writing connection, and what it remembers between batches.

    `forget` after a rollback: what is remembered is read again from the database.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._one_by_one = False
        self.forget()

    def forget(self) -> None:
        get = self._connection.execute
        # AUTOINCREMENT's own memory: ids of purged events are not given again.
        self._next_id = 1 + (get("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'").get or 0)
        # Events up to here have to be listed when they change: the day logs may be complete without it.
        self._marked = int(get("SELECT last_id FROM day_log_marks WHERE kind = 'event'").get)
        self._clock_day = ""
        self._cameras = set(get("SELECT site, camera_id FROM cameras").fetchall())
        self._pending = int(get("SELECT count(*) FROM pending_amendments").get)

    # -- a batch -----------------------------------------------------------------------------------------------------

    def write(
        self,
        parcels: Sequence[Parcel],
        thumbnails: Thumbnails,
        dead_letters: Sequence[DeadLetter],
        now: str,
        *,
        one_by_one: bool,
    ) -> Written:
        """`thumbnails` maps (parcel, record) to paths, `now` is the daemon's clock.

        Raises apsw.ConstraintError unless `one_by_one`: then each record has a savepoint, and one that breaks a
        constraint is settled as a duplicate or rejected. Savepoints make SQLite keep a copy of every page it changes.
        """
        self._one_by_one = one_by_one
        first_id = self._next_id
        written = Written([[] for _ in parcels], [], [])
        ids = self._write_events(parcels, thumbnails, now, written)
        if self._pending and ids:
            self._apply_pending(ids, now, written.changes)
        for index, parcel in enumerate(parcels):
            self._write_others(parcel, now, written.exceptions[index], written.changes)
        if now[:10] != self._clock_day:
            self._clock_day = now[:10]
            self._connection.execute("INSERT OR IGNORE INTO clock_days VALUES (?, ?)", (self._clock_day, first_id))
        skipped = {parcel.session: parcel.session.missing for parcel in parcels}
        for parcel, exceptions in zip(parcels, written.exceptions, strict=True):
            settled.count(self._connection, parcel, exceptions, skipped.pop(parcel.session, 0), now)
        settled.bury(
            self._connection,
            [(now, letter.producer_id, 0, 0, REJECTED, letter.reason, letter.message) for letter in dead_letters],
        )
        return written

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What is done within is undone by itself when it breaks a constraint, where that is asked for."""
        if not self._one_by_one:
            yield
            return
        self._connection.execute("SAVEPOINT one_record")
        try:
            yield
        except apsw.ConstraintError:
            self._connection.execute("ROLLBACK TO one_record")
            raise
        finally:
            self._connection.execute("RELEASE one_record")

    def _event_rows(self, parcels: Sequence[Parcel], thumbnails: Thumbnails, now: str) -> Iterator[_EventRow]:
        """Every event, with the id it gets."""
        next_id = self._next_id
        for index, parcel in enumerate(parcels):
            seq = parcel.first.seq
            for r in parcel.records:
                if type(r) is EventRecord:
                    yield index, seq, r, (
                        next_id, r.event_id, r.site, r.camera_id, r.recorded_at, r.event_type, r.recording_id,
                        r.motion_confidence, r.person_name, r.face_confidence, r.face_distance, r.unlock_granted,
                        r.door_action, thumbnails.get((index, seq - parcel.first.seq)), r.image_path,
                        r.llm_description, r.alert_sent, now, r.metadata and _json(r.metadata),
                    )  # fmt: skip
                    next_id += 1
                seq += 1

    def _write_events(self, parcels: Sequence[Parcel], thumbnails: Thumbnails, now: str, written: Written) -> list[str]:
        """Returns the event ids of what was stored."""
        rows = []
        detections: list[tuple[Any, ...]] = []
        cameras = set()
        event_rows = self._event_rows(parcels, thumbnails, now)
        for _, _, record, row in (
            self._stored_alone(event_rows, parcels, now, written) if self._one_by_one else event_rows
        ):
            rows.append(row)
            written.changes.append(EventStored(row, record))
            if record.detections:
                detections += _detection_rows(row[0], 0, record.detections)
            cameras.add((record.site, record.camera_id))
        if not rows:
            return []
        executemany = self._connection.executemany
        if not self._one_by_one:
            executemany(INSERT_EVENT, rows)
            executemany(INSERT_DETECTION, detections)
        self._next_id = rows[-1][0] + 1
        if not cameras <= self._cameras:
            new = [(site, camera_id, now) for site, camera_id in cameras - self._cameras]
            executemany("INSERT OR IGNORE INTO cameras VALUES (?, ?, ?)", new)
            self._cameras |= cameras
        return [row[1] for row in rows]

    def _stored_alone(
        self, event_rows: Iterator[_EventRow], parcels: Sequence[Parcel], now: str, written: Written
    ) -> Iterator[_EventRow]:
        """Stores event after event; yields those that break no constraint, and settles the others."""
        letters = []
        for event_row in event_rows:
            index, seq, record, row = event_row
            try:
                with self._alone():
                    self._connection.execute(INSERT_EVENT, row)
                    self._connection.executemany(INSERT_DETECTION, _detection_rows(row[0], 0, record.detections))
            except apsw.ConstraintError as error:
                parcel = parcels[index]
                if "events.event_id" in str(error):
                    status, reason, kept = DUPLICATE, f"event {record.event_id} is there already", None
                    written.duplicates.append(record.event_id)
                else:
                    status, reason, kept = REJECTED, f"constraint: {error}", parcel.packed[seq - parcel.first.seq]
                written.exceptions[index].append((seq, status, reason))
                letters.append(settled.letter(parcel, seq, status, reason, kept, now))
            else:
                yield event_row
        settled.bury(self._connection, letters)

    def _write_others(
        self, parcel: Parcel, now: str, exceptions: list[tuple[int, str, str]], changes: list[Change]
    ) -> None:
        letters = []
        for offset, record in enumerate(parcel.records):
            if type(record) is EventRecord:
                continue
            reason: str | None
            if isinstance(record, AmendmentRecord):
                reason = self._amend_or_keep(parcel, offset, record, now, changes)
            elif isinstance(record, PersonRecord):
                reason = self._add_person(record, now, changes)
            else:
                reason = record.reason if isinstance(record, Refusal) else f"unexpected {record!r}"
            if reason is not None:
                seq = parcel.first.seq + offset
                exceptions.append((seq, REJECTED, reason))
                letters.append(settled.letter(parcel, seq, REJECTED, reason, parcel.packed[offset], now))
        settled.bury(self._connection, letters)
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

    # -- amendments --------------------------------------------------------------------------------------------------

    def _amend(self, amendment: AmendmentRecord, now: str) -> EventAmended | str | None:
        """A reason when it was refused, None when there is no such event."""
        a = amendment
        execute = self._connection.execute
        metadata = self._merged(a) if a.metadata else None
        if isinstance(metadata, dict) and len(metadata) > METADATA_KEYS_MAX:
            return f"metadata: {len(metadata)} keys with those the event has; at most {METADATA_KEYS_MAX}"
        try:
            with self._alone():
                found = execute(
                    _AMEND,
                    (
                        a.recording_id, a.motion_confidence, a.person_name, a.face_confidence, a.face_distance,
                        a.unlock_granted, a.door_action, a.image_path, a.llm_description, a.alert_sent,
                        metadata and _json(metadata), a.event_id, a.site,
                    ),
                ).get  # fmt: skip
                if found is None:
                    return None
                subject = Subject(*found)
                if a.detections:
                    there = execute(
                        "SELECT coalesce(max(position) + 1, 0) FROM detections WHERE event_id = ?", (subject.id,)
                    )
                    self._connection.executemany(INSERT_DETECTION, _detection_rows(subject.id, there.get, a.detections))
        except apsw.ConstraintError as error:
            if not self._one_by_one:
                raise
            return f"constraint: {error}"
        self._remember_change(subject.id)
        return EventAmended(subject, a, now)

    def set_thumbnail(self, event_id: str, path: str, now: str) -> ThumbnailSet | None:
        """None: the event is gone."""
        found = self._connection.execute(
            "UPDATE events SET thumbnail_path = ? WHERE event_id = ? "
            "RETURNING id, event_id, site, camera_id, event_type, recorded_at",
            (path, event_id),
        ).get
        if found is None:
            return None
        self._remember_change(found[0])
        return ThumbnailSet(Subject(*found), path, now)

    def clear_thumbnails(self, paths: Sequence[str]) -> None:
        for path in paths:
            cleared = self._connection.execute(
                "UPDATE events SET thumbnail_path = NULL WHERE event_id = ? AND thumbnail_path = ? RETURNING id",
                (path.rpartition("/")[2].removesuffix(".jpg"), path),
            ).get
            if cleared is not None:
                self._remember_change(cleared)

    def _remember_change(self, event: int) -> None:
        if event <= self._marked:
            self._connection.execute("INSERT OR IGNORE INTO amended_events VALUES (?)", (event,))

    def _merged(self, amendment: AmendmentRecord) -> dict[str, Any]:
        """The event's metadata with the amendment's."""
        there = self._connection.execute(
            "SELECT metadata FROM events WHERE event_id = ? AND site = ?", (amendment.event_id, amendment.site)
        ).get
        return {**(json.loads(there) if there else {}), **(amendment.metadata or {})}

    def _amend_or_keep(
        self, parcel: Parcel, offset: int, amendment: AmendmentRecord, now: str, changes: list[Change]
    ) -> str | None:
        outcome = self._amend(amendment, now)
        if isinstance(outcome, EventAmended):
            changes.append(outcome)
            return None
        if outcome is None:
            producer_id, (epoch, seq) = parcel.session.producer_id, parcel.first
            self._connection.execute(
                "INSERT INTO pending_amendments (site, event_id, received_at, producer_id, epoch, seq, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (amendment.site, amendment.event_id, now, producer_id, epoch, seq + offset, parcel.packed[offset]),
            )
            changes.append(AmendmentKept(producer_id, epoch, seq + offset, amendment, now))
            self._pending += 1
            if self._pending > PENDING_AMENDMENTS_MAX:
                self._expire("id = (SELECT min(id) FROM pending_amendments)", (), now)
        return outcome

    def _apply_pending(self, event_ids: Sequence[str], now: str, changes: list[Change]) -> None:
        execute = self._connection.execute
        # As one JSON text: a batch may have more events than SQLite takes variables.
        waiting: list[Any] = execute(
            "SELECT p.id, p.producer_id, p.epoch, p.seq, p.record FROM pending_amendments p "
            "JOIN events e ON e.event_id = p.event_id AND e.site = p.site "
            "WHERE p.event_id IN (SELECT value FROM json_each(?)) ORDER BY p.id",
            (json.dumps(event_ids),),
        ).fetchall()
        letters = []
        for row_id, producer_id, epoch, seq, packed in waiting:
            record: Decoded = decode_record(packed)
            outcome = self._amend(record, now) if isinstance(record, AmendmentRecord) else "unreadable"
            if isinstance(outcome, EventAmended):
                changes.append(outcome)
            else:
                letters.append((now, producer_id, epoch, seq, REJECTED, outcome or "its event is gone", packed))
            execute("DELETE FROM pending_amendments WHERE id = ?", (row_id,))
            self._pending -= 1
        settled.bury(self._connection, letters)

    def expire_pending(self, received_before: str, now: str) -> int:
        """Amendments whose event never came become dead letters; returns how many."""
        return self._expire("received_at < ?", (received_before,), now) if self._pending else 0

    def _expire(self, condition: str, parameters: tuple[str, ...], now: str) -> int:
        expired = self._connection.execute(
            f"DELETE FROM pending_amendments WHERE {condition} RETURNING producer_id, epoch, seq, event_id, record",
            parameters,
        ).fetchall()
        settled.bury(
            self._connection,
            [
                (now, producer_id, epoch, seq, "expired", f"no event {event_id} came for this amendment", record)
                for producer_id, epoch, seq, event_id, record in expired
            ],
        )
        self._pending -= len(expired)
        return len(expired)

    @property
    def last_id(self) -> int:
        """Of the event stored last."""
        return self._next_id - 1

    def mark_events_logged(self, up_to: int) -> None:
        """The day logs have the events up to there; those before them that were amended are still to be compared."""
        self._marked = up_to
        unlogged.set_event_mark(self._connection, up_to)

    def mark_logged(self) -> None:
        """The day logs have everything up to here."""
        self._marked = self.last_id
        unlogged.set_marks(self._connection, self._marked)


def _json(metadata: Mapping[str, Any]) -> str:
    return msgspec.json.encode(metadata).decode()


def _detection_rows(event: int, start: int, detections: Sequence[DetectionRecord]) -> list[tuple[Any, ...]]:
    return [(event, n, d.label, d.confidence, *(d.bbox or _NO_BOX)) for n, d in enumerate(detections, start)]

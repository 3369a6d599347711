"""How a batch becomes rows. Runs inside a transaction that somebody else began and ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import apsw

from sightlog.accounts import Settled
from sightlog.wire import DUPLICATE, REJECTED, Position
from sightlogd.decoder import (
    AmendmentRecord,
    Decoded,
    DetectionRecord,
    EventRecord,
    PersonRecord,
    Refusal,
    decode_record,
)
from sightlogd.session import DeadLetter, Exceptions, Parcel

DEAD_LETTERS_MAX: Final = 10_000
"""Older ones make room."""
DEAD_LETTER_BYTES_MAX: Final = 4_096
"""Kept of a refused record."""
PENDING_AMENDMENTS_MAX: Final = 10_000

_EVENT: Final = f"INSERT INTO events VALUES ({', '.join('?' * 18)})"
_DETECTION: Final = f"INSERT INTO detections VALUES ({', '.join('?' * 8)})"
_NO_BOX: Final = (None, None, None, None)
# None leaves a column as it is.
_AMEND: Final = """
UPDATE events SET
    recording_id = coalesce(?, recording_id), motion_confidence = coalesce(?, motion_confidence),
    person_name = coalesce(?, person_name), face_confidence = coalesce(?, face_confidence),
    face_distance = coalesce(?, face_distance), unlock_granted = coalesce(?, unlock_granted),
    door_action = coalesce(?, door_action), image_path = coalesce(?, image_path),
    llm_description = coalesce(?, llm_description), alert_sent = coalesce(?, alert_sent)
WHERE event_id = ? AND site = ? RETURNING id"""
_PRODUCER: Final = """
INSERT INTO producers (producer_id, name, epoch, last_seq, stored, duplicates, rejected, missing,
                       first_seen_at, last_seen_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (producer_id) DO UPDATE SET
    name = excluded.name, epoch = excluded.epoch, last_seq = excluded.last_seq, stored = stored + excluded.stored,
    duplicates = duplicates + excluded.duplicates, rejected = rejected + excluded.rejected,
    missing = min(missing + excluded.missing, 4611686018427387904), last_seen_at = excluded.last_seen_at"""


class Written(NamedTuple):
    """What became of a batch: for each parcel the (seq, status, reason) of records not simply stored."""

    exceptions: list[list[tuple[int, str, str]]]
    duplicates: list[str]
    """Event ids that were there already."""


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
        written = Written([[] for _ in parcels], [])
        ids = self._write_events(parcels, thumbnails, now, written)
        if self._pending and ids:
            self._apply_pending(ids, now)
        for index, parcel in enumerate(parcels):
            self._write_others(parcel, now, written.exceptions[index])
        skipped = {parcel.session: parcel.session.missing for parcel in parcels}
        for parcel, exceptions in zip(parcels, written.exceptions, strict=True):
            self._count(parcel, exceptions, skipped.pop(parcel.session, 0), now)
        self._bury(
            [(now, letter.producer_id, 0, 0, REJECTED, letter.reason, letter.message) for letter in dead_letters]
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
                        r.llm_description, r.alert_sent, now,
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
            if record.detections:
                detections += _detection_rows(row[0], 0, record.detections)
            cameras.add((record.site, record.camera_id))
        if not rows:
            return []
        executemany = self._connection.executemany
        if not self._one_by_one:
            executemany(_EVENT, rows)
            executemany(_DETECTION, detections)
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
                    self._connection.execute(_EVENT, row)
                    self._connection.executemany(_DETECTION, _detection_rows(row[0], 0, record.detections))
            except apsw.ConstraintError as error:
                parcel = parcels[index]
                if "events.event_id" in str(error):
                    status, reason, kept = DUPLICATE, f"event {record.event_id} is there already", None
                    written.duplicates.append(record.event_id)
                else:
                    status, reason, kept = REJECTED, f"constraint: {error}", parcel.packed[seq - parcel.first.seq]
                written.exceptions[index].append((seq, status, reason))
                letters.append(_letter(parcel, seq, status, reason, kept, now))
            else:
                yield event_row
        self._bury(letters)

    def _write_others(self, parcel: Parcel, now: str, exceptions: list[tuple[int, str, str]]) -> None:
        letters = []
        for offset, record in enumerate(parcel.records):
            if type(record) is EventRecord:
                continue
            reason: str | None
            if isinstance(record, AmendmentRecord):
                reason = self._amend_or_keep(parcel, offset, record, now)
            elif isinstance(record, PersonRecord):
                reason = self._add_person(record, now)
            else:
                reason = record.reason if isinstance(record, Refusal) else f"unexpected {record!r}"
            if reason is not None:
                seq = parcel.first.seq + offset
                exceptions.append((seq, REJECTED, reason))
                letters.append(_letter(parcel, seq, REJECTED, reason, parcel.packed[offset], now))
        self._bury(letters)
        exceptions.sort()

    def _add_person(self, person: PersonRecord, now: str) -> str | None:
        try:
            self._connection.execute(
                "INSERT INTO persons (site, name, display_name, created_at) VALUES (?, ?, ?, ?)",
                (person.site, person.name, person.display_name, now),
            )
        except apsw.ConstraintError:
            return f"constraint: site {person.site} has a person named {person.name!r} already"
        return None

    # -- amendments --------------------------------------------------------------------------------------------------

    def _amend(self, amendment: AmendmentRecord) -> str | None:
        """'' when applied, a reason when a constraint refused it, None when there is no such event."""
        a = amendment
        execute = self._connection.execute
        try:
            with self._alone():
                event = execute(
                    _AMEND,
                    (
                        a.recording_id, a.motion_confidence, a.person_name, a.face_confidence, a.face_distance,
                        a.unlock_granted, a.door_action, a.image_path, a.llm_description, a.alert_sent,
                        a.event_id, a.site,
                    ),
                ).get  # fmt: skip
                if event is not None and a.detections:
                    there = execute(
                        "SELECT coalesce(max(position) + 1, 0) FROM detections WHERE event_id = ?", (event,)
                    )
                    self._connection.executemany(_DETECTION, _detection_rows(event, there.get, a.detections))
        except apsw.ConstraintError as error:
            if not self._one_by_one:
                raise
            return f"constraint: {error}"
        return None if event is None else ""

    def _amend_or_keep(self, parcel: Parcel, offset: int, amendment: AmendmentRecord, now: str) -> str | None:
        outcome = self._amend(amendment)
        if outcome is None:
            self._connection.execute(
                "INSERT INTO pending_amendments (site, event_id, received_at, producer_id, epoch, seq, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    amendment.site, amendment.event_id, now, parcel.session.producer_id, parcel.first.epoch,
                    parcel.first.seq + offset, parcel.packed[offset],
                ),
            )  # fmt: skip
            self._pending += 1
            if self._pending > PENDING_AMENDMENTS_MAX:
                self._expire("id = (SELECT min(id) FROM pending_amendments)", (), now)
        return outcome or None

    def _apply_pending(self, event_ids: Sequence[str], now: str) -> None:
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
            outcome = self._amend(record) if isinstance(record, AmendmentRecord) else "unreadable"
            if outcome:
                letters.append((now, producer_id, epoch, seq, REJECTED, outcome, packed))
            execute("DELETE FROM pending_amendments WHERE id = ?", (row_id,))
            self._pending -= 1
        self._bury(letters)

    def expire_pending(self, received_before: str, now: str) -> int:
        """Amendments whose event never came become dead letters; returns how many."""
        return self._expire("received_at < ?", (received_before,), now) if self._pending else 0

    def _expire(self, condition: str, parameters: tuple[str, ...], now: str) -> int:
        expired = self._connection.execute(
            f"DELETE FROM pending_amendments WHERE {condition} RETURNING producer_id, epoch, seq, event_id, record",
            parameters,
        ).fetchall()
        self._bury(
            [
                (now, producer_id, epoch, seq, "expired", f"no event {event_id} came for this amendment", record)
                for producer_id, epoch, seq, event_id, record in expired
            ]
        )
        self._pending -= len(expired)
        return len(expired)

    # -- bookkeeping -------------------------------------------------------------------------------------------------

    def _count(self, parcel: Parcel, exceptions: Exceptions, missing: int, now: str) -> None:
        session = parcel.session
        statuses = [status for _, status, _ in exceptions]
        last = parcel.last
        self._connection.execute(
            _PRODUCER,
            (
                session.producer_id, session.name, last.epoch, last.seq, len(parcel.records) - len(statuses),
                statuses.count(DUPLICATE), statuses.count(REJECTED), missing, now, now,
            ),
        )  # fmt: skip

    def _bury(self, letters: Sequence[tuple[Any, ...]]) -> None:
        if not letters:
            return
        self._connection.executemany(
            "INSERT INTO dead_letters (received_at, producer_id, epoch, seq, status, reason, record) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(*told, record and record[:DEAD_LETTER_BYTES_MAX]) for *told, record in letters],
        )
        self._connection.execute(
            "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?", (DEAD_LETTERS_MAX,)
        )


def _detection_rows(event: int, start: int, detections: Sequence[DetectionRecord]) -> list[tuple[Any, ...]]:
    return [(event, n, d.label, d.confidence, *(d.bbox or _NO_BOX)) for n, d in enumerate(detections, start)]


def _letter(
    parcel: Parcel, seq: int, status: str, reason: str, record: bytes | None, now: str
) -> tuple[str, str, int, int, str, str, bytes | None]:
    return now, parcel.session.producer_id, parcel.first.epoch, seq, status, reason, record


def stored_of(connection: apsw.Connection, producer_id: str) -> Position | None:
    """The last position settled of a producer."""
    row = connection.execute("SELECT epoch, last_seq FROM producers WHERE producer_id = ?", (producer_id,)).get
    return Position(*row) if row else None


def producers(connection: apsw.Connection, count_max: int) -> list[tuple[str, str, Settled]]:
    """Id, name and counters of the producers that had something settled last."""
    found: list[Any] = connection.execute(
        "SELECT producer_id, name, epoch, last_seq, stored, duplicates, rejected, missing FROM producers "
        "ORDER BY last_seen_at DESC LIMIT ?",
        (count_max,),
    ).fetchall()
    return [(row[0], row[1], Settled(Position(row[2], row[3]), *row[4:])) for row in found]


def exceptions_of(connection: apsw.Connection, producer_id: str, first: Position, last: Position) -> Exceptions:
    """(seq, status, reason) of a producer's records in a range that were settled but not stored."""
    found: list[Any] = connection.execute(
        "SELECT seq, status, reason FROM dead_letters WHERE producer_id = ? AND epoch = ? AND seq BETWEEN ? AND ? "
        "AND status IN ('rejected', 'duplicate') ORDER BY seq",
        (producer_id, last.epoch, first.seq if first.epoch == last.epoch else 1, last.seq),
    ).fetchall()
    return found


def known_events(connection: apsw.Connection, event_ids: Sequence[str]) -> set[str]:
    """Those of the ids that are there already, at whatever site."""
    found: list[Any] = connection.execute(
        "SELECT event_id FROM events WHERE event_id IN (SELECT value FROM json_each(?))", (json.dumps(event_ids),)
    ).fetchall()
    return {event_id for (event_id,) in found}

"""Amendments: applied to their event, or kept until it comes. Inside somebody else's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import apsw

from sightlog.protocol.fields import AMENDABLE_COLUMNS
from sightlog.protocol.limits import DETECTIONS_MAX, METADATA_KEYS_MAX
from sightlog.protocol.messages import REJECTED
from sightlogd.protocol.decoder import WHOLE_BYTES_MAX, AmendmentRecord, Decoded, DetectionRecord, decode_record
from sightlogd.protocol.session import Chunk

from . import log_marks, resolved, statements, texts
from .columns import json_text
from .statements import alone
from .texts import Face
from .written import AmendmentKept, Change, EventAmended, Subject, ThumbnailSet

PENDING_AMENDMENTS_MAX: Final = 10_000
PENDING_BYTES_MAX: Final = 8 * 1024 * 1024
"""All of them may be for one event, or for those of one batch, and are in memory then."""

_LATE: Final = "it did not come in time for this amendment"
_NO_ROOM: Final = f"this amendment made room: {PENDING_AMENDMENTS_MAX:,}, or {PENDING_BYTES_MAX >> 20} MiB, may wait"
_NO_BOX: Final = (None, None, None, None)
# None leaves a column as it is.
_AMEND: Final = (
    f"UPDATE events SET {', '.join(f'{name} = coalesce(?, {name})' for name in AMENDABLE_COLUMNS)} "
    f"WHERE event_id = ? AND site = ? RETURNING {', '.join(Subject._fields)}"
)
_values_of = attrgetter(*(name for name in AMENDABLE_COLUMNS if name != "metadata"))
assert AMENDABLE_COLUMNS[-1] == "metadata"  # it is merged with the event's


class Amendments:
    """Knows which events have to be listed when they change, and how many amendments wait."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.one_by_one = False
        get = connection.execute
        # Events up to here have to be listed when they change: the day logs may be complete without it.
        self.marked = int(get("SELECT last_id FROM day_log_marks WHERE kind = 'event'").get)
        self._pending, self._pending_bytes = get(
            "SELECT count(*), coalesce(sum(length(record)), 0) FROM pending_amendments"
        ).get
        self.unapplied: list[str] = []
        """What became of amendments that waited, whose producers have their acks: for the log."""

    @property
    def are_waiting(self) -> bool:
        return bool(self._pending)

    def _amend(self, amendment: AmendmentRecord, now: str) -> EventAmended | str | None:
        """A reason when it was refused, None when there is no such event."""
        a = amendment
        execute = self._connection.execute
        metadata = self._merged(a) if a.metadata else None
        if isinstance(metadata, dict) and len(metadata) > METADATA_KEYS_MAX:
            return f"metadata: {len(metadata)} keys with those the event has; at most {METADATA_KEYS_MAX}"
        there = self._detections_of(a) if a.detections else 0
        if there + len(a.detections) > DETECTIONS_MAX:
            return f"detections: {there + len(a.detections):,} with those the event has; at most {DETECTIONS_MAX:,}"
        try:
            with alone(self._connection, self.one_by_one):
                found = execute(_AMEND, (*_values_of(a), metadata and json_text(metadata), a.event_id, a.site)).get
                if found is None:
                    return None
                subject = Subject(*found)
                if a.detections:
                    values: list[Any] = []
                    add_detections(values, subject.id, there, a.detections)
                    statements.DETECTIONS.run(self._connection, values)
                if a.embedding is not None:
                    face = Face(a.embedding, a.embedding_model, a.embedding_version)
                    texts.set_faces(self._connection, [(subject.id, a.site, face)])
        except apsw.ConstraintError as error:
            if not self.one_by_one:
                raise
            return f"constraint: {error}"
        self._remember_change(subject.id)
        return EventAmended(subject, a, now)

    def set_thumbnail(self, event_id: str, path: str, now: str) -> ThumbnailSet | None:
        """None: the event is gone."""
        found = self._connection.execute(
            f"UPDATE events SET thumbnail_path = ? WHERE event_id = ? RETURNING {', '.join(Subject._fields)}",
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

    # -- what the day logs have --------------------------------------------------------------------------------------

    def mark_events_logged(self, up_to: int) -> None:
        """The day logs have the events up to there; those before them that were amended are still to be compared."""
        self.marked = up_to
        log_marks.set_event_mark(self._connection, up_to)

    def mark_logged(self, up_to: int) -> None:
        """The day logs have everything up to there."""
        self.marked = up_to
        log_marks.set_marks(self._connection, up_to)

    def forget_logged(self) -> None:
        """The day logs may lack anything."""
        self.marked = 0
        log_marks.clear_marks(self._connection)

    def _remember_change(self, event: int) -> None:
        if event <= self.marked:
            self._connection.execute("INSERT OR IGNORE INTO amended_events VALUES (?)", (event,))

    def _detections_of(self, amendment: AmendmentRecord) -> int:
        """How many the event has: their positions are without a gap, so the last one tells."""
        last = self._connection.execute(
            "SELECT max(position) FROM detections "
            "WHERE event_id = (SELECT id FROM events WHERE event_id = ? AND site = ?)",
            (amendment.event_id, amendment.site),
        ).get
        return 0 if last is None else int(last) + 1

    def _merged(self, amendment: AmendmentRecord) -> dict[str, Any]:
        """The event's metadata with the amendment's."""
        there = self._connection.execute(
            "SELECT metadata FROM events WHERE event_id = ? AND site = ?", (amendment.event_id, amendment.site)
        ).get
        return {**(json.loads(there) if there else {}), **(amendment.metadata or {})}

    def amend_or_keep(
        self, chunk: Chunk, offset: int, amendment: AmendmentRecord, now: str, changes: list[Change]
    ) -> str | None:
        """A reason when it was refused."""
        outcome = self._amend(amendment, now)
        if isinstance(outcome, EventAmended):
            changes.append(outcome)
            return None
        if outcome is None:
            producer_id, (epoch, seq) = chunk.session.producer_id, chunk.first
            self._connection.execute(
                "INSERT INTO pending_amendments (site, event_id, received_at, producer_id, epoch, seq, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (amendment.site, amendment.event_id, now, producer_id, epoch, seq + offset, chunk.packed[offset]),
            )
            changes.append(AmendmentKept(producer_id, epoch, seq + offset, amendment, now))
            self._pending += 1
            self._pending_bytes += len(chunk.packed[offset])
            while self._pending > PENDING_AMENDMENTS_MAX or self._pending_bytes > PENDING_BYTES_MAX:
                self._expire("id = (SELECT min(id) FROM pending_amendments)", (), now, _NO_ROOM)
                self.unapplied.append(_NO_ROOM)
        return outcome

    def apply_pending(self, event_ids: Sequence[str], now: str, changes: list[Change]) -> None:
        """Those that waited for these events."""
        execute = self._connection.execute
        # As one JSON text: a batch may have more events than SQLite takes variables.
        waiting: list[Any] = execute(
            "SELECT p.id, p.producer_id, p.epoch, p.seq, p.site, p.record FROM pending_amendments p "
            "JOIN events e ON e.event_id = p.event_id AND e.site = p.site "
            "WHERE p.event_id IN (SELECT value FROM json_each(?)) ORDER BY p.id",
            (json.dumps(event_ids),),
        ).fetchall()
        dead_letters = []
        for row_id, producer_id, epoch, seq, site, packed in waiting:
            # One that a rebuild made of its line may have more bytes than it was sent in.
            record: Decoded = decode_record(packed, WHOLE_BYTES_MAX)
            outcome = self._amend(record, now) if isinstance(record, AmendmentRecord) else "unreadable"
            if isinstance(outcome, EventAmended):
                changes.append(outcome)
            else:
                reason = outcome or "its event is gone"
                dead_letters.append((now, producer_id, epoch, seq, REJECTED, reason, site, packed))
                self.unapplied.append(reason)
            execute("DELETE FROM pending_amendments WHERE id = ?", (row_id,))
            self._pending -= 1
            self._pending_bytes -= len(packed)
        resolved.add_dead_letters(self._connection, dead_letters)

    def expire(self, before: str, after: str, now: str) -> int:
        """Those received before or after that, whose event never came, become dead letters; returns how many."""
        outside = "received_at < ? OR received_at > ?"
        return self._expire(outside, (before, after), now) if self._pending else 0

    def _expire(self, condition: str, parameters: tuple[str, ...], now: str, why: str = _LATE) -> int:
        expired: list[Any] = self._connection.execute(
            f"DELETE FROM pending_amendments WHERE {condition} "
            "RETURNING producer_id, epoch, seq, event_id, site, record",
            parameters,
        ).fetchall()
        resolved.add_dead_letters(
            self._connection,
            [
                (now, producer_id, epoch, seq, "expired", f"no event {event_id}: {why}", site, record)
                for producer_id, epoch, seq, event_id, site, record in expired
            ],
        )
        self._pending -= len(expired)
        self._pending_bytes -= sum(len(record) for *_, record in expired)
        return len(expired)


def add_detections(values: list[Any], event: int, start: int, detections: Sequence[DetectionRecord]) -> None:
    """Their rows, the first at position `start`, one behind the other."""
    for position, d in enumerate(detections, start):
        values += (event, position, d.label, d.confidence, *(d.bbox or _NO_BOX))

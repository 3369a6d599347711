"""Amendments: applied to their event, or kept until it comes. Inside somebody else's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import apsw
import msgspec

from sightlog.records import METADATA_KEYS_MAX
from sightlog.wire import REJECTED
from sightlogd.changes import AmendmentKept, Change, EventAmended, Subject, ThumbnailSet
from sightlogd.decoder import AmendmentRecord, Decoded, DetectionRecord, decode_record
from sightlogd.session import Parcel

from . import bulk, settled, texts
from .savepoint import alone
from .texts import Face

PENDING_AMENDMENTS_MAX: Final = 10_000

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


class Amendments:
    """Knows which events have to be listed when they change, and how many amendments wait."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.one_by_one = False
        get = connection.execute
        # Events up to here have to be listed when they change: the day logs may be complete without it.
        self.marked = int(get("SELECT last_id FROM day_log_marks WHERE kind = 'event'").get)
        self._pending = int(get("SELECT count(*) FROM pending_amendments").get)

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
        try:
            with alone(self._connection, self.one_by_one):
                found = execute(
                    _AMEND,
                    (
                        a.recording_id, a.motion_confidence, a.person_name, a.face_confidence, a.face_distance,
                        a.unlock_granted, a.door_action, a.image_path, a.llm_description, a.alert_sent,
                        metadata and json_text(metadata), a.event_id, a.site,
                    ),
                ).get  # fmt: skip
                if found is None:
                    return None
                subject = Subject(*found)
                if a.detections:
                    there = execute(
                        "SELECT coalesce(max(position) + 1, 0) FROM detections WHERE event_id = ?", (subject.id,)
                    )
                    values: list[Any] = []
                    add_detections(values, subject.id, there.get, a.detections)
                    bulk.DETECTIONS.run(self._connection, values)
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
        if event <= self.marked:
            self._connection.execute("INSERT OR IGNORE INTO amended_events VALUES (?)", (event,))

    def _merged(self, amendment: AmendmentRecord) -> dict[str, Any]:
        """The event's metadata with the amendment's."""
        there = self._connection.execute(
            "SELECT metadata FROM events WHERE event_id = ? AND site = ?", (amendment.event_id, amendment.site)
        ).get
        return {**(json.loads(there) if there else {}), **(amendment.metadata or {})}

    def amend_or_keep(
        self, parcel: Parcel, offset: int, amendment: AmendmentRecord, now: str, changes: list[Change]
    ) -> str | None:
        """A reason when it was refused."""
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
        letters = []
        for row_id, producer_id, epoch, seq, site, packed in waiting:
            record: Decoded = decode_record(packed)
            outcome = self._amend(record, now) if isinstance(record, AmendmentRecord) else "unreadable"
            if isinstance(outcome, EventAmended):
                changes.append(outcome)
            else:
                letters.append((now, producer_id, epoch, seq, REJECTED, outcome or "its event is gone", site, packed))
            execute("DELETE FROM pending_amendments WHERE id = ?", (row_id,))
            self._pending -= 1
        settled.bury(self._connection, letters)

    def expire(self, before: str, after: str, now: str) -> int:
        """Those received before or after that, whose event never came, become dead letters; returns how many."""
        outside = "received_at < ? OR received_at > ?"
        return self._expire(outside, (before, after), now) if self._pending else 0

    def _expire(self, condition: str, parameters: tuple[str, ...], now: str) -> int:
        expired = self._connection.execute(
            f"DELETE FROM pending_amendments WHERE {condition} "
            "RETURNING producer_id, epoch, seq, event_id, site, record",
            parameters,
        ).fetchall()
        settled.bury(
            self._connection,
            [
                (now, producer_id, epoch, seq, "expired", f"no event {event_id} came for this amendment", site, record)
                for producer_id, epoch, seq, event_id, site, record in expired
            ],
        )
        self._pending -= len(expired)
        return len(expired)


def json_text(metadata: Mapping[str, Any]) -> str:
    return msgspec.json.encode(metadata).decode()


def add_detections(values: list[Any], event: int, start: int, detections: Sequence[DetectionRecord]) -> None:
    """Their rows, the first at position `start`, one behind the other."""
    for position, d in enumerate(detections, start):
        values += (event, position, d.label, d.confidence, *(d.bbox or _NO_BOX))

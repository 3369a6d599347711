"""Reading a spool back for sending, from where the last look ended, while somebody else appends or drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sightlog.protocol.limits import MESSAGE_IMAGES_MAX, RECORD_BYTES_MAX
from sightlog.protocol.messages import Position, unsendable

from .segment import Segment


class SpooledChunk(NamedTuple):
    """Consecutive records of one epoch, read back for sending."""

    first: Position
    records: list[bytes]
    images: list[bytes]
    bytes: int


@dataclass(slots=True)
class _Cursor:
    """Where reading stands: all entries of `segment` before `offset` are at or below `after`."""

    segment: Segment
    offset: int
    after: Position


class Playback:
    """`segments` is the spool's own list, which grows at its end and shrinks at its front meanwhile."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._cursor: _Cursor | None = None

    def read_after(self, after: Position, records_max: int, bytes_max: int) -> SpooledChunk | None:
        """See `Spool.read_after`."""
        # An exception may leave it half way through what nobody got: then the next look begins anew.
        cursor, self._cursor = self._cursor, None
        if cursor is None or cursor.after != after:
            behind = (segment for segment in list(self._segments) if segment.last > after)
            segment = next(behind, None)
            if segment is None:
                return None
            cursor = _Cursor(segment, 0, after)
        first: Position | None = None
        records: list[bytes] = []
        images: list[bytes] = []
        total = carriers = following_seq = 0
        full = False
        while not full:
            if cursor.offset >= cursor.segment.size:
                following = None if records else self._following(cursor.segment)
                if following is None:
                    break
                # Looked at once more: a writer may have added to it before it began the next one.
                if cursor.offset >= cursor.segment.size:
                    cursor = _Cursor(following, 0, after)
                continue
            epoch = cursor.segment.epoch
            last = cursor.after if first is None else Position(first.epoch, first.seq + len(records) - 1)
            entries, offset = cursor.segment.read(cursor.offset, last.seq if last.epoch == epoch else 0)
            for seq, record, image, end in entries:
                if epoch > after.epoch or seq > after.seq:
                    size = len(record) + len(image)
                    # Most are far below what can be sent.
                    if size > RECORD_BYTES_MAX and (stand_in := unsendable(record, image)) is not None:
                        cursor.segment.keep(seq, size)
                        record, image, size = stand_in, b"", len(stand_in)
                    if first is None:
                        first = Position(epoch, seq)
                        following_seq = seq
                    elif (
                        seq != following_seq
                        or len(records) >= records_max
                        or total + size > bytes_max
                        or (image and carriers >= MESSAGE_IMAGES_MAX)
                    ):
                        full = True
                        break
                    following_seq += 1
                    carriers += bool(image)
                    records.append(record)
                    images.append(image)
                    total += size
                cursor.offset = end
            else:
                cursor.offset = offset
        if first is not None:
            cursor.after = Position(first.epoch, first.seq + len(records) - 1)
        self._cursor = cursor
        if first is None:
            return None
        return SpooledChunk(first, records, images, total)

    def _following(self, segment: Segment) -> Segment | None:
        """The next one; `segment` itself may have been deleted meanwhile."""
        place = segment.epoch, segment.first_seq
        return next((other for other in list(self._segments) if (other.epoch, other.first_seq) > place), None)

    def forget(self, segment: Segment) -> None:
        """It was deleted."""
        if self._cursor is not None and self._cursor.segment is segment:
            self._cursor = None

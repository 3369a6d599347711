"""What became of records: the counters of producers, and dead letters. Inside somebody else's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw

from sightlog.protocol.messages import DUPLICATE, REJECTED
from sightlogd.protocol.decoder import site_of
from sightlogd.protocol.session import DEAD_LETTER_BYTES_MAX, Chunk, Exceptions

DEAD_LETTERS_MAX: Final = 10_000
"""Older ones make room."""

_COUNT: Final = """
INSERT INTO producers (producer_id, name, epoch, last_seq, stored, duplicates, rejected, missing,
                       first_seen_at, last_seen_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (producer_id) DO UPDATE SET
    name = excluded.name, epoch = excluded.epoch, last_seq = excluded.last_seq, stored = stored + excluded.stored,
    duplicates = duplicates + excluded.duplicates, rejected = rejected + excluded.rejected,
    missing = min(missing + excluded.missing, 4611686018427387904), last_seen_at = excluded.last_seen_at"""


def count(connection: apsw.Connection, chunk: Chunk, exceptions: Exceptions, missing: int, now: str) -> None:
    session = chunk.session
    statuses = [status for _, status, _ in exceptions]
    last = chunk.last
    connection.execute(
        _COUNT,
        (
            session.producer_id, session.name, last.epoch, last.seq, len(chunk.records) - len(statuses),
            statuses.count(DUPLICATE), statuses.count(REJECTED), missing, now, now,
        ),
    )  # fmt: skip


def add_dead_letters(connection: apsw.Connection, dead_letters: Sequence[tuple[Any, ...]]) -> None:
    if not dead_letters:
        return
    connection.executemany(
        "INSERT INTO dead_letters (received_at, producer_id, epoch, seq, status, reason, site, record) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(*told, record and record[:DEAD_LETTER_BYTES_MAX]) for *told, record in dead_letters],
    )
    connection.execute(
        "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?", (DEAD_LETTERS_MAX,)
    )


def dead_letter(
    chunk: Chunk, seq: int, status: str, reason: str, now: str
) -> tuple[str, str, int, int, str, str, str | None, bytes | None]:
    """Of a duplicate only that it was one: the first is there."""
    packed = chunk.packed[seq - chunk.first.seq]
    kept = packed if status == REJECTED else None
    return now, chunk.session.producer_id, chunk.first.epoch, seq, status, reason, site_of(packed), kept

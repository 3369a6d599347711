"""What must hold between the ledgers of producers and the database, whatever was killed."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

PRODUCER = Path(__file__).with_name("producer.py")


def start_producer(endpoint: str, spool_dir: Path, name: str, ledger: Path, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PRODUCER), endpoint, str(spool_dir), name, str(ledger), str(count)]
    return subprocess.Popen(command)


def _lines(ledger: Path, kind: str) -> list[str]:
    if not ledger.exists():
        return []
    return [line[2:] for line in ledger.read_text().splitlines() if line.startswith(kind) and len(line) == 38]


def published(ledger: Path) -> list[str]:
    return _lines(ledger, "P")


def acked(ledger: Path) -> list[str]:
    return _lines(ledger, "A")


def assert_every_text_can_be_found(connection: sqlite3.Connection) -> None:
    """FTS5 compares its index with the texts; as that is an INSERT, on a copy."""
    with contextlib.closing(sqlite3.connect(":memory:")) as copy:
        connection.backup(copy)
        copy.execute("INSERT INTO texts_index (texts_index, rank) VALUES ('integrity-check', 1)")


def check(database: Path, ledgers: dict[str, Path], *, delivered: bool) -> None:
    """acked ⊆ stored, each once and whole, in the order of publishing; with `delivered`, published ⊆ stored too."""
    # Closed also when it fails: what it holds open cannot be unmounted.
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        _check(connection, ledgers, delivered=delivered)


def _check(connection: sqlite3.Connection, ledgers: dict[str, Path], *, delivered: bool) -> None:
    connection.execute("BEGIN")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert_every_text_can_be_found(connection)
    for name, ledger in ledgers.items():
        rows = connection.execute(
            "SELECT event_id, person_name, (SELECT count(*) FROM detections d WHERE d.event_id = e.id), "
            "(SELECT count(*) FROM face_embeddings f WHERE f.event_id = e.id), "
            "(SELECT count(*) FROM observations o WHERE o.site = e.site AND o.event_id = e.event_id) FROM events e "
            "WHERE camera_id = ? ORDER BY id",
            (name,),
        ).fetchall()
        stored = [row[0] for row in rows]
        assert len(set(stored)) == len(stored)
        known = set(stored)
        assert set(acked(ledger)) <= known, f"{name}: acked and not stored"
        order = published(ledger)
        position = {event_id: number for number, event_id in enumerate(order)}
        # The last event of a life may be spooled without its line in the ledger: the producer was killed in between.
        numbers = [position[event_id] for event_id in stored if event_id in position]
        assert numbers == sorted(numbers), f"{name}: not in the order of publishing"
        if numbers:
            assert numbers == list(range(numbers[-1] + 1)), f"{name}: a gap"
        whole = set(acked(ledger))
        for event_id, person_name, detections, faces, observations in rows:
            amended = person_name == name
            assert detections == (4 if amended else 3), f"{name}: {event_id} has {detections} detections"
            assert faces == amended, f"{name}: {event_id} has {faces} faces"
            assert observations <= 1, f"{name}: {event_id} has {observations} observations"
            assert observations or event_id not in whole, (
                f"{name}: {event_id} was acked and its observation is not there"
            )
            assert amended or event_id not in whole, f"{name}: {event_id} was acked and its amendment is not there"
        if delivered:
            assert set(order) <= known, f"{name}: published and not stored"
            assert all(row[1] == name for row in rows if row[0] in position), f"{name}: an amendment is missing"
    left = connection.execute("SELECT count(*) FROM dead_letters").fetchone()[0]
    assert left == 0

"""What must hold between a database and the day logs beside it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import ledger

TABLES = ("events", "detections", "face_embeddings", "observations", "persons", "cameras", "clock_days")


def lines(data_dir: Path) -> list[dict[str, Any]]:
    """Lines of records of all days, the oldest day first; each has to be JSON, and the first of a day tells its range.

    One that is being written is not there yet.
    """
    found: list[dict[str, Any]] = []
    for file in sorted(data_dir.glob("events/*/events.json")):
        of_day = [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
        assert not of_day or of_day[0]["kind"] == "day", file
        found += [line for line in of_day if line["kind"] != "day"]
    return found


def text(data_dir: Path) -> str:
    return "".join(file.read_text() for file in sorted(data_dir.glob("events/*/events.log")))


def rebuild(data_dir: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """In a time zone that is not the daemon's."""
    command = [Path(sys.executable).with_name("sightlogd"), "rebuild", "--from-logs", "--data-dir", data_dir]
    return subprocess.run(
        [*command, "--output", target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TZ": "Pacific/Chatham"},
    )


def are_marked(database: Path) -> bool:
    """Whether the daemon has found the logs to be complete, and made them durable."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        query = "SELECT max(seq) FROM sqlite_sequence WHERE name IN ('events', 'observations')"
        last = connection.execute(query).fetchone()[0] or 0
        query = "SELECT last_id >= ? FROM day_log_marks WHERE kind = 'event'"
        return bool(connection.execute(query, (last,)).fetchone()[0])
    finally:
        connection.close()


def rows(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        ledger.assert_every_text_can_be_found(connection)
        return rows_of(connection)
    finally:
        connection.close()


def rows_of(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Of SQLite's own module, or of apsw."""
    found = {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES[:-1]}
    found["clock_days"] = connection.execute("SELECT * FROM clock_days ORDER BY 1").fetchall()
    within = "recorded_at >= first AND recorded_at < after"
    found["days"] = connection.execute(
        f"SELECT * FROM days WHERE EXISTS (SELECT 1 FROM events WHERE {within}) "
        f"OR EXISTS (SELECT 1 FROM observations WHERE {within}) ORDER BY day"
    ).fetchall()
    found["pending"] = connection.execute(
        "SELECT site, event_id, received_at, producer_id, epoch, seq FROM pending_amendments ORDER BY id"
    ).fetchall()
    return found


def assert_the_view_names_the_lines(data_dir: Path) -> None:
    """`json_log_path` of each event is a file with a line of it."""
    connection = sqlite3.connect(f"file:{data_dir / 'events.db'}?mode=ro", uri=True)
    try:
        found = connection.execute("SELECT event_id, json_log_path FROM events_with_objects").fetchall()
    finally:
        connection.close()
    known: dict[str, set[str]] = {}
    for event_id, path in found:
        assert path is not None, f"{event_id} has no json_log_path"
        if path not in known:
            decoded = [json.loads(line) for line in (data_dir / path).read_bytes().splitlines()]
            known[path] = {line["event_id"] for line in decoded if line["kind"] == "event"}
        assert event_id in known[path], f"{event_id} is not in {path}"


def assert_the_logs_have_everything(data_dir: Path, new: Path, *, purged: bool = False) -> None:
    """A database made from the logs alone is the same, row for row.

    Where days were purged, the logs do not know when a camera was first seen.
    """
    done = rebuild(data_dir, new)
    assert done.returncode == 0, done.stderr
    made, original = rows(new), rows(data_dir / "events.db")
    for table in made:
        if not (purged and table in ("cameras", "clock_days")):
            assert made[table] == original[table], table
    new.unlink()

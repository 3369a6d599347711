"""Migrations of versions to come: none was released yet, and what migrates has to hold before the first one is.

`become_later` makes this process one of such a version: the product's own code, with two migrations more. For a process
of its own, where MODULE is run as by python -m:

    python tests/made_up.py sightlogd run --data-dir …
    python tests/made_up.py sightlogd.cli.upgrade check --config …
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from unittest import mock

from sightlog import Detection, Event
from sightlog.reader import database
from sightlogd.store import migrate
from sightlogd.store.migrate import Migration

FIRST: Final = migrate.packaged()
MIGRATIONS: Final = [
    # Of all that a migration can do, what leaves most to be torn: a column with what is to be in it, a table with a row
    # for each event, an index over all of them.
    Migration(
        FIRST[-1].version + 1,
        "002_made_up_moods.sql",
        """
        ALTER TABLE producers ADD COLUMN nickname TEXT;
        UPDATE producers SET nickname = upper(name);
        CREATE TABLE moods (
            event_id  INTEGER PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE,
            mood      TEXT NOT NULL
        ) STRICT;
        INSERT INTO moods SELECT id, event_type || ' of ' || event_id || ' at ' || camera_id FROM events;
        CREATE INDEX events_by_recording ON events (site, recording_id, recorded_at);
        """,
    ),
    Migration(
        FIRST[-1].version + 2,
        "003_made_up_hours.sql",
        """
        ALTER TABLE pending_amendments ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
        UPDATE pending_amendments SET tries = id;
        CREATE TABLE hours (hour TEXT PRIMARY KEY, events INTEGER NOT NULL, ids TEXT NOT NULL) STRICT, WITHOUT ROWID;
        INSERT INTO hours
        SELECT substr(recorded_at, 1, 13), count(*), group_concat(event_id) FROM events GROUP BY 1;
        CREATE INDEX moods_by_mood ON moods (mood);
        """,
    ),
]  # fmt: skip
NEWEST: Final = MIGRATIONS[-1].version
TABLES: Final = ("moods", "hours")
EVENTS: Final = [
    Event(
        "front_door", "ding", event_id=f"old-{number}", recorded_at=datetime(2025, 11, 8, 14, tzinfo=UTC),
        recording_id=f"clip-{number}", llm_description="Anna brings a brown package", person_name="Anna",
        detections=[Detection("person", 0.9, (1, 2, 3, 4)), Detection("package", 0.8)], embedding=[0.5, -0.25],
        embedding_model="face",
    )
    for number in range(300)
]  # fmt: skip
"""Of a database of this version, so that the migrations have something to do."""


def tables(connection: Any) -> list[str]:
    """Those of `TABLES` that are there."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return [name for name in TABLES if name in there]


def versions(newest: int = NEWEST) -> list[Migration]:
    return [migration for migration in (*FIRST, *MIGRATIONS) if migration.version <= newest]


def become_later() -> None:
    """For good."""
    migrate.packaged = versions
    database.SCHEMA_VERSION = NEWEST  # type: ignore[misc]


@contextmanager
def later(newest: int = NEWEST) -> Iterator[None]:
    """As long as it lasts, this process is of the version that has schema `newest`."""
    with (
        mock.patch.object(migrate, "packaged", return_value=versions(newest)),
        mock.patch.object(database, "SCHEMA_VERSION", newest),
    ):
        yield


def check(connection: Any) -> None:
    """Of a migrated database from which nothing was removed: each migration did all that it does."""
    one = lambda query: connection.execute(query).fetchone()[0]  # noqa: E731
    assert one("SELECT max(version) FROM schema_version") == NEWEST
    assert one("SELECT count(*) FROM moods") == one("SELECT sum(events) FROM hours") > 0
    assert one("SELECT count(*) FROM pending_amendments WHERE tries NOT IN (0, id)") == 0


if __name__ == "__main__":
    become_later()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

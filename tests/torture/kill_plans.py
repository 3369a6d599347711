"""What campaigns of kills begin with, and what they have beside a daemon and three producers."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from conftest import NOBODY, open_to_all

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD_ROWS = 300


@dataclass(frozen=True)
class Plan:
    """What a campaign has beside a daemon and three producers."""

    schema: int = 0
    """Of the database it begins with; 0: none."""
    purges: bool = False
    backups: bool = False
    encodes: bool = False
    """Some pictures have to be re-encoded."""


PLANS = (
    Plan(),
    Plan(purges=True),
    Plan(schema=1),
    Plan(backups=True),
    Plan(encodes=True),
    Plan(schema=2, purges=True, backups=True, encodes=True),
)


def prepare(data_dir: Path, plan: Plan) -> None:
    """A data directory as tmpfiles.d makes it, and the database to begin with."""
    data_dir.mkdir()
    if os.geteuid() == 0:  # the reader is somebody else, as a dashboard would be
        os.chown(data_dir, 0, NOBODY)
        open_to_all(data_dir.parent)
    data_dir.chmod(0o2750)
    if not plan.schema:
        return
    database = data_dir / "events.db"
    shutil.copyfile(FIXTURES / f"schema_{plan.schema:03}.db", database)
    database.chmod(0o640)
    with closing(sqlite3.connect(database)) as connection:
        if plan.schema > 1:  # its day folders are not there: as if they had not been written yet
            connection.execute("UPDATE day_log_marks SET last_id = 0")
        _add_rows(connection)
        connection.commit()


def _add_rows(connection: sqlite3.Connection) -> None:
    """So that its migration has something to do: all columns as those of the row that is there."""
    names = [row[1] for row in connection.execute("PRAGMA table_info(events)") if row[1] not in ("id", "event_id")]
    columns = ", ".join(names)
    connection.execute(
        f"INSERT INTO events (event_id, {columns}) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n "
        f"WHERE n < {OLD_ROWS}) SELECT 'old-' || n, {columns} FROM n, (SELECT * FROM events WHERE camera_id = "
        "'front_door' LIMIT 1)"
    )

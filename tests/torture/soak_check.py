"""What must hold after a soak between ledgers, database, readers and day logs, where days were removed meanwhile."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import defaultdict
from pathlib import Path

import backups
import daylogs

_removal = re.compile(r"remov.*?(\d{4}-\d\d-\d\d)|(\d{4}-\d\d-\d\d).*?remov").search


class Loss(Exception):
    """The text says what was promised and is not so."""


def check(home: Path, ledgers: dict[str, Path]) -> None:
    """Raises Loss, AssertionError. The daemon was stopped cleanly, and all sensors had everything acked."""
    database = home / "data" / "events.db"
    removed = removed_days(home)
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for name, ledger in ledgers.items():
            check_ledger(connection, name, ledger, removed)
        _check_followed(connection, home / "followed")
        dead_letters = connection.execute("SELECT count(*), max(reason) FROM dead_letters").fetchone()
        if dead_letters[0]:
            raise Loss(f"{dead_letters[0]} dead letters: {dead_letters[1]}")
    found = backups.run("verify", "--config", home / "config.toml", "--data-dir", home / "data")
    if found.returncode:
        raise Loss(f"sightlogd verify: {found.stdout}{found.stderr}")
    daylogs.assert_the_logs_have_everything(home / "data", home / "new.db", purged=True)


def removed_days(home: Path) -> set[str]:
    """Days that the daemon or sightlogd purge said they remove."""
    found = set()
    for name in ("daemon.log", "purge.log"):
        path = home / name
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            if match := _removal(line):
                found.add(match[1] or match[2])
    return found


def check_ledger(connection: sqlite3.Connection, name: str, ledger: Path, removed: set[str]) -> None:
    """Published is stored, once, in order, or was removed with the beginning of its day."""
    stored = [
        row for (row,) in connection.execute("SELECT event_id FROM events WHERE camera_id = ? ORDER BY id", (name,))
    ]
    if len(set(stored)) != len(stored):
        raise Loss(f"{name}: something is stored twice")
    published: list[tuple[str, str]] = []
    acked: set[str] = set()
    for line in ledger.read_text().splitlines():
        fields = line.split()
        if fields[0] == "P" and len(fields) == 4:
            published.append((fields[1], fields[2]))
        elif fields[0] == "A":
            acked.add(fields[1])
    position = {event_id: number for number, (event_id, _) in enumerate(published)}
    if strange := acked - position.keys():
        raise Loss(f"{name}: {len(strange)} acked and never published")
    # The last event of a life may be spooled without its line: the sensor was killed in between.
    numbers = [position[event_id] for event_id in stored if event_id in position]
    if numbers != sorted(numbers):
        raise Loss(f"{name}: not in the order of publishing")
    known = set(stored)
    begun: set[str] = set()
    for event_id, day in published:
        if event_id in known:
            begun.add(day)
        elif day not in removed:
            raise Loss(f"{name}: {event_id} of {day} was {_said(event_id, acked)} and is gone; nobody removed that day")
        elif day in begun:
            raise Loss(
                f"{name}: {event_id} of {day} was {_said(event_id, acked)} and is gone, and older ones are there"
            )
    _check_whole(connection, name, ledger)


def _said(event_id: str, acked: set[str]) -> str:
    return "acked" if event_id in acked else "published"


def _check_whole(connection: sqlite3.Connection, name: str, ledger: Path) -> None:
    """What else was published of an event that is there is there too."""
    records = {
        fields[1]: int(fields[3]) for line in ledger.read_text().splitlines() if len(fields := line.split()) == 4
    }
    rows = connection.execute(
        "SELECT event_id, person_name IS NOT NULL, thumbnail_path IS NOT NULL, "
        "(SELECT count(*) FROM observations o WHERE o.site = e.site AND o.event_id = e.event_id) FROM events e "
        "WHERE camera_id = ?",
        (name,),
    )
    for event_id, amended, has_picture, observations in rows:
        count = records.get(event_id)
        if count is not None and (amended, observations) != (count > 1, max(0, count - 2)):
            raise Loss(f"{name}: {event_id} has {count} records, amended {amended}, {observations} observations")
        if not has_picture:
            raise Loss(f"{name}: {event_id} has lost its picture")


def _check_followed(connection: sqlite3.Connection, followed: Path) -> None:
    """`follow` gave each event once, in commit order, and all that are there but the last ones."""
    lines = [line.split() for line in followed.read_text().splitlines()]
    ids = [int(fields[0]) for fields in lines]
    if ids != sorted(set(ids)):
        raise Loss("the reader that follows got an event twice, or not in order")
    rows = connection.execute("SELECT id, event_id FROM events WHERE id <= ?", (max(ids, default=0),)).fetchall()
    got = defaultdict(str, {int(row): event_id for row, event_id in lines})
    if lost := [event_id for row, event_id in rows if got[row] != event_id]:
        raise Loss(f"the reader that follows did not get {len(lost)} events: {lost[0]}")

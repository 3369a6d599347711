"""Folders that are not sightlog's, or not a store's, and what of them has to stay as it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import stored

from sightlog.layout import APPLICATION_ID

Tree = dict[str, tuple[str, int, str]]


def tree(directory: Path) -> Tree:
    """All that is in it, and itself: mode with type, mtime, content or where a link leads. Links are not followed."""
    found: Tree = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            said = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            said = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(directory))] = oct(status.st_mode), status.st_mtime_ns, said
    return found


def database(path: Path, script: str, *, wal: bool = False, files: tuple[str, ...] = ("",)) -> None:
    """Another program's; `files`: those of its files, by their ending, that an unclean stop left."""
    made = path.with_name("made.db")
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(script)
        for ending in files:
            shutil.copy(f"{made}{ending}", f"{path}{ending}")
    for left in path.parent.glob("made.db*"):
        left.unlink()


RECIPES = "CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('soup');"
CHECKPOINTED = f"{RECIPES} PRAGMA wal_checkpoint(TRUNCATE);"
OWN_VERSIONS = "CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (2);"
OUR_VERSIONS = (
    "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT;"
    "INSERT INTO schema_version VALUES (1, '001_recipes.sql', 'today');"
)
OURS_MARKED = f"PRAGMA application_id = {APPLICATION_ID};"


def _db(script: str, **options: object) -> Callable[[Path], None]:
    return lambda folder: database(folder / "events.db", script, **options)  # type: ignore[arg-type]


def _our_tables(folder: Path) -> None:
    """All that we have but the mark."""
    stored.write(folder / "events.db")
    with closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA application_id = 4711")
        connection.execute("PRAGMA journal_mode = DELETE")


def _hot_journal(folder: Path) -> None:
    made = folder / "made.db"
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.executescript(f"{RECIPES} PRAGMA cache_size = 1; CREATE TABLE more (x);")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO more VALUES (?)", [("x" * 3000,)] * 50)
        for ending in ("", "-journal"):
            shutil.copy(f"{made}{ending}", folder / f"events.db{ending}")
    for left in folder.glob("made.db*"):
        left.unlink()


def _file(name: str, data: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return make


def _large_ballast(folder: Path) -> None:
    with (folder / "ballast").open("wb") as file:
        file.truncate(9 * 1024 * 1024)


LISTENING: list[socket.socket] = []
"""Sockets that a program listens on, until a test closes them."""


def _listening(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # a socket's path has 107 bytes at most
    try:
        LISTENING.append(socket.socket(socket.AF_UNIX))
        LISTENING[-1].bind("control.sock")
        LISTENING[-1].listen()
    finally:
        os.chdir(here)


DATABASES: dict[str, Callable[[Path], None]] = {
    "rollback": _db(RECIPES),
    "wal, closed": _db(CHECKPOINTED, wal=True),
    "wal, killed": _db(RECIPES, wal=True, files=("", "-wal", "-shm")),
    "wal, killed, without -shm": _db(RECIPES, wal=True, files=("", "-wal")),
    "wal, some of it in there": _db(f"{CHECKPOINTED} CREATE TABLE more (x);", wal=True, files=("", "-wal", "-shm")),
    "hot journal": _hot_journal,
    "own schema_version": _db(OWN_VERSIONS + RECIPES),
    "schema_version of our columns": _db(OUR_VERSIONS + RECIPES),
    "schema_version, wal": _db(OUR_VERSIONS, wal=True, files=("", "-wal", "-shm")),
    "a table events": _db(OUR_VERSIONS + "CREATE TABLE events (id INTEGER PRIMARY KEY, what TEXT);"),
    "all of our tables": _our_tables,
    "user_version": _db(f"PRAGMA user_version = 4; {RECIPES}"),
    "application_id of its own": _db(f"PRAGMA application_id = 252006673; {RECIPES}"),
    "our application_id": _db(OURS_MARKED + RECIPES),
    "our application_id, other versions": _db(OURS_MARKED + OWN_VERSIONS),
    "our application_id, wal": _db(
        f"{OURS_MARKED}{RECIPES} PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO recipes VALUES ('x');",
        wal=True,
        files=("", "-wal", "-shm"),
    ),
    "no tables": _db("PRAGMA user_version = 1;"),
    "no tables, wal": _db("PRAGMA user_version = 1; PRAGMA wal_checkpoint(TRUNCATE);", wal=True),
    "utf-16": _db(f"PRAGMA encoding = 'UTF-16'; {RECIPES}"),
    "a text": _file("events.db", b"Dear diary,\n" * 100),
    "a short text": _file("events.db", b"x"),
    "an empty file": _file("events.db", b""),
    "a directory": lambda folder: (folder / "events.db").mkdir(),
    "a pipe": lambda folder: os.mkfifo(folder / "events.db"),
    "a WAL alone": _file("events.db-wal", b"precious"),
}
"""What is in a folder as events.db."""

NAMES: dict[str, Callable[[Path], None]] = {
    "lock: a text": _file("lock", b"the bicycle's: 4711\n"),
    "lock: a directory": lambda folder: (folder / "lock").mkdir(),
    "ballast: a text": _file("ballast", b"sand\n"),
    "ballast: a video": _file("ballast", b"\0" * 5_000_000 + b"the end"),
    "ballast: larger": _large_ballast,
    "control.sock: a file": _file("control.sock", b"left sock\n"),
    "control.sock: in use": _listening,
    "incoming: letters": _file("events/incoming/letter.txt", b"Dear sightlog\n"),
    "incoming: pictures": _file("events/incoming/IMG_0001.jpg", b"\xff\xd8\xff\xd9"),
    "incoming: hidden": _file("events/incoming/.tmp", b"x"),
    "incoming: a file": _file("events/incoming", b"x"),
    "trash: what is wanted back": _file("events/trash/thesis.txt", b"x"),
    "trash: a folder like ours": _file("events/trash/2026-03-01.5/thesis.txt", b"x"),
    "events: concerts": _file("events/2026-summer.txt", b"x"),
    "events: concerts' photos": _file("events/Montreux/IMG_0001.jpg", b"\xff\xd8\xff\xd9"),
    "events: photos by day": _file("events/2026-03-01/IMG_0001.jpg", b"\xff\xd8\xff\xd9"),
    "events: JSON of others": _file("events/2026-03-01/events.json", b'{"what": "concert"}\n'),
    "events: a file": _file("events", b"x"),
    "events.new: a text": _file("events.new", b"Dear diary,\n" * 100),
    "events.new: a database": lambda folder: database(folder / "events.new", RECIPES),
    "events.new-wal": _file("events.new-wal", b"precious"),
    "events.before-upgrade.db": lambda folder: database(folder / "events.before-upgrade.db", RECIPES),
    "events.before-upgrade.new": _file("events.before-upgrade.new", b"precious"),
    "metrics: others'": _file("metrics/metrics.json", b'[{"meters": 5}]\n'),
    "metrics: others' collector": _file("metrics/sightlog.prom", b"node_load1 0.5\n"),
    "restoring: furniture": _file("restoring/chair.txt", b"x"),
    "restored: furniture": _file("restored/chair.txt", b"x"),
}
"""What a folder without events.db has under names that are ours."""

LINKS = (
    "events.db", "events.db-wal", "events.db-shm", "lock", "ballast", "control.sock", "events/incoming", "events/trash",
    "events", "metrics", "events.new", "events.before-upgrade.db", "restoring", "restored",
)  # fmt: skip

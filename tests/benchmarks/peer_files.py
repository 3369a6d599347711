"""Peers without a server: processes that write SQLite themselves."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import bench

BUSY_SECONDS = 5.0
"""The standard library's default."""


@contextmanager
def database(home: Path) -> Iterator[str]:
    bench.make_database(home / "peer.db")
    yield str(home / "peer.db")


def rows_in(address: str) -> int:
    """Events, all of whose detections are there too."""
    detections = bench.count_rows(Path(address), "detections")
    bench.check("detections", detections, len(bench.DETECTIONS) * bench.count_rows(Path(address), "events"))
    return bench.count_rows(Path(address), "events")


def direct(number: int, address: str, count: int) -> Generator[int, None, None]:
    """Every process its own connection, a commit an event; after "database is locked" once more. Yields how often."""
    connection = sqlite3.connect(address, timeout=BUSY_SECONDS, isolation_level=None)
    for setting in bench.SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    events = bench.prepared(count, 1, 1 + number * count)
    locked = 0
    yield 0
    for found, boxes in events:
        while True:
            try:
                bench.raw_insert(connection, found, boxes)
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                locked += 1
    yield locked
    connection.close()


def with_aiosqlite(number: int, address: str, count: int) -> Generator[int, None, None]:
    import aiosqlite

    events = bench.prepared(count, 1, 1 + number * count)
    with asyncio.Runner() as runner:

        async def connect() -> aiosqlite.Connection:
            connection = await aiosqlite.connect(address, timeout=BUSY_SECONDS)
            for setting in bench.SETTINGS:
                await connection.execute(f"PRAGMA {setting}")
            return connection

        async def insert() -> None:
            for found, boxes in events:
                await connection.execute(bench.EVENTS_SQL, found[0])
                await connection.executemany(bench.DETECTIONS_SQL, boxes)
                await connection.commit()

        connection = runner.run(connect())
        yield 0
        runner.run(insert())
        yield 0
        runner.run(connection.close())


def with_queue_database(number: int, address: str, count: int) -> Generator[int, None, None]:
    """Its thread commits every statement: an event and its detections are two commits, and no transaction."""
    from playhouse.sqliteq import SqliteQueueDatabase

    pragmas = dict(setting.split(" = ") for setting in bench.SETTINGS)
    queue = SqliteQueueDatabase(address, pragmas=pragmas, timeout=BUSY_SECONDS)
    three = bench.DETECTIONS_SQL + ", (?, ?, ?, ?, ?, ?, ?, ?)" * (len(bench.DETECTIONS) - 1)
    events = [
        (found[0], [value for box in boxes for value in box])
        for found, boxes in bench.prepared(count, 1, 1 + number * count)
    ]
    yield 0
    asked = [(queue.execute_sql(bench.EVENTS_SQL, event), queue.execute_sql(three, boxes)) for event, boxes in events]
    for event, boxes in asked:
        bench.check("an event", event.rowcount, 1)
        bench.check("its detections", boxes.rowcount, len(bench.DETECTIONS))
    yield 0
    queue.stop()

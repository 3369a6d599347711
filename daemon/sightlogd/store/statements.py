"""INSERTs with many rows a statement.

A batch of 1,000 events with 3 detections takes 4,000 steps of SQLite one row a statement, and 11 this way: a third less
time, measured with apsw 3.54. Ten rows a statement are no faster than one, and twice as many as here are slower again:
the text no longer fits apsw's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apsw

from sightlog.protocol.fields import DETECTION_COLUMNS, EVENT_COLUMNS, OBSERVATION_COLUMNS


class Insert:
    """Into `columns` of `table`, so many `rows` a statement, the most first. `one` is that for one row."""

    def __init__(self, table: str, columns: Sequence[str], *rows: int) -> None:
        row = f"({','.join('?' for _ in columns)})"
        self.one: Final = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {row}"
        self._columns = len(columns)
        self._many = [(self._columns * count, f"{self.one}{f',{row}' * (count - 1)}") for count in rows]

    def run(self, connection: apsw.Connection, values: Sequence[Any]) -> None:
        """`values`: those of all rows, one row behind the other."""
        at, end = 0, len(values)
        for width, statement in self._many:
            while end - at >= width:
                connection.execute(statement, values[at : at + width])
                at += width
        if at < end:
            columns = self._columns
            connection.executemany(self.one, (values[start : start + columns] for start in range(at, end, columns)))


EVENTS: Final = Insert("events", EVENT_COLUMNS, 200, 20)
DETECTIONS: Final = Insert("detections", DETECTION_COLUMNS, 500, 50)
OBSERVATIONS: Final = Insert("observations", OBSERVATION_COLUMNS)


@contextmanager
def alone(connection: apsw.Connection, wanted: bool) -> Iterator[None]:
    """What is done within is undone by itself when it breaks a constraint, where that is `wanted`.

    Savepoints make SQLite keep a copy of every page that is changed.
    """
    if not wanted:
        yield
        return
    connection.execute("SAVEPOINT one_record")
    try:
        yield
    except apsw.ConstraintError:
        connection.execute("ROLLBACK TO one_record")
        raise
    finally:
        connection.execute("RELEASE one_record")

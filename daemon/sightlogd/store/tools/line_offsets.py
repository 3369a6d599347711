"""Where lines are in a file, by what they are about: in a temporary database on disk, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import apsw

from sightlogd.errors import EXIT_IO_ERROR, EXIT_STORAGE_FULL, Stop

_HINT: Final = "Where lines are is noted in the temporary directory: name one that has room in SQLITE_TMPDIR"


class Place(NamedTuple):
    table: str
    key: str
    """Of the row in that table."""
    offset: int
    is_whole: bool
    """The line says all of the row; else it adds to what others say."""


class Places:
    """Filled once, then asked. Memory: some MB. Raises Stop when the temporary directory does not take it."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._connection = apsw.Connection("")
        execute = self._connection.execute
        with _explained():
            execute("PRAGMA journal_mode = OFF")
            execute("CREATE TABLE places (of TEXT, key TEXT, offset INTEGER, is_whole INTEGER)")
            execute("BEGIN")
            self._connection.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", places)
            execute("CREATE INDEX by_key ON places (of, key, offset, is_whole)")
            execute("COMMIT")

    def of(self, table: str, keys: Sequence[str]) -> list[int]:
        """Offsets of all lines about these, from the beginning of the file on."""
        query = "SELECT offset FROM places WHERE of = ? AND key IN (SELECT value FROM json_each(?)) ORDER BY offset"
        with _explained():
            return [offset for (offset,) in self._connection.execute(query, (table, json.dumps(keys)))]

    def known(self, table: str, keys: Sequence[str]) -> set[str]:
        """Those of them that a whole line is about."""
        query = "SELECT key FROM places WHERE of = ? AND is_whole AND key IN (SELECT value FROM json_each(?))"
        with _explained():
            return {key for (key,) in self._connection.execute(query, (table, json.dumps(keys)))}

    def pages(self, table: str, count: int) -> Iterator[list[str]]:
        """All keys that a whole line is about."""
        query = "SELECT DISTINCT key FROM places WHERE of = ? AND is_whole AND key > ? ORDER BY key LIMIT ?"
        reached = ""
        while True:
            with _explained():
                rows: list[Any] = self._connection.execute(query, (table, reached, count)).fetchall()
            if not rows:
                return
            yield [key for (key,) in rows]
            reached = rows[-1][0]

    def close(self) -> None:
        self._connection.close(True)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except apsw.FullError as error:
        raise Stop(EXIT_STORAGE_FULL, f"no room to compare: {error}. {_HINT}") from error
    except apsw.Error as error:
        raise Stop(EXIT_IO_ERROR, f"cannot compare: {error}. {_HINT}") from error

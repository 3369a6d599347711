"""Values that sightlog never wrote: a row made by hand, or by another program. Each is told by table, row and column.

The rules of the schema keep most of them out; a program can turn these off, and text that is not UTF-8 breaks none.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import apsw

from . import migrate
from .schema import own_tables

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_INTEGER_MAX: Final = 1 << 62
_POSITIONS: Final = ("epoch", "seq", "last_seq")
"""A producer may choose them."""
_SHOWN_CHARS: Final = 40
_ANEW: Final = {
    "counted": "DELETE FROM counts; UPDATE counted SET last_id = 0, unmerged = 0;",
    "counts": "DELETE FROM counts; UPDATE counted SET last_id = 0, unmerged = 0;",
    "day_log_marks": "UPDATE day_log_marks SET last_id = 0;",
    "sqlite_sequence": "UPDATE sqlite_sequence SET seq = (SELECT max(id) FROM (SELECT id FROM events UNION ALL "
    "SELECT id FROM observations));",
}
"""What may not go: the daemon makes these anew."""
_UNTYPED: Final = {"name": "TEXT", "seq": "INTEGER"}
"""The columns of sqlite_sequence."""


class _Column(NamedTuple):
    name: str
    type: str
    is_of_key: bool


def odd_rows(connection: apsw.Connection) -> Iterator[str]:
    """One text a row. It looks at every row there is. Raises apsw.Error."""
    for table in own_tables(connection, migrate.packaged_sql()):
        columns = [
            _Column(str(name), str(kind) or _UNTYPED.get(str(name), ""), bool(key))
            for name, kind, key in connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", (table,))
        ]
        if not str(connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).get).startswith(
            "CREATE VIRTUAL"
        ):
            yield from _odd_rows_of(connection, table, columns)


def told(path: object, row: str) -> str:
    return f"{path} has a value that sightlog did not write: {row}"


def _rules_of(connection: apsw.Connection, table: str) -> Callable[[str], str | None]:
    """Says which rule of the schema the row with this condition breaks; SQLite's own check names only the table."""
    sql = str(connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).get)
    copy = re.sub(r"REFERENCES \w+ \(\w+\)( ON DELETE CASCADE)?", "", sql).replace(table, "temp.one_row", 1)
    connection.execute(f"DROP TABLE IF EXISTS temp.one_row; {copy}")
    # Nor does SQLite read rules at all on a connection that cannot write.
    with contextlib.suppress(apsw.ConstraintError):
        connection.execute(f"INSERT INTO temp.one_row SELECT * FROM main.{table}")
        connection.execute("DELETE FROM temp.one_row")
        return lambda _: None

    def broken(where: str) -> str | None:
        try:
            connection.execute(f"INSERT INTO temp.one_row SELECT * FROM main.{table} WHERE {where}")
        except apsw.ConstraintError as error:
            return str(error).replace("one_row", table)
        connection.execute("DELETE FROM temp.one_row")
        return None

    return broken


def _odd_rows_of(connection: apsw.Connection, table: str, columns: Sequence[_Column]) -> Iterator[str]:
    key = [column for column in columns if column.is_of_key] or [_Column("rowid", "INTEGER", is_of_key=True)]
    # As bytes: what is no UTF-8 cannot be read otherwise.
    taken = ", ".join(f"CAST({c.name} AS BLOB)" if c.type != "INTEGER" else c.name for c in (*key, *columns))
    broken = _rules_of(connection, table)
    rows: Any = connection.execute(f"SELECT {taken} FROM main.{table}")
    for row in rows:
        where = " AND ".join(f"{c.name} = {_literal(raw, c)}" for raw, c in zip(row, key, strict=False))
        values = [_value(raw, c) for raw, c in zip(row[len(key) :], columns, strict=True)]
        found = (f"column {c.name}: {odd}" for v, c in zip(values, columns, strict=True) if (odd := _odd(v, c, table)))
        why = next(found, None) or broken(where)
        if why is not None:
            mend = _ANEW.get(table, f"DELETE FROM {table} WHERE {where};")
            yield f"table {table}, the row with {where}, {why}. Nothing was changed now. Correct it, or: {mend}"


def _value(raw: Any, column: _Column) -> Any:
    if column.type == "TEXT" and isinstance(raw, bytes):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw
    return raw


def _odd(value: Any, column: _Column, table: str) -> str | None:
    """What is wrong with it, beside what the schema has rules for."""
    is_position = column.name in _POSITIONS and table != "sqlite_sequence"
    shown = repr(value if len(repr(value)) <= _SHOWN_CHARS else f"{repr(value)[:_SHOWN_CHARS]}…")
    if value is None:
        return None
    if column.type == "TEXT" and isinstance(value, bytes):
        return f"{shown} is not UTF-8"
    if column.name.endswith("_at") and column.name != "applied_at" and not _is_time(value):
        return f"{shown} is no time like 2026-11-20T10:00:00.000Z"
    if column.name == "metadata" and not _is_object(value):
        return f"{shown} is no JSON object"
    if column.type == "INTEGER" and not isinstance(value, int):
        return f"{shown} is no number"
    if column.type == "INTEGER" and abs(value) > _INTEGER_MAX and not is_position:
        return f"{value} is out of range"
    return None


def _is_time(text: str) -> bool:
    try:
        return _TIME.fullmatch(text) is not None and datetime.fromisoformat(text) is not None
    except ValueError:
        return False


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _literal(raw: Any, column: _Column) -> str:
    if isinstance(raw, bytes):
        text = _value(raw, column)
        if isinstance(text, str) and text.isprintable() and len(text) <= _SHOWN_CHARS:
            return "'" + text.replace("'", "''") + "'"
        return f"CAST(x'{raw.hex()}' AS TEXT)"
    return str(raw)

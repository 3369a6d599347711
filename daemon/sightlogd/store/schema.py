"""The schema that is there against this version's: what others added beside it, and what they changed of it.

What touches nothing of ours is tolerated: tables with their indexes, views, full-text indexes, plain indexes on our
tables. A trigger on a table of ours runs in our transactions; a reference to one, a unique or a computed index refuses
our rows. Statements that undo a change are given only when they were seen to do that, on an empty copy in memory.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

_COLLATIONS: Final = ("BINARY", "NOCASE", "RTRIM")
"""Others would have to be defined by this program."""
_PLAIN: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class Object(NamedTuple):
    type: str
    name: str
    table: str
    """That it is of; its own name for a table or view."""
    sql: str

    @property
    def text(self) -> str:
        return f"{self.type} {self.name}" + (f" on {self.table}" if self.type in ("trigger", "index") else "")


Objects = dict[str, Object]
"""By type and name, in the order they were made."""


class Schema(NamedTuple):
    foreign: list[str]
    """What is not ours and touches nothing of ours."""
    changed: list[str]
    """What of ours is not as it should be, and what is not ours and touches it."""
    undo: list[str]
    """Statements, in this order. None when there is no way back but another database."""

    def remedy(self, path: object) -> str:
        """What to do about what was changed; ends its sentence."""
        if self.undo:
            return f"These statements undo it (sqlite3 {path}): {' '.join(self.undo)}"
        return "No statement undoes that."


NOTHING_FOREIGN: Final = Schema([], [], [])


def compare(connection: apsw.Connection, migrations: Sequence[str]) -> Schema:
    """`migrations`: the SQL that makes this version's schema. Raises apsw.Error."""
    ours, found = _made_by(tuple(migrations)), _objects(connection)
    foreign, changed = _differences(connection, ours, found)
    undo = _undo(ours, found) if changed else []
    return Schema([one.text for one in foreign], changed, undo)


def own_tables(connection: apsw.Connection, migrations: Sequence[str]) -> list[str]:
    """Those of this version that are there. Raises apsw.Error."""
    ours = {one.name for one in _made_by(tuple(migrations)).values() if one.type == "table"}
    return [one.name for one in _objects(connection).values() if one.type == "table" and one.name in ours]


@functools.cache
def _made_by(migrations: tuple[str, ...]) -> Objects:
    with contextlib.closing(apsw.Connection(":memory:")) as reference:
        for sql in migrations:
            reference.execute(sql)
        return _objects(reference)


def _objects(connection: apsw.Connection) -> Objects:
    # FTS5 makes the tables that it keeps an index in as its version likes.
    rows: Any = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL "
        "AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow') ORDER BY rowid"
    )
    return {f"{row[0]} {row[1]}": Object(*row) for row in rows}


def _normal(sql: str) -> str:
    """Without what SQLite, or who undoes a change by hand, may write differently."""
    plain = re.sub(r'"(\w+)"', r"\1", _without_comments(sql))
    return re.sub(r"\s*([(),=;])\s*", r"\1", plain).strip("; ")


def _without_comments(sql: str) -> str:
    return " ".join(re.sub(r"--[^\n]*", "", sql).split())


def _is_as_it_was(ours: Object, found: Object | None) -> bool:
    return found is not None and _normal(ours.sql) == _normal(found.sql)


def _differences(connection: apsw.Connection, ours: Objects, found: Objects) -> tuple[list[Object], list[str]]:
    """What is foreign and harmless; and in words what is not."""
    foreign = [one for key, one in found.items() if key not in ours]
    harms = {one.text: why for one in foreign if (why := _harm(connection, ours, one))}
    changed = [f"{text} {why}" for text, why in harms.items()]
    for key, one in ours.items():
        if key not in found:
            changed.append(f"{one.text} is missing")
        elif not _is_as_it_was(one, found[key]):
            changed.append(f"{one.text} was changed")
    return [one for one in foreign if one.text not in harms], changed


def _harm(connection: apsw.Connection, ours: Objects, one: Object) -> str | None:
    tables = {other.name.lower() for other in ours.values() if other.type in ("table", "view")}
    if one.type == "trigger" and one.table.lower() in tables:
        return "is not sightlog's"
    if one.type == "index" and one.table.lower() in tables and not _is_plain(connection, one.name):
        return "is not sightlog's, and may refuse its rows"
    if one.type == "table" and tables & set(_referred(connection, one.name)):
        return "is not sightlog's, and refers to its rows: they could not be removed"
    return None


def _is_plain(connection: apsw.Connection, index: str) -> bool:
    """Whether it can refuse no row: it is of columns as they are, and needs nothing that only its maker knows."""
    table = connection.execute("SELECT tbl_name FROM sqlite_schema WHERE type = 'index' AND name = ?", (index,)).get
    is_plain = connection.execute(
        'SELECT NOT "unique" AND NOT partial FROM pragma_index_list(?) WHERE name = ?', (table, index)
    ).get
    columns: Any = connection.execute("SELECT cid, coll FROM pragma_index_xinfo(?) WHERE key", (index,)).fetchall()
    return bool(is_plain) and all(int(cid) >= -1 and str(coll).upper() in _COLLATIONS for cid, coll in columns)


def _referred(connection: apsw.Connection, table: str) -> list[str]:
    try:
        rows = connection.execute('SELECT lower("table") FROM pragma_foreign_key_list(?)', (table,)).fetchall()
    except apsw.SQLError:  # a virtual table whose module is not known here
        return []
    return [str(name) for (name,) in rows]


# -- the way back ----------------------------------------------------------------------------------------------------


def _undo(ours: Objects, found: Objects) -> list[str]:
    statements: list[str] = []
    with contextlib.closing(apsw.Connection(":memory:")) as copy:
        for one in found.values():
            if not one.name.startswith("sqlite_"):
                with contextlib.suppress(apsw.Error):  # a module that is not known here, a view of what is gone
                    copy.execute(one.sql)
        try:
            for step in (_drop_foreign, _mend_tables, _make_again):
                for statement in step(copy, ours):
                    copy.execute(statement)
                    statements.append(statement)
            return statements if not _differences(copy, ours, _objects(copy))[1] else []
        except apsw.Error:
            return []


def _drop_foreign(copy: apsw.Connection, ours: Objects) -> Iterator[str]:
    for key, one in _objects(copy).items():
        if key in ours or not _harm(copy, ours, one):
            continue
        name = _quoted(one.name)
        if one.type == "table":  # without its references, and with its rows
            new = _quoted(f"{one.name}_without_references")
            yield f"CREATE TABLE {new} AS SELECT * FROM {name};"
            yield f"DROP TABLE {name};"
            yield f"ALTER TABLE {new} RENAME TO {name};"
        else:
            yield f"DROP {one.type.upper()} {name};"
    # Views and triggers that are not as they were would be in the way of the tables.
    for key, one in _objects(copy).items():
        if one.type in ("trigger", "view") and key in ours and not _is_as_it_was(ours[key], one):
            yield f"DROP {one.type.upper()} IF EXISTS {_quoted(one.name)};"


def _mend_tables(copy: apsw.Connection, ours: Objects) -> Iterator[str]:
    there = _objects(copy)
    for key, one in ours.items():
        if one.type == "table" and key not in there:
            bodies = {_body(other): other for k, other in there.items() if other.type == "table" and k not in ours}
            if (moved := bodies.get(_body(one))) is not None:
                yield f"ALTER TABLE {_quoted(moved.name)} RENAME TO {_quoted(one.name)};"
    with contextlib.closing(apsw.Connection(":memory:")) as reference:
        for one in ours.values():
            if one.type == "table" and not one.name.startswith("sqlite_"):
                reference.execute(one.sql)
        for key, one in ours.items():
            if one.type != "table" or key not in (there := _objects(copy)) or _is_as_it_was(one, there[key]):
                continue
            want, have = _columns(reference, one.name), _columns(copy, one.name)
            if len(want) == len(have):
                for new, old in zip(want, have, strict=True):
                    if new != old:
                        yield f"ALTER TABLE {_quoted(one.name)} RENAME COLUMN {_quoted(old)} TO {_quoted(new)};"
            for name in have:
                if len(want) < len(have) and name not in want:
                    yield f"ALTER TABLE {_quoted(one.name)} DROP COLUMN {_quoted(name)};"


def _make_again(copy: apsw.Connection, ours: Objects) -> Iterator[str]:
    there = _objects(copy)
    for key, one in ours.items():
        is_virtual = one.sql.upper().startswith("CREATE VIRTUAL")
        if (one.type == "table" and not is_virtual) or _is_as_it_was(one, there.get(key)):
            continue
        if key in there:
            yield f"DROP {one.type.upper()} {_quoted(one.name)};"
        yield f"{_without_comments(one.sql)};"
        if is_virtual:
            yield f"INSERT INTO {one.name} ({one.name}) VALUES ('rebuild');"


def _body(one: Object) -> str:
    return _normal(one.sql).partition("(")[2]


def _columns(connection: apsw.Connection, table: str) -> list[str]:
    return [str(name) for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _quoted(name: str) -> str:
    is_plain = _PLAIN.fullmatch(name) and name.upper() not in apsw.keywords
    return name if is_plain else '"' + name.replace('"', '""') + '"'

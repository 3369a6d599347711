"""Whether our part of a database is sound: its pages, its references. What others keep in it is theirs.

An index of theirs may need a tokenizer that this program lacks, a row of theirs may break their own rules: SQLite then
refuses to look at anything, or finds damage that is none of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import apsw

from . import migrate
from .schema import own_tables

_OF_PAGES: Final = re.compile(r"\*\*\*|Tree|Page|Freelist|Main freelist|Fragmentation|On tree|List of")
"""How findings begin that are about no table."""
_FINDINGS_READ: Final = 1_000


def damage(connection: apsw.Connection, check: Literal["quick_check", "integrity_check"], limit: int) -> list[str]:
    """At most so many texts; empty when it is sound. Raises apsw.Error."""
    try:
        found = _texts(connection, check, _FINDINGS_READ)
    except apsw.SQLError:  # a virtual table of theirs cannot be opened here
        found = None
    if found == []:
        return []
    ours = [
        text
        for table in own_tables(connection, migrate.packaged_sql())
        for text in _texts(connection, check, limit, table)
    ]
    ours += [text for text in found or () if _OF_PAGES.match(text) and text not in ours]
    return ours[:limit]


def lost_references(connection: apsw.Connection) -> Iterator[str]:
    """Raises apsw.Error."""
    for table in own_tables(connection, migrate.packaged_sql()):
        for child, row, parent, _ in migrate.lost_references(connection, table):
            yield f"row {row} of {child} refers to a row of {parent} that is not there"


def _texts(connection: apsw.Connection, check: str, limit: int, table: str | None = None) -> list[str]:
    rows: Any = connection.execute(f"PRAGMA {check}({table or limit})")
    texts: list[str] = []
    for (text,) in rows:
        if text != "ok" and len(texts) < limit:
            texts.append(str(text))
    return texts

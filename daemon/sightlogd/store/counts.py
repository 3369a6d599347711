"""How many rows each site has, up to an id. Whoever removes rows, triggers take them off."""

from __future__ import annotations

import apsw

from .by_day import TABLES


def behind(connection: apsw.Connection, last_id: int) -> int:
    """How many ids are not counted yet."""
    return last_id - _counted_up_to(connection)


def counted(connection: apsw.Connection) -> tuple[int, int, list[int]]:
    """Up to which id rows are counted, the last id that was given, and how many rows these are, by table."""
    rows = dict(connection.execute("SELECT kind, sum(rows) FROM counts GROUP BY kind"))
    last_id = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name IN (?, ?)", TABLES).get
    return _counted_up_to(connection), int(last_id), [rows.get(table, 0) for table in TABLES]


def between(connection: apsw.Connection, after: int, up_to: int) -> list[int]:
    """How many rows have an id > `after` and <= `up_to`, by table."""
    query = "SELECT count(*) FROM {} NOT INDEXED WHERE id > ? AND id <= ?"
    return [int(connection.execute(query.format(table), (after, up_to)).get) for table in TABLES]


def count_up(connection: apsw.Connection, last_id: int, limit: int) -> None:
    """The next ids, at most so many. Inside somebody else's transaction."""
    first = _counted_up_to(connection)
    up_to = min(last_id, first + limit)
    for table in TABLES:
        connection.execute(
            f"INSERT INTO counts (site, kind, rows) SELECT site, '{table}', count(*) FROM {table} NOT INDEXED "
            "WHERE id > ? AND id <= ? GROUP BY site "
            "ON CONFLICT (site, kind) DO UPDATE SET rows = rows + excluded.rows",
            (first, up_to),
        )
    connection.execute("UPDATE counted SET last_id = ?", (up_to,))


def removed(connection: apsw.Connection, rows: int) -> None:
    """So many with their day. Inside somebody else's transaction."""
    connection.execute("UPDATE counted SET unmerged = unmerged + ?", (rows,))


def merged(connection: apsw.Connection) -> None:
    """The index of texts is without what was removed. Inside somebody else's transaction."""
    connection.execute("UPDATE counted SET unmerged = 0")


def unmerged_share(connection: apsw.Connection, last_id: int) -> float:
    """Rows whose texts the index may have in vain, as a share of those that are there."""
    there = int(connection.execute("SELECT coalesce(sum(rows), 0) FROM counts").get) + behind(connection, last_id)
    return int(connection.execute("SELECT unmerged FROM counted").get) / max(1, there)


def wrong(connection: apsw.Connection) -> list[tuple[str, str, int, int]]:
    """(site, kind, rows it says, rows there are) where these differ. It looks at every row."""
    found = []
    for table in TABLES:
        there = dict(
            connection.execute(
                f"SELECT site, count(*) FROM {table} WHERE id <= (SELECT last_id FROM counted) GROUP BY site"
            )
        )
        said = dict(connection.execute("SELECT site, rows FROM counts WHERE kind = ?", (table,)))
        found += [
            (site, table, said.get(site, 0), there.get(site, 0))
            for site in sorted(said.keys() | there.keys())
            if said.get(site, 0) != there.get(site, 0)
        ]
    return found


def _counted_up_to(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT last_id FROM counted").get)

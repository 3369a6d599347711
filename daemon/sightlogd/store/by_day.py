"""Rows of one day, events and observations: counting them, and deleting them in slices."""

from __future__ import annotations

from typing import Any, Final

import apsw

TABLES: Final = ("events", "observations")
"""With `site`, `recorded_at` and an index on both; their ids are of one sequence."""
# One step in the index a site: DISTINCT would read all of it.
_SITES_OF_OBSERVATIONS: Final = """
WITH RECURSIVE found (site) AS (
    SELECT min(site) FROM observations
    UNION ALL SELECT (SELECT min(site) FROM observations WHERE site > found.site) FROM found WHERE site IS NOT NULL
)
SELECT site FROM found WHERE site IS NOT NULL"""


def sites(connection: apsw.Connection) -> list[str]:
    query = f"SELECT site FROM cameras UNION SELECT site FROM ({_SITES_OF_OBSERVATIONS}) ORDER BY site"
    return [site for (site,) in connection.execute(query)]


def count(connection: apsw.Connection, first: str, after: str) -> tuple[int, int]:
    """Events and observations with first <= recorded_at < after, of all sites."""
    events, observations = (
        sum(
            int(
                connection.execute(
                    f"SELECT count(*) FROM {table} WHERE site = ? AND recorded_at >= ? AND recorded_at < ?",
                    (site, first, after),
                ).get
            )
            for site in sites(connection)
        )
        for table in TABLES
    )
    return events, observations


def any_between(connection: apsw.Connection, first: str, after: str) -> bool:
    """Whether anything is of that time."""
    query = "SELECT 1 FROM {} WHERE site = ? AND recorded_at >= ? AND recorded_at < ? LIMIT 1"
    return any(
        connection.execute(query.format(table), (site, first, after)).get is not None
        for site in sites(connection)
        for table in TABLES
    )


def last_id(connection: apsw.Connection, first: str, after: str) -> int:
    """Of what is of that time, the one committed last; 0 when there is nothing."""
    found: list[Any] = [
        connection.execute(
            f"SELECT max(id) FROM {table} WHERE site = ? AND recorded_at >= ? AND recorded_at < ?", (site, first, after)
        ).get
        for site in sites(connection)
        for table in TABLES
    ]
    return max((row_id for row_id in found if row_id is not None), default=0)


def clock_days(connection: apsw.Connection) -> list[int]:
    """The id that the first event of each day got, or would have got."""
    return [first_id for (first_id,) in connection.execute("SELECT first_id FROM clock_days")]


def newest_clock_day(connection: apsw.Connection) -> str | None:
    """The latest day (UTC) on which something was stored, by the daemon's clock; None: nothing was yet."""
    found: str | None = connection.execute("SELECT max(day) FROM clock_days").get
    return found


def delete(connection: apsw.Connection, first: str, after: str, up_to_id: int, limit: int) -> int:
    """Some of what is of that time with id <= `up_to_id`, and what hangs on it; returns how many rows."""
    for site in sites(connection):
        for table in TABLES:
            connection.execute(
                f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE site = ? AND recorded_at >= ? "
                "AND recorded_at < ? AND id <= ? LIMIT ?)",
                (site, first, after, up_to_id, limit),
            )
            deleted = connection.changes()
            if deleted:
                return deleted
    return 0


def merge_texts(connection: apsw.Connection, pages: int, *, begin: bool) -> bool:
    """Write so many pages of the index of texts anew, without what was taken out; False when nothing is left to do.

    Until then the index only grows with what is removed. See "The 'merge' Command" in SQLite's manual of FTS5.
    """
    before = connection.total_changes()
    connection.execute("INSERT INTO texts_index (texts_index, rank) VALUES ('merge', ?)", (-pages if begin else pages,))
    return connection.total_changes() - before >= 2


def free_pages(connection: apsw.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").get)


def pages(connection: apsw.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").get)


def give_back(connection: apsw.Connection, limit: int) -> None:
    """Hand pages that are free back to the file system, with the next checkpoint."""
    connection.execute(f"PRAGMA incremental_vacuum({limit})").fetchall()

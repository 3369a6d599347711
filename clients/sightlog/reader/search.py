"""Texts that have all the words, best first. Whoever calls holds the transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sightlog.protocol.limits import INTEGER_MAX

from .filters import ALWAYS, Span
from .rows import Connection
from .words import phrase_of

RANKED: Final = 500
"""Texts that are compared with each other, or as many as were asked for, if that is more. bm25 over all that have a
common word would take a second in a million; these take 10 ms."""
RANKED_CHARS: Final = 500_000
"""Of long texts fewer: together not many more characters than these."""
_NARROW: Final = 50_000
"""Rows of a time range up to which their ids are looked up. A wider one has enough of any word that is not rare."""
_TABLES: Final = ("events", "observations")
_EXCERPT_WORDS: Final = 16
_IN: Final = "{0}.site = ? AND {0}.recorded_at >= ? AND {0}.recorded_at < ?"
_ABOUT: Final = (
    "AND EXISTS (SELECT 1 FROM events AS about WHERE about.event_id = observations.event_id "
    "AND about.site = observations.site AND about.camera_id = ?)"
)
_TOKENIZE: Final = "porter unicode61 remove_diacritics 2"  # as texts_index has it


class Found(NamedTuple):
    id: int
    """Of an event or an observation: they share one sequence."""
    score: float
    excerpt: str


def candidates(
    connection: Connection, match: str, *, site: str, camera_id: str | None, times: Span, enough: int
) -> list[tuple[int, str]]:
    """(id, text) of those with all the words, the ones committed last first: `enough` of them, or all there are.

    The tokens of site and camera in the index only make candidates few: `a.b` and `a_b` have the same ones, and `_` has
    none. What counts are the rows.
    """
    tokens = [f"content : ({match})"]
    if phrase := phrase_of(site):
        tokens.append(f"site : {phrase}")
    if camera_id is not None and (phrase := phrase_of(camera_id)):
        tokens.append(f'origin : ({phrase} OR "observation")')
    camera = () if camera_id is None else (camera_id,)
    of = (site, times.low[0], times.high[0], *camera)
    query = (
        "SELECT texts_index.rowid, coalesce(events.llm_description, observations.content) FROM texts_index "
        "LEFT JOIN events ON events.id = texts_index.rowid "
        "LEFT JOIN observations ON observations.id = texts_index.rowid "
        "WHERE texts_index MATCH ? AND texts_index.rowid BETWEEN ? AND ? "
        f"AND ({_IN.format('events')} {'AND events.camera_id = ?' if camera else ''} "
        f"OR {_IN.format('observations')} {_ABOUT if camera else ''}) ORDER BY texts_index.rowid DESC"
    )
    found: list[tuple[int, str]] = []
    chars = 0
    for low, high in _stretches(connection, site, times):
        for number, text in connection.execute(query, (" AND ".join(tokens), low, high, *of, *of)):
            found.append((number, text))
            chars += len(text)
            if len(found) >= enough and (len(found) >= RANKED or chars >= RANKED_CHARS):
                return found
    return found


def _stretches(connection: Connection, site: str, times: Span) -> Iterator[tuple[int, int]]:
    """Ranges of ids in which everything of that time is, in the order to look. The index of texts knows no times, and
    one old hour is not to be looked for in all that came after it."""
    if times == ALWAYS:
        yield 1, INTEGER_MAX
        return
    within = "INDEXED BY {0}_by_time WHERE site = ? AND recorded_at >= ? AND recorded_at < ?"
    bounds = (site, times.low[0], times.high[0])
    if not any(
        connection.execute(
            f"SELECT 1 FROM {table} {within.format(table)} LIMIT 1 OFFSET ?", (*bounds, _NARROW)
        ).fetchone()
        for table in _TABLES
    ):
        ids = [
            number
            for table in _TABLES
            for number in connection.execute(
                f"SELECT min(id), max(id) FROM {table} {within.format(table)}", bounds
            ).fetchone()
            if number is not None
        ]
        if ids:
            yield min(ids), max(ids)
        return
    # Commit order is nearly that of time: from the last one in the range on down there is enough soon.
    last = max(
        connection.execute(
            f"SELECT coalesce((SELECT id FROM {table} INDEXED BY {table}_by_time WHERE site = ? AND recorded_at < ? "
            "ORDER BY recorded_at DESC, id DESC LIMIT 1), 0)",
            (site, times.high[0]),
        ).fetchone()[0]
        for table in _TABLES
    )
    yield 1, last
    yield last + 1, INTEGER_MAX


def ranked(
    scratch: Connection, texts: Sequence[tuple[int, str]], match: str, limit: int, marks: tuple[str, str]
) -> list[Found]:
    """The best of these texts by FTS5's bm25, the newer of equal ones first, with an excerpt.

    They are compared with each other alone, in an index of their own: nothing of another site is in a score.
    """
    scratch.execute(f"CREATE VIRTUAL TABLE found USING fts5 (content, tokenize='{_TOKENIZE}')")
    scratch.executemany("INSERT INTO found (rowid, content) VALUES (?, ?)", texts)
    return [
        Found(*row)
        for row in scratch.execute(
            "SELECT rowid, bm25(found), snippet(found, 0, ?, ?, '…', ?) FROM found WHERE found MATCH ? "
            "ORDER BY 2, rowid DESC LIMIT ?",
            (*marks, _EXCERPT_WORDS, match, limit),
        )
    ]

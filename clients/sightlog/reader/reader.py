"""Reader: queries on the database itself, in any process that may read the file.

It opens the file with SQLite's `mode=ro`: it cannot write, checkpoint or hold up the daemon, and works while the daemon
runs, after it was killed and while it is stopped. Every query is one short read transaction.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

from sightlog.errors import DatabaseNotFound, UsageError
from sightlog.protocol.fields import EVENT_COLUMNS, OBSERVATION_COLUMNS
from sightlog.records import DEFAULT_SITE, Embedding, Event, Observation, utc_text

from . import filters, rows
from .database import VERSION, Database

if TYPE_CHECKING:
    from .counts import Counts
    from .hits import SearchHit, SimilarHit

# What only some calls need is imported by them: a command that lists events is a start of Python each time.

FOLLOW_SECONDS: Final = 0.07

Row = TypeVar("Row", bound=Event | Observation)
Fetch = Callable[[rows.Connection, str, Sequence[object], str], list[Row]]

_BY_EVENT_ID: Final = "sqlite_autoindex_events_1"
"""The index of UNIQUE (event_id)."""
_PAGE_ROWS: Final = 500


class Reader(Database):
    """Reads one site's events from `database`, newest first by the time they happened.

    Threads may share a reader. Raises DatabaseNotFound, DatabaseDamaged, SchemaMismatch.
    """

    def __init__(self, database: str | os.PathLike[str], site: str = DEFAULT_SITE) -> None:
        super().__init__(database)
        self.site = site

    def _events(
        self, connection: rows.Connection, rest: str, parameters: Sequence[object], hint: str = ""
    ) -> list[Event]:
        query = f"SELECT {', '.join(EVENT_COLUMNS)} FROM events {hint} WHERE site = ? {rest}"
        return rows.events(connection, query, (self.site, *parameters))

    def _observations(
        self, connection: rows.Connection, rest: str, parameters: Sequence[object], hint: str = ""
    ) -> list[Observation]:
        query = f"SELECT {', '.join(OBSERVATION_COLUMNS)} FROM observations {hint} WHERE site = ? {rest}"
        return rows.observations(connection, query, (self.site, *parameters))

    # -- queries -----------------------------------------------------------------------------------------------------

    def get_event(self, event_id: str) -> Event | None:
        """The event with this id, or None when this site has none."""
        with self._snapshot() as connection:
            events = self._events(connection, "AND event_id = ?", (event_id,))
        return events[0] if events else None

    def ahead_from(self) -> datetime:
        """What was recorded from this time on is more than a day ahead of the clock: a sensor's own was wrong.

        It would stand on top of the newest for ever, so `get_recent_events` and `get_events_by_camera` leave it out.
        """
        return datetime.fromisoformat(self._ahead_from())

    def _ahead_from(self) -> str:
        from sightlog.ahead import ahead_from

        with self._snapshot() as connection:
            (newest,) = connection.execute("SELECT max(day) FROM clock_days").fetchone()
        return ahead_from(datetime.now(UTC), newest)

    def get_recent_events(self, limit: int = 20, offset: int = 0) -> list[Event]:
        """Newest first, without what is ahead of the clock."""
        span = filters.before(self._ahead_from())
        return self._page(self._events, filters.events_filter(), span, _count("limit", limit), _count("offset", offset))

    def get_events_by_timerange(self, start: datetime, end: datetime, limit: int = 100, offset: int = 0) -> list[Event]:
        """Events with start <= recorded_at < end, newest first. Both need a time zone, else InvalidRecord."""
        from sightlog.protocol.encoding import format_time

        span = filters.Span((format_time(start), 0), (format_time(end), 0))
        return self._page(self._events, filters.events_filter(), span, _count("limit", limit), _count("offset", offset))

    def get_events_by_camera(self, camera_id: str, limit: int = 20) -> list[Event]:
        """One camera's events, newest first, without what is ahead of the clock."""
        if not isinstance(camera_id, str):
            raise UsageError(f"camera_id={camera_id!r:.80}: expected the id of a camera, as text")
        wanted, span = filters.events_filter(camera_id=camera_id), filters.before(self._ahead_from())
        return self._page(self._events, wanted, span, _count("limit", limit))

    def find_events(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        label: str | None = None,
        min_confidence: float | None = None,
        newest_first: bool = False,
        limit: int | None = None,
        offset: int = 0,
        after: str | None = None,
        before: str | None = None,
        **given: Unpack[filters.EventFilters],
    ) -> Iterator[Event]:
        """Events with start <= recorded_at < end that pass all filters, in the order of that time; None is no bound.

        Filters are those of `EventFilters` (clients/README.md has the table), and `label`: with a detection of it, of
        at least `min_confidence`.
        `after` and `before` are `Event.cursor` of events shown already: `after` gives what comes behind it in the order
        asked for, `before` what comes in front of it, and with a limit the ones nearest to it: the page before.

        Read in pages, each in a transaction of its own: the whole history takes little memory and holds up no
        checkpoint. A label that is rare is looked for in all events: a second in a million of them on a PC. An event
        committed meanwhile is missed when its time is in what went by already.
        """
        wanted = filters.events_filter(label=label, min_confidence=min_confidence, **given)
        span = filters.narrowed(filters.times(start, end), after=after, before=before, newest_first=newest_first)
        left = None if limit is None else _count("limit", limit)
        if _count("offset", offset) and (after is not None or before is not None):
            raise UsageError("a cursor says where to begin; leave offset out")
        if before is None or left is None:
            return self._pages(self._events, wanted, span, left, offset, newest_first=newest_first)
        # The nearest to its end: read from there, and turned round.
        return reversed(list(self._pages(self._events, wanted, span, left, offset, newest_first=not newest_first)))

    def _pages(
        self, fetch: Fetch[Row], wanted: filters.Filter, span: filters.Span, left: int | None, offset: int = 0,
        *, newest_first: bool,
    ) -> Iterator[Row]:  # fmt: skip
        while left is None or left > 0:
            size = _PAGE_ROWS if left is None else min(left, _PAGE_ROWS)
            page = self._page(fetch, wanted, span, size, offset, newest_first=newest_first)
            yield from page
            if len(page) < size:
                return
            left, offset = None if left is None else left - size, 0
            place = (utc_text(page[-1].recorded_at), page[-1].id or 0)
            span = filters.beyond(span, place, newest_first=newest_first)

    def _page(
        self, fetch: Fetch[Row], wanted: filters.Filter, span: filters.Span, limit: int, offset: int = 0,
        *, newest_first: bool = True,
    ) -> list[Row]:  # fmt: skip
        rest, parameters = filters.page(wanted, span, newest_first=newest_first)
        with self._snapshot() as connection:
            return fetch(connection, rest, (*parameters, limit, offset), f"INDEXED BY {wanted.drive}")

    def get_observation(self, observation_id: str) -> Observation | None:
        """The observation with this id, or None when this site has none."""
        with self._snapshot() as connection:
            found = self._observations(connection, "AND observation_id = ?", (observation_id,))
        return found[0] if found else None

    def find_observations(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        event_id: str | None = None,
        source: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Observation]:
        """Observations with start <= recorded_at < end about that event, from that source; else as `find_events`."""
        wanted = filters.observations_filter(event_id=event_id, source=source)
        span = filters.times(start, end)
        left = None if limit is None else _count("limit", limit)
        return self._pages(self._observations, wanted, span, left, newest_first=newest_first)

    def search(
        self,
        text: str,
        limit: int = 20,
        since: datetime | None = None,
        until: datetime | None = None,
        camera_id: str | None = None,
        *,
        marks: tuple[str, str] = ("[", "]"),
    ) -> list[SearchHit]:
        """Descriptions and observations that have all words of `text`, best first; never an error, whatever it is.

        Words are compared by their stem and without accents; "words in quotes" have to be side by side, and word* is
        how a (stemmed) word begins. At most 32 words count. since <= recorded_at < until; an observation is of the
        camera of its event. In the excerpt `marks` are around the words.

        Ranked, by FTS5's bm25, are the texts found, with each other alone: all of them up to 500; of a more common
        word the 500 committed last, or as many as `limit`.

        """
        from . import search, words
        from .hits import SearchHit

        times = filters.times(since, until)
        _count("limit", limit)
        if not isinstance(text, str):
            raise UsageError(f"text={text!r:.80}: expected what to look for, as text")
        match = words.match_of(text)
        with self._snapshot() as connection, self._scratch() as scratch:
            if not match:
                return []
            texts = search.candidates(connection, match, site=self.site, camera_id=camera_id, times=times, enough=limit)
            found = search.ranked(scratch, texts, match, limit, marks)
            at = self._at(connection, [hit.id for hit in found])
        return [SearchHit(*at[hit.id], hit.excerpt, hit.score) for hit in found]

    def similar(
        self, embedding: Embedding, k: int = 5, model: str | None = None, *, version: str | None = None
    ) -> list[SimilarHit]:
        """The k embeddings, of observations and of faces, that point most nearly the same way, nearest first.

        Only those of one model, version and length can be compared: UsageError, saying what is there, when it has to be
        named, or the length is another one; "" names those of no model or version. Those that are all zeros are never
        near to anything. It looks at every embedding of the model: 50 ms on a PC for 16,000 of 64 numbers with
        sqlite-vec (`pip install sightlog[vec]`) or NumPy, seven times that without.
        """
        from . import similarity
        from .hits import SimilarHit

        query = similarity.vector_of(embedding)
        _count("k", k)
        with self._snapshot() as connection:
            kind = similarity.chosen(similarity.kinds(connection, self.site), len(query), model, version)
            if kind is None:
                return []
            found = similarity.nearest(connection, self.site, kind, query, k, in_sqlite=self._measures_vectors())
            at = self._at(connection, [number for _, number in found])
        return [SimilarHit(*at[number], distance) for distance, number in found]

    def _at(
        self, connection: rows.Connection, ids: Sequence[int]
    ) -> dict[int, tuple[Event | None, Observation | None]]:
        """By id, the event; or the observation, with the event that it is about."""
        # Left alone, SQLite reads the whole site and looks for each row in the list.
        some = (json.dumps(ids),)
        found = self._observations(connection, f"AND id {rows.ANY_OF}", some, "NOT INDEXED")
        about = (json.dumps([one.event_id for one in found if one.event_id is not None]),)
        events = self._events(connection, f"AND event_id {rows.ANY_OF}", about, f"INDEXED BY {_BY_EVENT_ID}")
        named = {event.event_id: event for event in events}
        at: dict[int, tuple[Event | None, Observation | None]] = {
            one.id or 0: (named.get(one.event_id or ""), one) for one in found
        }
        for event in self._events(connection, f"AND id {rows.ANY_OF}", some, "NOT INDEXED"):
            at[event.id or 0] = event, None
        return at

    def count_events(self) -> int:
        """How many events this site has."""
        with self._snapshot() as connection:
            return self._rows_of(connection, "events")

    def _rows_of(self, connection: rows.Connection, table: str) -> int:
        from . import counts

        if table in ("events", "observations"):
            return counts.whole(connection, table, self.site)
        query = f"SELECT count(*) FROM {table} WHERE site = ?"
        return int(connection.execute(query, (self.site,)).fetchone()[0])

    def counts(self, by: str, start: datetime | None = None, end: datetime | None = None) -> Counts:
        """How many events with start <= recorded_at < end there are of each, as (name, count), in one view.

        By "day" (local ones with events, as YYYY-MM-DD, in their order), or, the largest first, by "camera", "person"
        (None is a stranger), "type", or "label" (events that have a detection of it).
        """
        from . import counts

        times = filters.times(start, end)
        with self._snapshot() as connection:
            return counts.counts(connection, by, self.site, times)

    def follow(self, after: int | None = None, poll_seconds: float = FOLLOW_SECONDS) -> Iterator[Event]:
        """Committed events in commit order, for ever: those with `id` > `after`, then new ones as they are committed.

        Without `after` it begins with the next one to be committed. Keep the `id` of the last event you dealt with, and
        give it as `after` to go on there.
        """
        cursor = self.last_id() if after is None else after
        seen = -1
        while True:
            version = self._changes()
            events: list[Event] = []
            if version != seen:
                with self._snapshot() as connection:
                    # Left alone, SQLite reads and sorts the whole site by one of its indexes.
                    events = self._events(
                        connection, "AND id > ? ORDER BY id LIMIT ?", (cursor, _PAGE_ROWS), "NOT INDEXED"
                    )
                    # What other sites committed meanwhile went by as well: it is not read again at the next commit.
                    last = _last_id(connection) if len(events) < _PAGE_ROWS else 0
                for event in events:
                    cursor = event.id or cursor
                    yield event
                cursor = max(cursor, last)
            if len(events) < _PAGE_ROWS:
                seen = version
                if self._was_replaced():
                    raise DatabaseNotFound(
                        f"{self.path} was removed or replaced since it was opened: a backup was restored. "
                        "Open a new Reader, and begin at its last_id()"
                    )
                time.sleep(poll_seconds)

    def last_id(self) -> int:
        """The `id` of the event committed last, of any site, 0 when there is none: a cursor for `follow`."""
        with self._snapshot() as connection:
            return _last_id(connection)

    def stored_after(self, last_id: int) -> int:
        """How many events, of all sites, were committed after the one with that `id`."""
        with self._snapshot() as connection:
            query = "SELECT count(*) FROM events NOT INDEXED WHERE id > ?"
            return int(connection.execute(query, (_count("last_id", last_id),)).fetchone()[0])

    def producers(self) -> list[dict[str, Any]]:
        """Every producer the store knows, the one heard last first: name, counters, position."""
        with self._snapshot() as connection:
            return [dict(row) for row in connection.execute("SELECT * FROM producers ORDER BY last_seen_at DESC")]

    def dead_letters(self, limit: int = 20) -> list[dict[str, Any]]:
        """Records of this site that were not stored, and those whose site could not be told, the latest first:
        received_at, producer (its name, or None), producer_id, epoch, seq, status, reason."""
        with self._snapshot() as connection:
            rows = connection.execute(
                "SELECT received_at, name AS producer, producer_id, dead_letters.epoch, seq, status, reason "
                "FROM dead_letters LEFT JOIN producers USING (producer_id) WHERE site = :site OR site IS NULL "
                "ORDER BY id DESC LIMIT :limit",
                {"site": self.site, "limit": _count("limit", limit)},
            ).fetchall()
        return [dict(row) for row in rows]

    def status(self) -> dict[str, Any]:
        """schema_version; events, observations, dead_letters (count by status) and pending_amendments of the site."""
        with self._snapshot() as connection:
            get = connection.execute
            of = {"site": self.site}
            dead_letters = (
                "SELECT status, count(*) FROM dead_letters WHERE site = :site OR site IS NULL GROUP BY status"
            )
            counted = ("events", "observations", "pending_amendments")
            return {
                "schema_version": get(VERSION).fetchone()[0],
                **{name: self._rows_of(connection, name) for name in counted},
                "dead_letters": dict(get(dead_letters, of).fetchall()),
            }


def _last_id(connection: rows.Connection) -> int:
    return int(connection.execute("SELECT max(id) FROM events").fetchone()[0] or 0)


def _count(field: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{field}={value!r}: expected a whole number, 0 or more")
    return value

"""What the daemon asks the store about producers and events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import apsw

from sightlog.protocol.accounts import Resolved
from sightlog.protocol.messages import Position
from sightlogd.protocol.session import Exceptions


def stored_of(connection: apsw.Connection, producer_id: str) -> Position | None:
    """The last position resolved of a producer."""
    row = connection.execute("SELECT epoch, last_seq FROM producers WHERE producer_id = ?", (producer_id,)).get
    return Position(*row) if row else None


def producers(connection: apsw.Connection, count_max: int) -> list[tuple[str, str, Resolved]]:
    """Id, name and counters of the producers that had something resolved last."""
    found: list[Any] = connection.execute(
        "SELECT producer_id, name, epoch, last_seq, stored, duplicates, rejected, missing FROM producers "
        "ORDER BY last_seen_at DESC LIMIT ?",
        (count_max,),
    ).fetchall()
    return [(row[0], row[1], Resolved(Position(row[2], row[3]), *row[4:])) for row in found]


def count_producers(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM producers").get)


def exceptions_of(connection: apsw.Connection, producer_id: str, first: Position, last: Position) -> Exceptions:
    """(seq, status, reason) of a producer's records in a range that were resolved but not stored."""
    found: list[Any] = connection.execute(
        "SELECT seq, status, reason FROM dead_letters WHERE producer_id = ? AND epoch = ? AND seq BETWEEN ? AND ? "
        "AND status IN ('rejected', 'duplicate') ORDER BY seq",
        (producer_id, last.epoch, first.seq if first.epoch == last.epoch else 1, last.seq),
    ).fetchall()
    return found


def known_events(connection: apsw.Connection, event_ids: Sequence[str]) -> set[str]:
    """Those of the ids that are there already, at whatever site."""
    found: list[Any] = connection.execute(
        "SELECT event_id FROM events WHERE event_id IN (SELECT value FROM json_each(?))", (json.dumps(event_ids),)
    ).fetchall()
    return {event_id for (event_id,) in found}


def awaits_thumbnail(connection: apsw.Connection, event_id: str) -> str | None:
    """`recorded_at` of an event that has no thumbnail."""
    found: str | None = connection.execute(
        "SELECT recorded_at FROM events WHERE event_id = ? AND thumbnail_path IS NULL", (event_id,)
    ).get
    return found


def known_thumbnails(connection: apsw.Connection, paths: Sequence[str]) -> set[str]:
    """Those of the paths `events/DAY/<event_id>.jpg` that an event has."""
    by_event = {path.rpartition("/")[2].removesuffix(".jpg"): path for path in paths}
    found: list[Any] = connection.execute(
        "SELECT event_id, thumbnail_path FROM events WHERE event_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(by_event)),),
    ).fetchall()
    return {path for event_id, path in found if by_event[event_id] == path}


def thumbnails(
    connection: apsw.Connection, site: str, reached: tuple[str, int], after: str, limit: int
) -> list[tuple[int, str, str | None]]:
    """(id, recorded_at, thumbnail_path) of a site's events behind (recorded_at, id) and before a time."""
    found: list[Any] = connection.execute(
        "SELECT id, recorded_at, thumbnail_path FROM events "
        "WHERE site = ? AND (recorded_at, id) > (?, ?) AND recorded_at < ? ORDER BY recorded_at, id LIMIT ?",
        (site, *reached, after, limit),
    ).fetchall()
    return found

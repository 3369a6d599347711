"""Looking for damage in a database, used or not: a read-only connection; nothing is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import apsw

from sightlogd.calendar import BEGINNING, END, DayRange
from sightlogd.errors import EXIT_STORAGE_FULL, Stop
from sightlogd.findings import FINDINGS_MAX
from sightlogd.store import counts, log_marks, migrate, ranges, soundness, values
from sightlogd.store.by_day import any_between
from sightlogd.store.opening import explained

from .view import check_version, connect


def foreign_objects(path: Path) -> list[str]:
    """What other programs have in there. Raises Stop where the schema is not this version's."""
    with explained(path), contextlib.closing(connect(path)) as connection:
        check_version(connection, path)  # or it would take an older schema for a change by hand
        return migrate.check_schema(connection, migrate.packaged()).foreign


def verify(path: Path, show: Callable[[str], None]) -> Iterator[str]:
    """What is wrong, one text each; nothing when all is right. `show` is told what is looked at.

    Behind `foreign_objects`. Raises Stop when it cannot be looked at.
    """
    for look in (_values, _pages, _references, _marks, _days, _counts, _texts):
        # One view each: as long as it lasts, the WAL of a running daemon can only grow.
        show(f"database: its {look.__name__.strip('_')}")
        connection = connect(path)
        try:
            connection.execute("BEGIN")
            yield from look(connection)
        except apsw.FullError as error:
            raise Stop(
                EXIT_STORAGE_FULL,
                f"no room to look at {path}: {error}. The index of texts is made anew in the temporary directory: "
                "name one that has room in SQLITE_TMPDIR",
            ) from error
        except apsw.Error as error:
            yield f"{look.__name__.strip('_')}: {error}"
        finally:
            connection.close(True)


def _values(connection: apsw.Connection) -> Iterator[str]:
    yield from islice(values.odd_rows(connection), FINDINGS_MAX)


def _pages(connection: apsw.Connection) -> Iterator[str]:
    yield from soundness.damage(connection, "integrity_check", FINDINGS_MAX)


def _references(connection: apsw.Connection) -> Iterator[str]:
    yield from islice(soundness.lost_references(connection), FINDINGS_MAX)


def _marks(connection: apsw.Connection) -> Iterator[str]:
    for kind in sorted({"event", "person"} - log_marks.marks(connection).keys()):
        yield f"day_log_marks has no row {kind}: somebody changed it by hand"


def _days(connection: apsw.Connection) -> Iterator[str]:
    end, latest = BEGINNING, ""
    for one in [*ranges.all_ranges(connection), DayRange("~", END, END, "")]:
        if one.first < end or one.day <= latest:
            yield f"days has {one.day} from {one.first or 'the beginning'} on, and {latest} until {end}"
        if any_between(connection, end, one.first):
            yield f"days has no day for what was recorded from {end or 'the beginning'} on and before {one.first}"
        end, latest = max(end, one.after), one.day


def _counts(connection: apsw.Connection) -> Iterator[str]:
    for site, kind, said, there in counts.wrong(connection):
        yield f"counts has {said} {kind} of site {site}, and there are {there}: sightlog status would be wrong"


def _texts(connection: apsw.Connection) -> Iterator[str]:
    """FTS5's own comparison with the texts is an INSERT, which only the daemon's connection may do."""
    execute = connection.execute
    made = str(execute("SELECT sql FROM sqlite_schema WHERE name = 'texts_index'").get)
    execute(made.replace("texts_index", "temp.made_anew").replace("content='texts', content_rowid='id'", "content=''"))
    execute("INSERT INTO temp.made_anew (rowid, site, origin, content) SELECT id, site, origin, content FROM texts")
    execute("CREATE VIRTUAL TABLE temp.there USING fts5vocab (main, texts_index, instance)")
    execute("CREATE VIRTUAL TABLE temp.wanted USING fts5vocab (temp, made_anew, instance)")
    entries: list[Any] = [execute(f"SELECT term, doc, col, offset FROM temp.{name}") for name in ("there", "wanted")]
    for there, wanted in zip_longest(*entries):
        if there != wanted:
            first = min(entry for entry in (there, wanted) if entry)  # the other one comes later, or never
            what = "has" if first == there else "lacks"
            yield f"the index of texts {what} the word {first[0]!r} of text {first[1]}: searching would be wrong there"
            return

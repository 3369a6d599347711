"""The one read-write connection: transactions and checkpoints.

Contract. `write` returns only when the batch is durable (COMMIT under synchronous=FULL). When it raises `WriteRefused`
the transaction was rolled back and may be tried again; the caller has to read again what is stored (`stored_of`),
because a COMMIT that failed may have taken effect. When it raises `Stop` the process must end: after a failed fsync
nothing that this process reads from the page cache can be trusted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import apsw

from sightlog.ahead import ahead_from
from sightlog.protocol.accounts import Resolved
from sightlog.protocol.encoding import format_time
from sightlog.protocol.messages import REJECTED, START, Position
from sightlogd.calendar import DayRange, Days
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, STORAGE_FULL, Stop, WriteRefused
from sightlogd.protocol.session import Chunk, DeadLetter, Exceptions

from . import by_day, counts, log_marks, lookups, migrate, ranges, values
from .columns import ObservationColumns, PersonColumns
from .guard import Identity, Wait, identity_of, refuse
from .log_marks import EventRow
from .migrate import RESTORE
from .opening import BUSY_TIMEOUT_MS, DATABASE, Synchronous, damaged, explained, open_database, reason_of
from .ranges import Ranges
from .rescue import HeldWal
from .room import no_room
from .rows import Rows, Thumbnails, Written
from .wal_readers import Holder, hindrance, holders
from .written import ThumbnailSet

P = ParamSpec("P")
T = TypeVar("T")

WAL_PAGES_CHECKPOINT: Final = 1_000
"""Pages in the WAL (4 MB) at which a checkpoint is due, and again after as many more when readers held it up."""
WAL_BYTES_ALARM: Final = 64 * 1024 * 1024
UNMERGED_SHARE: Final = 0.1
"""Removed rows, as a share of those that are there, whose texts may stay in the index: what the removal of a day costs
is not to grow with all other days. More: a larger index. Less: it is written anew more often."""

_NEVER: Final = DayRange("", "~", "~", "")


class FilesGone(Stop):
    """Somebody took the files away; what is in memory can be trusted."""


class Store:
    """Opens, or makes, `data_dir/events.db`, and keeps every other writer out of it. Raises Stop.

    `wait` is told who is in the way of opening it, for as long as that lasts. `check_lock` is called before each ack,
    with whether the database itself is locked against other writers.
    """

    def __init__(
        self,
        data_dir: Path,
        synchronous: Synchronous = "FULL",
        clock: Callable[[], datetime] | None = None,
        zone: tzinfo | None = None,
        wait: Wait = refuse,
        check_lock: Callable[[bool], None] | None = None,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`zone`: what is of a day that has no record yet goes by its calendar; None: the system's.

        `make_room` is for the last thing that has to be written.
        """
        self._make_room = make_room
        self.path = data_dir / DATABASE
        self.wal_pages = 0
        self._checkpoint_at = WAL_PAGES_CHECKPOINT
        self._clock = clock or (lambda: datetime.now(UTC))
        with explained(self.path):
            opened = open_database(self.path, synchronous, self.now, wait)
            self._connection, self._guard = opened.connection, opened.guard
            self.created, self.migrated, self.recovered_bytes = opened.created, opened.migrated, opened.recovered_bytes
            self.schema, self.lacks_wal = opened.schema, opened.lacks_wal
            self._schema_cookie = self._cookie()
            # Replaces SQLite's own checkpoint, which a COMMIT would have to wait for: it is done between batches.
            self._connection.set_wal_hook(self._committed)
            self._page_bytes = int(self._connection.execute("PRAGMA page_size").get)
            self._days = Ranges(self._connection, Days(zone))
            self._rows = Rows(self._connection, self._days)
            self._shm = data_dir / f"{DATABASE}-shm"
            self._names = os.fspath(self.path), os.fspath(data_dir / f"{DATABASE}-wal"), os.fspath(self._shm)
            self._files = self._guard.identity, *self._files_now()[1:]
            self._wal = HeldWal(Path(self._names[1]))
            self._check_lock = check_lock

    # -- other programs in the database ------------------------------------------------------------------------------

    def look_at_schema(self) -> bool:
        """Whether `schema` is another one now: whoever changes it leaves another cookie. Raises WriteRefused, Stop."""
        cookie = self._read(lambda _: self._cookie())
        if cookie == self._schema_cookie:
            return False
        found = self._read(migrate.schema_of)
        self._schema_cookie = cookie
        before, self.schema = self.schema, found
        return found != before

    def _cookie(self) -> int:
        return int(self._connection.execute("PRAGMA schema_version").get)

    def _change_of_schema(self) -> str | None:
        """What somebody changed of our tables, and how to undo it; for what failed meanwhile."""
        try:
            found = migrate.schema_of(self._connection)
        except (apsw.Error, Stop):
            return None
        return (
            f"somebody changed the database: {', '.join(found.changed)}. {found.remedy(self.path)}"
            if found.changed
            else None
        )

    def _odd_row(self) -> str | None:
        try:
            return next(values.odd_rows(self._connection), None)
        except apsw.Error:
            return None

    def _committed(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def now(self) -> str:
        return format_time(self._clock())

    # -- writing -----------------------------------------------------------------------------------------------------

    def known_events(self, event_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are there already, at whatever site."""
        return self._read(lookups.known_events, event_ids)

    def write(self, chunks: Sequence[Chunk], thumbnails: Thumbnails, dead_letters: Sequence[DeadLetter]) -> Written:
        """One batch, one transaction. See the module for what an exception means."""
        try:
            with self._transaction():
                return self._rows.write(chunks, thumbnails, dead_letters, self.now(), one_by_one=False)
        except apsw.ConstraintError:
            # Rare: a duplicate, or what a CHECK refuses. Once more, to find out which record it is.
            with self._transaction():
                written = self._rows.write(chunks, thumbnails, dead_letters, self.now(), one_by_one=True)
                self._check_refused(written)
                return written

    def _check_refused(self, written: Written) -> None:
        """Records that break a rule of ours are rejected; for one that others added they wait. Raises WriteRefused."""
        broke = [
            reason
            for some in written.exceptions
            for _, status, reason in some
            if status == REJECTED and reason.startswith("constraint: ") and not reason.endswith(" already")
        ]
        if broke and (change := self._change_of_schema()) is not None:
            raise WriteRefused("not_writable", f"cannot write to {self.path}: {broke[0]}; {change}")

    def expire_amendments(self, before: datetime | None, after: datetime | None) -> int:
        """Amendments received before or after that become dead letters; returns how many. Raises WriteRefused, Stop."""
        if before is None and after is None:
            return 0
        with self._transaction():
            outside = (format_time(before) if before else "", format_time(after) if after else "~")
            return self._rows.amendments.expire(*outside, self.now())

    # -- thumbnails --------------------------------------------------------------------------------------------------

    def awaits_thumbnail(self, event_id: str) -> str | None:
        """`recorded_at` of an event without a thumbnail; None when it has one, or when there is no such event."""
        return self._read(lookups.awaits_thumbnail, event_id)

    def set_thumbnail(self, event_id: str, path: str) -> ThumbnailSet | None:
        """None: the event is gone. Raises WriteRefused, Stop."""
        with self._transaction():
            return self._rows.amendments.set_thumbnail(event_id, path, self.now())

    def known_thumbnails(self, paths: Sequence[str]) -> set[str]:
        """Those of the paths that an event has."""
        return self._read(lookups.known_thumbnails, paths)

    def thumbnail_pages(self, day: str, limit: int) -> Iterator[list[str]]:
        """Paths that the day's events have, from so many events at once."""
        _, first, after, _ = self.range_of(day) or _NEVER
        for site in self._read(by_day.sites):
            reached = first, 0
            while page := self._read(lookups.thumbnails, site, reached, after, limit):
                yield [path for _, _, path in page if path is not None]
                reached = page[-1][1], page[-1][0]

    def clear_thumbnails(self, paths: Sequence[str]) -> None:
        """These files are gone. Raises WriteRefused, Stop."""
        with self._transaction():
            self._rows.amendments.clear_thumbnails(paths)

    # -- days --------------------------------------------------------------------------------------------------------

    def day_of(self, moment: str) -> str:
        """The day that has this moment; or would get it, if something of it came now."""
        return self.local(moment)[0]

    def local(self, moment: str) -> tuple[str, str]:
        """Its day, and what the clock on the wall said then: YYYY-MM-DD, YYYY-MM-DD HH:MM:SS."""
        try:
            return self._days.local(moment)
        except apsw.Error as error:
            raise self._classified(error) from error

    def range_of(self, day: str) -> DayRange | None:
        """None: nothing is stored of that day."""
        return self._read(ranges.range_of, day)

    def stored_days(self) -> list[str]:
        """Those of which something is, or was, stored; the oldest first."""
        return [one.day for one in self._read(ranges.all_ranges)]

    def count_of(self, day: str) -> tuple[int, int]:
        """Its events and observations, of all sites."""
        _, first, after, _ = self.range_of(day) or _NEVER
        return self._read(by_day.count, first, after)

    def last_id_of(self, day: str) -> int:
        """The largest id of what is of that day, 0 when there is nothing."""
        _, first, after, _ = self.range_of(day) or _NEVER
        return self._read(by_day.last_id, first, after)

    def clock_days(self) -> list[int]:
        """For each day on which something was stored, by the daemon's clock: the id that its first event got."""
        return self._read(by_day.clock_days)

    def ahead_from(self) -> str:
        """What was recorded from this time on is more than a day ahead of the clock."""
        return ahead_from(self._clock(), self._read(by_day.newest_clock_day))

    def last_id(self) -> int:
        return self._rows.last_id

    def delete_of(self, day: str, up_to_id: int, limit: int, folders: Collection[str] = ()) -> int:
        """Some of what is of that day; returns how many rows, 0 when none are left. Raises WriteRefused, Stop.

        With the last of its rows a day loses its range, unless it is one of `folders`.
        """
        _, first, after, _ = self.range_of(day) or _NEVER
        with self._transaction():
            deleted = by_day.delete(self._connection, first, after, up_to_id, limit)
            counts.removed(self._connection, deleted)
            self._days.drop(day, folders)
            return deleted

    @property
    def wants_merge(self) -> bool:
        """Whether so much was removed that the whole index of texts is worth being written anew."""
        return self._read(counts.unmerged_share, self.last_id()) >= UNMERGED_SHARE

    def merge_texts(self, pages: int, *, begin: bool) -> bool:
        """A part of the index of texts anew, without what was removed; False when nothing is left to do.

        Raises WriteRefused, Stop.
        """
        with self._transaction():
            more = by_day.merge_texts(self._connection, pages, begin=begin)
            if not more:
                counts.merged(self._connection)
            return more

    def give_back(self, pages: int) -> int:
        """Shrink the file by at most so many free pages; returns how many are left. Raises WriteRefused, Stop."""
        with self._transaction():
            by_day.give_back(self._connection, pages)
        return self._read(by_day.free_pages)

    def uncounted(self) -> int:
        """How many ids are behind those that `counts` has."""
        return self._read(counts.behind, self.last_id())

    def totals(self, slice_ids: int) -> Iterator[tuple[int, int]]:
        """So far, events and observations of those that are there when it begins; of so many more ids each time."""
        up_to, last_id, (events, observations) = self._read(counts.counted)
        yield events, observations
        for after in range(up_to, last_id, slice_ids):
            more = self._read(counts.between, after, min(after + slice_ids, last_id))
            events, observations = events + more[0], observations + more[1]
            yield events, observations

    def count_up(self, limit: int) -> None:
        """Count some of them, at most so many. Raises WriteRefused, Stop."""
        with self._transaction():
            counts.count_up(self._connection, self.last_id(), limit)

    @property
    def bytes(self) -> int:
        """Of the database as of the last commit, without its WAL."""
        return self._read(by_day.pages) * self._page_bytes

    # -- day logs ----------------------------------------------------------------------------------------------------

    def log_marks(self) -> dict[str, int]:
        """By kind, the last id that the day logs are known to have."""
        return self._read(log_marks.marks)

    def mark_logged(self) -> None:
        """The day logs have everything that is committed, durably. Raises WriteRefused, Stop."""
        with self._transaction():
            self._rows.amendments.mark_logged(self.last_id())

    def forget_logged(self) -> None:
        """The day logs lost lines: everything has to be compared with them again. Raises WriteRefused, Stop."""
        with self._transaction():
            self._rows.amendments.forget_logged()

    def mark_events_logged(self, up_to: int) -> None:
        """The day logs have the events up to there, durably. Raises WriteRefused, Stop."""
        with self._transaction():
            self._rows.amendments.mark_events_logged(up_to)

    def amended_event_pages(self, limit: int) -> Iterator[list[EventRow]]:
        """Events up to the mark that were amended behind it."""
        return self._pages(log_marks.amended_events, 0, limit, 2**63 - 1)

    def event_pages(self, after: int, up_to: int, limit: int) -> Iterator[list[EventRow]]:
        """Events with after < id <= up_to in commit order; a page is read when it is asked for."""
        return self._pages(log_marks.event_ids, after, limit, up_to)

    def events(self, ids: Sequence[int]) -> list[EventRow]:
        """By id; those that are gone are left out."""
        return self._read(log_marks.events, ids)

    def _pages(
        self, ids_of: Callable[[apsw.Connection, int, int, int], list[int]], after: int, limit: int, up_to: int
    ) -> Iterator[list[EventRow]]:
        while ids := self._read(ids_of, after, up_to, limit):
            yield self._read(log_marks.events, ids)
            after = ids[-1]

    def observation_pages(self, after: int, up_to: int, limit: int) -> Iterator[list[ObservationColumns]]:
        """Rows with after < id <= up_to in commit order; a page is read when it is asked for."""
        while page := self._read(log_marks.observations, after, up_to, limit):
            yield page
            after = page[-1].id

    def persons_since(self, after: int) -> list[PersonColumns]:
        return self._read(log_marks.persons, after)

    def pending_amendments(self) -> list[tuple[Any, ...]]:
        return self._read(log_marks.pending)

    def _read(self, query: Callable[Concatenate[apsw.Connection, P], T], *arguments: P.args, **named: P.kwargs) -> T:
        """Raises WriteRefused, Stop: a read that fails is told as a write that fails."""
        try:
            return query(self._connection, *arguments, **named)
        except apsw.Error as error:
            raise self._classified(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
            self._check_files()
        except (apsw.ConstraintError, WriteRefused):
            self._roll_back()
            raise
        except apsw.Error as error:
            outcome = self._classified(error)
            if isinstance(outcome, WriteRefused):
                self._roll_back()
            raise outcome from error

    def _files_now(self) -> tuple[Identity, ...]:
        return tuple(map(identity_of, self._names))

    def _check_files(self) -> None:
        """Before an ack: an open file can be written long after its name was removed, and what is written is lost."""
        try:
            in_place = self._files_now() == self._files
        except PermissionError as error:
            # It is committed, but who knows where to: the producers ask again when one may look.
            raise WriteRefused("not_writable", f"cannot look at {self.path}: {error.strerror}") from error
        except OSError:
            in_place = False
        if not in_place:
            raise FilesGone(
                EXIT_IO_ERROR,
                f"{self.path}, its WAL or its -shm was removed, moved or replaced while the daemon ran. Producers keep "
                f"what was not acked. {self._rescued()}. Stop the daemon before touching its files",
            )
        is_held = self._guard.hold()
        if self._check_lock is not None:
            self._check_lock(is_held)

    def _rescued(self) -> str:
        """What became of what was acked and is in the WAL alone."""
        try:
            if identity_of(self.path) != self._guard.identity:
                raise FileExistsError  # never a WAL beside another database
        except OSError:
            return f"The database is another one now, or gone: {RESTORE}"
        if self._wal.is_in_place():
            return "Nothing that was acked is lost: it is in the database and its WAL"
        try:
            try:
                size = self._wal.write_back()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._make_room()
                size = self._wal.write_back()
        except OSError as error:
            if self._moved_in():
                return "Nothing that was acked is lost: the WAL was moved into the database"
            return (
                f"The WAL, with the records that were acked last, could not be written back ({error.strerror}): what "
                f"the day logs have of them comes back by sightlogd rebuild --from-logs"
            )
        return f"Nothing that was acked is lost: its WAL was written back beside it ({size} bytes)"

    def _moved_in(self) -> bool:
        """Whether all of the WAL went into the database, which takes less room than another WAL."""
        name = Path(self._names[1])
        try:
            if name.exists() and name.stat().st_size:
                return False  # somebody else writes there
            pages, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
        except (apsw.Error, OSError):
            return False
        return pages == moved

    def check_files(self) -> None:
        """Raises Stop, WriteRefused."""
        self._check_files()

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors.
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._rows.forget()
        except apsw.Error as error:
            if isinstance(error, apsw.SQLError) and (change := self._change_of_schema()) is not None:
                raise Stop(EXIT_CONFIG, f"cannot write to {self.path}: {error}; {change}") from error
            raise Stop(EXIT_IO_ERROR, f"cannot roll back on {self.path}: {error}. Look at the disk") from error

    def _classified(self, error: apsw.Error) -> Stop | WriteRefused:
        if (what := no_room(error, self._connection, self.path)) is not None:
            return WriteRefused(STORAGE_FULL, f"no room for {self.path}: {what} ({error})")
        # ProtocolError: a reader has locked the marks of all readers.
        if isinstance(error, (apsw.BusyError, apsw.ProtocolError)):
            who = hindrance(self._shm, of_marks=isinstance(error, apsw.ProtocolError))
            known = who or "another process, which has let go of it meanwhile,"
            return WriteRefused("locked", f"{known} has locked {self.path} against writing: {error}")
        if isinstance(error, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.AuthError)):
            return WriteRefused("not_writable", f"cannot write to {self.path}: {error}")
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            return damaged(self.path, error)
        if (
            isinstance(error, (apsw.SQLError, apsw.ConstraintError))
            and (change := self._change_of_schema()) is not None
        ):
            return WriteRefused("not_writable", f"cannot write to {self.path}: {error}; {change}")
        if not isinstance(error, apsw.IOError) and (row := self._odd_row()) is not None:
            return Stop(EXIT_CONFIG, values.told(self.path, row))
        return Stop(
            EXIT_IO_ERROR,
            f"writing to {self.path} failed: {reason_of(error)}. Nothing of it was acked and the producers keep it. "
            "Look at the disk and the kernel's log; the daemon can be started again",
        )

    @property
    def wal_bytes(self) -> int:
        """What is in the WAL and not yet written over; a few MB unless readers hold up the checkpoint."""
        return self.wal_pages * self._page_bytes

    @property
    def wal_is_held_up(self) -> bool:
        """Whether it is far larger than checkpoints would leave it."""
        return self.wal_bytes > WAL_BYTES_ALARM

    def wal_holders(self) -> list[Holder]:
        """Who holds it up at this moment, as far as that can be found out."""
        return holders(self._shm) if self.wal_is_held_up else []

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> bool:
        """Move the WAL's pages into the database when there are enough of them. Between batches: it takes an fsync."""
        if self.wal_pages < WAL_PAGES_CHECKPOINT:
            self._checkpoint_at = WAL_PAGES_CHECKPOINT
        if self.wal_pages < self._checkpoint_at:
            return False
        self.checkpoint()
        return True

    def checkpoint(self) -> None:
        """Move the WAL's pages into the database, as far as readers let it; its file shrinks when pages went."""
        self._checkpoint_at = self.wal_pages + WAL_PAGES_CHECKPOINT
        self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def cut_wal(self) -> None:
        """The same, and give the WAL's room back to the disk when no reader is in the way."""
        self._connection.set_busy_timeout(0)  # the loop does not wait for readers
        try:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)

    def _checkpoint(self, mode: int) -> None:
        try:
            self._connection.wal_checkpoint(mode=mode)
        except (apsw.BusyError, apsw.LockedError, apsw.ProtocolError):
            pass  # readers hold it up; the next one goes on
        except apsw.Error as error:
            outcome = self._classified(error)
            if isinstance(outcome, Stop):
                raise outcome from error
            # A full disk: what is in the WAL is durable there. Writing goes on until it has no room either.

    # -- looking up --------------------------------------------------------------------------------------------------

    def stored_of(self, producer_id: str) -> Position:
        """The last position resolved of a producer; START for one never heard of. Raises WriteRefused, Stop."""
        self._check_files()  # a welcome is an ack too
        return self._read(lookups.stored_of, producer_id) or START

    def producers(self, count_max: int) -> list[tuple[str, str, Resolved]]:
        """Id, name and counters of the producers that had something resolved last. Raises WriteRefused, Stop."""
        return self._read(lookups.producers, count_max)

    def count_producers(self) -> int:
        """Raises WriteRefused, Stop."""
        return self._read(lookups.count_producers)

    def exceptions_of(self, producer_id: str, first: Position, last: Position) -> Exceptions:
        return self._read(lookups.exceptions_of, producer_id, first, last)

    def close(self) -> None:
        """Checkpoint what can be, and close. The WAL file stays, empty unless a reader held it up."""
        try:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.close()
            self._wal.close()
            self._guard.close()

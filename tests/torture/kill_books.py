"""The ledgers of the kill machine: kept outside of what is killed, and what must hold between them and a database."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import made_up
from pictures import jpeg, opened, png

RECORDS: Final = 3
"""Of a group: an event, an amendment to it, an observation of it."""
LIVES_MAX: Final = 1_000
PICTURES: Final = [jpeg(seed) for seed in range(8)]
TO_BE_ENCODED: Final = png()


def group(n: int) -> str:
    """In which order the records of group `n` are published: some amendments come before their event."""
    return "aeo" if n % 7 == 3 else "eao"


def picture(n: int, *, encoded_too: bool) -> bytes | None:
    if encoded_too and n % 40 == 1:  # at most 256 may wait for a decoder that gets what time is left
        return TO_BE_ENCODED
    return PICTURES[n % 8] if n % 5 == 0 else None


def event_id(name: str, session: int, n: int) -> str:
    return f"{name}-{session:03}-{n:06}"


def _producer_and_life(name: str) -> tuple[str, int]:
    producer, session, _ = name.split("-")
    return producer, int(session)


class Ledger:
    """Counters in a file that is mapped: what a process has noted there stays, however it ends."""

    def __init__(self, path: Path, count: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(fd, count * 8)
        self._map = mmap.mmap(fd, count * 8)
        os.close(fd)
        self.cells = memoryview(self._map).cast("Q")


class Lives:
    """One producer's ledger: of each life, how many records publish() returned for, and up to which all are acked."""

    def __init__(self, path: Path) -> None:
        self._cells = Ledger(path, 2 * LIVES_MAX).cells

    def published(self, session: int) -> int:
        return self._cells[2 * session]

    def acked(self, session: int) -> int:
        return self._cells[2 * session + 1]

    def note_published(self, session: int, count: int) -> None:
        self._cells[2 * session] = count

    def note_acked(self, session: int, count: int) -> None:
        self._cells[2 * session + 1] = count


class Cursor:
    """A reader's: the event it dealt with last, and how many it has seen; noted at once, or a kill would part them."""

    def __init__(self, path: Path) -> None:
        self._cells = Ledger(path, 1).cells

    def read(self) -> tuple[int, int]:
        count, last = divmod(self._cells[0], 2**32)
        return last, count

    def note(self, last: int, count: int) -> None:
        self._cells[0] = count * 2**32 + last


class Broken(AssertionError):
    """A promise was not kept."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


_SHAPE: Final = """
SELECT e.id, e.event_id, e.person_name, e.thumbnail_path, e.llm_description,
    (SELECT count(*) FROM detections d WHERE d.event_id = e.id),
    (SELECT count(*) FROM face_embeddings f WHERE f.event_id = e.id),
    (SELECT count(*) FROM observations o WHERE o.site = e.site AND o.event_id = e.event_id)
FROM events e
"""


class Books:
    """Compares ledgers and database after each life; looks only at what is new, and at what was not yet complete."""

    def __init__(self, home: Path, names: tuple[str, ...], *, encoded_too: bool) -> None:
        self.data_dir = home / "data"
        self.database = self.data_dir / "events.db"
        self.purges = home / "purges"
        """A line `DAY ID` for each day that began to go, with the events up to ID."""
        self.sessions = {name: Lives(home / f"{name}.ledger") for name in names}
        self.day_of: dict[tuple[str, int], str] = {}
        self.session = dict.fromkeys(names, 0)
        self.ids: dict[str, int] = {}
        """All that were ever seen in the database."""
        self._encoded_too = encoded_too
        self._after = 0
        self._dead_letters: int | None = None
        self._last = dict.fromkeys(names, (0, 0))
        """(life, n) of the row seen last of a producer."""
        self._reached: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._open: dict[tuple[str, int, int], int] = {}
        """Rows without their amendment, observation or picture."""
        self._unpictured: set[tuple[str, int, int]] = set()

    def begin_session(self, name: str, day: str) -> int:
        self.session[name] += 1
        self.day_of[name, self.session[name]] = day
        return self.session[name]

    def acked(self, name: str) -> int:
        return sum(self.sessions[name].acked(session) for session in range(1, self.session[name] + 1))

    # -- after each life ---------------------------------------------------------------------------------------------

    def check(self, *, delivered: bool = False) -> None:
        """acked ⊆ stored, each once and whole, in order and without a gap; with `delivered`, published ⊆ stored."""
        # The ledgers first: what is acked meanwhile may be behind the view of the database.
        acked = {
            (name, session): self.sessions[name].acked(session)
            for name in self.sessions
            # Lives before the one seen last were found to be complete when they were passed.
            for session in range(1 if delivered else max(1, self._last[name][0]), self.session[name] + 1)
        }
        if not self.database.exists():
            require(not any(acked.values()), "acked before there was a database")
            return
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")
            require(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "integrity_check")
            require(connection.execute("PRAGMA foreign_key_check").fetchall() == [], "foreign_key_check")
            if connection.execute("SELECT max(version) FROM schema_version").fetchone()[0] < made_up.NEWEST:
                require(not any(acked.values()), "acked before the migration")
                return
            self._check_dead_letters(connection)
            gone = self._going()
            self._look_again(connection, gone)
            for row in connection.execute(f"{_SHAPE} WHERE e.id > ? ORDER BY e.id", (self._after,)).fetchall():
                self._after = row[0]
                self._take(row, gone)
            waiting = {row[0] for row in connection.execute("SELECT event_id FROM pending_amendments")}
            for (name, session), count in acked.items():
                self._has(name, session, count, waiting, gone, "acked")
                if delivered:
                    self._has(name, session, self.sessions[name].published(session), waiting, gone, "published")
            if delivered:
                self._check_purges(connection)

    def _check_dead_letters(self, connection: sqlite3.Connection) -> None:
        dead_letters = connection.execute("SELECT count(*) FROM dead_letters").fetchone()[0]
        if self._dead_letters is None:
            self._dead_letters = dead_letters
        if dead_letters != self._dead_letters:
            some = connection.execute("SELECT status, reason FROM dead_letters ORDER BY id DESC LIMIT 3").fetchall()
            require(False, f"{dead_letters} dead letters: {some}")

    def _look_again(self, connection: sqlite3.Connection, gone: set[str]) -> None:
        of = {key: name for name, key in self._open.items()}
        ids = json.dumps(list(of))
        for row in connection.execute(f"{_SHAPE} WHERE e.id IN (SELECT value FROM json_each(?))", (ids,)).fetchall():
            key = of.pop(row[0])
            if self._is_whole(row, key):
                del self._open[key]
        for key in of.values():
            require(self.day_of[key[:2]] in gone, f"{event_id(*key)} was stored and is not there")
            del self._open[key]
            self._unpictured.discard(key)

    def _take(self, row: tuple[Any, ...], gone: set[str]) -> None:
        """A row that is new: the next one of its producer."""
        name, _, rest = row[1].partition("-")
        if name not in self.sessions or len(rest) != 10:
            return  # was there before
        session, n = int(rest[:3]), int(rest[4:])
        require(row[1] not in self.ids, f"{row[1]} was seen twice")
        self.ids[row[1]] = row[0]
        last = self._last[name]
        require((session, n) > last, f"{row[1]} behind {last}: not in the order of publishing")
        for passed in range(max(1, last[0]), session):
            self._has(name, passed, self.sessions[name].published(passed), None, gone, "published before another life")
        before = self._reached[name, session]
        require(n == before + 1 or self.day_of[name, session] in gone, f"{row[1]} behind {before}: a gap")
        self._last[name], self._reached[name, session] = (session, n), n
        if not self._is_whole(row, (name, session, n)):
            self._open[name, session, n] = row[0]

    def _is_whole(self, row: tuple[Any, ...], key: tuple[str, int, int]) -> bool:
        """Whether all that belongs to an event is there; half of it never is."""
        _, name, person, path, text, detections, faces, observations = row
        amended = person == key[0]
        require(
            (detections, faces, text) == ((3, 1, "amended") if amended else (2, 0, "as it was")) and observations <= 1,
            f"{name} is torn: {row}",
        )
        image = picture(key[2], encoded_too=self._encoded_too)
        if image is not None and image is not TO_BE_ENCODED:
            require(path, f"{name} was stored without its picture")
        if path and self.day_of[key[:2]] not in self._going():
            data = (self.data_dir / path).read_bytes()
            if image is TO_BE_ENCODED:
                opened(data)
            else:
                require(data == image, f"{path} is not what was sent")
        if path or image is None:
            self._unpictured.discard(key)
        else:
            self._unpictured.add(key)
        return bool(amended and observations and (path or image is None))

    def _has(self, name: str, session: int, count: int, waiting: set[str] | None, gone: set[str], why: str) -> None:
        """The first `count` records of a life are stored. `waiting` None: amendments are not looked at."""
        if self.day_of[name, session] in gone:
            return
        groups, more = divmod(count, RECORDS)
        part = group(groups + 1)[:more]
        reached = self._reached[name, session]
        require(
            reached >= groups + ("e" in part),
            f"{name}, life {session}: {why} up to record {count}, stored {reached} events",
        )
        if waiting is None:
            return
        for other, of, n in self._open:
            if (other, of) == (name, session):
                pictured = picture(n, encoded_too=self._encoded_too) is TO_BE_ENCODED
                require(n > groups or pictured, f"{event_id(name, session, n)} is not whole, and {why}")
        if "a" in part:
            key = (name, session, groups + 1)
            there = event_id(*key) in waiting or (reached > groups and key not in self._open)
            require(there or "o" not in part, f"the amendment of {event_id(*key)} is missing, and {why}")

    def may_be_purged(self, name: str) -> bool:
        """Whether it is an event of a day that went."""
        return self.day_of[_producer_and_life(name)] in self._going()

    # -- days that were removed --------------------------------------------------------------------------------------

    def _going(self) -> set[str]:
        return {line.split()[0] for line in self._purge_lines()}

    def _purge_lines(self) -> list[str]:
        return self.purges.read_text().splitlines() if self.purges.exists() else []

    def _check_purges(self, connection: sqlite3.Connection) -> None:
        """What is there is what was seen, but for the days that went; of such a day all up to an id, or nothing."""
        there = {name for (name,) in connection.execute("SELECT event_id FROM events")}
        missing: defaultdict[str, list[int]] = defaultdict(list)
        left: defaultdict[str, list[int]] = defaultdict(list)
        for name, number in self.ids.items():
            (left if name in there else missing)[self.day_of[_producer_and_life(name)]].append(number)
        up_to: defaultdict[str, list[int]] = defaultdict(list)
        for line in self._purge_lines():
            day, number = line.split()
            up_to[day].append(int(number))
        for day, numbers in missing.items():
            last = max(numbers)
            limit = min((number for number in up_to[day] if number >= last), default=0)
            require(limit, f"{len(numbers)} events of {day} are gone, up to {last}; removed were {up_to[day]}")
            require(all(number > limit or number > last for number in left[day]), f"{day} went in part: {limit}")
            require(min(left[day], default=limit + 1) > last, f"of {day} some stayed below {last}")

    @property
    def is_migrated(self) -> bool:
        """Whether a check has seen the schema of the version that is killed."""
        return self._dead_letters is not None

    @property
    def waits_for_pictures(self) -> bool:
        return bool(self._unpictured)

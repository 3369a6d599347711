"""Crash images of a house, and what each of them has to have."""

from __future__ import annotations

import bisect
import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

import apsw
import daylogs
import structlog
from house import LIMITS, NOW, PLACE, Acked, House, State, Tried, state_of
from medium import Log, Mark, Medium, materialise

from sightlog.protocol import messages
from sightlog.protocol.messages import START, Position
from sightlogd.daylogs import reconcile
from sightlogd.daylogs.days import folders, unfinished
from sightlogd.daylogs.lines import Replay
from sightlogd.daylogs.writer import DayLogs
from sightlogd.errors import Stop
from sightlogd.protocol.session import Sessions
from sightlogd.recovery.rebuild import rebuild_from_logs
from sightlogd.retention import purge
from sightlogd.store import Store
from sightlogd.store.lock import Lock
from sightlogd.thumbnails import formats
from sightlogd.thumbnails.formats import NotAcceptable

LOSSES = (AssertionError, OSError, Stop, NotAcceptable, apsw.Error)
"""How an image shows that something is missing."""


@contextmanager
def in_memory() -> Iterator[Path]:
    """A directory in memory, where the system has such a place: nothing here waits for a real disk."""
    there = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="sightlog-", dir=there if there.is_dir() else None) as directory:
        yield Path(directory)


@contextmanager
def quickly() -> Iterator[None]:
    """Nothing is logged."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def marks(log: Log) -> list[tuple[int, object]]:
    """Each with the number of entries before it."""
    return [(number, entry.what) for number, entry in enumerate(log.entries) if isinstance(entry, Mark)]


def cuts(log: Log, choose: random.Random, images: int, directory: Path, first: int = 0) -> Iterator[tuple[int, Path]]:
    """So many crash images, at moments all over the log from `first` on: (entries before it, where it is)."""
    at = sorted(choose.randint(first, len(log.entries)) for _ in range(images))
    medium = Medium(log)
    fed = 0
    target = directory / "image"
    for moment in at:
        for entry in log.entries[fed:moment]:
            medium.feed(entry, choose)
        fed = moment
        shutil.rmtree(target, ignore_errors=True)
        materialise(medium.image(choose), target)
        yield moment, target
    shutil.rmtree(target, ignore_errors=True)


class Judge:
    """What crash images of a house's log have to have. `acked` is what was acked before it."""

    def __init__(self, house: House, log: Log, acked: dict[str, Position] | None = None) -> None:
        self.house = house
        self.thorough = False
        """Whether every image is looked at in every way: some take long, and are for some images only."""
        self.only_database = False
        self.rebuilds = True
        """Whether what a rebuild makes of the logs is compared; not yet behind an fsync that failed."""
        self._states: dict[int, list[int]] = {}
        acked = dict(acked or {})
        self._at: list[tuple[int, int, dict[str, Position]]] = [(0, 0, acked)]
        """By the entries before it: how many transactions are committed, and what is acked."""
        self._positions: list[dict[str, Position]] = []
        for number, what in marks(log):
            if isinstance(what, Tried):
                self._states.setdefault(what.state.digest, []).append(len(self._positions))
            elif isinstance(what, State):
                self._states.setdefault(what.digest, []).append(len(self._positions))
                self._positions.append(what.positions)
            elif isinstance(what, Acked):
                acked = {**acked, what.producer: max(what.last, acked.get(what.producer, START))}
            self._at.append((number + 1, len(self._positions), acked))

    def acked(self, moment: int) -> dict[str, Position]:
        return self._known(moment)[1]

    def _looks(self, share: float, choose: random.Random) -> bool:
        return choose.random() < share or self.thorough

    def _known(self, moment: int) -> tuple[int, dict[str, Position]]:
        place = bisect.bisect_right(self._at, moment, key=lambda entry: entry[0]) - 1
        _, committed, acked = self._at[place]
        return committed, acked

    def check(self, moment: int, image: Path, choose: random.Random) -> None:
        """Open it as the daemon does, and look."""
        committed, acked = self._known(moment)
        image /= PLACE
        Lock(image).close()
        store = Store(image, clock=lambda: NOW, zone=UTC)
        connection = store._connection
        try:
            assert connection.execute("PRAGMA integrity_check").get == "ok"
            found = state_of(connection)
            known = any(number <= committed for number in self._states.get(found.digest, ()))
            for producer, last in acked.items():
                assert found.positions.get(producer, START) >= last, f"{producer}: acked up to {last}, and lost"
            assert known, "the database never was in this state"
            if self.only_database:
                return
            self._check_pictures(image, connection)
            if self._looks(0.05, choose):
                connection.execute("INSERT INTO texts_index (texts_index, rank) VALUES ('integrity-check', 1)")
            if self._looks(0.15, choose):
                self._check_logs(image, store)
                if self.rebuilds and self._looks(0.2, choose):
                    check_rebuilt(image, store)
            if self._looks(0.05, choose):
                self._send_again(store)
        finally:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.close()
            store._wal.close()
            store._guard.close()

    def _check_pictures(self, image: Path, connection: apsw.Connection) -> None:
        leaving = {day.day: day.up_to_id for day in unfinished(image)}
        for row_id, event_id, recorded_at, path in connection.execute(
            "SELECT id, event_id, recorded_at, thumbnail_path FROM events"
        ):
            picture = self.house.images.get(event_id)
            if picture is None or row_id <= leaving.get(recorded_at[:10], 0):
                continue
            if path is not None:
                data = (image / path).read_bytes()
                formats.check(data, LIMITS)
                assert picture[:2] != b"\xff\xd8" or data == picture, f"{path} is not what was sent"
            elif picture[:2] != b"\xff\xd8":
                assert (image / "events" / "incoming" / event_id).read_bytes() == picture, (
                    f"{event_id}: its picture is gone"
                )

    def _check_logs(self, image: Path, store: Store) -> None:
        """After the work of a start they are what the database is."""
        logs = DayLogs(image, store, lambda reason: None, lambda day, count: None)
        logs.repair(store.forget_logged)
        for leaving in unfinished(image):
            for _ in purge.finish(leaving, store):
                pass
        for _ in reconcile.catch_up(store, logs):
            pass
        assert not logs.behind
        logs.close_all()
        check_logs(store, logs)

    def _send_again(self, store: Store) -> None:
        """Everything: each event is there once, and what its producer is told adds up."""
        sessions = Sessions(store.stored_of, store.exceptions_of, messages.Limits(10**6, 10**9), lambda: 0)
        ids = {event_id for (event_id,) in store._connection.execute("SELECT event_id FROM events")}
        for name, producer in self.house.producers.items():
            resolved = store.stored_of(name).seq
            sessions.receive(producer.route, producer.hello())
            chunk = sessions.receive(producer.route, producer.message(0)).chunk
            assert len(producer.records) - resolved == (len(chunk.records) if chunk else 0)
            if chunk:
                store.write([chunk], {}, [])
            ids |= {event_id for event_id in producer.event_ids[resolved:] if event_id}
            counts = store._connection.execute(
                "SELECT last_seq, stored + duplicates + rejected, missing FROM producers WHERE producer_id = ?", (name,)
            ).fetchall()
            assert counts in ([], [(len(producer.records), len(producer.records), 0)])
        stored = [event_id for (event_id,) in store._connection.execute("SELECT event_id FROM events")]
        assert len(stored) == len(set(stored))
        assert set(stored) == ids


def check_rebuilt(image: Path, store: Store) -> None:
    """What the logs have makes each row again."""
    if not folders(image):
        return
    new = image / "rebuilt.db"
    found = rebuild_from_logs(image, new, lambda day, found: None, UTC)
    assert not found.unreadable, found.examples
    connection = apsw.Connection(str(new))
    made, original = daylogs.rows_of(connection), daylogs.rows_of(store._connection)
    connection.close()
    for table in ("events", "detections", "face_embeddings", "observations", "persons"):
        assert made[table] == original[table], f"{table}: a rebuild makes other rows"
    # Those of events whose day was removed since wait again.
    assert set(original["pending"]) <= set(made["pending"])


def check_logs(store: Store, logs: DayLogs) -> None:
    """Each row is what its day's lines add up to, and no line knows an event that is not there."""
    rows = [reconcile.line_of_row(row) for page in store.event_pages(0, 2**62, 1_000) for row in page]
    observations = [
        reconcile.line_of_observation(row) for page in store.observation_pages(0, 2**62, 1_000) for row in page
    ]
    lines: dict[str, Replay] = {}
    for line in (*rows, *observations):
        day = logs.day_of(line.recorded_at)
        if day not in lines:
            lines[day] = Replay()
            for written in logs.lines_of(day):
                lines[day].add(written)
    for line in rows:
        logged = lines[logs.day_of(line.recorded_at)].state.get(line.event_id)
        assert logged == line, f"the logs have {logged}, the database {line}"
    for observation in observations:
        there = lines[logs.day_of(observation.recorded_at)].observations
        assert there.get(observation.observation_id) == observation
    known = {event_id for replay in lines.values() for event_id in replay.state}
    assert known == {line.event_id for line in rows}

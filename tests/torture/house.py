"""Producers and the daemon's own loop without its socket, over a directory that a recorder looks at."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import made_up
import pictures
from recorder import Killed, Recorder

from sightlog import Amendment, Detection, Event, Observation, Person
from sightlog.protocol import encoding, messages
from sightlog.protocol.messages import START, Position
from sightlogd import durable
from sightlogd.config import Config, Storage, StoreConfig
from sightlogd.config import Ingest as IngestConfig
from sightlogd.daylogs import reconcile
from sightlogd.daylogs.days import unfinished
from sightlogd.errors import EXIT_IO_ERROR, Stop
from sightlogd.protocol.batch import Reason
from sightlogd.retention import purge
from sightlogd.service.loop import Ingest
from sightlogd.store import Store
from sightlogd.store.lock import Lock
from sightlogd.store.opening import Synchronous
from sightlogd.thumbnails import reencode
from sightlogd.thumbnails.formats import PictureLimits
from sightlogd.thumbnails.pipeline import RETRY_SECONDS
from sightlogd.thumbnails.worker import Answer, Outcome

PLACE = "lib/sightlog"
"""The data directory, below what is there before it."""
NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
FIRST_DAY = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 3
NAMES = ("camera", "detector", "face")
LIMITS = PictureLimits(640, 131_072)
TABLES = (
    "events", "detections", "face_embeddings", "observations", "persons", "cameras", "producers", "dead_letters",
    "pending_amendments", "clock_days", "days", "day_log_marks", "amended_events", "sqlite_sequence",
)  # fmt: skip


class Acked(NamedTuple):
    producer: str
    last: Position


class State(NamedTuple):
    """What the database has once a transaction is committed; `digest` is of all of it."""

    digest: int
    positions: dict[str, Position]


class Tried(NamedTuple):
    """From now on, whether the COMMIT is told to succeed or to fail, it may be there."""

    state: State


def state_of(connection: apsw.Connection) -> State:
    rows = tuple(
        tuple(connection.execute(f"SELECT * FROM {table}")) for table in (*TABLES, *made_up.tables(connection))
    )
    positions = connection.execute("SELECT producer_id, epoch, last_seq FROM producers")
    return State(hash(rows), {producer: Position(epoch, seq) for producer, epoch, seq in positions})


class Producer:
    """Records with every kind of content, of one life; what was not acked can be sent again."""

    def __init__(self, name: str, choose: random.Random) -> None:
        self.name = name
        self.records: list[tuple[bytes, bytes]] = []
        self.event_ids: list[str | None] = []
        """Of each record, None for one that is no event."""
        self._choose = choose

    @property
    def route(self) -> bytes:
        return b"\0" + self.name.encode()

    def publish(self, known: list[str], images: dict[str, bytes]) -> None:
        """One more. `known` are ids of events that may be amended, or sent a second time."""
        choose = self._choose
        number = len(self.records)
        event_id = None
        at = FIRST_DAY + timedelta(minutes=choose.randrange(DAYS * 24 * 60))
        kind = choose.random()
        if kind < 0.6 or not known:
            event_id = f"{self.name}-{number}"
            image = self._picture(event_id, images)
            record: Any = Event(
                self.name, choose.choice(("motion", "ding")), event_id=event_id, recorded_at=at, thumbnail=image,
                detections=[Detection("person", 0.5, (1, 2, 3, 4))] * choose.randrange(5),
                llm_description=choose.choice((None, f"a blue bird number {number}" * choose.randrange(1, 9))),
                **({"embedding": [0.5] * 32, "embedding_model": "face"} if choose.random() < 0.2 else {}),
            )  # fmt: skip
        elif kind < 0.65:
            # A duplicate, unless that day has gone.
            event_id = choose.choice([event_id for event_id in known if event_id not in images] or known)
            record = Event(self.name, event_id=event_id, recorded_at=at)
        elif kind < 0.85:
            target = choose.choice(known) if choose.random() < 0.7 else f"{choose.choice(NAMES)}-{number + 5}"
            record = Amendment(
                target, person_name=self.name, detections=[Detection("dog", 0.4)] * choose.randrange(3),
                llm_description=choose.choice((None, f"amended by {self.name}")),
            )  # fmt: skip
        elif kind < 0.95:
            observation_id = f"o-{self.name}-{choose.randrange(number + 1)}"
            record = Observation(
                "seen in the yard " * choose.randrange(1, 20), "vlm", observation_id=observation_id, recorded_at=at
            )
        elif kind < 0.98:
            record = Person(f"person {choose.randrange(6)}")
        else:
            self.event_ids.append(None)
            self.records.append((b"\x81\xa4kind\xa5event", b""))  # becomes a dead letter
            return
        self.event_ids.append(event_id)
        self.records.append(encoding.encode_record(record))

    def _picture(self, event_id: str, images: dict[str, bytes]) -> bytes | None:
        if self._choose.random() > 0.3:
            return None
        seed = self._choose.randrange(2**16)
        images[event_id] = (
            pictures.jpeg(seed) if self._choose.random() < 0.8 else pictures.png(colour=(seed % 256, 0, 0))
        )
        return images[event_id]

    def hello(self, first: int = 1) -> list[bytes]:
        return messages.hello(self.name, self.name, 1, Position(1, first))

    def message(self, after: int) -> list[bytes]:
        """All records behind that seq."""
        some = self.records[after:]
        packed, images = [record for record, _ in some], [image for _, image in some]
        return messages.records(Position(1, after + 1), packed, images, flush=False)


class AtOnce:
    """The decoder's own code, in this process: what it writes is recorded too."""

    def __init__(self, thumbnails: Any) -> None:
        self._incoming = thumbnails._incoming
        self._said: Answer | None = None
        self.absent, self.idle, self.deadline = False, True, float("inf")

    def ask(self, request: str, _now: float) -> None:
        said = reencode.answer(
            str(self._incoming.directory / request), str(self._incoming.encoded), LIMITS.pixels_max, LIMITS.bytes_max
        )
        outcomes = {"ok": Outcome.DONE, "no": Outcome.BROKEN, "io": Outcome.FAILED}
        self._said = Answer(outcomes[said[:2]], said)

    def step(self, _now: float) -> Answer | None:
        said, self._said = self._said, None
        return said

    def close(self) -> None:
        pass


class House:
    """Producers and the daemon's loop. `recorder` hears of acks and of committed transactions."""

    def __init__(self, recorder: Recorder, choose: random.Random, synchronous: Synchronous = "FULL") -> None:
        self.recorder = recorder
        self.choose = choose
        self.synchronous = synchronous
        self.data_dir = Path(recorder.root) / PLACE
        self.producers = {name: Producer(name, choose) for name in NAMES}
        self.images: dict[str, bytes] = {}
        self.acks_early = False
        """A control: acks before the COMMIT."""
        self._now = 0.0
        self._starts = 0
        self.store: Any = None
        self.ingest: Any = None
        self._inbox: list[tuple[bytes, list[bytes]]] = []

    def start(self) -> None:
        """Raises Stop."""
        self._inbox.clear()
        self.store = self.ingest = None
        self._starts += 1
        config = Config(
            ingest=IngestConfig(endpoint=f"ipc://{self.recorder.root}.{self._starts}"),
            store=StoreConfig(data_dir=str(self.data_dir), timezone="UTC"),
            storage=Storage(keep_free_gb=0.0),
        )
        durable._made.clear()  # of the last process
        self._lock = Lock(self.data_dir)
        self.store = store = Store(self.data_dir, self.synchronous, lambda: NOW, UTC)
        self._tell_of_transactions(store)
        self.ingest = Ingest(config, store, lambda _: None, lambda _: None, None, None)  # type: ignore[arg-type]
        self.ingest._sockets.receive = lambda: self._inbox.pop(0) if self._inbox else None
        self.ingest._send = self._answered
        maintenance = self.ingest._maintenance
        self.logs, self.thumbnails = maintenance.logs, maintenance.thumbnails
        self.thumbnails._child.close()
        self.thumbnails._child = AtOnce(self.thumbnails)
        self._stored = store.write
        store.write = self._write
        for name, producer in self.producers.items():
            self._inbox.append((producer.route, producer.hello(self.position(name).seq + 1)))
        self.ingest._drain()

    def _tell_of_transactions(self, store: Any) -> None:
        real = store._transaction

        @contextmanager
        def transaction() -> Iterator[None]:
            with real():
                yield
                state = state_of(store._connection)
                self.recorder.mark(Tried(state))
            self.recorder.mark(state)

        self.recorder.mark(state_of(store._connection))
        store._transaction = transaction

    def _write(self, chunks: Any, *more: Any) -> Any:
        if self.acks_early:
            for chunk in chunks:
                self.recorder.mark(Acked(chunk.session.producer_id, chunk.last))
        return self._stored(chunks, *more)

    def _answered(self, route: bytes, frames: list[bytes]) -> None:
        reply = messages.decode_reply(frames)
        if isinstance(reply, (messages.Ack, messages.Welcome)) and reply.last > START:
            self.recorder.mark(Acked(route[1:].decode(), reply.last))

    def position(self, name: str) -> Position:
        return self.store.stored_of(name)

    # -- steps -------------------------------------------------------------------------------------------------------

    def batch(self) -> None:
        known = [event_id for producer in self.producers.values() for event_id in producer.event_ids if event_id][-60:]
        for name in self.choose.sample(NAMES, self.choose.randint(1, 3)):
            producer = self.producers[name]
            for _ in range(self.choose.randint(1, 6)):
                producer.publish(known, self.images)
            self._inbox.append((producer.route, producer.message(self.position(name).seq)))
        if self.choose.random() < 0.1:
            self._inbox.append((self.producers["camera"].route, [b"what is this"]))
        self.ingest._drain()
        self.ingest._commit(Reason.LINGER)
        assert not self._inbox

    def pictures(self) -> None:
        self._now += RETRY_SECONDS
        for _ in range(4):
            self.thumbnails.collect(self._now)

    def catch_up(self) -> None:
        for _ in reconcile.catch_up(self.store, self.logs):
            pass

    def look_after_the_logs(self) -> None:
        """As the loop does now and then."""
        if self.logs.behind:
            try:
                self.catch_up()
            except OSError:
                self.logs.behind = True
        else:
            self.mark()

    def mark(self) -> None:
        reconcile.mark(self.store, self.logs)

    def purge(self) -> None:
        """A day goes, and records come meanwhile."""
        day = (FIRST_DAY + timedelta(days=self.choose.randrange(DAYS))).date().isoformat()
        leaving = purge.begin(self.data_dir, day, self.store, self.logs, self.store.now())
        for number, _ in enumerate(purge.finish(leaving, self.store)):
            if number % 4 == 3:
                self.batch()

    def expire(self) -> None:
        self.store.expire_amendments(NOW + timedelta(seconds=1), None)

    def stop(self) -> None:
        self.ingest._maintenance.finish()
        self.ingest.close()
        self.store.close()
        self._lock.close()

    def kill(self) -> None:
        """As SIGKILL leaves it: no checkpoint, nothing fsynced."""
        self.ingest.close()
        self.store._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.store._connection.close()
        self.store._wal.close()
        self.store._guard.close()
        self._lock.close()

    def run(self, steps: int) -> None:
        """A life, and another, and another: stopped, or killed between two steps."""
        self.start()
        self.catch_up()
        for _ in range(steps):
            self._step((1, self._restart), (1, self._rise))
        self.pictures()
        self.stop()

    def _step(self, *more: tuple[int, Callable[[], None]]) -> None:
        ways: list[tuple[int, Callable[[], None]]] = [
            (20, self.batch), (2, self.pictures), (2, self.mark), (1, self.purge), (1, self.expire),
            (1, self.store_do("checkpoint")), (1, self.store_do("cut_wal")), *more,
        ]  # fmt: skip
        [way] = self.choose.choices([way for _, way in ways], [weight for weight, _ in ways])
        way()

    def _restart(self) -> None:
        self.stop()
        self.start()
        self.catch_up()

    def _rise(self) -> None:
        self.kill()
        self.start()
        self.catch_up()

    def die(self, sessions: int) -> None:
        """Lives that SIGKILL ends, in the middle of whatever it was."""
        for _ in range(sessions):
            self.recorder.dies_at = len(self.recorder.log.entries) + self.choose.randint(1, 300)
            with contextlib.suppress(Killed):
                self.start()
                self.finish_what_was_begun()
                while True:
                    self._step()
            self.add_dead_letters()

    def finish_what_was_begun(self) -> None:
        """The loop's first work."""
        self.catch_up()
        for leaving in unfinished(self.data_dir):
            for _ in purge.finish(leaving, self.store):
                pass

    def add_dead_letters(self) -> None:
        """What is left of a process that was killed."""
        if self.ingest is not None:
            self.ingest.close()
        if self.store is not None:
            self.store._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self.store._connection.close()
            self.store._wal.close()
        gc.collect()
        self.recorder.is_reaped()

    def endure(self, steps: int) -> None:
        """A life in which fsyncs fail: whenever that ends the daemon, it is started again."""
        ways: list[tuple[int, Callable[[], None]]] = [
            (6, self.batch), (1, self.store_do("checkpoint")), (1, self.store_do("cut_wal")), (1, self.pictures),
            (2, self.look_after_the_logs),
        ]  # fmt: skip
        self._start_at_last()
        for _ in range(steps):
            [way] = self.choose.choices([way for _, way in ways], [weight for weight, _ in ways])
            try:
                way()
                if self.logs.behind and self.choose.random() < 0.5:
                    self.look_after_the_logs()
            except Stop as stop:
                if stop.exit_code != EXIT_IO_ERROR:
                    raise
                self._end_somehow()
                self._start_at_last()
            if self.choose.random() < 0.1:  # another process, and the page cache still lies
                self._stop_or_kill()
                self._start_at_last()
                self.logs.behind = True  # the loop begins with catching up
        self.kill()

    def _start_at_last(self) -> None:
        for _ in range(3):
            try:
                self.start()
            except Stop as stop:
                if stop.exit_code != EXIT_IO_ERROR:
                    raise
                self._lock.close()
            else:
                return
        raise AssertionError("it does not start")

    def _stop_or_kill(self) -> None:
        if self.choose.random() < 0.3:
            self.kill()
            return
        self.ingest.close()
        try:
            self.store.close()
        except Stop as stop:
            if stop.exit_code != EXIT_IO_ERROR:
                raise
        self._lock.close()

    def _end_somehow(self) -> None:
        """An interpreter that ends may close the database, or not get there."""
        if self.choose.random() < 0.5:
            self.kill()
        else:
            self.ingest.close()
            with contextlib.suppress(apsw.Error):
                self.store._connection.close()
            self.store._wal.close()
            self.store._guard.close()
            self._lock.close()

    def store_do(self, name: str) -> Callable[[], None]:
        return lambda: getattr(self.store, name)()

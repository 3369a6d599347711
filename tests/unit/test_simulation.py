"""A producer, a daemon and a network that fails, on a clock of their own: the same seed gives the same run.

The producer's side is the publisher's own code but for its thread and its socket, on a real spool. The daemon's side is
the sessions and the batch, driven as the ingest loop does, over a store that is a list. In between connections break
(what is in flight is lost from some point on, and the next connection has a new route), the daemon and the producer are
killed, commits are refused, and a spool file is damaged.
"""

from __future__ import annotations

import math
import os
import random
import threading
from collections import defaultdict, deque
from pathlib import Path

import pytest

from sightlog import Event, publisher, spool, wire
from sightlog.accounts import Settled, account
from sightlog.errors import InvalidRecord, SpoolFull
from sightlog.link import Link
from sightlog.publisher import Publisher
from sightlog.receipts import ReceiptBook
from sightlog.segment import Segment
from sightlog.telemetry import Teller
from sightlog.wire import DUPLICATE, REJECTED, START, STORED, Limits, Position, Told
from sightlogd.batch import Batch, BatchLimits
from sightlogd.session import Sessions

SEEDS = 200
SEEDS_A_TEST = 10
STEPS = 150
HEALTHY_SECONDS_MAX = 180.0
"""So long everything may take to arrive once nothing fails any more."""
NARROW = Limits(window_records=40, window_bytes=60_000, message_records_max=16, message_bytes_max=20_000)
WIDE = Limits(window_records=1_000, window_bytes=1_000_000, message_records_max=500, message_bytes_max=500_000)


def status_of(event_id: str) -> str:
    """What the store says to an event, by the end of its id."""
    return {"7": DUPLICATE, "9": REJECTED}.get(event_id[-1], STORED)


class Connection:
    """Two queues in order. Messages take some time; after a cut some of the last ones never arrive."""

    def __init__(self, world: World, route: bytes) -> None:
        self.world, self.route, self.alive = world, route, True
        self.up: deque[tuple[float, list[bytes]]] = deque()
        self.down: deque[tuple[float, list[bytes]]] = deque()

    def put(self, queue: deque[tuple[float, list[bytes]]], frames: list[bytes]) -> None:
        due = self.world.now + self.world.random.choice((0.0, 0.001, 0.02, 0.4))
        queue.append((max(due, queue[-1][0]) if queue else due, frames))

    def take(self, queue: deque[tuple[float, list[bytes]]]) -> list[bytes] | None:
        return queue.popleft()[1] if queue and queue[0][0] <= self.world.now else None

    def cut(self) -> None:
        self.alive = False
        for queue in (self.up, self.down):
            for _ in range(self.world.random.randint(0, len(queue))):
                queue.pop()


class Dealer:
    """The producer's connection. What an old one delivered can still be read after a new one was made."""

    retry_at = math.inf

    def __init__(self, world: World) -> None:
        self.world = world
        self.connections: list[Connection] = []

    @property
    def connection(self) -> Connection | None:
        return self.connections[-1] if self.connections and self.connections[-1].alive else None

    def send(self, frames: list[bytes]) -> bool:
        if self.connection is None or len(self.connection.up) >= 8:
            return False
        self.connection.put(self.connection.up, [bytes(frame) for frame in frames])
        return True

    def receive(self) -> list[bytes] | None:
        taken = (connection.take(connection.down) for connection in self.connections)
        return next((frames for frames in taken if frames is not None), None)

    def readable(self) -> bool:
        return any(connection.down and connection.down[0][0] <= self.world.now for connection in self.connections)

    def next_at(self) -> float:
        return min((connection.down[0][0] for connection in self.connections if connection.down), default=1e9)


class Waker:
    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor

    def wake(self) -> None:
        self.sensor._sleeps_until = 0.0


class Sensor(Publisher):
    """A publisher without its thread; `step` is one turn of the thread's loop, when the loop would have one."""

    def __init__(self, world: World, directory: Path, bytes_max: int) -> None:
        self.world, self.producer = world, directory.name
        self._spool = spool.Spool(directory, self.producer, bytes_max)
        self._link = Link()
        self._book = ReceiptBook(self._want)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._wanted = self._flushed = START
        self._closing = False
        self._waker = Waker(self)
        self._teller = Teller(self._link, self._spool)
        self._connection = Dealer(world)
        self._sleeps_until = 0.0
        self._stuck = False
        self.receipts = []

    def step(self) -> None:
        writable = self._stuck and self._connection.connection is not None
        if self.world.now < self._sleeps_until and not writable and not self._connection.readable():
            return
        self._stuck = self._send_what_may_be_sent(self.world.now)
        self._receive_all()
        self._sync_if_unacked_for_long()
        assert self._book.failure is None, self._book.failure
        assert self._link.acked <= self.world.store.position[self.producer_id], "acked what is not stored"
        # After receiving, the loop looks at once for more to send.
        self._sleeps_until = self.world.now + self._timeout(self.world.now, self._stuck) / 1000
        if not self._stuck:
            self._stuck = self._send_what_may_be_sent(self.world.now)

    def die(self) -> None:
        """SIGKILL: what the kernel has stays; a write may have been cut short."""
        for connection in self._connection.connections:
            connection.cut()
        for segment in self._spool._segments:
            segment.close()
        for fd in (self._spool._fd, self._spool._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._spool._segments, self._spool._fd, self._spool._lock_fd = [], -1, -1


class Store:
    """What COMMIT made durable."""

    def __init__(self) -> None:
        self.position: defaultdict[str, Position] = defaultdict(lambda: START)
        self.settled: defaultdict[str, list[str]] = defaultdict(list)
        self.exceptions: defaultdict[str, list[tuple[Position, str, str]]] = defaultdict(list)

    def write(self, parcels) -> list[list[tuple[int, str, str]]]:
        found = []
        for parcel in parcels:
            producer = parcel.session.producer_id
            assert parcel.first > self.position[producer], "stored twice, or out of order"
            exceptions = []
            for index, record in enumerate(parcel.records):
                position = Position(parcel.first.epoch, parcel.first.seq + index)
                self.settled[producer].append(record.event_id)
                if (status := status_of(record.event_id)) != STORED:
                    exceptions.append((position.seq, status, f"{status} {record.event_id}"))
                    self.exceptions[producer].append((position, *exceptions[-1][1:]))
            self.position[producer] = parcel.last
            found.append(exceptions)
        return found

    def count(self, producer: str) -> Settled:
        settled = self.settled[producer]
        duplicates, rejected = (sum(status_of(e) == status for e in settled) for status in (DUPLICATE, REJECTED))
        stored = len(settled) - duplicates - rejected
        return Settled(self.position[producer], stored, duplicates, rejected, missing=0)

    def exceptions_of(self, producer: str, first: Position, last: Position) -> list[tuple[int, str, str]]:
        return [
            (position.seq, status, reason)
            for position, status, reason in self.exceptions[producer]
            if first <= position <= last and position.epoch == last.epoch
        ]


class Daemon:
    """The ingest loop's turn over fake connections; see `Ingest._drain` and `_commit`."""

    def __init__(self, world: World) -> None:
        self.world = world
        store = world.store
        self.sessions = Sessions(lambda producer: store.position[producer], store.exceptions_of, world.limits)
        self.batch = Batch(BatchLimits(records_max=25, bytes_max=30_000, linger_seconds=0.25))
        self.connections: dict[bytes, Connection] = {}
        self.refused_until = 0.0
        self.told: dict[str, Told] = {}

    def check_accounts(self) -> None:
        """At any moment, whatever is on its way: everything that was told to be published is somewhere."""
        for producer, told in self.told.items():
            found = account(told, self.world.store.count(producer))
            assert found is None or found.difference == 0, (found, told)

    def step(self) -> None:
        while not self.batch.full:
            waiting = [c for c in self.connections.values() if c.up and c.up[0][0] <= self.world.now]
            if not waiting:
                break
            connection = self.world.random.choice(waiting)
            self.receive(connection.route, connection.take(connection.up))
        if self.batch.due(self.world.now):
            self.commit()
        self.check_accounts()

    def receive(self, route: bytes, frames: list[bytes]) -> None:
        answer = self.sessions.receive(route, frames)
        assert answer.dead_letter is None, answer.dead_letter
        if answer.reply:
            self.send(route, answer.reply)
        if answer.told:
            self.told[answer.told.producer_id] = answer.told.telemetry.told
        if answer.parcel:
            if self.world.now < self.refused_until:
                self.tell_busy(answer.parcel.session)
                return
            self.batch.add(answer.parcel, self.world.now)
        if answer.flush:
            self.batch.flush()

    def send(self, route: bytes, frames: list[bytes]) -> None:
        connection = self.connections.get(route)
        if connection is None or not connection.alive:
            self.sessions.forget(route)
        else:
            connection.put(connection.down, frames)

    def commit(self) -> None:
        parcels, store = self.batch.parcels, self.world.store
        outcome = self.world.chance("refused", ("refused", "refused but done"), "done")
        exceptions = store.write(parcels) if outcome != "refused" else []
        if outcome != "done":
            self.batch.clear()
            self.refused_until = self.world.now + 1.0
            for session in {parcel.session for parcel in parcels}:
                self.tell_busy(session)
            return
        self.batch.clear()
        if self.world.chance("killed after commit", (True,), False):
            self.world.kill_daemon()
            return
        told: dict = {}
        for parcel, some in zip(parcels, exceptions, strict=True):
            self.sessions.settle(parcel.session, parcel.last)
            told.setdefault(parcel.session, []).extend(some)
        for session, some in told.items():
            self.send(session.route, wire.ack(session.stored, some))

    def tell_busy(self, session) -> None:
        self.sessions.rewind(session)
        self.send(session.route, wire.busy("storage_full: no room", max(0.0, self.refused_until - self.world.now)))


class Clock:
    """Stands for the module `time`."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class World:
    def __init__(self, seed: int, directory: Path, clock: Clock) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.directory = directory
        # Not everything fails in every run, and not equally often.
        self.odds = {
            fault: self.random.choice((0.0, often / 4, often))
            for fault, often in {
                "cut": 0.1, "daemon": 0.05, "producer": 0.05, "refused": 0.3, "killed after commit": 0.1, "damage": 0.3,
            }.items()
        }  # fmt: skip
        self.limits = self.random.choice((NARROW, WIDE))
        self.spool_bytes_max = self.random.choice((40_000, 1_000_000))
        self.store = Store()
        self.routes = self.events = 0
        self.daemon: Daemon | None = Daemon(self)
        self.daemon_back_at = 0.0
        self.published: defaultdict[str, list[str]] = defaultdict(list)
        self.damaged: set[str] = set()
        self.sensors = [self.sensor(f"sensor{n}") for n in range(self.random.randint(1, 3))]

    @property
    def now(self) -> float:
        return self.clock.now

    def sensor(self, name: str) -> Sensor:
        return Sensor(self, self.directory / name, self.spool_bytes_max)

    def chance(self, fault: str, faulty: tuple, otherwise):
        return self.random.choice(faulty) if self.random.random() < self.odds[fault] else otherwise

    # -- what happens ------------------------------------------------------------------------------------------------

    def publish(self, sensor: Sensor) -> None:
        events = []
        images = self.random.choice(((0,), (5,), (0, 0, 0, 5, 500, 8_000)))
        for _ in range(self.random.choice((1, 1, 1, 5, 60))):
            self.events += 1
            image = b"\xff\xd8" * self.random.choice(images)
            events.append(Event("front", event_id=f"e{self.events}", thumbnail=image))
        try:
            if len(events) == 1:
                receipt = sensor.publish(events[0], urgent=self.random.random() < 0.2)
            else:
                receipt = sensor.publish_many(events)
        except (SpoolFull, InvalidRecord):  # no room now, or never for so many at once
            return
        self.published[sensor.producer] += [event.event_id for event in events]
        if self.random.random() < 0.7:
            sensor.receipts.append((receipt, [event.event_id for event in events]))

    def kill_daemon(self) -> None:
        self.daemon = None
        self.daemon_back_at = self.now + self.random.choice((0.0, 0.5, 20.0))
        for sensor in self.sensors:
            for connection in sensor._connection.connections:
                connection.cut()
                connection.up.clear()

    def kill_producer(self, index: int) -> None:
        sensor = self.sensors[index]
        sensor.die()
        for path in sorted(sensor._spool.directory.glob("*.spool"))[-1:]:
            data = path.read_bytes()
            if self.chance("damage", (True,), False) and data:
                data = self.damage(path, data)
            torn = self.random.choice((b"", data[: self.random.randint(0, 20)]))
            if path.name.startswith(f"{sensor._spool.epoch:015d}"):  # a life writes to files of its own
                data += torn
            path.write_bytes(data)
        self.sensors[index] = self.sensor(sensor.producer)

    def damage(self, path: Path, data: bytes) -> bytes:
        """One flipped bit, in an entry that is not the last."""
        epoch, seq = map(int, path.stem.split("-"))
        segment = Segment(path, epoch, seq, seq, len(data))
        entries, offset = [], 0
        while offset < segment.size:
            some, offset = segment.read(offset)
            entries += some
        segment.close()
        if len(entries) < 2:
            return data
        hit = self.random.randrange(len(entries) - 1)
        offset = self.random.randrange(entries[hit - 1].end if hit else 0, entries[hit].end)
        self.damaged.add(wire.msgpack.unpackb(entries[hit].record)["event_id"])
        return data[:offset] + bytes([data[offset] ^ 1 << self.random.randrange(8)]) + data[offset + 1 :]

    def connect(self) -> None:
        """libzmq connects again by itself; the daemon knows the new connection by a new route only."""
        for sensor in self.sensors:
            if self.daemon is not None and sensor._connection.connection is None:
                self.routes += 1
                connection = Connection(self, b"\0%04d" % self.routes)
                sensor._connection.connections.append(connection)
                self.daemon.connections[connection.route] = connection

    def step(self) -> None:
        if self.daemon is None and self.now >= self.daemon_back_at:
            self.daemon = Daemon(self)
        if self.random.random() < 0.5:
            self.connect()
        sides = [*self.sensors, self.daemon]
        self.random.shuffle(sides)
        for side in sides:
            if side is not None and (side is self.daemon or side in self.sensors):
                side.step()

    def fail_a_little(self) -> None:
        if self.random.random() < 0.5:
            self.publish(self.random.choice(self.sensors))
        if self.chance("cut", (True,), False):
            connection = self.random.choice(self.sensors)._connection.connection
            if connection is not None:
                connection.cut()
        if self.daemon is not None and self.chance("daemon", (True,), False):
            self.kill_daemon()
        if self.chance("producer", (True,), False):
            self.kill_producer(self.random.randrange(len(self.sensors)))

    def run(self) -> None:
        for _ in range(STEPS):
            self.fail_a_little()
            self.step()
            self.clock.now += self.random.choice((0.0, 0.001, 0.03, 0.3, 2.0))
        self.odds = dict.fromkeys(self.odds, 0.0)
        deadline = self.now + HEALTHY_SECONDS_MAX
        while any(sensor.spooled for sensor in self.sensors):
            self.step()
            self.clock.now += 0.05
            assert self.now < deadline, f"stands still: {[(s.spooled, vars(s._link)) for s in self.sensors]}"
        self.check()

    def check(self) -> None:
        for sensor in self.sensors:
            published = self.published[sensor.producer]
            settled = self.store.settled[sensor.producer_id]
            missing = set(published) - set(settled)
            assert missing <= self.damaged, "published, and neither stored nor damaged"
            assert settled == [event_id for event_id in published if event_id not in missing]
            assert sensor.published == len(published), "the lives do not add up"
            assert len(missing) <= sensor.lost <= len(self.damaged)
            found = account(sensor._spool.told(), self.store.count(sensor.producer_id))
            assert found == (len(published), 0, len(missing), 0)
            for receipt, event_ids in sensor.receipts:
                expected = [status_of(event_id) for event_id in event_ids]
                if isinstance(receipt, publisher.Receipt):
                    assert receipt.wait(0) == expected[0]
                else:
                    result = receipt.wait(0)
                    found = (result.stored, result.duplicates, result.rejected)
                    assert found == tuple(map(expected.count, (STORED, DUPLICATE, REJECTED)))
                    assert sorted(result.reasons) == [i for i, status in enumerate(expected) if status != STORED]


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_everything_published_is_stored_once_in_order_whatever_fails(first, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(publisher, "time", clock)
    monkeypatch.setattr(spool, "time", clock)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
    for seed in range(first, first + SEEDS_A_TEST):
        clock.now = Clock.now
        world = World(seed, tmp_path / str(seed), clock)
        try:
            world.run()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            for sensor in world.sensors:
                sensor._spool.close()


@pytest.mark.parametrize("stuck", [False, True])
def test_a_new_try_to_connect_is_not_overslept(tmp_path, monkeypatch, stuck):
    clock = Clock()
    monkeypatch.setattr(publisher, "time", clock)
    monkeypatch.setattr(spool, "time", clock)
    world = World(0, tmp_path, clock)
    world.run()
    try:
        sensor = world.sensors[0]
        assert sensor._timeout(clock.now, stuck) > 100, "nothing to do for long"
        sensor._connection.retry_at = clock.now + 0.05
        assert sensor._timeout(clock.now, stuck) <= 51
    finally:
        for sensor in world.sensors:
            sensor._spool.close()

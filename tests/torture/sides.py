"""The two ends of the simulation: the publisher's own code without its thread and socket, and the daemon's sessions and
batch, driven as the ingest loop does, over a store that is a list."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from network import Connection, Dealer

from sightlog.protocol import messages
from sightlog.protocol.accounts import Resolved, account
from sightlog.protocol.messages import DUPLICATE, REJECTED, START, STORED, Position, SpoolReport
from sightlog.publisher.delivery import Delivery
from sightlog.publisher.publisher import Publisher
from sightlog.publisher.receipts import BatchReceipt, Receipt, ReceiptBook
from sightlog.publisher.session import Link
from sightlog.publisher.telemetry import TelemetryReporter
from sightlog.spool import spool
from sightlogd.protocol.batch import Batch, BatchLimits
from sightlogd.protocol.session import Chunk, Session, Sessions

if TYPE_CHECKING:
    from world import World

BATCH: Final = BatchLimits(records_max=25, bytes_max=30_000, linger_seconds=0.25)


class Lost(AssertionError):
    """What must never happen has happened."""


def must(holds: object, what: object) -> None:
    if not holds:
        raise Lost(what)


def status_of(event_id: str) -> str:
    """What the store says to an event that it does not have, by the end of its id."""
    return {"7": DUPLICATE, "9": REJECTED}.get(event_id[-1], STORED)


class Sensor(Publisher):
    """A publisher; `step` is one turn of its thread's loop, when the loop would have one."""

    def __init__(self, world: World, directory: Path, bytes_max: int) -> None:
        self.world, self.label, self.producer = world, directory.name, directory.name
        self._spool = spool.Spool(directory, self.producer, bytes_max)
        self._link = Link()
        self._book = ReceiptBook(self._ask)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closing = False
        self._telemetry = TelemetryReporter(self._link, self._spool)
        self._connection = Dealer(world.random)
        self._delivery = self.make_delivery(
            self.producer, self._spool, self._link, self._book, self._telemetry, self._connection
        )
        self._stuck = False
        self.sleeps_until = 0.0
        self.receipts: list[tuple[Receipt | BatchReceipt, list[str]]] = []

    make_delivery: type[Delivery] = Delivery

    @property
    def dealer(self) -> Dealer:
        return self._connection

    @property
    def directory(self) -> Path:
        return self._spool.directory

    def step(self) -> None:
        now = self.world.clock.now
        writable = self._stuck and self.dealer.connection is not None
        if now < self.sleeps_until and not writable and self.dealer.due > now:
            return
        self._stuck = self._delivery.send(now)
        self._delivery.receive()
        self._delivery.keep()
        must(
            self._link.acked <= self.world.store.durable[self.producer_id], f"{self.label}: acked what was never stored"
        )
        self.world.acked[self.producer_id] = max(self.world.acked[self.producer_id], self._link.acked)
        # After receiving, the loop looks at once for more to send.
        self.sleeps_until = self._delivery.due_at(now, stuck=self._stuck)
        if not self._stuck:
            self._stuck = self._delivery.send(now)

    def _append(self, *arguments: Any) -> None:
        super()._append(*arguments)
        self.sleeps_until = 0.0

    def told(self) -> SpoolReport:
        return self._spool.report(self._link.acked)

    @property
    def is_fenced(self) -> bool:
        return self._book.ended is not None

    def die(self) -> None:
        """SIGKILL: what the kernel has stays."""
        self.dealer.cut()
        self._spool.let_go()

    def close(self) -> None:
        self._spool.close()


@dataclass
class Producer:
    """A row of the `producers` table, what it stands for, and the dead letters."""

    position: Position = START
    resolved: list[str] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    """Of those that are settled, in the same order."""
    exceptions: list[tuple[Position, str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {STORED: 0, DUPLICATE: 0, REJECTED: 0})
    missing: int = 0

    def copy(self) -> Producer:
        lists = [*self.resolved], [*self.positions], [*self.exceptions]
        return Producer(self.position, *lists, {**self.counts}, self.missing)


class Store:
    """What COMMIT made durable."""

    def __init__(self) -> None:
        self.producers: defaultdict[str, Producer] = defaultdict(Producer)
        self.events: dict[str, str] = {}
        """In the order of their commits, with what became of them."""
        self.durable: defaultdict[str, Position] = defaultdict(lambda: START)
        """How far each producer's records have ever been, whatever was restored since."""

    def copy(self) -> Store:
        """A backup."""
        copy = Store()
        copy.producers.update({name: producer.copy() for name, producer in self.producers.items()})
        copy.events = dict(self.events)
        return copy

    def position_of(self, producer_id: str) -> Position:
        return self.producers[producer_id].position

    def write(self, chunks: list[Chunk]) -> list[list[tuple[int, str, str]]]:
        found = []
        told: dict[Session, int] = {}
        for chunk in chunks:
            producer = self.producers[chunk.session.producer_id]
            must(chunk.first > producer.position, f"stored twice, or out of order: {chunk.first}")
            exceptions = []
            for seq, record in enumerate(chunk.records, chunk.first.seq):
                event_id = record.event_id
                known = event_id in self.events
                must(not (known and event_id in producer.resolved), f"{event_id} was stored already")
                producer.resolved.append(event_id)
                producer.positions.append(Position(chunk.first.epoch, seq))
                status = DUPLICATE if known else status_of(event_id)
                self.events.setdefault(event_id, status)
                producer.counts[status] += 1
                if status != STORED:
                    exceptions.append((seq, status, f"{status} {event_id}"))
                    producer.exceptions.append((Position(chunk.first.epoch, seq), status, f"{status} {event_id}"))
            producer.position = chunk.last
            producer.missing += told.setdefault(chunk.session, chunk.session.missing)
            told[chunk.session] = 0
            durable = self.durable[chunk.session.producer_id]
            self.durable[chunk.session.producer_id] = max(durable, chunk.last)
            found.append(exceptions)
        return found

    def count(self, producer_id: str) -> Resolved:
        row = self.producers[producer_id]
        counts = row.counts
        return Resolved(row.position, counts[STORED], counts[DUPLICATE], counts[REJECTED], row.missing)

    def exceptions_of(self, producer_id: str, first: Position, last: Position) -> list[tuple[int, str, str]]:
        return [
            (position.seq, status, reason)
            for position, status, reason in self.producers[producer_id].exceptions
            if first <= position <= last and position.epoch == last.epoch
        ]


class Daemon:
    """The ingest loop's turn over fake connections; see `Ingest._drain` and `_commit`."""

    def __init__(self, world: World) -> None:
        self.world = world
        store = world.store
        self.sessions = Sessions(store.position_of, store.exceptions_of, world.limits, lambda: 0)
        self.batch = Batch(BATCH)
        self.connections: dict[bytes, Connection] = {}
        self.refused_until = 0.0
        self.told: dict[str, SpoolReport] = {}

    def check_accounts(self) -> None:
        """At any moment, whatever is on its way: everything that was told to be published is somewhere."""
        for producer_id, told in self.told.items():
            found = account(told, self.world.store.count(producer_id))
            must(found is None or found.difference == 0, (found, told))

    @property
    def due(self) -> float:
        first = min((connection.up.due for connection in self.connections.values()), default=1e12)
        return min(first, self.batch.deadline or 1e12)

    def step(self) -> None:
        now, draw = self.world.clock.now, self.world.random
        for route in [r for r, c in self.connections.items() if not c.alive and not len(c.up)]:
            del self.connections[route]
        while not self.batch.full:
            waiting = [connection for connection in self.connections.values() if connection.up.due <= now]
            if not waiting:
                break
            connection = draw.choice(waiting)
            frames = connection.up.take()
            assert frames is not None
            self.receive(connection.route, frames)
        if self.batch.due(now):
            self.commit()
        # Where a message can be lost, what a new life told of its damaged spool may come with the next one only.
        if not (self.world.accounts_are_off or (self.world.wild and self.world.damaged)):
            self.check_accounts()

    def receive(self, route: bytes, frames: list[bytes]) -> None:
        answer = self.sessions.receive(route, frames)
        must(answer.dead_letter is None, answer.dead_letter)
        if answer.reply:
            self.send(route, answer.reply)
        if answer.reported:
            self.told[answer.reported.producer_id] = answer.reported.telemetry.report
        if answer.chunk:
            if self.world.clock.now < self.refused_until:
                self.tell_busy(answer.chunk.session)
                return
            self.take(answer.chunk)
        if answer.flush:
            self.batch.flush()

    def take(self, chunk: Chunk) -> None:
        self.batch.add(chunk, self.world.clock.now)

    def send(self, route: bytes, frames: list[bytes]) -> None:
        connection = self.connections.get(route)
        if connection is None or not connection.alive:
            self.sessions.forget(route)
        else:
            connection.down.put(frames)

    def commit(self) -> None:
        chunks, world = self.batch.chunks, self.world
        if world.happens("killed before commit"):
            world.kill_daemon()
            return
        refused = world.happens("refused")
        took_effect = not refused or world.random.random() < 0.5
        exceptions = world.store.write(chunks) if took_effect else []
        self.batch.clear()
        if refused:
            self.refused_until = world.clock.now + 1.0
            for session in dict.fromkeys(chunk.session for chunk in chunks):
                self.tell_busy(session)
            return
        if world.happens("killed after commit"):
            world.kill_daemon()
            return
        told: dict[Session, list[tuple[int, str, str]]] = {}
        for chunk, some in zip(chunks, exceptions, strict=True):
            self.sessions.resolve(chunk.session, chunk.last)
            told.setdefault(chunk.session, []).extend(some)
        for session, some in told.items():
            self.send(session.route, messages.ack(session.stored, some))

    def tell_busy(self, session: Session) -> None:
        self.sessions.rewind(session)
        self.send(
            session.route, messages.busy("storage_full: no room", max(0.0, self.refused_until - self.world.clock.now))
        )

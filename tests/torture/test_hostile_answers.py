"""A daemon's answers, mutated on their way to a Publisher: it lives, loses nothing, and believes no false ack."""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from pathlib import Path

import msgpack
import pytest
from conftest import wait_for
from lab import often
from mutations import Mutator

from sightlog import Event, Publisher
from sightlog.errors import ProducerFenced, SightlogError
from sightlog.protocol import messages
from sightlog.protocol.messages import START, Limits, Position
from sightlog.publisher import delivery, publisher
from sightlog.publisher import session as link
from sightlog.spool import spool
from sightlogd.protocol.decoder import EventRecord
from sightlogd.protocol.session import Sessions

ANSWERS = often(4_000, 30_000)
LIMITS = Limits(400, 1 << 20)


class Clock:
    """Goes on when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Wire:
    """In the place of a connection: the daemon's own sessions at its other end, their answers mutated on the way."""

    def __init__(self, choose: random.Random, clock: Clock) -> None:
        self.choose, self.clock = choose, clock
        self.hostile = True
        self.answers = 0
        self.received: set[str] = set()
        """Events that came through: what a receipt may rightly say `stored` of."""
        self._stored: dict[str, Position] = {}
        self.sessions = Sessions(lambda producer: self._stored.get(producer, START), lambda *_: (), LIMITS, lambda: 0)
        self.queue: deque[list[bytes]] = deque()
        replies = [
            messages.welcome(
                Position(1_700_000_000_000, 7), [(3, "rejected", "why"), (4, "duplicate", "there")], LIMITS
            ),
            messages.ack(Position(1_700_000_000_000, 9), [(8, "rejected", "why")]),
            messages.busy("storage_full: no room", 1.0), messages.resync(Position(5, 5)), messages.resync(None),
            messages.refused("malformed", "no"), messages.pong(),
        ]  # fmt: skip
        self._corpus = [frames[0] for frames in replies]
        self._mutator = Mutator(choose, self._corpus)

    def __call__(self, _endpoint: str, _key: object) -> Connection:
        return Connection(self)

    def send(self, frames: list[bytes]) -> None:
        answer = self.sessions.receive(b"\0r", frames)
        if answer.chunk:
            events = [record.event_id for record in answer.chunk.records if isinstance(record, EventRecord)]
            self.received.update(events)
            session, last = answer.chunk.session, answer.chunk.last
            self._stored[session.producer_id] = last
            self.sessions.resolve(session, last)
            answer.reply = messages.ack(last, [])
        if not answer.reply:
            return
        self.answers += 1
        if not self.hostile:
            self.queue.append(answer.reply)
            return
        for _ in range(self.choose.choice([0, 0, 1, 3])):
            self.queue.append(self._mutated(answer.reply))
        self.queue.append(answer.reply if self.choose.random() < 0.5 else self._mutated(answer.reply))

    def _mutated(self, frames: list[bytes]) -> list[bytes]:
        self.answers += 1
        choose = self.choose
        what = choose.random()
        if what < 0.02:
            return [b""] if what < 0.01 else [*frames, b"more"]
        if what < 0.5:
            return [self._mutator.any(choose.choice([frames[0], *self._corpus]))]
        header = msgpack.unpackb(choose.choice([frames[0], *self._corpus]))
        if "last" in header:  # near what was sent, and beyond
            epochs = [position.epoch for position in self._stored.values()] or [1]
            epoch, seq = choose.choice(epochs), choose.choice([0, 1, 5, 300, 10**6, 2**62])
            header["last"] = [epoch + choose.choice([-1, 0, 0, 0, 1]), seq + choose.choice([-1, 0, 1]) if seq else 0]
            if "exceptions" in header:
                header["exceptions"] = choose.choice(
                    [[], [[1, "rejected", "x"]], [[seq, "stored", ""]], [["1", 2, 3]], "abc"]
                )
        if "retry_after_ms" in header:
            header["retry_after_ms"] = choose.choice([0, 1, 10**6, 2**63 - 1])
        if "limits" in header:
            header["limits"] = {name: choose.choice([1, 2, 10**6, 2**62]) for name in Limits._fields}
        return [msgpack.packb(header)]

    def next(self) -> list[bytes] | None:
        return self.queue.popleft() if self.queue else None

    @property
    def has_some(self) -> bool:
        return bool(self.queue)


class Connection:
    """What a publisher sees of a `Wire`."""

    denied = None
    retry_at = math.inf

    def __init__(self, line: Wire) -> None:
        self._line = line
        self._woken = threading.Event()

    def is_ready(self, *, stuck: bool) -> bool:
        return self._line.has_some

    def wait(self, seconds: float) -> None:
        """Time goes on when nothing comes."""
        if not seconds < 2**31 / 1000:
            raise OverflowError(f"a wait of {seconds} s")  # as poll() would
        if not self._line.has_some and not self._woken.wait(0.000_5):
            self._line.clock.now += max(0.0, seconds)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()

    def send(self, frames: list[bytes]) -> bool:
        assert len(frames) < 67
        assert sum(map(len, frames)) < 8 << 20
        self._line.send(frames)
        return True

    def receive(self) -> list[bytes] | None:
        return self._line.next()

    def attend(self, now: float) -> None:
        pass

    def close(self, *, linger: bool) -> None:
        pass


@pytest.fixture
def line(attack, monkeypatch):
    clock = Clock()
    line = Wire(attack.random(), clock)
    monkeypatch.setattr(publisher, "Connection", line)
    for module in (delivery, spool):
        monkeypatch.setattr(module, "time", clock)
    return line


def live(line: Wire, spool_dir: Path, answers: int) -> tuple[list[str], list[str]]:
    """A producer's lives until so many answers came: the ids it published, and those whose receipts said stored."""
    published: list[str] = []
    resolved: list[str] = []
    line.hostile = True
    end = line.answers + answers
    while line.answers < end:
        producer = Publisher("ipc:///nowhere", "sensor", spool_dir)
        receipts = []
        try:
            while line.answers < end and len(receipts) < 3_000:
                event = Event("door")
                receipts.append((producer.publish(event, urgent=True), event.event_id))
                published.append(event.event_id)
                if len(receipts) % 20 == 0:
                    await_answers(line, producer)
        except SightlogError:
            assert failed(producer)  # a life that a mutated answer ended, as one that is meant so would
        line.hostile = False
        assert producer._thread.is_alive() or failed(producer), "the publisher's thread died"
        if not failed(producer):
            assert producer.flush()
        producer.close()
        resolved += [event_id for receipt, event_id in receipts if receipt.status == messages.STORED]
        line.hostile = True
    line.hostile = False
    with Publisher("ipc:///nowhere", "sensor", spool_dir) as last:
        assert last.flush()
        assert last.lost == 0
    return published, resolved


def await_answers(line: Wire, producer: Publisher) -> None:
    before = line.answers
    wait_for(lambda: line.answers > before + 5 or not producer._thread.is_alive() or failed(producer), "answers")


def failed(producer: Publisher) -> bool:
    """Ended by what is an order to end; anything else is a defect."""
    ended = producer._book.ended
    if ended is None:
        return False
    assert ended.error is ProducerFenced or "matching versions" in ended.why, ended
    return True


@pytest.mark.timeout(120 + ANSWERS // 500)
def test_mutated_answers_end_no_publisher_lose_nothing_and_no_false_ack_is_believed(line, tmp_path, attack):
    attack.on("P1, P2, P5", "a daemon's answers, mutated, to a Publisher", "answers")
    published, resolved = live(line, tmp_path, ANSWERS)
    assert set(resolved) <= line.received, "told that it is stored, and it was never sent"
    assert set(published) == line.received & set(published), "lost"
    assert len(resolved) > len(published) // 20
    attack.runs, attack.note = line.answers, f"{len(published):,} records"


def test_without_the_check_a_false_ack_is_believed(line, tmp_path, attack, monkeypatch):
    attack.without("P1, P2", "an ack of what was never sent is not believed", "false acks")
    monkeypatch.setattr(link.Link, "check", lambda *_: None)
    for attack.runs in range(1, 11):
        line.send = lambda _: None  # nobody there: what is published cannot be stored
        with Publisher("ipc:///nowhere", f"sensor-{attack.runs}", tmp_path) as producer:
            receipt = producer.publish_many(Event("door") for _ in range(10))
            line.queue.append(messages.ack(Position(producer._spool.epoch, 10), []))
            attack.caught += receipt.wait(20).stored == 10
    assert line.received == set()
    assert attack.caught == attack.runs

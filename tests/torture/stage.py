"""Sessions, batch, store and metrics in one process, driven as the daemon's loop drives them, and what has to hold."""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgpack
from corpus import ID_BYTES, Corpus
from mutations import Mutator

from sightlog.protocol import messages as wire
from sightlog.protocol.messages import Limits, Position
from sightlogd.metrics.metrics import Metrics
from sightlogd.protocol.batch import Batch, BatchLimits, Reason
from sightlogd.protocol.decoder import Refusal
from sightlogd.protocol.session import Answer, Sessions
from sightlogd.store import Store
from sightlogd.store.resolved import DEAD_LETTERS_MAX

GOOD = {
    "kind": "event", "event_id": "", "site": "default", "camera_id": "neighbour",
    "recorded_at": "2026-11-20T10:00:00.000Z", "event_type": "motion",
}  # fmt: skip


@dataclass
class Peer:
    """What a connection believes of itself. `seq` is of the record it sent last."""

    route: bytes
    producer_id: str
    epoch: int = 1
    seq: int = 0
    greeted: bool = False

    def hello(self) -> list[bytes]:
        return wire.hello(self.producer_id, "peer", self.epoch, Position(self.epoch, self.seq + 1))


class Stage:
    """A new store in `data_dir`. `sessions` makes what takes the messages apart, the product's own unless a control."""

    def __init__(self, data_dir: Path, sessions: Callable[..., Sessions] = Sessions) -> None:
        data_dir.mkdir(parents=True)
        self.store = Store(data_dir)
        self.sessions = sessions(self.store.stored_of, self.store.exceptions_of, Limits(4_000, 4 << 20), lambda: 0)
        self.batch = Batch(BatchLimits(1_000, 4 << 20, 0.25))
        self.metrics = Metrics(time.monotonic(), datetime.now(UTC))
        self.unexplained: list[list[bytes]] = []
        """Messages that came to nothing, and nobody was told."""
        self.taken = self.dead_letters = self.exceptions = 0
        """Records in parcels, messages that became dead letters, records that were settled but not stored."""
        self.expected: list[str] = []
        """Good events that were taken: each has to be stored once."""
        self.good: dict[bytes, str] = {}
        """Ids of the good events that were sent, by their bytes."""

    def good_event(self) -> bytes:
        event_id = str(uuid.uuid4())
        packed: bytes = msgpack.packb({**GOOD, "event_id": event_id})
        self.good[packed] = event_id
        return packed

    def give(self, peer: Peer, frames: list[bytes]) -> Answer:
        answer = self.sessions.receive(peer.route, frames)
        refused = bool(answer.reply) and msgpack.unpackb(answer.reply[0])["kind"] == "refused"
        if refused and not answer.warning and b"fenced" not in answer.reply[0]:
            self.unexplained.append(frames)
        if not (answer.reply or answer.chunk or answer.dead_letter or answer.reported or answer.resent or answer.flush):
            self.unexplained.append(frames)
        if answer.reported:
            self.metrics.reported(answer.reported)
        now = time.monotonic()
        if answer.dead_letter:
            self.dead_letters += 1
            assert answer.dead_letter.reason
            self.batch.add_dead_letter(answer.dead_letter, now)
        if answer.chunk:
            self.taken += len(answer.chunk.records)
            self.expected += [self.good[packed] for packed in answer.chunk.packed if packed in self.good]
            peer.seq = answer.chunk.last.seq
            self.batch.add(answer.chunk, now)
        if self.batch.due(now) is Reason.FULL:
            self.commit()
        return answer

    def commit(self) -> None:
        batch = self.batch
        written = self.store.write(batch.chunks, {}, batch.dead_letters)
        self.metrics.committed(batch.chunks, written.exceptions, 0.001, time.time())
        for chunk, exceptions in zip(batch.chunks, written.exceptions, strict=True):
            resolved = {seq for seq, _, reason in exceptions if reason}
            refused = {chunk.first.seq + i for i, record in enumerate(chunk.records) if isinstance(record, Refusal)}
            assert refused <= resolved, "a refused record that its producer is not told of"
            assert len(resolved) == len(exceptions), "an exception without a reason, or told twice"
            wire.decode_reply(wire.ack(chunk.last, exceptions))
            self.exceptions += len(exceptions)
            self.sessions.resolve(chunk.session, chunk.last)
        batch.clear()
        self.store.checkpoint_if_due()

    def end(self) -> None:
        """Everything that has to hold of the database."""
        self.commit()
        self.store.close()
        connection = sqlite3.connect(f"file:{self.store.path}?mode=ro", uri=True)
        one = lambda sql: connection.execute(sql).fetchone()[0]  # noqa: E731
        assert one("PRAGMA integrity_check") == "ok"
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        stored = {row[0] for row in connection.execute("SELECT event_id FROM events WHERE camera_id = 'neighbour'")}
        assert set(self.expected) <= stored, "a good record is missing"
        expired = one("SELECT count(*) FROM dead_letters WHERE status = 'expired'")
        # Waiting amendments may be refused when their event comes: a dead letter, and no exception any more.
        buried = one("SELECT coalesce(max(id), 0) FROM dead_letters")
        assert buried >= self.dead_letters + self.exceptions + expired, "something refused is no dead letter"
        assert one("SELECT count(*) FROM dead_letters WHERE reason = ''") == 0
        assert one("SELECT count(*) FROM dead_letters") <= DEAD_LETTERS_MAX
        counted = one("SELECT total(stored + duplicates + rejected) FROM producers")
        assert counted == self.taken, "records that no producer's counters have"
        connection.close()


class Hostile:
    """Some peers that send whatever `choose` comes up with, and one honest neighbour."""

    def __init__(self, stage: Stage, corpus: Corpus, choose: random.Random) -> None:
        self.stage, self.corpus, self.choose = stage, corpus, choose
        self.mutator = Mutator(choose, corpus.frames)
        self.peers = [self._new_peer(n) for n in range(8)]
        self.neighbour = self._new_peer(99)
        self.sent = 0

    def _new_peer(self, number: int) -> Peer:
        return Peer(b"\0%d" % number, str(uuid.UUID(int=self.choose.getrandbits(128))))

    def run(self, messages: int) -> None:
        for number in range(messages):
            peer = self.choose.choice(self.peers)
            if not peer.greeted:
                self._greet(peer)
            answer = self.stage.give(peer, self.message(peer))
            self.sent += 1
            if answer.chunk is None and not answer.reported:
                peer.greeted = False  # refused, asked to greet, or somebody else now
            if number % 50 == 0:
                self._send_good(self.neighbour)

    def _greet(self, peer: Peer) -> None:
        answer = self.stage.give(peer, peer.hello())
        reply = wire.decode_reply(answer.reply)
        if isinstance(reply, wire.Refused):  # a mutated hello took its place, with a later epoch
            peer.producer_id, peer.seq = str(uuid.UUID(int=self.choose.getrandbits(128))), 0
            answer = self.stage.give(peer, peer.hello())
            reply = wire.decode_reply(answer.reply)
        assert isinstance(reply, wire.Welcome), reply
        peer.greeted = True

    def _send_good(self, peer: Peer) -> None:
        if not peer.greeted:
            self._greet(peer)
        frames = wire.records(Position(peer.epoch, peer.seq + 1), [self.stage.good_event()], [b""], flush=False)
        assert self.stage.give(peer, frames).chunk is not None, "an honest neighbour was not heard"

    # -- messages ----------------------------------------------------------------------------------------------------

    def message(self, peer: Peer) -> list[bytes]:
        """Any of the ways to be wrong."""
        choose = self.choose
        what = choose.random()
        if what < 0.55:
            return self._bad_records(peer)
        if what < 0.75:  # a message in which one frame is wrong
            frames = self._placed(list(choose.choice(self.corpus.messages)), peer)
            index = choose.randrange(min(len(frames), 2))
            return [*frames[:index], self.mutator.any(frames[index]), *frames[index + 1 :]]
        if what < 0.85:  # all of it is
            return [self.mutator.blind(frame) for frame in choose.choice(self.corpus.messages)]
        frames = self._placed(list(choose.choice(self.corpus.messages)), peer)
        return self._shuffled(frames)

    def _bad_records(self, peer: Peer) -> list[bytes]:
        """A message in its place, bad records between good ones."""
        choose = self.choose
        good = [self.stage.good_event() for _ in range(2)]
        bad = [
            self.mutator.any(self._renamed(choose.choice(self.corpus.records))) for _ in range(choose.choice([1, 1, 3]))
        ]
        images = [choose.choice([b"", b"", *self.corpus.images]) for _ in bad]
        first = Position(peer.epoch, peer.seq + 1)
        return wire.records(first, [good[0], *bad, good[1]], [b"", *images, b""], flush=False)

    def _renamed(self, record: bytes) -> bytes:
        """With an id of its own mostly: a duplicate is looked at no further."""
        if self.choose.random() < 0.1:
            return record
        at = record.find(b"_id\xd9\x24")
        if at < 0:
            return record
        start = at + 5
        return record[:start] + str(uuid.UUID(int=self.choose.getrandbits(128))).encode() + record[start + ID_BYTES :]

    def _placed(self, frames: list[bytes], peer: Peer) -> list[bytes]:
        """As the next message of `peer`, so that it is not refused for its place alone."""
        header = msgpack.unpackb(frames[0])
        if header["kind"] == "records":
            header["first"] = [peer.epoch, peer.seq + 1]
        elif header["kind"] == "telemetry":
            header["last"] = [peer.epoch, peer.seq]
        elif header["kind"] == "hello" and self.choose.random() < 0.8:
            header["producer_id"], header["epoch"], header["first"] = (
                peer.producer_id,
                peer.epoch,
                [peer.epoch, peer.seq + 1],
            )
        return [msgpack.packb(header), *frames[1:]]

    def _shuffled(self, frames: list[bytes]) -> list[bytes]:
        choose = self.choose
        what = choose.randrange(6)
        if what == 0:
            return []
        if what == 1:
            del frames[choose.randrange(len(frames))]
        elif what == 2:
            frames.insert(choose.randrange(len(frames) + 1), choose.choice([b"", b"\0", *self.corpus.images]))
        elif what == 3:
            frames = frames * choose.choice([2, 70])
        elif what == 4:
            choose.shuffle(frames)
        else:
            frames = [*frames[:1], choose.choice(self.corpus.messages)[-1], *frames[1:]]
        return frames

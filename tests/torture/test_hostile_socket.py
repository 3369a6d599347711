"""Mutated messages over a real socket to a daemon with an honest producer, and bytes to its control socket."""

from __future__ import annotations

import socket
import sqlite3
import threading

import corpus as recorded
import daylogs
import ledger
import msgpack
import pytest
import zmq
from lab import often
from mutations import NASTY
from stage import Hostile, Stage

from sightlog import Event, SpoolFull
from sightlog.protocol import messages
from sightlog.protocol.messages import Position

FRAMES = often(3_000, 100_000)
GROWTH_BYTES_MAX = 96 << 20
SEND_MS = 20_000
UNKNOWN_PROTOCOL = 987_654
"""No mutation's: its refusal tells that all before it was read."""


def resident(pid: int, which: str = "VmRSS") -> int:
    """Bytes; VmHWM is the most it ever was."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{which}:"))


class Honest(threading.Thread):
    """A producer that publishes all the while, and keeps a ledger."""

    def __init__(self, daemon) -> None:
        super().__init__()
        self.target, self.ended = daemon, threading.Event()
        self.published: list[str] = []
        self.stored: list[str] = []

    def run(self) -> None:
        with self.target.publisher("honest") as publisher:
            while not self.ended.is_set():
                event = Event("neighbour", llm_description="honest")
                try:
                    receipt = publisher.publish(event, urgent=len(self.published) % 10 == 0)
                except SpoolFull:
                    continue
                self.published.append(event.event_id)
                if len(self.published) % 10 == 1 and receipt.wait(60) == "stored":
                    self.stored.append(event.event_id)
            assert publisher.flush(60)


@pytest.mark.timeout(180 + FRAMES // 200)
def test_a_real_daemon_outlives_mutated_messages_and_its_honest_producer_loses_nothing(idle_daemon, tmp_path, attack):
    attack.on(
        "P2, P3, P4, P7", "mutated messages over a socket to a daemon, an honest producer beside them", "messages"
    )
    daemon = idle_daemon
    daemon.start(config="[storage]\nkeep_free_gb = 0.0\n", env={"TZ": "America/Los_Angeles"})
    choose = attack.random()
    corpus = recorded.record(tmp_path)
    # Its own sessions tell the generator what came of a message; the daemon gets the same bytes.
    hostile = Hostile(Stage(tmp_path / "shadow"), corpus, choose)
    honest = Honest(daemon)
    honest.start()
    context = zmq.Context()
    before = 0
    try:
        sockets = [connected(context, daemon.endpoint) for _ in hostile.peers]
        for number in range(FRAMES):
            index = choose.randrange(len(sockets))
            peer, dealer = hostile.peers[index], sockets[index]
            if number % 500 == 499:  # somebody who vanishes in the middle
                dealer.close()
                dealer = sockets[index] = connected(context, daemon.endpoint)
                peer.greeted = False
            if not peer.greeted:
                peer.greeted = True
                dealer.send_multipart(peer.hello())
            frames = hostile.message(peer)
            if frames:  # ZeroMQ has no message without a frame
                dealer.send_multipart(frames)
                seq = peer.seq
                hostile.stage.sessions.forget(peer.route)
                hostile.stage.sessions.receive(
                    peer.route, messages.hello(peer.producer_id, "peer", 1, Position(1, seq + 1))
                )
                answer = hostile.stage.sessions.receive(peer.route, frames)
                if answer.chunk:
                    peer.seq = answer.chunk.last.seq
                else:
                    peer.greeted = False
            while dealer.poll(0):
                dealer.recv_multipart()
            if number % 100 == 99:
                has_read_all(dealer)
            if number == FRAMES // 5:
                before = resident(daemon.process.pid)
            attack.runs += 1
        for dealer in sockets:
            has_read_all(dealer)
        honest.ended.set()
        honest.join(120)
        assert not honest.is_alive()
        grown = resident(daemon.process.pid, "VmHWM") - before
        assert grown < GROWTH_BYTES_MAX, "memory grows with hostile messages"
    finally:
        honest.ended.set()
        context.destroy(linger=0)
    assert daemon.process.poll() is None, daemon.log.read_text()[-2_000:]
    assert daemon.stop(60) == 0
    assert daylogs.are_marked(daemon.database)
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert "malformed message" in log
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    ledger.assert_every_text_can_be_found(connection)
    rows = connection.execute("SELECT event_id FROM events WHERE llm_description = 'honest' ORDER BY id").fetchall()
    assert [row[0] for row in rows] == honest.published, "the neighbour's are not there once each and in order"
    assert set(honest.stored) <= set(honest.published)
    buried, unexplained = connection.execute("SELECT max(id), sum(reason = '') FROM dead_letters").fetchone()
    connection.close()
    assert buried > FRAMES // 4
    assert unexplained == 0
    attack.note = f"memory grew by {grown >> 20} MB, {buried:,} dead letters"
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def has_read_all(dealer: zmq.Socket) -> None:
    """Waits: what a socket that is closed has not sent yet would be lost, and nothing said of it."""
    header = msgpack.unpackb(messages.hello("asks", "asks", 1, Position(1, 1))[0])
    dealer.send(msgpack.packb({**header, "protocol": UNKNOWN_PROTOCOL}))
    dealer.setsockopt(zmq.RCVTIMEO, SEND_MS)
    while str(UNKNOWN_PROTOCOL).encode() not in dealer.recv_multipart()[0]:
        pass


def connected(context: zmq.Context, endpoint: str) -> zmq.Socket:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.SNDTIMEO, SEND_MS)
    dealer.connect(endpoint)
    return dealer


@pytest.mark.timeout(120)
def test_bytes_to_the_control_socket_are_answered_or_dropped(daemon, attack):
    attack.on("P4", "hostile bytes to the daemon's control socket", "connections")
    choose = attack.random()
    lines = [
        b'{"command": "purge", "before": "%b", "dry_run": true}\n', b'{"command": "%b"}\n', b'{"command": "revoke"}\n',
        b'{"command": "purge", "%b": 1}\n', b'"%b"\n', b"%b\n", b'{"%b": 1}\n', b"%b",
    ]  # fmt: skip
    for _ in range(often(150, 3_000)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.data_dir / "control.sock"))
            part = choose.choice([*NASTY, b"\xff", b"[" * 4_000, choose.randbytes(9)])
            line = choose.choice(lines)
            try:
                client.sendall(line.replace(b"%b", part)[:16_384])
                if choose.random() < 0.7:
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(20)
                    while client.recv(4_096):
                        pass
            except (BrokenPipeError, ConnectionResetError):
                pass
        attack.runs += 1
    assert daemon.process.poll() is None, daemon.log.read_text()[-2_000:]
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
    assert "Traceback" not in daemon.log.read_text()

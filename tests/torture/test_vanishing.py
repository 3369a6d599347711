"""Producers that come and vanish by the hundred, also while the daemon stalls: nobody else notices."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import wait_for
from lab import often
from ledger import acked, published
from overload import HERE, Crowd, Disk, check, descriptors, ending, resident

from sightlog import Event

VANISHING = str(HERE / "vanishing_producers.py")
A_PROCESS = 20
PROCESSES = often(4, 50)
GROUPS = PROCESSES // 2
"""Each comes and vanishes more than once."""
STRANGERS = often(5, 10)
"""Connections that do not get as far as a record, a process."""
RECORDS = 200
MB = 1 << 20
BATCH_BYTES = MB // 4
CONFIG = f"[ingest]\nbatch_bytes_max = {BATCH_BYTES}\nbatch_records_max = 100\n"
SQLITE_CACHE_BYTES = 8 * MB
SLACK_BYTES = 8 * MB

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.1."""


def zmtp_command(name: bytes, **properties: bytes) -> bytes:
    """A ZMTP command with properties, whose names are those of `properties` with - for _."""
    body = bytes([len(name)]) + name
    for key, value in properties.items():
        body += bytes([len(key)]) + key.replace("_", "-").encode() + len(value).to_bytes(4, "big") + value
    return b"\x04" + bytes([len(body)]) + body


HANDSHAKE = GREETING + zmtp_command(b"READY", Socket_Type=b"DEALER", Identity=b"")
LONG_FRAME = b"\x02" + (MB).to_bytes(8, "big")
BEGINNINGS = [
    b"",
    GREETING[:10],
    GREETING,
    HANDSHAKE[:-5],
    HANDSHAKE,
    HANDSHAKE + LONG_FRAME,
    HANDSHAKE + LONG_FRAME + b"x" * 100_000,
    HANDSHAKE + b"\x01\x03abc",  # a frame, and more to follow
    HANDSHAKE + b"\x00\x03abc",
    b"GET / HTTP/1.1\r\n\r\n",
]


def start(daemon, records: int, names: list[str], text_chars: int = 2_000) -> subprocess.Popen[bytes]:
    ledgers = daemon.home / "ledgers"
    ledgers.mkdir(exist_ok=True)
    command = [sys.executable, VANISHING, daemon.endpoint, daemon.home / "spool", ledgers]
    return subprocess.Popen([*command, str(records), str(text_chars), *names])


def published_and_acked(ledger: Path) -> tuple[int, int]:
    return len(published(ledger)), len(acked(ledger))


def more(ledgers: dict[str, Path], before: dict[str, tuple[int, int]], index: int) -> list[bool]:
    """Of each whether it has published (0), or had acked (1), more than before."""
    return [published_and_acked(ledgers[name])[index] > told[index] for name, told in before.items()]


@pytest.mark.timeout(120 + PROCESSES * 10)
def test_producers_that_vanish_cost_nothing_that_stays_and_nobody_else_waits(idle_daemon, attack):
    attack.on("P2, P3, P7", "producers that connect, publish and are killed; strangers that hang up", "connections")
    choose = attack.random()
    daemon = idle_daemon.start(config=CONFIG)
    pid, path = daemon.process.pid, daemon.endpoint.removeprefix("ipc://")
    groups = [[f"p{group}-{number}" for number in range(A_PROCESS)] for group in range(GROUPS)]
    names = [name for group in groups for name in group]
    ledgers = {name: daemon.home / "ledgers" / name for name in names}
    most = 0
    with daemon.publisher("calm") as calm:
        assert all(calm.insert_event(Event("calm")) for _ in range(30))
        before, memory_before = descriptors(pid), resident(pid)
        for number in range(PROCESSES):
            group = groups[number % GROUPS]
            told = {name: published_and_acked(ledgers[name]) for name in group}
            process = start(daemon, RECORDS, group)
            try:
                if choose.random() < 0.7:
                    wait_for(lambda told=told: all(more(ledgers, told, 1)), "acks", 60)
                    assert descriptors(pid) >= before + A_PROCESS, "the gauge sees connections"
                else:  # some of them are just connecting
                    wait_for(lambda told=told: any(more(ledgers, told, 0)), "one has published", 60)
                for _ in range(STRANGERS):
                    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    stranger.connect(path)
                    stranger.sendall(choose.choice(BEGINNINGS))
                    stranger.close()
                most = max(most, resident(pid))
                time.sleep(choose.random() * 0.2)  # the moment of the kill is what is drawn
            finally:
                process.kill()
                process.wait()
            attack.runs += A_PROCESS + STRANGERS
            assert calm.insert_event(Event("calm"), timeout=20)
        wait_for(lambda: descriptors(pid) <= before, "all descriptors are given back")
        windows = A_PROCESS * 2 * BATCH_BYTES
        allowed = windows + SQLITE_CACHE_BYTES + SLACK_BYTES
        grown = max(most, resident(pid)) - memory_before
        assert grown <= allowed
    attack.note = f"{grown / MB:.0f} MB more, {allowed / MB:.0f} MB allowed"
    check(daemon.database, ledgers)
    for group in groups:
        assert start(daemon, 0, group).wait(90) == 0
    check(daemon.database, ledgers, delivered=True)
    assert sum(len(published(ledger)) for ledger in ledgers.values()) > len(names)
    assert daemon.process.poll() is None
    assert daemon.stop() == 0


# -- while the daemon stalls -----------------------------------------------------------------------------------------

STALLS = often(2, 20)
STALL_SECONDS = 1.2
WAITING = 150
"""More messages than the daemon's queue for a producer takes (RECEIVE_QUEUE_MESSAGES): libzmq stops to read."""
PRODUCERS = 3


def start_all(crowd: Crowd) -> None:
    for number in range(PRODUCERS):
        crowd.start(f"camera{number}")
    before = {name: crowd.acked_of(name) for name in crowd.ledgers}
    wait_for(lambda: all(crowd.acked_of(name) > count for name, count in before.items()), "each has an ack", 60)


def kill_during_a_stall(disk: Disk, crowd: Crowd) -> None:
    start_all(crowd)
    disk.set(STALL_SECONDS)
    told = {}

    def all_wait() -> bool:
        for name, ledger in crowd.ledgers.items():
            count = crowd.acked_of(name)
            if told.setdefault(name, (count, 0))[0] != count or not told[name][1]:
                told[name] = count, len(published(ledger))
        return all(len(published(crowd.ledgers[name])) >= since + WAITING for name, (_, since) in told.items())

    wait_for(all_wait, "records wait for the same commit", 60)
    crowd.kill()


def crowd_of(daemon) -> Crowd:
    return Crowd(daemon, spool_bytes=16 << 20, text_chars=500, pause_ms=2, urgent=1)


@pytest.mark.timeout(120 + STALLS * 10)
def test_producers_killed_while_the_daemon_stalls_do_not_harm_it(idle_daemon, tmp_path, attack):
    attack.on("P2, P3, P7", "SIGKILL of producers while the daemon stalls and its queues are full", "kills")
    disk = Disk(tmp_path)
    daemon = idle_daemon.start(program=disk.program())
    crowd = crowd_of(daemon)
    choose = attack.random()
    with ending(crowd), daemon.publisher("calm") as calm:
        for _ in range(STALLS):
            kill_during_a_stall(disk, crowd)
            attack.runs += PRODUCERS
            time.sleep(choose.random() * STALL_SECONDS)  # it stalls on
            disk.set(0)
            assert calm.insert_event(Event("calm"), timeout=60)
            assert daemon.process.poll() is None
            check(daemon.database, crowd.ledgers)
        start_all(crowd)
        crowd.end(60)
    check(daemon.database, crowd.ledgers, delivered=True)
    assert daemon.stop() == 0


@pytest.mark.timeout(120)
def test_with_heartbeats_of_zeromq_such_a_kill_aborts_the_daemon(idle_daemon, tmp_path, attack):
    attack.without("P5, P7", "the absence of ZeroMQ's own heartbeats", "stalls until it aborts")
    disk = Disk(tmp_path)
    daemon = idle_daemon.start(program=disk.program("quiet"))
    crowd = crowd_of(daemon)
    with ending(crowd):
        while daemon.process.poll() is None:
            kill_during_a_stall(disk, crowd)
            attack.runs += 1
            time.sleep(STALL_SECONDS)
            disk.set(0)
    assert daemon.process.wait() == -signal.SIGABRT
    assert "Assertion failed" in daemon.log.read_text()
    attack.caught += 1
    attack.note = daemon.log.read_text().partition("Assertion failed: ")[2].partition("\n")[0]

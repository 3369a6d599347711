"""Connections in masses: nobody takes the descriptors that files need, and who was there before goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from commands import run
from conftest import Daemon, wait_for
from lab import often
from managed_daemon import handing_over, listener
from pictures import jpeg

from sightlog import Event
from sightlog.protocol import messages
from sightlog.protocol.messages import Position

LIMIT = 256
CROWD = often(2_000, 6_000)
LIMITED = (
    "-c",
    "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)); "
    "from sightlogd.__main__ import main; sys.exit(main(sys.argv[1:]))",
)
FULL = "no more are let in"


def limited(daemon: Daemon) -> Daemon:
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    return daemon


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def is_full(daemon: Daemon) -> bool:
    return any(FULL in line["event"] for line in daemon.logged())


@contextlib.contextmanager
def silent(daemon: Daemon, count: int) -> Iterator[None]:
    """As fast as the kernel takes them; who does not get in at once waits, as others do."""
    path = daemon.endpoint.removeprefix("ipc://")
    with contextlib.ExitStack() as held:
        until = time.monotonic() + 20
        while count and time.monotonic() < until:
            stranger = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            try:
                stranger.connect(path)
                count -= 1
            except BlockingIOError:  # the kernel's queue is full
                if is_full(daemon):
                    break
                stranger.close()
        yield


@contextlib.contextmanager
def greeting(daemon: Daemon, count: int) -> Iterator[None]:
    """Producers as they should be, each with an identity of its own."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, count + 10)
    dealers = []
    try:
        for number in range(count):
            dealer = context.socket(zmq.DEALER)
            dealers.append(dealer)
            dealer.connect(daemon.endpoint)
            dealer.send_multipart(messages.hello(f"p{number}", "crowd", 1, Position(1, 1)))
        yield
    finally:
        for dealer in dealers:
            dealer.close(linger=0)
        context.term()


@pytest.fixture
def room_for_a_crowd() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = before[1]
    if most < 3 * CROWD:
        pytest.skip(f"needs {3 * CROWD} descriptors: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0], most))


@pytest.mark.usefixtures("room_for_a_crowd")
@pytest.mark.parametrize("crowd", [silent, greeting])
def test_connections_in_masses_end_nobody_and_take_no_file_from_the_daemon(idle_daemon, attack, crowd):
    attack.on("P4, P7", f"connections of this machine in masses ({crowd.__name__})", "connections")
    attack.runs = count = CROWD if crowd is silent else CROWD // 5
    daemon = limited(idle_daemon.start(config="[metrics]\nmetrics_interval = 1\n"))
    with daemon.publisher("honest") as honest:
        assert honest.insert_event(Event("door"))
        with crowd(daemon, count):
            wait_for(lambda: is_full(daemon), "the log says so")
            for number in range(20):  # who was there before goes on, and files are written
                assert honest.insert_event(Event("door", thumbnail=jpeg(number)), 10), number
                assert descriptors(daemon) <= LIMIT - 40
            wait_for(lambda: "no more are let in" in run(daemon, "status").stdout, "status says so")
            assert "sightlog_descriptors_max 192" in (daemon.data_dir / "metrics/sightlog.prom").read_text()
        with daemon.publisher("late") as late:
            assert late.insert_event(Event("door"), 30)
        wait_for(lambda: any("let in again" in line["event"] for line in daemon.logged()), "the log says so")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.usefixtures("room_for_a_crowd")
def test_who_says_nothing_gives_the_place_to_who_waits(idle_daemon):
    daemon = limited(idle_daemon.start())
    with silent(daemon, LIMIT), daemon.publisher("late") as late:
        wait_for(lambda: is_full(daemon), "the log says so")
        assert late.insert_event(Event("door"), 60)
        assert descriptors(daemon) <= LIMIT - 40


@pytest.mark.usefixtures("room_for_a_crowd")
def test_a_crowd_that_waits_at_the_managers_socket_when_the_daemon_starts(idle_daemon):
    """It was let in at once, before the loop had begun."""
    with listener(Path(idle_daemon.endpoint.removeprefix("ipc://"))) as server, contextlib.ExitStack() as crowd:
        for _ in range(1_000):
            crowd.enter_context(socket.socket(socket.AF_UNIX)).connect(server.getsockname())
        daemon = idle_daemon.start(program=handing_over(server, LIMITED), pass_fds=(server.fileno(),))
        wait_for(lambda: is_full(daemon), "the log says so")
        assert descriptors(daemon) <= 128 - 40
        crowd.close()
        with daemon.publisher("late") as late:
            assert late.insert_event(Event("door"), 30)

"""An fsync that takes 100 ms, seconds, minutes: no false ack, no loss, no death, and it passes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import SMALL_DISK, wait_for
from lab import LONG, often
from managed_daemon import Manager
from overload import Crowd, Disk, check, ending, on_its_own_disk

PRODUCERS = 2
LOOKS = often(2, 8)
SPOOL_BYTES = 4 << 20
TEXT_CHARS = 500
PAUSE_MS = 10
STALL_SECONDS = 180.0 if LONG else 3.0
WATCHDOG_SECONDS = 60.0 if LONG else 1.0
"""In the long run as in sightlogd.service."""
IMPATIENT_SECONDS = 0.4


@pytest.fixture
def crowd(idle_daemon, request) -> Iterator[Crowd]:
    """A parameter is whether each record is urgent, a message of its own."""
    made = Crowd(
        idle_daemon, spool_bytes=SPOOL_BYTES, text_chars=TEXT_CHARS, pause_ms=PAUSE_MS,
        urgent=getattr(request, "param", 0),
    )  # fmt: skip
    with ending(made) as crowd:
        yield crowd


def start(crowd: Crowd) -> None:
    for number in range(PRODUCERS):
        crowd.start(f"camera{number}")
    wait_for(lambda: all(map(crowd.acked_of, crowd.ledgers)), "each has an ack", 60)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [0.1, 5.0 if LONG else 2.0])
def test_a_slow_fsync_delays_acks_and_loses_nothing_whenever_the_daemon_is_killed(
    idle_daemon, tmp_path, attack, crowd, seconds
):
    attack.on("P1, P2, P3, P5", f"fsync takes {seconds:g} s, and a SIGKILL meanwhile", "looks")
    disk = Disk(tmp_path)
    daemon = idle_daemon.start(program=disk.program())
    start(crowd)
    disk.set(seconds)
    for number in range(LOOKS):
        published, acked = crowd.published, crowd.acked
        wait_for(lambda acked=acked: crowd.acked > acked, "acks", 60 + 10 * seconds)
        wait_for(lambda published=published: crowd.published > published, "producers go on", 60)
        check(daemon.database, crowd.ledgers)
        if number == LOOKS // 2:
            daemon.kill()
            check(daemon.database, crowd.ledgers)
            daemon.start(program=disk.program(), wait=False)
        attack.runs += 1
    assert daemon.process.poll() is None
    disk.set(0)
    crowd.end(60)
    check(daemon.database, crowd.ledgers, delivered=True)
    assert daemon.stop() == 0


@pytest.mark.timeout(120)
def test_acks_before_the_commit_are_seen_to_be_false(idle_daemon, tmp_path, attack, crowd):
    attack.without("P1", "the commit before the ack", "slow commits")
    disk = Disk(tmp_path)
    daemon = idle_daemon.start(program=disk.program("commit"))
    start(crowd)
    disk.set(1)

    def caught() -> bool:
        try:
            check(daemon.database, crowd.ledgers)
        except AssertionError as error:
            return "acked and not stored" in str(error)
        return False

    for _ in range(LOOKS):
        attack.runs += 1
        wait_for(caught, "a false ack is seen", 60)
        attack.caught += 1


# -- a disk that does not answer at all ------------------------------------------------------------------------------


class ServiceManager(Manager):
    """Kills, as systemd does, a daemon that says nothing for WatchdogSec."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.watchdog_seconds = WATCHDOG_SECONDS
        self.signs = 0
        self.longest_silence = 0.0
        self.has_killed = False

    @contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        ended = threading.Event()

        def watch() -> None:
            heard, since = self.heard.count("WATCHDOG=1"), time.monotonic()
            while not ended.wait(0.02):
                if (now := self.heard.count("WATCHDOG=1")) != heard:
                    self.signs += now - heard
                    heard, since = now, time.monotonic()
                silence = time.monotonic() - since
                self.longest_silence = max(self.longest_silence, silence)
                if silence > self.watchdog_seconds and not self.has_killed:
                    self.has_killed = True
                    process.send_signal(signal.SIGABRT)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def manager(tmp_path):
    manager = ServiceManager(tmp_path)
    yield manager
    manager.close()


@pytest.fixture
def card(idle_daemon, tmp_path):
    """A real file system of its own under the data directory: nobody else's is ever frozen."""
    image = tmp_path / "card"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    idle_daemon.data_dir.mkdir()
    subprocess.run(["mount", "-o", "loop", image, idle_daemon.data_dir], check=True)
    idle_daemon.settings = SMALL_DISK
    yield idle_daemon.data_dir
    idle_daemon.end()
    subprocess.run(["umount", idle_daemon.data_dir], check=True)


THAW = 'read -r _; exec fsfreeze --unfreeze "$0"'


@contextmanager
def stalled(card: Path) -> Iterator[None]:
    """Well again when this ends, also where that is because the tests were killed: their end of the pipe closes."""
    assert card.is_mount()
    guard = subprocess.Popen(["sh", "-c", THAW, card], stdin=subprocess.PIPE, start_new_session=True)
    try:
        subprocess.run(["fsfreeze", "--freeze", card], check=True)
        yield
    finally:
        guard.communicate()
        assert guard.returncode == 0


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and freezing a file system needs root")


def start_watched(daemon, manager, crowd: Crowd, without: str | None = None) -> None:
    program = on_its_own_disk(without) if without else ("-m", "sightlogd")
    daemon.start(program=program, env=manager.environment(manager.watchdog_seconds))
    start(crowd)


@needs_root
@pytest.mark.timeout(180 + STALL_SECONDS)
@pytest.mark.parametrize("crowd", [0, 1], ids=["batches", "urgent"], indirect=True)
def test_a_disk_that_does_not_answer_is_waited_for_and_producers_go_on(idle_daemon, attack, crowd, card, manager):
    attack.on("P1, P2, P5", f"the disk answers nothing for {STALL_SECONDS:.0f} s", "looks")
    start_watched(idle_daemon, manager, crowd)
    with manager.watching(idle_daemon.process):
        with stalled(card):
            wait_for(lambda: state_of(idle_daemon.process.pid) == "D", "it waits for the disk")
            began = time.monotonic()
            acked = None
            while time.monotonic() < began + STALL_SECONDS:
                published = crowd.published
                wait_for(lambda published=published: crowd.published > published or full(crowd), "producers go on")
                if time.monotonic() > began + STALL_SECONDS / 2:  # those that were on their way have arrived
                    acked = crowd.acked if acked is None else acked
                    assert crowd.acked == acked
                attack.runs += 1
                time.sleep(0.1)
            assert idle_daemon.process.poll() is None
        wait_for(lambda: crowd.acked > acked, "it goes on", 60)
    assert not manager.has_killed
    assert manager.signs >= STALL_SECONDS / WATCHDOG_SECONDS
    crowd.end(60)
    check(idle_daemon.database, crowd.ledgers, delivered=True)
    assert idle_daemon.stop() == 0
    attack.note = f"WatchdogSec {WATCHDOG_SECONDS:g} s, silent for {manager.longest_silence:.1f} s at most"


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def full(crowd: Crowd) -> bool:
    return all(map(crowd.refused, crowd.ledgers))


@needs_root
@pytest.mark.timeout(180 + STALL_SECONDS)
def test_without_patience_for_the_disk_the_watchdog_kills(idle_daemon, attack, crowd, card, manager):
    attack.without("P5", "the watchdog's patience with a disk", "stalls")
    attack.runs, manager.watchdog_seconds = 1, IMPATIENT_SECONDS
    start_watched(idle_daemon, manager, crowd, "patience")
    with manager.watching(idle_daemon.process):
        with stalled(card):
            wait_for(lambda: manager.has_killed, "it is killed")
        assert idle_daemon.process.wait(20) == -signal.SIGABRT
    attack.caught += 1
    idle_daemon.start()
    crowd.end(60)
    check(idle_daemon.database, crowd.ledgers, delivered=True)

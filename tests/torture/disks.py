"""Disks that get full or turn read-only under a running daemon, and the producers that keep it busy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ledger
from conftest import Daemon, wait_for

from sightlog import Event, Publisher
from sightlog.errors import DatabaseWriteError

NAMES = ("camera", "detector")


class Card:
    """An ext4 file system of its own, in a file, as an SD card would have it. Needs root."""

    def __init__(self, image: Path, mounted: Path, megabytes: int) -> None:
        self._image, self._mounted = image, mounted
        mounted.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", image)

    @contextmanager
    def inserted(self) -> Iterator[None]:
        self.insert()
        try:
            yield
        finally:
            self.take_out()

    def insert(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", self._image, self._mounted)

    def take_out(self) -> None:
        _run("umount", self._mounted)

    def turn_read_only(self) -> None:
        """What ext4 does when the card fails."""
        device = Path(_run("findmnt", "-n", "-o", "SOURCE", self._mounted).strip()).name
        Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("the lab")

    def repair(self) -> None:
        """By hand, on another machine, or at the next boot."""
        subprocess.run(["e2fsck", "-fy", self._image], capture_output=True, check=False)


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile, and has nothing under way in the kernel."""
    os.kill(pid, signal.SIGSTOP)
    try:
        states = [Path(f"/proc/{pid}/task/{task}/stat") for task in os.listdir(f"/proc/{pid}/task")]
        wait_for(lambda: all(state.read_text().rpartition(")")[2].split()[0] == "T" for state in states), "it stands")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _run(*command: Any) -> str:
    return subprocess.run([*command], capture_output=True, check=True, text=True).stdout


def fill(filler: Path) -> None:
    """To the last byte; what the daemon gives up then stays free."""
    for size in (1 << 20, 4_096):
        with filler.open("ab", buffering=0) as file:
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
            with suppress(OSError):
                os.fsync(file.fileno())  # ext4 finds only now how many blocks it takes


class Load:
    """Producers that publish `count` events each time they are started, and one that notices when it is refused."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.ledgers = {name: daemon.home / f"{name}.ledger" for name in NAMES}
        self._running: list[subprocess.Popen[bytes]] = []
        self.probed: list[str] = []
        self.probe: Publisher = daemon.publisher("probe")

    def start(self, count: int) -> None:
        """Returns when some of it is acked."""
        before = self._acked()
        self._running = [
            ledger.start_producer(self._daemon.endpoint, self._daemon.home / "spool", name, file, count)
            for name, file in self.ledgers.items()
        ]
        wait_for(lambda: self._acked() > before, "something is acked", 60)

    def _acked(self) -> int:
        return sum(len(ledger.acked(file)) for file in self.ledgers.values())

    def publish(self, **fields: Any) -> Event:
        event = Event("probe", llm_description="x" * 2_000, **fields)
        self.probe.publish(event)
        self.probed.append(event.event_id)
        return event

    def insert_until_it_is_refused(self, most: int = 100_000) -> str:
        """What the producer is told then."""
        for _ in range(most):
            event = Event("probe", llm_description="x" * 2_000)
            self.probed.append(event.event_id)
            try:
                self.probe.insert_event(event)
            except DatabaseWriteError as error:
                return str(error)
        raise AssertionError("it was never refused")

    def end(self) -> None:
        """When all of them have delivered what they published."""
        assert [producer.wait(120) for producer in self._running] == [0, 0]
        assert self.probe.flush(60)

    def close(self) -> None:
        for producer in self._running:
            if producer.poll() is None:
                producer.kill()
            producer.wait()
        self.probe.close(timeout=0)

    def check(self) -> None:
        """All that was published is stored once, whole and in order."""
        ledger.check(self._daemon.database, self.ledgers, delivered=True)
        found = [event.event_id for event in self._daemon.reader().find_events(camera_id="probe")]
        assert len(found) == len(set(found))
        assert set(found) == set(self.probed)


@contextmanager
def load_on(daemon: Daemon) -> Iterator[Load]:
    load = Load(daemon)
    try:
        yield load
    finally:
        load.close()


def trouble(daemon: Daemon) -> str | None:
    """As `sightlog status` says it."""
    command = [Path(sys.executable).with_name("sightlog"), "status", "-o", "json", "--data-dir", daemon.data_dir]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)
    assert done.stdout, done.stderr
    state = json.loads(done.stdout)["daemon"]
    return state["trouble"] if state["running"] else "it does not run"

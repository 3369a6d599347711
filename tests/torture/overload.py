"""What the attacks of overload share: a disk whose speed can be set, eager producers, and gauges."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from conftest import Daemon
from ledger import acked, published

HERE = Path(__file__).parent
SLOW_DAEMON = str(HERE / "slow_daemon.py")
LOOK_SECONDS = 0.02


def on_its_own_disk(without: str) -> list[str]:
    """The daemon without a protection, and with no other speed than its disk has."""
    return [SLOW_DAEMON, "-", without]


class Disk:
    """How long an fsync takes, for the daemon that `program` starts."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "seconds"
        self.set(0)

    def set(self, seconds: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)

    def program(self, without: str = "nothing") -> list[str]:
        return [SLOW_DAEMON, str(self._file), without]


class Crowd:
    """Eager producers, each a process, with their ledgers and spools."""

    def __init__(
        self, daemon: Daemon, *, spool_bytes: int, text_chars: int, pause_ms: int = 0, urgent: int = 0
    ) -> None:
        self.spool_dir = daemon.home / "spool"
        self.ledgers: dict[str, Path] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._daemon = daemon
        self._settings = [str(spool_bytes), str(text_chars), str(pause_ms), str(urgent)]

    def start(self, name: str) -> None:
        self.ledgers[name] = self._daemon.home / f"{name}.ledger"
        command = [sys.executable, HERE / "eager_producer.py", self._daemon.endpoint, self.spool_dir, name]
        self.processes[name] = subprocess.Popen([*command, self.ledgers[name], *self._settings])

    @property
    def published(self) -> int:
        return sum(len(published(ledger)) for ledger in self.ledgers.values())

    @property
    def acked(self) -> int:
        return sum(map(self.acked_of, self.ledgers))

    def acked_of(self, name: str) -> int:
        return len(acked(self.ledgers[name]))

    def refused(self, name: str) -> int:
        """How often its spool was full."""
        ledger = self.ledgers[name]
        return ledger.read_bytes().count(b"F\n") if ledger.exists() else 0

    def end(self, timeout: float) -> None:
        """Everything that was published is acked."""
        for process in self.processes.values():
            process.terminate()
        for name, process in self.processes.items():
            assert process.wait(timeout) == 0, name

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextmanager
def ending(crowd: Crowd) -> Iterator[Crowd]:
    try:
        yield crowd
    finally:
        crowd.kill()


def check(database: Path, ledgers: Mapping[str, Path], *, delivered: bool = False) -> None:
    """acked ⊆ stored, each once, in order and without a gap; with `delivered`, published ⊆ stored, in a sound file."""
    # In this order: what is acked by now was stored before.
    known = {name: (acked(ledger), published(ledger)) for name, ledger in ledgers.items()}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for name, (resolved, told) in known.items():
            rows = connection.execute("SELECT event_id FROM events WHERE camera_id = ? ORDER BY id", (name,)).fetchall()
            stored = [event_id for (event_id,) in rows]
            missing = set(resolved) - set(stored)
            assert not missing, f"{name}: {len(missing)} of {len(resolved)} acked and not stored"
            assert len(set(stored)) == len(stored), f"{name}: stored twice"
            # The ledger hears of an event after the spool has it: the daemon may be ahead.
            written = set(told)
            order = [event_id for event_id in stored if event_id in written]
            assert order == told[: len(order)], f"{name}: another order, or a gap"
            if delivered:
                assert order == told, f"{name}: {len(told) - len(order)} published and not stored"
        if delivered:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# -- gauges ----------------------------------------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Bytes of memory in use; none when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def proportional(pid: int) -> int:
    """The same, shared pages in proportion (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def size_of(path: Path) -> int:
    """Of a file, or of the files in a directory; nothing where there is none."""
    try:
        return sum(size_of(part) for part in path.iterdir()) if path.is_dir() else path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass
class Peaks:
    """The largest values seen."""

    memory: int = 0
    memory_proportional: int = 0
    wal: int = 0
    spools: dict[str, int] = field(default_factory=dict)
    producers: dict[str, int] = field(default_factory=dict)


@contextmanager
def watching(daemon: Daemon, crowd: Crowd) -> Iterator[Peaks]:
    """Looks at them from a thread of its own, for as long as this lasts."""
    peaks, ended = Peaks(), threading.Event()
    pid, wal = daemon.process.pid, daemon.database.with_name("events.db-wal")

    def look() -> None:
        peaks.memory = max(peaks.memory, resident(pid))
        peaks.memory_proportional = max(peaks.memory_proportional, proportional(pid))
        peaks.wal = max(peaks.wal, size_of(wal))
        for name, process in crowd.processes.items():
            segments = set((crowd.spool_dir / name).glob("*.spool"))
            spool = sum(map(size_of, segments))
            # With one given back in between, this would be the sum of two moments.
            if segments == set((crowd.spool_dir / name).glob("*.spool")):
                peaks.spools[name] = max(peaks.spools.get(name, 0), spool)
            peaks.producers[name] = max(peaks.producers.get(name, 0), resident(process.pid))

    def run() -> None:
        while not ended.wait(LOOK_SECONDS):
            look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def milliseconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    began = time.monotonic()
    work()
    return (time.monotonic() - began) * 1000

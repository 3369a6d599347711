"""What the benchmarks share: a daemon that is watched, producers that start together, raw SQLite, and the same rows."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from sightlog import Detection, Event, Publisher, SightlogError
from sightlog.protocol.encoding import encode_record, format_time
from sightlogd.protocol.decoder import EventRecord, decode_record
from sightlogd.store import statements
from sightlogd.store.migrate import packaged
from sightlogd.store.written import EventsStored

Argv = Sequence[str | Path]
Row = tuple[object, ...]
Work = Callable[..., Generator[Any, None, None]]
"""Prepares, yields, does what is measured, yields what it found, tidies up."""

DETECTIONS = (
    Detection("person", 0.92, (10.0, 20.0, 100.0, 200.0)),
    Detection("package", 0.87, (40.0, 120.0, 80.0, 180.0)),
    Detection("car", 0.55, (300.0, 40.0, 420.0, 130.0)),
)
EVENTS_SQL = statements.EVENTS.one
DETECTIONS_SQL = statements.DETECTIONS.one
TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 30
WARM_UP = 1
"""Events in a daemon's database before anything is measured."""


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


# -- the machine -----------------------------------------------------------------------------------------------------


def about() -> dict[str, str]:
    """On what, with what and when."""
    packages = ("sightlog", "apsw", "pyzmq", "msgspec", "msgpack")
    return {
        "processor": f"{_processor()}, {platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(Path(os.environ.get("BENCH_DIR", tempfile.gettempdir()))),
        "Python": platform.python_version(),
        "SQLite": f"apsw's {apsw.sqlite_lib_version()}, the standard library's {sqlite3.sqlite_version}",
        "packages": ", ".join(f"{name} {metadata.version(name)}" for name in packages),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return "unknown processor"


def _file_system(path: Path) -> str:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    device, point, kind, options = max(
        (mount[:4] for mount in mounts if path.resolve().is_relative_to(mount[1])), key=lambda mount: len(mount[1])
    )
    return f"{kind} on {device} at {point} ({options})"


@contextmanager
def home() -> Iterator[Path]:
    """A folder on the disk that is measured, BENCH_DIR; open to the users that peers run as."""
    path = Path(tempfile.mkdtemp(prefix="sightlog-bench-", dir=os.environ.get("BENCH_DIR")))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)
        # What removing it costs the file system's journal is not for the next one to pay.
        parent = os.open(path.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)


# -- the daemon ------------------------------------------------------------------------------------------------------


class Spent(NamedTuple):
    """What a process and its children took, up to now or in a whole life."""

    cpu_seconds: float
    written_bytes: int
    """To the disk, as the kernel counts: whole pages, also those written twice."""

    def since(self, before: Spent) -> Spent:
        return Spent(self.cpu_seconds - before.cpu_seconds, self.written_bytes - before.written_bytes)


class Daemon:
    """sightlogd on `path/data`, with one event stored, and what can be seen of it from outside."""

    def __init__(self, path: Path, config: str = "", *, prefix: Argv = (), program: Argv = ("-m", "sightlogd")) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self.data = path / "data"
        self.endpoint = f"ipc://{path}/s"
        (path / "config.toml").write_text(config)
        command = [*prefix, sys.executable, *program, "run", "--config", path / "config.toml", "--data-dir", self.data,
                   "--endpoint", self.endpoint]  # fmt: skip
        with open(path / "log", "wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.pid = self.process.pid
        try:
            with Publisher(self.endpoint, "warm-up", path / "spool") as publisher:
                publisher.insert_event(Event("warm_up"))
        except SightlogError:
            self.process.kill()
            raise
        if prefix:
            # A tool in front of the daemon keeps signals to itself.
            self.pid = family(self.pid)[1]

    def spent(self) -> Spent:
        return Spent(sum(map(cpu_seconds, family(self.pid))), written_bytes(self.pid))

    def memory(self) -> int:
        """Its share of the machine's memory now, in bytes; children included."""
        return memory(self.pid)

    def peak_memory(self) -> int:
        """Bytes that the daemon itself had resident at most, shared ones included."""
        return number_after("VmHWM", Path(f"/proc/{self.pid}/status").read_text()) * 1024

    def stop(self) -> Spent:
        """Ends it and returns what its whole life took, with the last checkpoint."""
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while not (ended := os.wait4(self.process.pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise RuntimeError(f"sightlogd did not stop within {STOP_SECONDS} s")
            time.sleep(0.01)
        _, status, usage = ended
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0:
            raise RuntimeError(f"sightlogd ended with {self.process.returncode}: {(self.path / 'log').read_text()}")
        return Spent(usage.ru_utime + usage.ru_stime, usage.ru_oublock * 512)

    def stored(self) -> int:
        """Events that were published to it and are in its database."""
        return count_rows(self.data / "events.db", "events") - WARM_UP


@contextmanager
def daemon(path: Path, config: str = "", **options: Any) -> Iterator[Daemon]:
    running = Daemon(path, config, **options)
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.stop()


def family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def memory(pid: int) -> int:
    """Its share of the machine's memory now, in bytes; children included."""
    return sum(_proportional_set(each) for each in family(pid))


def cpu_seconds(pid: int) -> float:
    """Its own and those of children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def written_bytes(pid: int | str = "self") -> int:
    return number_after("write_bytes", Path(f"/proc/{pid}/io").read_text())


def _proportional_set(pid: int) -> int:
    return number_after("Pss", Path(f"/proc/{pid}/smaps_rollup").read_text()) * 1024


def number_after(key: str, text: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:"))


# -- processes that start together -----------------------------------------------------------------------------------


class Turn(NamedTuple):
    """One process's part."""

    began: float
    ended: float
    cpu_seconds: float
    found: Any


def together(count: int, work: Work, *arguments: Any, timeout: float = 120.0) -> list[Turn]:
    """`work(number, *arguments)` in `count` processes of their own; all are prepared before one begins."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_take_part, args=(barrier, answers, work, number, arguments), daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    try:
        found = [answers.get(timeout=timeout) for _ in processes]
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    failed = [answer for answer in found if isinstance(answer, str)]
    if failed:
        raise RuntimeError(max(failed, key=len))
    return found


def _take_part(barrier: Any, answers: Any, work: Work, number: int, arguments: tuple[Any, ...]) -> None:
    try:
        steps = work(number, *arguments)
        next(steps)
        gc.freeze()  # a producer has no thousands of events in hand, nor has who writes rows
        barrier.wait(timeout=60)
        cpu, began = time.process_time(), time.monotonic()
        found = next(steps)
        turn = Turn(began, time.monotonic(), time.process_time() - cpu, found)
        for _ in steps:
            pass
        answers.put(turn)
    except threading.BrokenBarrierError:
        answers.put("the others were not ready")
    except BaseException:  # noqa: BLE001 - whatever it is, somebody waits for an answer
        barrier.abort()
        answers.put(traceback.format_exc())


def took(turns: list[Turn]) -> float:
    """From the common start to the last one's end."""
    return max(turn.ended for turn in turns) - min(turn.began for turn in turns)


# -- rows ------------------------------------------------------------------------------------------------------------


def events(count: int) -> list[Event]:
    return [Event("front_door", motion_confidence=0.7, detections=DETECTIONS) for _ in range(count)]


def rows(batch: list[Event], first_id: int) -> tuple[list[Row], list[Row]]:
    found: list[Row] = []
    boxes: list[Row] = []
    for number, event in enumerate(batch, first_id):
        moment = format_time(event.recorded_at)
        found.append(
            (number, event.event_id, event.site, event.camera_id, moment, event.event_type, None,
             event.motion_confidence, None, None, None, None, None, None, None, None, False, moment, None)
        )  # fmt: skip
        boxes += [(number, n, d.label, d.confidence, *d.bbox) for n, d in enumerate(event.detections)]
    return found, boxes


def prepared(count: int, batch: int, first_id: int = 1) -> list[tuple[list[Row], list[Row]]]:
    return [rows(events(min(batch, count - start)), first_id + start) for start in range(0, count, batch)]


def check(what: str, counted: int, published: int) -> None:
    """A figure counts only if everything is there."""
    if counted != published:
        raise RuntimeError(f"{what}: {published} published, {counted} stored")


def count_rows(path: Path, table: str) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # type: ignore[index]
    finally:
        connection.close()


# -- raw SQLite: the same schema and the same durability, without a daemon -------------------------------------------

SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -8192")


def make_database(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for migration in packaged():
        connection.execute(migration.sql)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def open_apsw(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    for setting in SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    return connection


def open_sqlite3(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    for setting in SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    return connection


def raw_connection(path: Path) -> apsw.Connection:
    make_database(path)
    return open_apsw(path)


def stored(batch: Sequence[Event], first_id: int) -> EventsStored:
    """What the daemon would write of them to the day logs."""
    ids = range(first_id, first_id + len(batch))
    return EventsStored(ids, [decoded(event) for event in batch], {}, format_time(batch[-1].recorded_at))


def decoded(event: Event) -> EventRecord:
    record = decode_record(encode_record(event)[0])
    assert isinstance(record, EventRecord)
    return record


def raw_insert(connection: apsw.Connection | sqlite3.Connection, found: list[Row], boxes: list[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(EVENTS_SQL, found)
    connection.executemany(DETECTIONS_SQL, boxes)
    connection.execute("COMMIT")


def insert_many_a_statement(connection: apsw.Connection, found: list[Row], boxes: list[Row]) -> None:
    """As the daemon does, with nothing around it."""
    connection.execute("BEGIN IMMEDIATE")
    statements.EVENTS.run(connection, list(chain.from_iterable(found)))
    statements.DETECTIONS.run(connection, list(chain.from_iterable(boxes)))
    connection.execute("COMMIT")


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

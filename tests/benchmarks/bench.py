"""What the benchmarks share: a running daemon, the same rows for everybody, and figures as ratios inside one run."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import apsw

from sightlog import Detection, Event, Publisher
from sightlog.encoder import format_time
from sightlogd.store.migrate import packaged

DETECTIONS = (
    Detection("person", 0.92, (10.0, 20.0, 100.0, 200.0)),
    Detection("package", 0.87, (40.0, 120.0, 80.0, 180.0)),
    Detection("car", 0.55, (300.0, 40.0, 420.0, 130.0)),
)


def events(count: int) -> list[Event]:
    return [Event("front_door", motion_confidence=0.7, detections=DETECTIONS) for _ in range(count)]


@contextmanager
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sightlog-bench-", dir=os.environ.get("BENCH_DIR")))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def daemon(path: Path, config: str = "") -> Iterator[str]:
    """Runs sightlogd on `path/data`; yields its endpoint."""
    path.mkdir(exist_ok=True)
    endpoint = f"ipc://{path}/s"
    (path / "config.toml").write_text(config)
    with open(path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sightlogd", "run", "--config", str(path / "config.toml"),
             "--data-dir", str(path / "data"), "--endpoint", endpoint],
            stderr=log,
        )  # fmt: skip
    try:
        with Publisher(endpoint, "warm-up", path / "spool") as publisher:
            publisher.insert_event(Event("warm_up"))
        yield endpoint
    finally:
        process.terminate()
        process.wait()


def raw_connection(path: Path) -> apsw.Connection:
    """The same schema and the same durability, without a daemon."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for migration in packaged():
        connection.execute(migration.sql)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -8192")
    return connection


def rows(batch: list[Event], first_id: int) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    found, boxes = [], []
    for number, event in enumerate(batch, first_id):
        moment = format_time(event.recorded_at)
        found.append(
            (number, event.event_id, event.site, event.camera_id, moment, event.event_type, None,
             event.motion_confidence, None, None, None, None, None, None, None, None, False, moment, None)
        )  # fmt: skip
        boxes += [(number, n, d.label, d.confidence, *d.bbox) for n, d in enumerate(event.detections)]
    return found, boxes


def raw_insert(connection: apsw.Connection, found: list[tuple[object, ...]], boxes: list[tuple[object, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(f"INSERT INTO events VALUES ({', '.join('?' * 19)})", found)
    connection.executemany(f"INSERT INTO detections VALUES ({', '.join('?' * 8)})", boxes)
    connection.execute("COMMIT")


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def machine() -> str:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("apsw", "pyzmq", "msgspec", "msgpack"))
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, {packages}, "
        f"{time.strftime('%Y-%m-%d')}"
    )

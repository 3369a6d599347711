"""Writes the metrics down: `metrics/metrics.json`, a line a snapshot; `metrics/sightlog.prom`; a line in the log.

Nothing of it is fsynced: after a power cut the next snapshot is soon there, and every fsync wears the card.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from sightlog.accounts import Settled
from sightlog.encoder import format_time

from . import durable, prometheus
from .directory import open_file
from .durable import FILE_MODE
from .errors import WriteRefused
from .logs import RateLimit
from .metrics import Metrics, MetricsSnapshot
from .retention import StorageStats
from .usage import usage

log = structlog.get_logger()

DIRECTORY_MODE: Final = 0o750
FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of metrics.json; one older file of that size is kept beside it as metrics.json.1."""
LOG_SECONDS: Final = 600.0


class Reporter:
    """Takes a snapshot every `interval` seconds of time.monotonic(), the first one at once.

    `producers` gives id, name and counters of the producers to tell of, `wal_bytes` the size of the WAL; `show` is
    given the line too. What cannot be written is logged and counted, and stops nothing.
    """

    def __init__(
        self,
        directory: Path,
        interval: float,
        metrics: Metrics,
        producers: Callable[[], Sequence[tuple[str, str, Settled]]],
        wal_bytes: Callable[[], int],
        show: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._interval = interval
        self._metrics = metrics
        self._producers = producers
        self._wal_bytes = wal_bytes
        self._show = show
        self._failures = RateLimit(LOG_SECONDS)
        self.due = metrics.started

    def report(self) -> None:
        """One snapshot, written and logged."""
        now = time.monotonic()
        self.due = now + self._interval
        try:
            snapshot = self._metrics.snapshot(
                now, format_time(datetime.now(UTC)), os.getpid(), usage(), self._wal_bytes(), self._producers()
            )
            self._write(snapshot)
        except (OSError, WriteRefused) as error:
            self._metrics.file_write_failed()
            if (held := self._failures.take(now)) is not None:
                log.warning("cannot write the metrics", reason=str(error), held_back=held)
            return
        line = status_line(snapshot)
        log.info(line)
        self._show(line)

    def _write(self, snapshot: MetricsSnapshot) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(mode=DIRECTORY_MODE)
        _append(self._directory / "metrics.json", msgspec.json.encode(snapshot) + b"\n")
        _replace(self._directory / "sightlog.prom", prometheus.text(snapshot).encode())


def _append(path: Path, line: bytes) -> None:
    fd = _opened(path)
    try:
        size = os.fstat(fd).st_size
        if size and size + len(line) > FILE_BYTES_MAX:
            os.rename(path, path.with_name(f"{path.name}.1"))
            new = _opened(path)
            os.close(fd)
            fd, size = new, 0
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line  # the last write was cut short: what comes now is a line of its own
        if os.write(fd, line) != len(line):
            os.ftruncate(fd, size)
            raise OSError(f"no room for a line of {len(line)} bytes in {path}")
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    return open_file(path, os.O_RDWR | os.O_APPEND)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp")  # the collector reads *.prom
    with open(durable.create(temporary), "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def status_line(snapshot: MetricsSnapshot) -> str:
    """`Storage: 1.2GB / 4GB (30%) · 1,204 events · p95 commit 3.1 ms`; what is not known is left out."""
    parts = []
    if snapshot.storage_bytes is not None and snapshot.storage_limit_bytes:
        parts.append(f"Storage: {StorageStats(snapshot.storage_bytes, snapshot.storage_limit_bytes)}")
    if snapshot.events_total is not None:
        parts.append(f"{snapshot.events_total:,} events")
    if snapshot.commit_ms is not None:
        parts.append(f"p95 commit {snapshot.commit_ms.p95:.1f} ms")
    return " · ".join(parts) or "nothing committed yet"

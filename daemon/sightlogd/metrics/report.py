"""Writes the metrics down: `metrics/metrics.json`, a line a snapshot; `metrics/sightlog.prom`; a line in the log; and
for `sightlog status` `metrics/latest.json`, which is written over while the daemon works.

Nothing of it is fsynced: after a power cut the next snapshot is soon there, and every fsync wears the card.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from sightlog.protocol.accounts import Resolved
from sightlog.protocol.encoding import format_time
from sightlogd import durable
from sightlogd.directory import open_file
from sightlogd.durable import FILE_MODE
from sightlogd.errors import WriteRefused
from sightlogd.logs import RateLimit
from sightlogd.retention.policy import StorageStats

from . import prometheus
from .metrics import Metrics, MetricsSnapshot
from .process import usage

log = structlog.get_logger()

DIRECTORY_MODE: Final = 0o750
LATEST: Final = "latest.json"
BLOCK_BYTES: Final = 4_096
FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of metrics.json; one older file of that size is kept beside it as metrics.json.1."""
LOG_SECONDS: Final = 600.0
REFRESH_SECONDS: Final = 1.0
"""Between two of latest.json, at least."""


class Reporter:
    """Takes a snapshot every `interval` seconds of time.monotonic(), the first one at once: `report` when `due`.

    `refresh` when `refresh_due`: `sightlog status` shows what happened a second ago, and when nothing did, nothing is
    written.

    `producers` gives id, name and counters of the producers to tell of, `wal_bytes` the size of the WAL; `show` is
    given the line too. What cannot be written is logged and counted, and stops nothing.
    """

    def __init__(
        self,
        directory: Path,
        interval: float,
        metrics: Metrics,
        producers: Callable[[], Sequence[tuple[str, str, Resolved]]],
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
        self.due = self._refreshed = metrics.started

    @property
    def refresh_due(self) -> float:
        return self._refreshed + REFRESH_SECONDS if self._metrics.has_news else math.inf

    def report(self) -> None:
        """One snapshot, written and logged."""
        now = time.monotonic()
        self.due = now + self._interval
        try:
            self._metrics.used(now, usage())
            snapshot = self._snapshot(now)
            line = msgspec.json.encode(snapshot)
            self._make_directory()
            _append(self._directory / "metrics.json", line + b"\n")
            _replace(self._directory / "sightlog.prom", prometheus.text(snapshot).encode())
            self._write_latest(line)
        except (OSError, WriteRefused) as error:
            self._failed(now, error)
            return
        text = status_line(snapshot)
        log.info(text)
        self._show(text)

    def refresh(self) -> None:
        """latest.json alone."""
        now = time.monotonic()
        try:
            if not self._metrics.knows_usage:
                self._metrics.used(now, usage())
            self._make_directory()
            self._write_latest(msgspec.json.encode(self._snapshot(now)))
        except (OSError, WriteRefused) as error:
            self._failed(now, error)

    def _snapshot(self, now: float) -> MetricsSnapshot:
        self._refreshed = now
        at = format_time(datetime.now(UTC))
        return self._metrics.snapshot(now, at, os.getpid(), self._wal_bytes(), self._producers())

    def _failed(self, now: float, error: Exception) -> None:
        self._refreshed = now
        self._metrics.file_write_failed()
        self._metrics.has_news = False  # or it would be tried each second, though nothing happens
        if (held := self._failures.take(now)) is not None:
            log.warning("cannot write the metrics", reason=str(error), held_back=held)

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(mode=DIRECTORY_MODE)

    def _write_latest(self, line: bytes) -> None:
        # In place and in whole blocks: no new inode a second for the card, and a full disk is seldom in the way. Who
        # reads meanwhile looks again.
        data = line.ljust(-(-(len(line) + 1) // BLOCK_BYTES) * BLOCK_BYTES - 1) + b"\n"
        fd = _opened(self._directory / LATEST, os.O_WRONLY)
        try:
            if os.fstat(fd).st_nlink > 1:
                raise OSError(errno.EMLINK, "it has another name besides", LATEST)
            if os.pwrite(fd, data, 0) != len(data):
                raise OSError(errno.ENOSPC, f"no room for {len(data)} bytes", LATEST)
            if os.fstat(fd).st_size != len(data):
                os.ftruncate(fd, len(data))
        finally:
            os.close(fd)


def _append(path: Path, line: bytes) -> None:
    fd = _opened(path, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(fd).st_size
        if size and size + len(line) > FILE_BYTES_MAX:
            os.rename(path, path.with_name(f"{path.name}.1"))
            new = _opened(path, os.O_RDWR | os.O_APPEND)
            os.close(fd)
            fd, size = new, 0
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line  # the last write was cut short: what comes now is a line of its own
        if os.write(fd, line) != len(line):
            os.ftruncate(fd, size)
            raise OSError(f"no room for a line of {len(line)} bytes in {path}")
    finally:
        os.close(fd)


def _opened(path: Path, flags: int) -> int:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    return open_file(path, flags)


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

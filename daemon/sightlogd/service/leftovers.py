"""What we leave in a data directory that has no database (yet, or any more), told from what somebody else put there.

Each looks at one thing and says what is foreign in it, or None. Nothing is changed. Raises OSError.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Final

from sightlog.layout import APPLICATION_ID
from sightlog.writer import FACTS_BYTES
from sightlogd.daylogs.days import INCOMING, TRASH, is_day, leaving_of
from sightlogd.directory import Odd, open_file
from sightlogd.retention.usage import RESERVE_BYTES

LINE_BYTES: Final = 1 << 20
METRICS_FILES: Final = ("metrics.json", "metrics.json.1", "latest.json", "sightlog.prom", "sightlog.prom.tmp")
_RESTORED: Final = {"events", "events.db", "events.db-wal", "events.db-shm", "events.db-journal"}
_LOCK_BYTES_MAX: Final = 1_024
_is_lock = re.compile(rb"(\d{1,10}(\n.*)?)?\0*", re.DOTALL).fullmatch
_HEADER_BYTES: Final = 100


def anything(_path: Path) -> str | None:
    """Whatever is in it."""
    return None


def of_database(path: Path) -> str | None:
    """One that was being made, or copied, when that was cut off."""
    with open(open_file(path), "rb") as file:
        header = file.read(_HEADER_BYTES)
    if header[68:72] == APPLICATION_ID.to_bytes(4, "big") or not header.strip(b"\0"):
        return None
    return "it is not a database of sightlog's"


def of_wal(path: Path) -> str | None:
    return _begins_with(path, b"\x37\x7f\x06", "a WAL")


def of_journal(path: Path) -> str | None:
    return _begins_with(path, b"\xd9\xd5\x05\xf9", "a journal")


def of_shm(path: Path) -> str | None:
    return _begins_with(path, (3_007_000).to_bytes(4, sys.byteorder), "the index of a WAL")


def _begins_with(path: Path, magic: bytes, what: str) -> str | None:
    with open(open_file(path), "rb") as file:
        found = file.read(len(magic))
    return None if found == magic or not found.strip(b"\0") else f"it is not {what}"


def of_lock(path: Path) -> str | None:
    with open(open_file(path), "rb") as file:
        said = file.read(_LOCK_BYTES_MAX + 1)
    if len(said) <= _LOCK_BYTES_MAX and _is_lock(said):
        return None
    return "it is not sightlog's, which says nothing but a process"


def of_facts(path: Path) -> str | None:
    with open(open_file(path), "rb") as file:
        said = file.read(FACTS_BYTES + 1)
    if len(said) <= FACTS_BYTES and (not said.strip(b"\0") or _has_keys(said, {"pid", "verb"})):
        return None
    return "it does not say which process of sightlog's writes"


def of_reserve(path: Path) -> str | None:
    if path.stat().st_size > RESERVE_BYTES:
        return f"it is larger than sightlog's, which has {RESERVE_BYTES} bytes at most"
    with open(open_file(path), "rb") as file:
        while data := file.read(1 << 20):
            if data.count(0) != len(data):
                return "something is written in it, and sightlog's is all zeros"
    return None


def of_incoming(path: Path) -> str | None:
    """All of it would be removed: it waits for events that nobody has."""
    return next((f"{name} is in it" for name in _names(path)), None)


def of_trash(path: Path) -> str | None:
    """A folder DAY.ID would be removed with what is in it; an empty one of another name stays."""
    for name in _names(path):
        if not leaving_of(name) and not (path / name).is_dir():
            return f"{name} is in it"
        if _names(path / name):
            return f"{name}, with what is in it, is there"
    return None


def of_days(path: Path) -> str | None:
    """What is there for a day would go with that day."""
    for name in set(_names(path)) - {Path(INCOMING).name, Path(TRASH).name}:
        if is_day(name) or not (path / name).is_dir() or _names(path / name):
            return f"{name} is in it"
    return None


def _names(path: Path) -> list[str]:
    """Of a directory; none of what is none."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def of_metrics(path: Path) -> str | None:
    for name in METRICS_FILES:
        try:
            with open(open_file(path / name), "rb") as file:
                begins = file.readline(LINE_BYTES)
        except Odd as error:
            return f"{name} in it is {error.strerror}"
        except (FileNotFoundError, NotADirectoryError):
            continue
        is_ours = _is_exported if name.startswith("sightlog.prom") else _is_snapshot
        if begins.strip(b"\0") and not is_ours(begins):
            return f"{name} in it is not of sightlog's metrics"
    return None


def _is_snapshot(line: bytes) -> bool:
    return _has_keys(line, {"at", "pid"})


def _has_keys(text: bytes, keys: set[str]) -> bool:
    try:
        return keys <= dict(json.loads(text)).keys()
    except (ValueError, TypeError, RecursionError):
        return False


def _is_exported(line: bytes) -> bool:
    return line.startswith(b"# HELP sightlog_")


def of_restore(path: Path) -> str | None:
    strangers = sorted(set(os.listdir(path)) - _RESTORED)
    return f"{strangers[0]} in it is not of a restore" if strangers else None


def listens(path: Path) -> bool:
    """Whether a program has that socket open: a dead daemon's has none."""
    fd = None
    try:
        fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            # A socket's path has 107 bytes at most, and a data directory may be deep.
            return probe.connect_ex(f"/proc/self/fd/{fd}/{path.name}") not in (errno.ENOENT, errno.ECONNREFUSED)
    finally:
        if fd is not None:
            os.close(fd)

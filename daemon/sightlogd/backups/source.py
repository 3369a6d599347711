"""What is read of a store while a backup is made: the day folders as they were before the database was looked at."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from sightlogd.daylogs.days import EVENTS, HeldFolder, folders
from sightlogd.daylogs.index import lines_of
from sightlogd.daylogs.lines import DayLine, PersonLine, decode_line
from sightlogd.daylogs.tails import whole_entries, whole_lines, whole_size
from sightlogd.daylogs.writer import JSON_NAME, TEXT_NAME
from sightlogd.directory import Directory, open_file
from sightlogd.errors import EXIT_TRY_AGAIN, Stop

LOGS: Final[dict[str, Callable[[bytes], int]]] = {JSON_NAME: whole_lines, TEXT_NAME: whole_entries}


class NotedDay(NamedTuple):
    folder: HeldFolder
    """A day that is removed and comes again gets another one."""
    sizes: dict[str, int]
    """Of its logs: behind that are lines which the database may not have yet."""


def note_days(data_dir: Path, held: contextlib.ExitStack) -> dict[str, NotedDay]:
    """What `held` lets go takes a descriptor a day. Raises OSError, Stop."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    found = {}
    for day in folders(data_dir):
        path = data_dir / EVENTS / day
        with contextlib.suppress(FileNotFoundError):  # removed just now
            folder = _hold(path)
            held.callback(folder.close)
            found[day] = NotedDay(folder, {name: _size(path / name) for name in LOGS})
    return found


def _hold(path: Path) -> HeldFolder:
    try:
        return HeldFolder(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise Stop(
            EXIT_TRY_AGAIN, "more days than this process may have files open. Raise the hard limit: ulimit -Hn"
        ) from error


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def events_behind(data_dir: Path, noted: dict[str, NotedDay]) -> Iterator[str]:
    """Ids of the events that lines behind what was noted are about."""
    for day, (_, sizes) in noted.items():
        # A day that goes is left out; a log that cannot be read is told when it is copied.
        with (
            contextlib.suppress(OSError),
            os.fdopen(open_file(data_dir / EVENTS / day / JSON_NAME), "rb") as file,
        ):
            if os.fstat(file.fileno()).st_size == sizes[JSON_NAME]:
                continue
            file.seek(whole_size(file.fileno(), sizes[JSON_NAME], whole_lines))
            for _, data in lines_of(file):
                with contextlib.suppress(msgspec.MsgspecError):
                    line = None if data is None else decode_line(data)
                    if line and not isinstance(line, (PersonLine, DayLine)) and line.event_id is not None:
                        yield line.event_id


class SourceFile(NamedTuple):
    name: str
    size: int
    mtime_ns: int


@contextlib.contextmanager
def opened(data_dir: Path, path: str) -> Iterator[tuple[Directory, list[SourceFile]]]:
    """INCOMING, or `events/DAY`; and all plain files in it, whoever put them there, by name. Raises OSError."""
    with Directory(data_dir) as data, data.folder(path) as folder:
        yield folder, _files_of(folder)


def _files_of(folder: Directory) -> list[SourceFile]:
    found = []
    for entry in folder.list():
        if entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                there = entry.stat(follow_symlinks=False)
                found.append(SourceFile(entry.name, there.st_size, there.st_mtime_ns))
    return sorted(found)

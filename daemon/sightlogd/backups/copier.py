"""Copies day folders and waiting pictures into a backup: what is new or has changed, and belongs to the view taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sightlogd.files.days import EVENTS
from sightlogd.files.orphans import ON_ITS_WAY_SECONDS
from sightlogd.files.tails import whole_size
from sightlogd.store.view import View

from . import source
from .files import Unreadable
from .manifest import INCOMING, Entry
from .source import LOGS, NotedDay, SourceFile
from .target import Target

AT_ONCE: Final = 500
"""Pictures looked up, and files between two words about the progress."""
_PICTURE: Final = ".jpg"

Show = Callable[[str], None]


@dataclass
class Report:
    events: int = 0
    observations: int = 0
    days: int = 0
    bytes: int = 0
    copied: int = 0
    """Files."""
    copied_bytes: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Files that are not in it, or only as they were before, and why."""
    denied: int = 0
    """How many of them the daemon's user may read."""
    foreign: list[str] = field(default_factory=list)
    """Files that are not in it: no name of sightlog's is like theirs."""
    other: list[str] = field(default_factory=list)
    """Files of the former backup that say what these do not, where they are kept."""
    kept: list[str] = field(default_factory=list)
    """Days in the backup's folder that the store does not have any more."""
    damage: str | None = None
    """What is wrong with the database. Then nothing took the place of the former backup."""
    has_former: bool = False
    aside: Path | None = None
    """Where the damaged database is as it is; None when a daemon runs on it."""


class Copier:
    """`copy` is the database of this backup, taken at `taken_at`; None: everything there is goes along."""

    def __init__(
        self, data_dir: Path, target: Target, report: Report, show: Show, copy: View | None, taken_at: float
    ) -> None:
        self._data_dir = data_dir
        self._target = target
        self._report = report
        self._show = show
        self._copy = copy
        self._on_its_way_ns = int((taken_at - ON_ITS_WAY_SECONDS) * 10**9)
        self.waiting: dict[str, Entry] = {}
        """Pictures to be made thumbnails of, by path."""
        self.lacks_lines = False
        """Whether a day's log is not in it as far as the database has rows."""

    def copy_incoming(self) -> None:
        """Before the days: what leaves it meanwhile is in its day's folder by then. Raises OSError."""
        for file in self._files_of(INCOMING) or ():
            if not file.name.startswith("."):
                self._wait(f"{INCOMING}/{file.name}", f"{INCOMING}/{file.name}", file.size)

    def _wait(self, path: str, origin: str, size: int) -> None:
        if path not in self.waiting and (entry := self._put(path, origin, size, None)) is not None:
            self.waiting[path] = entry

    def copy_day(self, day: str, noted: NotedDay | None, known: dict[str, Entry]) -> Iterator[Entry]:
        """Its files, copied or there already. `known`: what the former backup has of it. Raises OSError."""
        folder = f"{EVENTS}/{day}"
        found = self._files_of(folder)
        if found is None:  # it stays as it was before
            self.lacks_lines = True
            yield from known.values()
            return
        new = [file for file in found if file.name.endswith(_PICTURE) and f"{folder}/{file.name}" not in known]
        without_row, without_path = self._look_up(new)
        for number, file in enumerate(found):
            if number % AT_ONCE == 0:
                self._show(f"{day}: {number} of {len(found)} files")
            path, size = f"{folder}/{file.name}", file.size
            if not _is_text(file.name):
                self._report.foreign.append(path)
                continue
            if file.name in without_row:
                continue
            if file.name in without_path:
                # It was made a thumbnail of since: the daemon that starts on the copy does the same.
                self._wait(f"{INCOMING}/{file.name.removesuffix(_PICTURE)}", path, size)
                continue
            if file.name in LOGS:
                size = noted.sizes[file.name] if noted else 0
                if size == 0:
                    continue  # begun behind the view
            entry = known.get(path)
            if entry is None or (entry.size, entry.mtime_ns) != (size, file.mtime_ns) or not self._target.has(entry):
                entry = self._put(path, path, size, entry)
            if entry is not None:
                yield entry

    def _look_up(self, pictures: Sequence[SourceFile]) -> tuple[set[str], set[str]]:
        """Names of those that are on their way to a row, and of those whose row does not know them yet."""
        without_row: set[str] = set()
        without_path: set[str] = set()
        for start in range(0, len(pictures) if self._copy else 0, AT_ONCE):
            some = {file.name.removesuffix(_PICTURE): file for file in pictures[start : start + AT_ONCE]}
            rows = self._copy.thumbnails_of(list(some)) if self._copy else {}
            without_path |= {some[event_id].name for event_id, path in rows.items() if path is None}
            without_row |= {
                file.name for event_id, file in some.items() if event_id not in rows and self._is_on_its_way(file)
            }
        return without_row, without_path

    def _is_on_its_way(self, picture: SourceFile) -> bool:
        return picture.mtime_ns > self._on_its_way_ns

    def _files_of(self, folder: str) -> list[SourceFile] | None:
        try:
            return source.files_of(self._data_dir / folder)
        except OSError as error:
            self._note(folder, Unreadable(error), None)
            return None

    def _put(self, path: str, origin: str, size: int, former: Entry | None) -> Entry | None:
        """None when it is gone; what the former backup has of it, if anything, when it cannot be read."""
        try:
            fd = os.open(self._data_dir / origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._note(origin, Unreadable(error), former)
        try:
            name = origin.rpartition("/")[2]
            if name in LOGS:
                size = _whole_size(fd, size, name)
            entry = self._target.put(path, fd, size, former)
        except Unreadable as error:
            return self._note(origin, error, former)
        finally:
            os.close(fd)
        self._report.copied += 1
        self._report.copied_bytes += size
        return entry

    def _note(self, path: str, why: Unreadable, former: Entry | None) -> Entry | None:
        kept = former if former and self._target.has(former) else None
        self._report.unreadable.append(f"{path}: {why}" + (", it is in the backup as it was before" if kept else ""))
        self._report.denied += why.is_denied
        self.lacks_lines |= path.rpartition("/")[2] in LOGS
        return kept


def _is_text(name: str) -> bool:
    """Linux takes any bytes for a name; a manifest is UTF-8."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _whole_size(fd: int, size: int, name: str) -> int:
    """Of a log, up to the last line that is whole. Raises Unreadable."""
    try:
        return whole_size(fd, min(size, os.fstat(fd).st_size), LOGS[name])
    except OSError as error:
        raise Unreadable(error) from error

"""Copies day folders and waiting pictures into a backup: what is new or has changed, and belongs to the view taken."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sightlogd.daylogs.days import EVENTS, INCOMING
from sightlogd.daylogs.own import PICTURE, event_of
from sightlogd.daylogs.tails import whole_size
from sightlogd.directory import Directory, Odd
from sightlogd.retention.orphans import ON_ITS_WAY_SECONDS
from sightlogd.store.schema import NOTHING_FOREIGN, Schema
from sightlogd.store.tools.view import View

from . import source
from .io import Unreadable
from .manifest import Entry, is_expected
from .source import LOGS, NotedDay, SourceFile
from .target import Target

AT_ONCE: Final = 500
"""Pictures looked up, and files between two words about the progress."""

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
    foreign: list[tuple[str, str]] = field(default_factory=list)
    """Files that are not in it, and why: no name of sightlog's is like theirs."""
    other: list[str] = field(default_factory=list)
    """Files of the former backup that say what these do not, where they are kept."""
    kept: list[str] = field(default_factory=list)
    """Days in the backup's folder that the store does not have any more."""
    damage: str | None = None
    """What is wrong with the database. Then nothing took the place of the former backup."""
    has_former: bool = False
    schema: Schema = NOTHING_FOREIGN
    """What other programs have in the database, and what they changed of it."""
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
        with contextlib.ExitStack() as held:
            if (found := self._opened(INCOMING, held)) is None:
                return
            folder, there = found
            for file in there:
                path = f"{INCOMING}/{file.name}"
                if is_expected(path):
                    self._wait(path, folder, file.name, file.size)
                elif not file.name.startswith("."):
                    self._report.foreign.append((path, "no event has such a name"))

    def _opened(self, name: str, held: contextlib.ExitStack) -> tuple[Directory, list[SourceFile]] | None:
        """Of the store; None, which is told, when it cannot be read, and when it is not there."""
        try:
            return held.enter_context(source.opened(self._data_dir, name))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note(name, Unreadable(error), None)
            return None

    def _wait(self, path: str, folder: Directory, name: str, size: int) -> None:
        if path not in self.waiting and (entry := self._put(path, folder, name, size, None)) is not None:
            self.waiting[path] = entry

    def copy_day(self, day: str, noted: NotedDay | None, known: dict[str, Entry]) -> Iterator[Entry]:
        """Its files, copied or there already. `known`: what the former backup has of it. Raises OSError."""
        told = len(self._report.unreadable)
        with contextlib.ExitStack() as held:
            if (found := self._opened(f"{EVENTS}/{day}", held)) is not None:
                yield from self._copy_files(day, *found, noted, known)
            elif len(self._report.unreadable) > told:  # it stays as it was before
                self.lacks_lines = True
                yield from known.values()

    def _copy_files(
        self, day: str, folder: Directory, found: list[SourceFile], noted: NotedDay | None, known: dict[str, Entry]
    ) -> Iterator[Entry]:
        new = [file for file in found if event_of(file.name) and f"{EVENTS}/{day}/{file.name}" not in known]
        without_row, without_path = self._look_up(new)
        for number, file in enumerate(found):
            if number % AT_ONCE == 0:
                self._show(f"{day}: {number} of {len(found)} files")
            path, size = f"{EVENTS}/{day}/{file.name}", file.size
            if not is_expected(path):
                self._report.foreign.append((path, "its name is not UTF-8 or has control characters"))
                continue
            if file.name in without_row:
                continue
            if file.name in without_path:
                # It was made a thumbnail of since: the daemon that starts on the copy does the same.
                self._wait(f"{INCOMING}/{file.name.removesuffix(PICTURE)}", folder, file.name, size)
                continue
            if file.name in LOGS:
                size = noted.sizes[file.name] if noted else 0
                if size == 0:
                    continue  # begun behind the view
            entry = known.get(path)
            if entry is None or (entry.size, entry.mtime_ns) != (size, file.mtime_ns) or not self._target.has(entry):
                entry = self._put(path, folder, file.name, size, entry)
            if entry is not None:
                yield entry
        for name in LOGS.keys() - {file.name for file in found}:
            if (there := folder.lstat(name)) is not None:
                path = f"{EVENTS}/{day}/{name}"
                if (entry := self._note(path, Unreadable(Odd(there.st_mode, name)), known.get(path))) is not None:
                    yield entry

    def _look_up(self, pictures: Sequence[SourceFile]) -> tuple[set[str], set[str]]:
        """Names of those that are on their way to a row, and of those whose row does not know them yet."""
        without_row: set[str] = set()
        without_path: set[str] = set()
        for start in range(0, len(pictures) if self._copy else 0, AT_ONCE):
            some = {file.name.removesuffix(PICTURE): file for file in pictures[start : start + AT_ONCE]}
            rows = self._copy.thumbnails_of(list(some)) if self._copy else {}
            without_path |= {some[event_id].name for event_id, path in rows.items() if path is None}
            without_row |= {
                file.name for event_id, file in some.items() if event_id not in rows and self._is_on_its_way(file)
            }
        return without_row, without_path

    def _is_on_its_way(self, picture: SourceFile) -> bool:
        return picture.mtime_ns > self._on_its_way_ns

    def _put(self, path: str, folder: Directory, name: str, size: int, former: Entry | None) -> Entry | None:
        """None when it is gone; what the former backup has of it, if anything, when it cannot be read."""
        origin = str((folder.path / name).relative_to(self._data_dir))
        try:
            fd = folder.open_file(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._note(origin, Unreadable(error), former)
        try:
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


def _whole_size(fd: int, size: int, name: str) -> int:
    """Of a log, up to the last line that is whole. Raises Unreadable."""
    try:
        return whole_size(fd, min(size, os.fstat(fd).st_size), LOGS[name])
    except OSError as error:
        raise Unreadable(error) from error

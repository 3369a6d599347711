"""The day folders against the database: pictures, and lines, both ways. Only reads, beside a running daemon too.

What is just being done is no damage: rows that the day logs need not have yet are left out, what differs is read again
before it is said, and a day that went meanwhile is not spoken of. In memory are the events and observations of a day at
a time, and all persons.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from . import purge
from .files import jpeg
from .files.catchup import line_of_observation, line_of_row
from .files.daylog import JSON_NAME, read_lines, whole_lines, whole_size
from .files.days import EVENTS, Days, folders
from .files.lines import EventLine, Line, ObservationLine, PersonLine, Replay, decode_line
from .files.orphans import ON_ITS_WAY_SECONDS
from .findings import Finding, Kind
from .store.view import View

PAGE: Final = 500
SUSPECTS_MAX: Final = 5_000
"""Of a day, looked at twice; when a day lacks more than these, all that is said holds without them."""
_Row = tuple[int, str, str | None]


@dataclass
class _Day:
    """What the folder of a day has, and what is suspected of it."""

    name: str
    inode: int
    replay: Replay = field(default_factory=Replay)
    events: list[int] = field(default_factory=list)
    """Rows that the lines do not add up to."""
    observations: dict[str, ObservationLine] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    """Thumbnails that are not there, by event."""


class Audit:
    """`run` once. `show` is told what is looked at. Raises OSError, and what `View` does."""

    def __init__(self, data_dir: Path, days: Days, view: View, show: Callable[[str], None]) -> None:
        self._data_dir = data_dir
        self._days = days
        self._view = view
        self._show = show
        self._persons: set[PersonLine] = set()

    def run(self) -> Iterator[Finding]:
        persons = self._view.logged_persons()
        there = folders(self._data_dir)
        for number, day in enumerate(there, 1):
            self._show(f"{day}, day {number} of {len(there)}")
            yield from self._check_day(day)
        yield from self._check_gaps(there)
        missing = [row for row in persons if PersonLine(*row) not in self._persons]
        yield from self._check_persons(missing)

    # -- a day -------------------------------------------------------------------------------------------------------

    def _check_day(self, name: str) -> Iterator[Finding]:
        inode = self._inode(name)
        if inode is None or name in self._leaving():
            return
        day = _Day(name, inode)
        found: list[Finding] = []
        # What went meanwhile went with its day: that is looked at below.
        with contextlib.suppress(FileNotFoundError):
            found += [*self._read(day), *self._stray_pictures(day), *self._lines_without_row(day)]
            self._compare(day)
            found += self._confirmed(day)
        if self._inode(name) == inode and name not in self._leaving():
            yield from found

    def _leaving(self) -> set[str]:
        """Days that are being removed: their folders go first, and may be there again with what came late."""
        return {leaving.day for leaving in purge.unfinished(self._data_dir)}

    def _inode(self, day: str) -> int | None:
        try:
            return os.stat(self._data_dir / EVENTS / day).st_ino
        except FileNotFoundError:
            return None

    def _read(self, day: _Day) -> Iterator[Finding]:
        path = self._data_dir / EVENTS / day.name / JSON_NAME
        for number, line in self._lines(path):
            if line is None:
                yield Finding(Kind.UNREADABLE, f"{EVENTS}/{day.name}/{JSON_NAME}: line {number} cannot be read")
            elif isinstance(line, PersonLine):
                self._persons.add(line)
            else:
                day.replay.add(line)

    @staticmethod
    def _lines(path: Path) -> Iterator[tuple[int, Line | None]]:
        """Numbered from 1; None for what is no line. A torn end is none: it is cut off when the daemon starts."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            left = whole_size(file.fileno(), os.fstat(file.fileno()).st_size, whole_lines)
            for number, data in enumerate(file, 1):
                if left <= 0:
                    return
                left -= len(data)
                try:
                    yield number, decode_line(data)
                except msgspec.MsgspecError:
                    yield number, None

    def _stray_pictures(self, day: _Day) -> Iterator[Finding]:
        known = day.replay.state
        before = time.time() - ON_ITS_WAY_SECONDS
        folder = f"{EVENTS}/{day.name}"
        some: list[str] = []
        with os.scandir(self._data_dir / folder) as entries:
            for entry in entries:
                stem, _, ending = entry.name.rpartition(".")
                if ending == "jpg" and stem not in known and entry.stat(follow_symlinks=False).st_mtime < before:
                    some.append(stem)
        for start in range(0, len(some), PAGE):
            page = some[start : start + PAGE]
            rows = self._view.thumbnails_of(page)
            yield from (
                Finding(Kind.STRAY_PICTURE, f"{path}: neither a row nor a line knows it")
                for stem in page
                if rows.get(stem) != (path := f"{folder}/{stem}.jpg")
            )

    def _lines_without_row(self, day: _Day) -> Iterator[Finding]:
        for table, column, lines in (
            ("events", "event_id", day.replay.state),
            ("observations", "observation_id", day.replay.observations),
        ):
            # Of another day by today's time zone: it was changed, and purges went by the new one.
            ids = [key for key, line in lines.items() if self._days.day_of(line.recorded_at) == day.name]
            for start in range(0, len(ids), PAGE):
                page = ids[start : start + PAGE]
                known = self._view.known(table, column, page)
                yield from (
                    Finding(
                        Kind.NO_ROW,
                        f"{EVENTS}/{day.name}/{JSON_NAME} has {table[:-1]} {key}, and no row of it is there",
                    )
                    for key in page
                    if key not in known
                )

    # -- rows --------------------------------------------------------------------------------------------------------

    def _compare(self, day: _Day) -> None:
        """Fills what is suspected."""
        first, after = self._days.range_of(day.name)
        for site in self._view.sites():
            for page, rows in self._event_pages(site, first, after):
                state = day.replay.state
                day.events += [row.columns[0] for row in rows if state.get(row.columns[1]) != line_of_row(row)]
                for _, _, path in page:
                    if path is not None and self._picture_trouble(path):
                        day.pictures[Path(path).stem] = path
            for observation in self._observations(site, first, after):
                if day.replay.observations.get(observation.observation_id) != observation:
                    day.observations[observation.observation_id] = observation

    def _event_pages(self, site: str, first: str, after: str) -> Iterator[tuple[list[_Row], list[Any]]]:
        """A page of events at a time, and those of them that the day logs have to have."""
        reached = first, 0
        while True:
            with self._view.moment():
                page = self._view.event_page(site, reached, after, PAGE)
                rows = self._view.logged_events([row[0] for row in page])
            if not page:
                return
            reached = page[-1][1], page[-1][0]
            yield page, rows

    def _observations(self, site: str, first: str, after: str) -> Iterator[ObservationLine]:
        """Those that the day logs have to have."""
        reached = first, 0
        while True:
            with self._view.moment():
                page = self._view.observation_page(site, reached, after, PAGE)
                mark = self._view.marks()["event"]
            if not page:
                return
            reached = page[-1][3], page[-1][0]
            yield from (line_of_observation(row) for row in page if row[0] <= mark)

    # -- once more ---------------------------------------------------------------------------------------------------

    def _confirmed(self, day: _Day) -> Iterator[Finding]:
        for event_id, text in self._confirmed_events(day.name, day.events[:SUSPECTS_MAX]):
            yield Finding(Kind.NO_LINE, f"event {event_id}: {text} {EVENTS}/{day.name}/{JSON_NAME}")
        some = dict(list(day.observations.items())[:SUSPECTS_MAX])
        lines = self._replay_around(day.name, some).observations
        there = self._view.known("observations", "observation_id", list(some))
        for key, observation in some.items():
            if lines.get(key) != observation and key in there:
                yield Finding(Kind.NO_LINE, f"observation {key}: not as it is in {EVENTS}/{day.name}/{JSON_NAME}")
        rows = self._view.thumbnails_of(list(day.pictures))
        for event_id, path in day.pictures.items():
            folder_is_there = (self._data_dir / path).parent.is_dir()
            if rows.get(event_id) == path and folder_is_there and (trouble := self._picture_trouble(path)):
                yield Finding(Kind.NO_PICTURE, f"{path}: event {event_id} has it, and {trouble}")

    def _picture_trouble(self, path: str) -> str | None:
        """What is wrong with a thumbnail, as far as its ends say. Raises OSError where it may not be read."""
        try:
            fd = os.open(self._data_dir / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return "the file is not there"
            if error.errno == errno.ELOOP:
                return "it is a link"
            raise
        try:
            there = os.fstat(fd)
            if not stat.S_ISREG(there.st_mode):
                return "it is no file"
            is_whole = jpeg.has_ends(os.pread(fd, 2, 0), os.pread(fd, 2, max(0, there.st_size - 2)))
            return None if is_whole else "the file is no whole JPEG"
        finally:
            os.close(fd)

    def _confirmed_events(self, day: str, ids: Sequence[int]) -> Iterator[tuple[str, str]]:
        """Event ids and what is wrong with their lines: read again, between two looks at rows that did not change."""
        if not ids:
            return
        before = self._rows(ids)
        replay = self._replay_around(day, {line.event_id for line in before.values()})
        after = self._rows(ids)
        for row_id, line in before.items():
            if after.get(row_id) == line and replay.state.get(line.event_id) != line:
                yield line.event_id, "not as it is in" if line.event_id in replay.state else "no line of it in"

    def _rows(self, ids: Sequence[int]) -> dict[int, EventLine]:
        found: dict[int, EventLine] = {}
        for start in range(0, len(ids), PAGE):
            with self._view.moment():
                rows = self._view.logged_events(ids[start : start + PAGE])
            found |= {row.columns[0]: line_of_row(row) for row in rows}
        return found

    def _replay_around(self, day: str, ids: Collection[str]) -> Replay:
        """Of some events and observations: their day, and its neighbours, where the time zone was changed."""
        replay = Replay()
        for name in _around(day) if ids else ():
            for _, line in self._lines(self._data_dir / EVENTS / name / JSON_NAME):
                if isinstance(line, ObservationLine):
                    if line.observation_id in ids:
                        replay.add(line)
                elif line is not None and not isinstance(line, PersonLine) and line.event_id in ids:
                    replay.add(line)
        return replay

    # -- folders that are gone, persons ------------------------------------------------------------------------------

    def _check_gaps(self, there: Sequence[str]) -> Iterator[Finding]:
        """Rows of days without a folder: between the folders, before and behind them."""
        start = ""
        for day in [*there, None]:
            first, after = self._days.range_of(day) if day else ("~", "")
            while (moment := self._view.first_between(start, first)) is not None:
                name = self._days.day_of(moment)
                yield from self._check_gone(name)
                start = self._days.range_of(name)[1]
            start = after

    def _check_gone(self, name: str) -> Iterator[Finding]:
        day = _Day(name, 0)
        leaving = self._leaving()
        self._compare(day)
        events = sum(1 for _ in self._confirmed_events(name, day.events[:SUSPECTS_MAX]))
        lines = self._replay_around(name, day.observations).observations
        observations = sum(lines.get(key) != line for key, line in day.observations.items())
        is_leaving = name in leaving | self._leaving()
        if (events or observations) and self._inode(name) is None and not is_leaving:
            events = len(day.events) if len(day.events) > SUSPECTS_MAX else events
            yield Finding(
                Kind.NO_FOLDER,
                f"{EVENTS}/{name} is not there, and the database has {events} events and {observations} observations "
                "of that day",
            )

    def _check_persons(self, missing: Sequence[tuple[Any, ...]]) -> Iterator[Finding]:
        """A purge carries persons over to another day: what was not met is looked for in all days again."""
        if not missing:
            return
        for day in folders(self._data_dir):
            lines = read_lines(self._data_dir / EVENTS / day / JSON_NAME, b'{"kind":"person"')
            self._persons |= {line for line in lines if isinstance(line, PersonLine)}
        for row in missing:
            if PersonLine(*row) not in self._persons:
                yield Finding(Kind.NO_LINE, f"person {row[2]} of site {row[1]}: no line of it in any day's {JSON_NAME}")


def _around(day: str) -> Iterator[str]:
    middle = date.fromisoformat(day)
    for days in (-1, 0, 1):
        try:
            yield (middle + timedelta(days=days)).isoformat()
        except OverflowError:  # the first or last day there is
            continue

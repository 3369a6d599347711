"""The day folders against the database: pictures, and lines, both ways. Only reads, beside a running daemon too.

What is just being done is no damage: rows that the day logs need not have yet are left out, what differs is read again
before it is said, and a day that went meanwhile is not spoken of. In memory are a page of a day at a time, and all
persons; where its lines are is noted in the temporary directory.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Final

from sightlogd.daylogs.days import EVENTS, HeldFolder, folders, unfinished
from sightlogd.daylogs.index import LogLines, numbered, read_lines
from sightlogd.daylogs.lines import (
    DayLine,
    EventLine,
    ObservationLine,
    PersonLine,
    Replay,
    fault_of,
    line_of_observation,
    line_of_row,
)
from sightlogd.daylogs.own import PICTURE, is_own
from sightlogd.daylogs.writer import JSON_NAME
from sightlogd.directory import Odd, open_file
from sightlogd.findings import FINDINGS_MAX, Finding, Kind
from sightlogd.retention.orphans import ON_ITS_WAY_SECONDS
from sightlogd.store.log_marks import EventRow
from sightlogd.store.tools.view import View
from sightlogd.thumbnails import formats

PAGE: Final = 500
SUSPECTS_MAX: Final = 5_000
"""Of a day, looked at twice; when a day lacks more than these, all that is said holds without them."""
_Row = tuple[int, str, str | None]


class _Findings:
    """Of a day, until it is known that they count. Those of a kind that nobody is shown are the last one again."""

    def __init__(self) -> None:
        self._shown: list[Finding] = []
        self._counts: Counter[Kind] = Counter()

    def add(self, kind: Kind, text: str) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= FINDINGS_MAX:
            self._shown.append(Finding(kind, text))

    def __iter__(self) -> Iterator[Finding]:
        yield from self._shown
        last = {finding.kind: finding for finding in self._shown}
        for kind, count in self._counts.items():
            yield from repeat(last[kind], count - FINDINGS_MAX)


@dataclass
class _Day:
    """What is suspected of a day: rows that its lines do not add up to, SUSPECTS_MAX at most."""

    name: str
    events: list[int] = field(default_factory=list)
    observations: dict[str, ObservationLine] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """By table, with those behind SUSPECTS_MAX."""
    found: _Findings = field(default_factory=_Findings)

    def suspect_events(self, ids: Sequence[int]) -> None:
        self.counts["events"] += len(ids)
        self.events += ids[: SUSPECTS_MAX - len(self.events)]

    def suspect_observation(self, observation: ObservationLine) -> None:
        self.counts["observations"] += 1
        if len(self.observations) < SUSPECTS_MAX:
            self.observations[observation.observation_id] = observation


class Audit:
    """`run` once. `show` is told what is looked at. Raises OSError, and what `View` does."""

    def __init__(self, data_dir: Path, view: View, show: Callable[[str], None]) -> None:
        self._data_dir = data_dir
        self._view = view
        self._show = show
        self._persons: set[PersonLine] = set()

    def run(self) -> Iterator[Finding]:
        persons = self._view.logged_persons()
        there = folders(self._data_dir)
        for number, day in enumerate(there, 1):
            self._show(f"{day}, day {number} of {len(there)}")
            yield from self._check_day(day)
        yield from self._check_gaps(set(there))
        missing = [row for row in persons if PersonLine(*row) not in self._persons]
        yield from self._check_persons(missing)

    # -- a day -------------------------------------------------------------------------------------------------------

    def _check_day(self, name: str) -> Iterator[Finding]:
        try:
            folder = HeldFolder(self._data_dir / EVENTS / name)
        except FileNotFoundError:
            return
        day = _Day(name)
        with contextlib.closing(folder):
            if name in self._leaving():
                return
            # What went meanwhile went with its day: that is looked at below.
            with contextlib.suppress(FileNotFoundError), contextlib.closing(self._read(day)) as lines:
                self._find_stray_pictures(day, lines)
                self._find_lines_without_row(day, lines)
                self._compare_range(day, lines)
                self._compare(day, lines)
                self._confirm(day)
            if folder.is_in_place() and name not in self._leaving():
                yield from day.found

    def _leaving(self) -> set[str]:
        """Days that are being removed: their folders go first, and may be there again with what came late."""
        return {leaving.day for leaving in unfinished(self._data_dir)}

    def _read(self, day: _Day) -> LogLines:
        name = f"{EVENTS}/{day.name}/{JSON_NAME}"

        def unreadable(number: int) -> None:
            what = f"line {number} cannot be read" if number else "it is no file"
            day.found.add(Kind.UNREADABLE, f"{name}: {what}")

        return LogLines(self._data_dir / name, unreadable, self._persons.add)

    def _find_stray_pictures(self, day: _Day, lines: LogLines) -> None:
        before = time.time() - ON_ITS_WAY_SECONDS
        folder = f"{EVENTS}/{day.name}"
        user_id = os.lstat(self._data_dir / folder).st_uid
        with os.scandir(self._data_dir / folder) as entries:
            pictures = (
                (entry.name.removesuffix(PICTURE), is_own(entry, user_id))
                for entry in entries
                if entry.name.endswith(PICTURE) and entry.stat(follow_symlinks=False).st_mtime < before
            )
            while page := dict(islice(pictures, PAGE)):
                rows = self._view.thumbnails_of(list(page))
                known = lines.known("events", list(page))
                for stem, is_ours in page.items():
                    path = f"{folder}/{stem}{PICTURE}"
                    if stem in known or rows.get(stem) == path:
                        continue
                    if is_ours:
                        day.found.add(Kind.STRAY_PICTURE, f"{path}: neither a row nor a line knows it")
                    else:
                        day.found.add(Kind.FOREIGN, f"{path}: sightlog did not make it")

    def _find_lines_without_row(self, day: _Day, lines: LogLines) -> None:
        for table, column in (("events", "event_id"), ("observations", "observation_id")):
            for page in lines.pages(table, PAGE):
                known = self._view.known(table, column, page)
                strange = [key for key in page if key not in known]
                for key in strange:
                    day.found.add(
                        Kind.NO_ROW,
                        f"{EVENTS}/{day.name}/{JSON_NAME} has {table[:-1]} {key}, and no row of it is there",
                    )

    def _compare_range(self, day: _Day, lines: LogLines) -> None:
        """What has grown just now need not be in the lines yet: they have to have it with what it has grown for."""
        found = self._view.range_of(day.name)
        if found is None or found == lines.range:
            return
        noted = lines.range or found._replace(after=found.first)
        if self._view.is_logged(found.first, noted.first) or self._view.is_logged(noted.after, found.after):
            day.found.add(
                Kind.NO_LINE,
                f"{EVENTS}/{day.name}/{JSON_NAME} does not tell the day's range of time as the database has it",
            )

    # -- rows --------------------------------------------------------------------------------------------------------

    def _compare(self, day: _Day, lines: LogLines | None) -> None:
        """Finds pictures that are missing, and fills what is suspected."""
        found = self._view.range_of(day.name)
        if found is None:  # nothing of that day is stored
            return
        _, first, after, _ = found
        for site in self._view.sites():
            for page, rows in self._event_pages(site, first, after):
                state = lines.replay("events", [row.columns.event_id for row in rows]).state if lines else {}
                pairs = ((row.columns.id, line_of_row(row)) for row in rows)
                day.suspect_events([key for key, line in pairs if _trouble(state.get(line.event_id), line)])
                if lines:
                    self._find_missing_pictures(day, [path for _, _, path in page if path is not None])
            for observations in self._observation_pages(site, first, after):
                keys = [observation.observation_id for observation in observations]
                there = lines.replay("observations", keys).observations if lines else {}
                for observation in observations:
                    if _trouble(there.get(observation.observation_id), observation):
                        day.suspect_observation(observation)

    def _event_pages(self, site: str, first: str, after: str) -> Iterator[tuple[list[_Row], list[EventRow]]]:
        """A page of events at a time, and those of them that the day logs have to have."""
        reached = first, 0
        while True:
            with self._view.moment():
                page = self._view.event_page(site, reached, after, PAGE)
                rows = self._view.logged_events([event for event, _, _ in page])
            if not page:
                return
            reached = page[-1][1], page[-1][0]
            yield page, rows

    def _observation_pages(self, site: str, first: str, after: str) -> Iterator[list[ObservationLine]]:
        """Those that the day logs have to have."""
        reached = first, 0
        while True:
            with self._view.moment():
                page = self._view.observation_page(site, reached, after, PAGE)
                mark = self._view.marks()["event"]
            if not page:
                return
            reached = page[-1].recorded_at, page[-1].id
            yield [line_of_observation(row) for row in page if row.id <= mark]

    def _find_missing_pictures(self, day: _Day, paths: Sequence[str]) -> None:
        suspects = {Path(path).stem: path for path in paths if self._picture_trouble(path)}
        rows = self._view.thumbnails_of(list(suspects)) if suspects else {}
        for event_id, path in suspects.items():
            folder_is_there = (self._data_dir / path).parent.is_dir()
            if rows.get(event_id) == path and folder_is_there and (trouble := self._picture_trouble(path)):
                day.found.add(Kind.NO_PICTURE, f"{path}: event {event_id} has it, and {trouble}")

    # -- once more ---------------------------------------------------------------------------------------------------

    def _confirm(self, day: _Day) -> None:
        for event_id, text in self._confirmed_events(day.name, day.events):
            day.found.add(Kind.NO_LINE, f"event {event_id}: {text} {EVENTS}/{day.name}/{JSON_NAME}")
        lines = self._replay(day.name, day.observations).observations
        there = self._view.known("observations", "observation_id", list(day.observations))
        for key, observation in day.observations.items():
            if (trouble := _trouble(lines.get(key), observation)) and key in there:
                day.found.add(Kind.NO_LINE, f"observation {key}: {trouble} {EVENTS}/{day.name}/{JSON_NAME}")

    def _picture_trouble(self, path: str) -> str | None:
        """What is wrong with a thumbnail, as far as its ends say. Raises OSError where it may not be read."""
        try:
            fd = open_file(self._data_dir / path)
        except (FileNotFoundError, NotADirectoryError):
            return "the file is not there"
        except Odd as error:
            return str(error.strerror)
        try:
            size = os.fstat(fd).st_size
            is_whole = formats.has_ends(os.pread(fd, 2, 0), os.pread(fd, 2, max(0, size - 2)))
            return None if is_whole else "the file is no whole JPEG"
        finally:
            os.close(fd)

    def _confirmed_events(self, day: str, ids: Sequence[int]) -> Iterator[tuple[str, str]]:
        """Event ids and what is wrong with their lines: read again, between two looks at rows that did not change."""
        if not ids:
            return
        before = self._rows(ids)
        replay = self._replay(day, {line.event_id for line in before.values()})
        after = self._rows(ids)
        for row_id, line in before.items():
            if after.get(row_id) == line and (trouble := _trouble(replay.state.get(line.event_id), line)):
                yield line.event_id, trouble

    def _rows(self, ids: Sequence[int]) -> dict[int, EventLine]:
        found: dict[int, EventLine] = {}
        for start in range(0, len(ids), PAGE):
            with self._view.moment():
                rows = self._view.logged_events(ids[start : start + PAGE])
            found |= {row.columns.id: line_of_row(row) for row in rows}
        return found

    def _replay(self, day: str, ids: Collection[str]) -> Replay:
        """Of some events and observations."""
        replay = Replay()
        with (
            contextlib.suppress(FileNotFoundError, Odd),
            open(open_file(self._data_dir / EVENTS / day / JSON_NAME), "rb") as log,
        ):
            for _, _, line in numbered(log) if ids else ():
                if isinstance(line, ObservationLine):
                    if line.observation_id in ids:
                        replay.add(line)
                elif line is not None and not isinstance(line, (PersonLine, DayLine)) and line.event_id in ids:
                    replay.add(line)
        return replay

    # -- folders that are gone, persons ------------------------------------------------------------------------------

    def _check_gaps(self, there: Collection[str]) -> Iterator[Finding]:
        """Rows of days without a folder."""
        for found in self._view.ranges():
            if found.day not in there and self._view.is_logged(found.first, found.after):
                yield from self._check_gone(found.day)

    def _check_gone(self, name: str) -> Iterator[Finding]:
        day = _Day(name)
        leaving = self._leaving()
        self._compare(day, None)
        confirmed = {
            "events": sum(1 for _ in self._confirmed_events(name, day.events)),
            "observations": len(self._view.known("observations", "observation_id", list(day.observations))),
        }
        is_gone = not (self._data_dir / EVENTS / name).exists() and name not in leaving | self._leaving()
        if any(confirmed.values()) and is_gone:
            there = {
                table: max(count, day.counts[table] if day.counts[table] > SUSPECTS_MAX else 0)
                for table, count in confirmed.items()
            }
            yield Finding(
                Kind.NO_FOLDER,
                f"{EVENTS}/{name} is not there, and the database has {there['events']} events and "
                f"{there['observations']} observations of that day",
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


def _trouble(logged: EventLine | ObservationLine | None, row: EventLine | ObservationLine) -> str | None:
    """What is wrong with the lines of a row, so that a rebuild would not make it again: in front of their file."""
    if logged is None:
        return "no line of it in"
    if logged != row:
        return "not as it is in"
    fault = fault_of(row)
    return fault and f"a rebuild leaves it out ({fault}) of"

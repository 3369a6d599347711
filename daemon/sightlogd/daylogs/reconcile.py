"""Brings the day logs up to what the database has: after a crash, or after a time when they could not be written.

What was committed behind the mark is compared with the lines that are there, once those are durable. An event whose
lines do not add up to its row gets a line that replaces them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Final

from sightlogd.daylogs.days import unfinished
from sightlogd.protocol.decoder import WHOLE_BYTES_MAX, AmendmentRecord, decode_record
from sightlogd.store import Store
from sightlogd.store.columns import ObservationColumns
from sightlogd.store.log_marks import EventRow
from sightlogd.store.written import AmendmentKept

from .lines import (
    AmendmentLine,
    Line,
    ObservationLine,
    PersonLine,
    RecordLine,
    Replay,
    line_of_observation,
    line_of_row,
    waiting_line,
)
from .writer import DayLogs

PAGE_EVENTS: Final = 500
MARK_EVENTS: Final = 5_000
"""Compared between two marks on the way."""
LINES_A_SLICE: Final = 2_000


def catch_up(store: Store, logs: DayLogs) -> Iterator[int]:
    """Work in slices: yields after each how many lines it added so far. Marks the logs as complete at the end.

    Raises OSError, WriteRefused; `logs.behind` stays set then, and it has to begin anew.
    """
    logs.behind = False
    added = 0
    marks = store.log_marks()
    comparison = _Comparison(store, logs)
    compared = 0
    # What is committed from now on is written as it comes.
    up_to = store.last_id()
    # Before the events: the marks that are set between those cover observations too.
    for observations in store.observation_pages(marks["event"], up_to, PAGE_EVENTS):
        for count in comparison.compare_observations(observations):
            added += count
            yield added
    for pages in (store.amended_event_pages(PAGE_EVENTS), store.event_pages(marks["event"], up_to, PAGE_EVENTS)):
        for page in pages:
            for count in comparison.compare(page):
                added += count
                yield added
            compared += len(page)
            if compared >= MARK_EVENTS and not logs.behind and page[-1].columns.id > marks["event"]:
                # So that one crash after the other does not make it begin from further and further behind.
                compared = 0
                if logs.sync():
                    store.mark_events_logged(page[-1].columns.id)
    added += _compare_persons(store, logs, marks["person"]) + _compare_pending(store, logs)
    if logs.behind:
        return
    mark(store, logs)
    yield added


def mark(store: Store, logs: DayLogs) -> None:
    """All that is in the database is in the logs: make that durable, and note it. Raises WriteRefused."""
    if not logs.behind and logs.sync():
        store.mark_logged()
        logs.doubtful = logs.unmarked = False


class _Comparison:
    """Events against the lines of their days. A day is read once, however many pages of its events there are."""

    def __init__(self, store: Store, logs: DayLogs) -> None:
        self._store = store
        self._logs = logs
        self._day = ""
        self._replay = Replay()
        self._entries: set[str] = set()
        # Of a removal that failed half-way rows are there, and its folder is gone: it is not to come back.
        self._leaving = {day.day: day.up_to_id for day in unfinished(store.path.parent)}

    def _is_leaving(self, day: str, row_id: int) -> bool:
        return row_id <= self._leaving.get(day, 0)

    def compare(self, rows: Sequence[EventRow]) -> Iterator[int]:
        """In slices; yields how many lines each added."""
        by_day: dict[str, list[int]] = {}
        for row in rows:
            day = self._logs.day_of(line_of_row(row).recorded_at)
            if not self._is_leaving(day, row.columns.id):
                by_day.setdefault(day, []).append(row.columns.id)
        for day, ids in by_day.items():
            if not (yield from self._has_read(day)):
                continue
            missing: list[tuple[str, RecordLine]] = []
            # As they are now: while the day was read, events may have been amended, and a line of what they were
            # before would replace that. What this compares with may be older than they are; then a line says it again.
            for line in map(line_of_row, self._store.events(ids)):
                if self._replay.state.get(line.event_id) != line:
                    missing.append((line.recorded_at, line))
                elif (text := self._logs.entry(self._replay.first[line.event_id])) not in self._entries:
                    self._logs.append_entry(day, text)
            self._logs.write_lines(missing, self._entries)
            yield len(missing)

    def compare_observations(self, rows: Sequence[ObservationColumns]) -> Iterator[int]:
        """In slices; yields how many lines each added."""
        by_day: dict[str, list[ObservationLine]] = {}
        for row in rows:
            line = line_of_observation(row)
            day = self._logs.day_of(line.recorded_at)
            if not self._is_leaving(day, row.id):
                by_day.setdefault(day, []).append(line)
        for day, lines in by_day.items():
            if not (yield from self._has_read(day)):
                continue
            missing: list[tuple[str, RecordLine]] = []
            for line in lines:
                if self._replay.observations.get(line.observation_id) != line:
                    missing.append((line.recorded_at, line))
                elif (text := self._logs.entry(line)) not in self._entries:
                    self._logs.append_entry(day, text)
            self._logs.write_lines(missing, self._entries)
            yield len(missing)

    def _has_read(self, day: str) -> Generator[int, None, bool]:
        """A day whose logs cannot be read holds up no other."""
        try:
            if day != self._day:
                yield from self._read(day)
        except OSError as error:
            self._day = ""
            self._logs.missed(error)
            return False
        return True

    def _read(self, day: str) -> Iterator[int]:
        self._day, self._replay = day, Replay()
        lines = self._logs.lines_to_keep(day)
        for number, line in enumerate(lines):
            if number % LINES_A_SLICE == LINES_A_SLICE - 1:
                yield 0
            self._replay.add(line)
        self._entries = self._logs.entries_of(day)
        if (found := self._logs.range_of(day)) and found != self._replay.range:
            self._logs.note(found)


def _compare_persons(store: Store, logs: DayLogs, after: int) -> int:
    missing: list[tuple[str, RecordLine]] = []
    there: dict[str, list[Line]] = {}
    for row in store.persons_since(after):
        line = PersonLine(*row)
        day = logs.day_of(line.created_at)
        if day not in there:
            there[day] = [line for line in logs.lines_to_keep(day) if isinstance(line, PersonLine)]
        if line not in there[day]:
            missing.append((line.created_at, line))
    logs.write_lines(missing)
    return len(missing)


def _compare_pending(store: Store, logs: DayLogs) -> int:
    missing: list[tuple[str, RecordLine]] = []
    there: dict[str, set[tuple[object, ...]]] = {}
    for producer_id, epoch, seq, packed, received_at in store.pending_amendments():
        day = logs.day_of(received_at)
        if day not in there:
            waiting = (line for line in logs.lines_to_keep(day) if isinstance(line, AmendmentLine) and line.waiting)
            there[day] = {(line.producer_id, line.epoch, line.seq) for line in waiting}
        record = decode_record(packed, WHOLE_BYTES_MAX)
        if (producer_id, epoch, seq) not in there[day] and isinstance(record, AmendmentRecord):
            kept = AmendmentKept(producer_id, epoch, seq, record, received_at)
            missing.append((received_at, waiting_line(kept)))
    logs.write_lines(missing)
    return len(missing)

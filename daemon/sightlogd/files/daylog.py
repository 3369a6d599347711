"""The day logs: events.json, a second copy for programs, and events.log, for people. One append a file and batch.

They are written after COMMIT and are not part of an ack: what a crash or a failing disk kept out of them is found by
comparing (`catchup`) and added. So nothing here raises while records are written; `behind` says that something is
missing.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from sightlog.wire import Position
from sightlogd import durable
from sightlogd.changes import Change, EventAmended, EventsStored, LaterChange, ObservationStored, ThumbnailSet
from sightlogd.decoder import Refusal
from sightlogd.session import Parcel

from . import prose
from .days import EVENTS, Days, folders
from .lines import (
    AmendmentLine,
    EventLine,
    Line,
    ObservationLine,
    PersonLine,
    decode_line,
    encode_lines,
    event_line,
    line_of,
    unstored_line,
)

JSON_NAME: Final = "events.json"
TEXT_NAME: Final = "events.log"
FILE_MODE: Final = 0o644
OPEN_DAYS_MAX: Final = 8
"""Day folders whose files stay open; a spool that comes late writes to old days."""
TAIL_BYTES: Final = 4 * 1024 * 1024
"""Read at once when looking for the last whole line: more than the longest line takes."""


class _Log:
    """One open file. Whole appends, or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dirty = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            os.fchmod(self._fd, FILE_MODE)  # whatever the umask says: people read these
            repair(self._fd, whole_lines if path.name == JSON_NAME else whole_entries)
        except OSError:
            os.close(self._fd)
            raise

    def append(self, data: bytes) -> None:
        """Raises OSError, and takes back what was written of `data`."""
        before = os.fstat(self._fd).st_size
        self.dirty = True
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def is_in_place(self) -> bool:
        """Whether what is written can still be found by its name."""
        try:
            there = os.stat(self.path)
        except OSError:
            return False
        mine = os.fstat(self._fd)
        return (there.st_ino, there.st_dev) == (mine.st_ino, mine.st_dev)

    def sync(self) -> None:
        if self.dirty:
            os.fdatasync(self._fd)
            self.dirty = False

    def close(self) -> None:
        os.close(self._fd)


class DayLogs:
    """`failed` is given the reason whenever something could not be written, `grew` the day and bytes that were."""

    def __init__(
        self,
        data_dir: Path,
        days: Days,
        failed: Callable[[str], None],
        grew: Callable[[str, int], None],
        *,
        debug_line: bool = False,
    ) -> None:
        self._data_dir = data_dir
        self._days = days
        self._failed = failed
        self._grew = grew
        self._debug_line = debug_line
        self._open: dict[str, tuple[_Log, _Log]] = {}
        self._told: dict[str, Position] = {}
        """By producer: how far its records were written down while the database could not be written."""
        self.behind = False
        self.doubtful = False
        """An fsync may have failed since the store marked how far the logs are durable."""
        self._rewritten: set[str] = set()
        """Days that no failed fsync is behind any more."""
        self.unmarked = False
        """Something was written since the store marked how far the logs are durable."""

    def day_of(self, moment: str) -> str:
        return self._days.day_of(moment)

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, changes: Iterable[Change]) -> None:
        """What a committed transaction changed."""
        lines: list[tuple[str, Line]] = []
        for change in changes:
            if isinstance(change, EventsStored):
                lines += [(row[4], event_line(row, record)) for row, record in zip(*change, strict=True)]
            else:
                lines.append((_moment(change), line_of(change)))
        self.write_lines(lines)

    def write_unstored(self, parcels: Sequence[Parcel], now: str) -> None:
        """What came while the database cannot be written. Producers send it again and again: once each is enough."""
        lines = []
        for parcel in parcels:
            told = self._told.get(parcel.session.producer_id)
            for seq, record in enumerate(parcel.records, parcel.first.seq):
                if isinstance(record, Refusal) or (told and Position(parcel.first.epoch, seq) <= told):
                    continue
                line = unstored_line(record, now)
                lines.append((line.recorded_at if isinstance(line, (EventLine, ObservationLine)) else now, line))
            self._told[parcel.session.producer_id] = max(parcel.last, told or parcel.last)
        self.write_lines(lines)

    def writes_again(self) -> None:
        """The database can be written."""
        self._told.clear()

    def write_lines(self, lines: Sequence[tuple[str, Line]]) -> None:
        """Each with the moment that it is of."""
        by_day: defaultdict[str, tuple[list[Line], list[str]]] = defaultdict(lambda: ([], []))
        local, debug = self._days.local, self._debug_line
        for moment, line in lines:
            day, time = local(moment)
            some, entries = by_day[day]
            some.append(line)
            entries.append(prose.entry(line, local(line.at)[1] if type(line) is AmendmentLine else time, debug=debug))
        for day, (some, entries) in by_day.items():
            # Lone surrogates cannot come in: msgpack's text is UTF-8.
            self._append(day, encode_lines(some), "".join(entries).encode())

    def _append(self, day: str, lines: bytes, text: bytes) -> None:
        try:
            logs = self._logs_of(day)
        except OSError as error:
            self._missed(error)
            return
        for log, data in zip(logs, (lines, text), strict=True):
            try:
                log.append(data)
                self._grew(day, len(data))
            except OSError as error:
                self._missed(error, log.path)
                self.close(day)  # opened again, a torn line is cut off
                return

    def _missed(self, error: OSError, path: Path | None = None) -> None:
        self.behind = True
        self._failed(f"cannot write {path or error.filename or self._data_dir / EVENTS}: {error.strerror}")

    def _logs_of(self, day: str) -> tuple[_Log, _Log]:
        logs = self._open.pop(day, None)
        if logs is not None and not all(log.is_in_place() for log in logs):
            self._open[day] = logs
            self.close(day)
            logs = None
            self.behind = True  # what it had since the mark went with it
        if logs is None:
            if len(self._open) >= OPEN_DAYS_MAX:
                oldest = next(iter(self._open))
                self._sync_day(oldest)
                self.close(oldest)
            folder = self._data_dir / EVENTS / day
            durable.make_directories(folder)
            first = _Log(folder / JSON_NAME)
            try:
                logs = first, _Log(folder / TEXT_NAME)
            except OSError:
                first.close()
                raise
        self._open[day] = logs
        self.unmarked = True
        return logs

    # -- durability --------------------------------------------------------------------------------------------------

    def sync(self) -> bool:
        """Make durable what was written; False when that failed. It takes an fsync a file: not for every batch."""
        try:
            for day in list(self._open):
                self._sync_day(day)
        except OSError as error:
            self._missed(error)
            return False
        return True

    def _sync_day(self, day: str) -> None:
        logs = self._open[day]
        if any(log.dirty for log in logs):
            try:
                for log in logs:
                    log.sync()
            except OSError:
                self._doubt()
                raise
            durable.sync(self._data_dir / EVENTS / day)

    def _doubt(self) -> None:
        self.doubtful = True
        self._rewritten.clear()

    def repair(self, before_loss: Callable[[], None]) -> list[str]:
        """Cut off torn last lines in all day folders; returns the days that had one. O(days).

        `before_loss` is called before whole lines go with them: those may be older than the marks.
        """
        torn = []
        try:
            days = folders(self._data_dir)
        except OSError as error:
            self._missed(error)
            return []
        for day in days:
            for name, whole in ((JSON_NAME, whole_lines), (TEXT_NAME, whole_entries)):
                try:
                    fd = os.open(self._data_dir / EVENTS / day / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._missed(error)
                    continue
                try:
                    if repair(fd, whole, before_loss if name == JSON_NAME else None):
                        torn.append(day)
                except OSError as error:
                    self._missed(error, Path(day, name))
                finally:
                    os.close(fd)
        return sorted(set(torn))

    def lines_of(self, day: str) -> list[Line]:
        """All lines of a day that can be read. Raises OSError."""
        return read_lines(self._data_dir / EVENTS / day / JSON_NAME)

    def lines_to_keep(self, day: str) -> list[Line]:
        """The same, durable by now: what an earlier life wrote may be in the page cache alone. Raises OSError."""
        folder = self._data_dir / EVENTS / day
        keep = durable.write_again if self.doubtful and day not in self._rewritten else durable.sync
        try:
            for name in (JSON_NAME, TEXT_NAME):
                with contextlib.suppress(FileNotFoundError):
                    keep(folder / name)
            with contextlib.suppress(FileNotFoundError):
                durable.sync(folder)
        except OSError:
            self._doubt()
            raise
        self._rewritten.add(day)
        return self.lines_of(day)

    def persons_of(self, day: str) -> list[PersonLine]:
        """Those of its lines that are about persons, without reading the others closely. Raises OSError."""
        lines = read_lines(self._data_dir / EVENTS / day / JSON_NAME, b'{"kind":"person"')
        return [line for line in lines if isinstance(line, PersonLine)]

    def event_ids_of(self, day: str) -> set[str]:
        """Events that its lines know as stored. Raises OSError."""
        return {line.event_id for line in self.lines_of(day) if isinstance(line, EventLine) and line.stored}

    def entries_of(self, day: str) -> set[str]:
        """All entries of a day's events.log. Raises OSError."""
        try:
            text = (self._data_dir / EVENTS / day / TEXT_NAME).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return set()
        return {f"{part}\n\n" for part in text.split("\n\n")}

    def entry(self, line: EventLine | ObservationLine) -> str:
        """As events.log has it."""
        return prose.entry(line, self._days.local(line.recorded_at)[1], debug=self._debug_line)

    def append_text(self, day: str, text: str) -> None:
        self._append(day, b"", text.encode())

    def close(self, day: str) -> None:
        """Let go of a day's files."""
        for log in self._open.pop(day, ()):
            log.close()

    def close_all(self) -> None:
        for day in list(self._open):
            self.close(day)


def _moment(change: LaterChange) -> str:
    if isinstance(change, ObservationStored):
        return change.observation.recorded_at
    return change.subject.recorded_at if isinstance(change, (EventAmended, ThumbnailSet)) else change.at


def read_lines(path: Path, prefix: bytes = b"") -> list[Line]:
    """What can be read of an events.json, of the lines that begin so. Raises OSError but for a missing file."""
    lines = []
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.startswith(prefix):
                    continue
                try:
                    lines.append(decode_line(line))
                except msgspec.MsgspecError:
                    continue
    except FileNotFoundError:
        pass
    return lines


def repair(fd: int, whole: Callable[[bytes], int], before_loss: Callable[[], None] | None = None) -> int:
    """Cut the file back to its last whole line; returns the bytes cut off. `whole` says how much of a tail is whole.

    `before_loss`: to be called when lines without zeros are among them. A bit that flips in a blank makes a zero.
    """
    size = os.fstat(fd).st_size
    keep = whole_size(fd, size, whole)
    if keep != size:
        if before_loss is not None and _has_lines(os.pread(fd, size - keep, keep)):
            before_loss()
        os.ftruncate(fd, keep)
    return size - keep


def _has_lines(data: bytes) -> bool:
    return any(line and b"\0" not in line for line in data.split(b"\n")[:-1])


def whole_size(fd: int, size: int, whole: Callable[[bytes], int]) -> int:
    """How many of the first `size` bytes are whole lines."""
    while size:
        start = max(0, size - TAIL_BYTES)
        keep = start + whole(os.pread(fd, size - start, start))
        if keep == size:
            break
        size = keep
    return size


def whole_lines(tail: bytes) -> int:
    # After a power cut blocks may be there with zeros in them. Any other line stays, also one that only a newer version
    # understands.
    zeros = tail.find(b"\0")
    return tail.rfind(b"\n", 0, zeros if zeros >= 0 else len(tail)) + 1


def whole_entries(tail: bytes) -> int:
    zeros = tail.find(b"\0")
    end = tail.rfind(b"\n\n", 0, zeros if zeros >= 0 else len(tail))
    return end + 2 if end >= 0 else 0

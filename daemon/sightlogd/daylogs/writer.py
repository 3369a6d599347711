"""The day logs: events.json, a second copy for programs, and events.log, for people. One append a file and batch.

They are written after COMMIT and are not part of an ack: what a crash or a failing disk kept out of them is found by
comparing (`catchup`) and added. So nothing here raises while records are written; `behind` says that something is
missing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from sightlog.protocol.messages import Position
from sightlogd import durable
from sightlogd.calendar import DayRange
from sightlogd.directory import Odd, open_file
from sightlogd.errors import WriteRefused
from sightlogd.protocol.decoder import Refusal
from sightlogd.protocol.session import Chunk
from sightlogd.store.written import (
    Change,
    Changes,
    EventAmended,
    EventsStored,
    ObservationStored,
    RecordChange,
    ThumbnailSet,
)

from . import text
from .backlog import Backlog
from .days import EVENTS, folders, make_folder
from .index import read_lines
from .lines import (
    AmendmentLine,
    DayLine,
    EventLine,
    Line,
    ObservationLine,
    PersonLine,
    RecordLine,
    encode_lines,
    event_line,
    line_of,
    unstored_line,
)
from .tails import repair, whole_entries, whole_lines

JSON_NAME: Final = "events.json"
TEXT_NAME: Final = "events.log"
FILE_MODE: Final = 0o644
SLICE_RECORDS: Final = 250
"""Written at once: a millisecond or two, for which an urgent record may have to wait."""
UNPACKED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of a log that was compressed: more than a day has, and no more of what was made to be large."""
OPEN_DAYS_MAX: Final = 8
"""Day folders whose files stay open; a spool that comes late writes to old days."""


class Days(Protocol):
    """Which day a moment belongs to: the store's word, or a calendar's where there is no store."""

    def local(self, moment: str) -> tuple[str, str]:
        """Its day, and what the clock on the wall said: YYYY-MM-DD, YYYY-MM-DD HH:MM:SS. Raises WriteRefused."""

    def range_of(self, day: str) -> DayRange | None:
        """None: nothing is stored of that day. Raises WriteRefused."""


class _Log:
    """One open file. Whole appends, or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dirty = False
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
        self._fd = open_file(path, os.O_RDWR | os.O_APPEND)
        try:
            os.fchmod(self._fd, FILE_MODE)  # whatever the umask says: people read these
            repair(self._fd, whole_lines if path.name == JSON_NAME else whole_entries)
            mine = os.fstat(self._fd)
        except OSError:
            os.close(self._fd)
            raise
        self.is_empty = not mine.st_size
        self._identity = mine.st_dev, mine.st_ino
        # As texts: it is asked before each append.
        self._name, self._folder = os.fspath(path), os.fspath(path.parent)

    def append(self, data: bytes) -> None:
        """Raises OSError, and takes back what was written of `data`."""
        before = os.fstat(self._fd).st_size
        self.dirty = True
        self.is_empty = False
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
            there = os.lstat(self._name)
            return (there.st_dev, there.st_ino) == self._identity and stat.S_ISDIR(os.lstat(self._folder).st_mode)
        except OSError:
            return False

    @property
    def has_a_name(self) -> bool:
        """This one or another."""
        return os.fstat(self._fd).st_nlink > 0

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
        self._open: dict[str, dict[str, _Log]] = {}
        """By day and name. Each is opened, and fails, without the other."""
        self._failing: set[tuple[str, str]] = set()
        """Days and names of those that could not be opened, or written, when that was tried last."""
        self._noted: dict[str, DayRange] = {}
        """By day whose files are open: what was written of its range last."""
        self._backlog = Backlog()
        self._told: dict[str, Position] = {}
        """By producer: how far its records were written down while the database could not be written."""
        self.behind = False
        self.doubtful = False
        """An fsync may have failed since the store marked how far the logs are durable."""
        self._rewritten: set[str] = set()
        """Days that no failed fsync is behind any more."""
        self.unmarked = False
        """Something was added since the store marked how far the logs are durable."""

    def day_of(self, moment: str) -> str:
        """Raises WriteRefused."""
        return self._days.local(moment)[0]

    def range_of(self, day: str) -> DayRange | None:
        """Raises WriteRefused."""
        return self._days.range_of(day)

    # -- writing -----------------------------------------------------------------------------------------------------

    def add(self, changes: Changes, size: int) -> None:
        """What a committed transaction changed; `size` bytes of messages. Most of it is written later, by `write_some`.

        Nothing that looks at the files, or lets go of them, misses what waits: it is written before.
        """
        self._backlog.add(changes, size)
        self.unmarked |= bool(self._backlog)
        while self._backlog.over:
            self._write(self._backlog.take(SLICE_RECORDS))

    @property
    def waiting(self) -> bool:
        """Whether there is something for `write_some`."""
        return bool(self._backlog)

    @property
    def waiting_bytes(self) -> int:
        """About what the files will grow by."""
        return self._backlog.lines_bytes

    def write_some(self) -> None:
        """A slice of what waits."""
        self._write(self._backlog.take(SLICE_RECORDS))

    def write_all(self) -> None:
        """Everything that waits."""
        while self._backlog:
            self.write_some()

    def _write(self, changes: Iterable[Change]) -> None:
        lines: list[tuple[str, RecordLine]] = []
        for change in changes:
            if isinstance(change, EventsStored):
                ids, records, paths, now = change
                lines += [
                    (r.recorded_at, event_line(r, row_id, paths.get(row_id), now))
                    for row_id, r in zip(ids, records, strict=True)
                ]
            elif isinstance(change, DayRange):
                self._write_lines(lines)
                lines = []
                self.note(change)
            else:
                lines.append((_moment(change), line_of(change)))
        self._write_lines(lines)

    def note(self, found: DayRange) -> None:
        """A day's range, unless it is the last that was written of it."""
        if self._noted.get(found.day) != found:
            self._noted[found.day] = found
            self._append(found.day, encode_lines([DayLine(*found)]), b"")

    def write_unstored(self, chunks: Sequence[Chunk], now: str) -> None:
        """What came while the database cannot be written. Producers send it again and again: once each is enough."""
        lines = []
        for chunk in chunks:
            told = self._told.get(chunk.session.producer_id)
            for seq, record in enumerate(chunk.records, chunk.first.seq):
                if isinstance(record, Refusal) or (told and Position(chunk.first.epoch, seq) <= told):
                    continue
                line = unstored_line(record, now)
                lines.append((line.recorded_at if isinstance(line, (EventLine, ObservationLine)) else now, line))
            self._told[chunk.session.producer_id] = max(chunk.last, told or chunk.last)
        self.write_lines(lines)

    def writes_again(self) -> None:
        """The database can be written."""
        self._told.clear()

    def write_lines(self, lines: Sequence[tuple[str, RecordLine]], entered: Collection[str] = ()) -> None:
        """Each with the moment that it is of. `entered`: entries that events.log has already."""
        self.write_all()
        self._write_lines(lines, entered)

    def _write_lines(self, lines: Sequence[tuple[str, RecordLine]], entered: Collection[str] = ()) -> None:
        try:
            self._write_by_day(lines, entered)
        except WriteRefused as error:  # who asks the store for a day may find that it cannot be read
            self.behind = True
            self._failed(f"cannot tell which day a line is of: {error}")

    def _write_by_day(self, lines: Sequence[tuple[str, RecordLine]], entered: Collection[str]) -> None:
        by_day: defaultdict[str, tuple[list[RecordLine], list[str]]] = defaultdict(lambda: ([], []))
        local, entry_of, debug = self._days.local, text.entry, self._debug_line
        for moment, line in lines:
            day, time = local(moment)
            some, entries = by_day[day]
            some.append(line)
            entry = entry_of(line, local(line.at)[1] if type(line) is AmendmentLine else time, debug=debug)
            if not entered or entry not in entered:
                entries.append(entry)
        for day, (some, entries) in by_day.items():
            # Lone surrogates cannot come in: msgpack's text is UTF-8.
            self._append(day, encode_lines(some), "".join(entries).encode())

    def _append(self, day: str, lines: bytes, entries: bytes) -> None:
        for name, data in ((JSON_NAME, lines), (TEXT_NAME, entries)):
            if not data:
                continue
            try:
                log = self._log_of(day, name)
                if name == JSON_NAME and log.is_empty:
                    data = self._range_line(day) + data
                log.append(data)
                self._grew(day, len(data))
            except OSError as error:
                self.missed(error, self._data_dir / EVENTS / day / name)
                self._close(day, name)  # opened again, a torn line is cut off
                self._failing.add((day, name))

    def _range_line(self, day: str) -> bytes:
        """For one that is begun: a folder that was removed, and is made again, has to tell its range too."""
        if day in self._noted or (found := self._days.range_of(day)) is None:
            return b""
        self._noted[day] = found
        return encode_lines([DayLine(*found)])

    def missed(self, error: OSError, path: Path | None = None) -> None:
        """Something could not be written, or compared."""
        self.behind = True
        self._failed(f"cannot write {path or error.filename or self._data_dir / EVENTS}: {error.strerror}")

    def _log_of(self, day: str, name: str) -> _Log:
        """Raises OSError."""
        logs = self._open.pop(day, {})
        if name in logs and not logs[name].is_in_place():
            # What it had since the mark went with it, unless logrotate only gave events.log another name.
            self.behind |= name == JSON_NAME or not self._was_moved(logs[name])
            self._open[day] = logs
            self._close(day, name)
            logs = self._open.pop(day, {})
        if not logs and len(self._open) >= OPEN_DAYS_MAX:
            oldest = next(iter(self._open))
            self._sync_day(oldest)
            self._close(oldest)
        self._open[day] = logs
        if name not in logs:
            logs[name] = _Log(make_folder(self._data_dir, f"{EVENTS}/{day}") / name)
            self._failing.discard((day, name))
        self.unmarked = True
        return logs[name]

    def _was_moved(self, log: _Log) -> bool:
        """Whether all of it is there, durable, under another name."""
        try:
            log.sync()
        except OSError:
            self._doubt()
            return False
        return log.has_a_name

    @property
    def can_catch_up(self) -> bool:
        """Whether all that could not be written can be opened now: else the next comparison would end as the last."""
        for day, name in sorted(self._failing):
            try:
                self._log_of(day, name)
            except OSError as error:
                self.missed(error, self._data_dir / EVENTS / day / name)
                self._close(day, name)
        return not self._failing

    # -- durability --------------------------------------------------------------------------------------------------

    def sync(self) -> bool:
        """Make durable what was written; False when that failed. It takes an fsync a file: not for every batch."""
        self.write_all()
        try:
            for day in list(self._open):
                self._sync_day(day)
        except OSError as error:
            self.missed(error)
            return False
        return True

    def _sync_day(self, day: str) -> None:
        logs = self._open[day].values()
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
            self.missed(error)
            return []
        for day in days:
            for name, whole in ((JSON_NAME, whole_lines), (TEXT_NAME, whole_entries)):
                try:
                    fd = os.open(self._data_dir / EVENTS / day / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.missed(error)
                    continue
                try:
                    if repair(fd, whole, before_loss if name == JSON_NAME else None):
                        torn.append(day)
                except OSError as error:
                    self.missed(error, Path(day, name))
                finally:
                    os.close(fd)
        return sorted(set(torn))

    def lines_of(self, day: str) -> list[Line]:
        """All lines of a day that can be read. Raises OSError."""
        self.write_all()
        return read_lines(self._data_dir / EVENTS / day / JSON_NAME)

    def lines_to_keep(self, day: str) -> list[Line]:
        """The same, durable by now: what an earlier session wrote may be in the page cache alone. Raises OSError."""
        self.write_all()
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
        self.write_all()
        lines = read_lines(self._data_dir / EVENTS / day / JSON_NAME, b'{"kind":"person"')
        return [line for line in lines if isinstance(line, PersonLine)]

    def event_ids_of(self, day: str) -> set[str]:
        """Events that its lines know as stored. Raises OSError."""
        return {line.event_id for line in self.lines_of(day) if isinstance(line, EventLine) and line.stored}

    def entries_of(self, day: str) -> set[str]:
        """All entries of a day's events.log, and of what logrotate made of it there. Raises OSError."""
        self.write_all()
        folder = self._data_dir / EVENTS / day
        entries: set[str] = set()
        for path in (folder / TEXT_NAME, *folder.glob(f"{TEXT_NAME}[.-]*")):
            try:
                text = _text_of(path)
            except (FileNotFoundError, Odd):
                continue
            except OSError:
                if path.name == TEXT_NAME:
                    raise
                continue  # somebody else's
            entries.update(f"{part}\n\n" for part in text.split("\n\n"))
        return entries

    def entry(self, line: EventLine | ObservationLine) -> str:
        """As events.log has it."""
        return text.entry(line, self._days.local(line.recorded_at)[1], debug=self._debug_line)

    def append_entry(self, day: str, entry: str) -> None:
        self.write_all()
        self._append(day, b"", entry.encode())

    def close(self, day: str) -> None:
        """Let go of a day's files."""
        self.write_all()
        self._close(day)

    def _close(self, day: str, name: str | None = None) -> None:
        """One of its files, None: all."""
        logs = self._open.pop(day, {})
        if name in (None, JSON_NAME):
            self._noted.pop(day, None)
        for one in [name] if name else list(logs):
            if log := logs.pop(one, None):
                log.close()
        if logs:
            self._open[day] = logs

    def close_all(self) -> None:
        """What waits is left to the next start, as after a crash."""
        for day in list(self._open):
            self._close(day)


def _text_of(path: Path) -> str:
    """Nothing of a `.gz` that is none. Raises OSError, Odd."""
    with open(open_file(path), "rb") as file:
        if path.suffix != ".gz":
            return file.read().decode(errors="replace")
        import gzip  # hardly anybody has such
        import zlib

        try:
            with gzip.open(file) as unpacked:
                return unpacked.read(UNPACKED_BYTES_MAX).decode(errors="replace")
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return ""


def _moment(change: RecordChange) -> str:
    if isinstance(change, ObservationStored):
        return change.observation.recorded_at
    return change.subject.recorded_at if isinstance(change, (EventAmended, ThumbnailSet)) else change.at

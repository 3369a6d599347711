"""Copies the whole store to another place, consistent as of one moment, while the daemon runs or not.

The order makes it consistent: the marks of the day logs, how long the logs are, the database; then the logs up to
there, pictures, what waits. So the logs have nothing that the database lacks, and the daemon that starts on the copy
compares what the logs may lack of the database: the marks in the copy are those that were read first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sightlog.protocol.encoding import format_time
from sightlog.records import now_utc
from sightlogd.daylogs.days import EVENTS, folders, unfinished
from sightlogd.directory import Odd, open_file
from sightlogd.errors import EXIT_IO_ERROR, EXIT_STORAGE_FULL, EXIT_TRY_AGAIN, Stop
from sightlogd.store import DATABASE, lock
from sightlogd.store.tools import copying
from sightlogd.store.tools.copying import Damaged
from sightlogd.store.tools.view import View
from sightlogd.units import gigabytes

from . import io, source
from .copier import Copier, Report, Show
from .manifest import MODE, End, Entry, Former
from .target import KEPT, Target

VIEWS_MAX: Final = 1_000
"""Taken before anything is copied; a day that is removed just then costs one."""


class Backup:
    """`run` once. `show` is told what is being done, `tell` what somebody has to know. Raises Stop."""

    def __init__(self, data_dir: Path, directory: Path, show: Show, tell: Show) -> None:
        self._data_dir = data_dir
        self._directory = directory
        self._show = show
        self._tell = tell
        self._report = Report()

    def run(self) -> Report:
        now = format_time(now_utc())
        database = self._data_dir / DATABASE
        try:
            view = copying.open_view(database)
            created = copying.created_of(view)
        except Damaged as error:
            with self._target("", now) as target:
                self._rescue(target, str(error), now)
            return self._report
        except OSError as error:
            raise Stop(EXIT_IO_ERROR, f"cannot read {database}: {error.strerror}. {KEPT}. Look at that disk") from error
        with contextlib.closing(view), self._target(created, now) as target:
            try:
                self._check_room(target, view)
                with contextlib.ExitStack() as held:
                    self._take(target, view, held)
            except Damaged as error:
                target.abandon()
                self._rescue(target, str(error), now)
            except BaseException:
                with contextlib.suppress(OSError):
                    target.abandon()
                raise
        return self._report

    @contextlib.contextmanager
    def _target(self, created: str, now: str) -> Iterator[Target]:
        target = Target(self._directory, self._data_dir, created, now)
        try:
            with io.explained(self._directory, KEPT):
                yield target
        finally:
            target.close()

    def _check_room(self, target: Target, view: View) -> None:
        """Before hours of copying. Raises Damaged, OSError, Stop."""
        need = copying.bytes_of(view)
        block = os.statvfs(self._directory).f_frsize
        former = Former(target.former)
        for day in folders(self._data_dir):
            known = former.day(day)
            # What cannot be read is told when it is copied.
            with contextlib.suppress(OSError), contextlib.ExitStack() as held:
                found = held.enter_context(source.opened(self._data_dir, f"{EVENTS}/{day}"))[1]
                for file in found:
                    entry = known.get(f"{EVENTS}/{day}/{file.name}")
                    if entry is None or (file.size, file.mtime_ns) != (entry.size, entry.mtime_ns):
                        there = entry.size if entry and file.name in source.LOGS else 0
                        need += -(-max(0, file.size - there) // block) * block
        free = io.free_bytes(self._directory)
        if need > free:
            raise Stop(
                EXIT_STORAGE_FULL,
                f"no room in {self._directory}: {gigabytes(need)} are to be copied (the database beside the former "
                f"one), and {gigabytes(free)} are free. Nothing was changed. Make room, or give a larger disk",
            )

    # -- copying -----------------------------------------------------------------------------------------------------

    def _take(self, target: Target, view: View, held: contextlib.ExitStack) -> None:
        """`held` lets the day folders go. Raises Damaged, OSError, Stop."""
        report = self._report
        place = target.begin_database()
        for _ in range(VIEWS_MAX):
            marks, amended = copying.marks_of(view)
            held.close()
            noted = source.note_days(self._data_dir, held)
            leaving = [day.folder.name for day in unfinished(self._data_dir)]
            with copying.moment(view):
                taken_at = now_utc()
                # So a day that is not there later went behind the view, with all that the view has of it.
                if all(day.folder.is_in_place() for day in noted.values()):
                    copying.copy(view, place, self._show_copying)
                    break
        else:
            raise Stop(EXIT_TRY_AGAIN, f"days are removed without end. {KEPT}. Try again when the purge has ended")
        behind = set(source.events_behind(self._data_dir, noted))
        self._show("database: looking whether the copy is sound")
        report.schema = copying.finish(view, place, marks, amended, behind)
        writer = target.begin_manifest()
        try:
            with copying.opened(place) as copy:
                report.events, report.observations = copy.count("events"), copy.count("observations")
                copier = Copier(self._data_dir, target, report, self._show, copy, taken_at.timestamp())
                copier.copy_incoming()
                former = Former(target.former)
                for day in sorted({*noted, *folders(self._data_dir)}):
                    entries = list(copier.copy_day(day, noted.get(day), former.day(day)))
                    if day in noted and not noted[day].folder.is_in_place():
                        self._tell(f"{day} was removed while it was copied, and is not in the backup")
                        leaving.append(f"{day}.{copy.last_id()}")
                        # Lines of the persons in there were carried over to a log, behind what is copied of it.
                        marks["person"] = 0
                        continue
                    for entry in entries:
                        writer.add(entry)
                    report.days += 1
            if copier.lacks_lines:  # the daemon that starts on the copy has to compare all of them
                marks = dict.fromkeys(marks, 0)
            if marks["person"] == 0:
                copying.finish(view, place, marks, amended, behind)
            writer.add(self._entry_of(target))
            for _, entry in sorted(copier.waiting.items()):
                writer.add(entry)
            end = End(
                format_time(taken_at), writer.files, writer.bytes, report.events, report.observations, report.days,
                leaving,
            )  # fmt: skip
            self._show("making it durable")
            target.commit(writer, end)
        finally:
            writer.close()
        report.bytes = writer.bytes
        report.other = target.kept
        there = set(folders(self._data_dir))
        report.kept = [day for day in target.days() if day not in there]

    def _show_copying(self, done: int, of: int) -> None:
        self._show(f"database: {gigabytes(done)} of {gigabytes(of)}")

    def _entry_of(self, target: Target) -> Entry:
        try:
            entry = target.entry_of_database()
        except io.Unreadable as error:
            raise Stop(
                EXIT_IO_ERROR, f"cannot read {self._directory / DATABASE}: {error}. {KEPT}. Look at that disk"
            ) from error
        self._report.copied += 1
        self._report.copied_bytes += entry.size
        return entry

    # -- a damaged database ------------------------------------------------------------------------------------------

    def _rescue(self, target: Target, finding: str, now: str) -> None:
        """All there is, beside the former backup. Raises OSError."""
        report = self._report = Report(damage=finding, has_former=target.former.end is not None)
        stamp = "".join(letter for letter in now[:19] if letter not in "-:")
        target.aside = f"damaged-{stamp.lower()}"
        copier = Copier(self._data_dir, target, report, self._show, None, 0)
        former = Former(target.former)
        with contextlib.ExitStack() as held:
            for day, noted in source.note_days(self._data_dir, held).items():
                report.days += 1
                for _ in copier.copy_day(day, noted, former.day(day)):
                    pass  # in no manifest: the former one stays
        copier.copy_incoming()
        if not lock.is_held(self._data_dir):
            report.aside = self._directory / target.aside
            for name in (DATABASE, f"{DATABASE}-wal"):
                self._copy_raw(name, target, f"{target.aside}/{name}")
        io.sync(target.held)

    def _copy_raw(self, name: str, target: Target, path: str) -> None:
        try:
            fd = open_file(self._data_dir / name)
        except FileNotFoundError:
            return
        except Odd as error:
            self._report.unreadable.append(f"{name}: {error.strerror}")
            return
        try:
            to = target.held.create(path, MODE)
            try:
                size = io.read_into(fd, os.fstat(fd).st_size, hashlib.sha256(), lambda data: io.write_all(to, data))
            except io.Unreadable as error:
                self._report.unreadable.append(f"{name}: {error}")
                size = os.fstat(to).st_size
            finally:
                os.close(to)
        finally:
            os.close(fd)
        self._report.copied += 1
        self._report.copied_bytes += size

"""What the data directory takes, kept up to date as it grows; and a little room put by for a full disk."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from sightlogd.config import Storage as Limits
from sightlogd.daylogs.days import EVENTS, folders, is_day
from sightlogd.daylogs.own import is_own
from sightlogd.directory import open_file
from sightlogd.durable import FILE_MODE, allocated
from sightlogd.store import DATABASE, WAL_BYTES_KEPT
from sightlogd.units import GB

from .policy import StorageStats, measured

RESERVE_FILE: Final = "ballast"
RESERVE_BYTES: Final = 8 * 1024 * 1024
"""A checkpoint and the first slices of a purge find room in it when a disk is completely full."""
ENTRIES_A_SLICE: Final = 500


class Storage:
    """`recount` is needed once before `measure` says the truth; what grows in between is added as it comes."""

    def __init__(self, data_dir: Path, limits: Limits) -> None:
        self._data_dir = data_dir
        self.days: dict[str, int] = {}
        """Bytes in each day's folder that go with the day."""
        self._foreign: dict[str, int] = {}
        """Bytes that do not, in those which have something of others."""
        self.files: dict[str, int] = {}
        """How many of those there are."""
        self._rest = 0
        self._rest_files = 0
        self.free_files: int | None = None
        """Inodes that its file system has left, when it was measured last; None: it does not count them."""
        self.free_bytes = 0
        """Of the file system, when it was measured last."""
        self.wal_excess = 0
        """Bytes that the WAL gives back by itself, once no reader holds up the checkpoint."""
        self._reserve = data_dir / RESERVE_FILE
        self._promised = 0
        """Bytes of the reserve file that was there, and has to be there again."""
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """These hold from now on."""
        self._limits = limits
        self._size_limited = int(limits.max_storage_gb * GB)
        self._reserve_bytes = min(RESERVE_BYTES, self._size_limited // 100)

    # -- counting ----------------------------------------------------------------------------------------------------

    def recount(self) -> Iterator[None]:
        """Look at every file, in slices. What a day grows by while it is looked at may be missed until the next."""
        for day in folders(self._data_dir):
            yield from self.recount_day(day)
            yield
        there = set(folders(self._data_dir))
        self.days = {day: size for day, size in self.days.items() if day in there}
        self.files = {day: count for day, count in self.files.items() if day in there}
        self._foreign = {day: size for day, size in self._foreign.items() if day in there}
        self.recount_rest()

    def recount_day(self, day: str) -> Iterator[None]:
        """In slices."""
        own, files, foreign = yield from _sizes(self._data_dir / EVENTS / day)
        self.days[day], self.files[day] = own, files
        self._foreign.pop(day, None)
        if foreign is not None:
            self._foreign[day] = foreign

    def recount_rest(self) -> None:
        """Metrics, pictures that wait, what is being removed: few files, so all at once."""
        total = count = 0
        for folder, folders_there, files in os.walk(self._data_dir):
            if folder == os.fspath(self._data_dir / EVENTS):
                folders_there[:] = [name for name in folders_there if not is_day(name)]
            if folder == os.fspath(self._data_dir):
                files = [name for name in files if name not in (DATABASE, f"{DATABASE}-wal", RESERVE_FILE)]
            total += sum(allocated(os.path.join(folder, name)) for name in files)
            count += len(files)
        self._rest, self._rest_files = total, count

    def grew(self, day: str, count: int, files: int = 0) -> None:
        """A day's files by so many bytes, and by so many."""
        self.days[day] = self.days.get(day, 0) + count
        self.files[day] = self.files.get(day, 0) + files

    def forget(self, day: str) -> None:
        """Its folder is gone."""
        self.days.pop(day, None)
        self.files.pop(day, None)
        self._foreign.pop(day, None)

    def is_foreign(self, day: str) -> bool:
        """Whether nothing that is in its folder goes with it: what is left of a day that was removed."""
        return day in self._foreign and not self.days.get(day)

    def measure(self, database_bytes: int, waiting_bytes: int) -> StorageStats:
        """O(days). `database_bytes`: what the database needs as of the last commit; `waiting_bytes`: what the day logs
        will grow by. Raises OSError."""
        # Until the next checkpoint the file has not grown yet, or not shrunk yet.
        database = min(database_bytes, allocated(self._data_dir / DATABASE))
        wal = allocated(self._data_dir / f"{DATABASE}-wal")
        self.wal_excess = max(0, wal - WAL_BYTES_KEPT)
        # Room that was given up for a purge is not room for records.
        reserve = allocated(self._reserve)
        used = sum(self.days.values()) + sum(self._foreign.values()) + waiting_bytes + self._rest
        used += database + wal + max(reserve, self._promised)
        disk = os.statvfs(self._data_dir)
        self.free_bytes = max(0, disk.f_bavail * disk.f_frsize - max(0, self._promised - reserve))
        files = sum(self.files.values()) + self._rest_files
        self.free_files = _free_inodes(self._data_dir)
        keep_free = int(self._limits.keep_free_gb * GB)
        return measured(used, self._size_limited, self.free_bytes, keep_free, files, self.free_files)

    # -- reserve file
    # -----------------------------------------------------------------------------------------------------

    def has_reserve(self) -> bool:
        with contextlib.suppress(OSError):
            return _is_ours(self._reserve.lstat()) and allocated(self._reserve) >= self._reserve_bytes
        return False

    def make_reserve(self) -> bool:
        """Put the room by; False when the disk has none, or another file is there."""
        # Never through a link: what it leads to would grow, and count as room.
        try:
            try:
                fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            except FileExistsError:
                fd = open_file(self._reserve, os.O_WRONLY)
        except OSError:
            return False
        try:
            if not _is_ours(os.fstat(fd)):
                return False
            os.posix_fallocate(fd, 0, max(self._reserve_bytes, 1))
        except OSError:
            self.drop_reserve()
            return False
        finally:
            os.close(fd)
        self._promised = self._reserve_bytes
        return True

    def drop_reserve(self) -> None:
        """Give the room up, to make more; a file that is not ours stays."""
        with contextlib.suppress(OSError):
            if _is_ours(self._reserve.lstat()):
                self._reserve.unlink()


def _is_ours(there: os.stat_result) -> bool:
    """Neither a link, nor another name of a file that is elsewhere."""
    return stat.S_ISREG(there.st_mode) and there.st_nlink == 1


def _free_inodes(data_dir: Path) -> int | None:
    """Where the day folders are; None where they are not counted, as on btrfs and FAT."""
    for place in (data_dir / EVENTS, data_dir):
        with contextlib.suppress(OSError):
            disk = os.statvfs(place)
            return disk.f_favail if disk.f_files else None
    return None


def _sizes(folder: Path) -> Generator[None, None, tuple[int, int, int | None]]:
    """What a folder and its files take, without folders in it: what is ours and how many files, and what is not, None
    when all is ours.

    What may not be looked at is not counted.
    """
    own, files, foreign = 0, 0, None
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        user_id = os.lstat(folder).st_uid
        for number, entry in enumerate(entries, 1):
            if is_own(entry, user_id):
                own += allocated(entry.path)
                files += 1
            else:
                foreign = (foreign or 0) + (0 if entry.is_dir(follow_symlinks=False) else allocated(entry.path))
            if number % ENTRIES_A_SLICE == 0:
                yield
    if foreign is None:
        return own + allocated(folder), files, None
    return own, files, foreign + allocated(folder)

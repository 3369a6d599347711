"""Removes a day: its folder and its rows go together, in slices. What a crash interrupts is finished at the next start.

The folder is renamed to `events/trash/DAY.ID` first: that is the durable word that the day goes, with the events up to
ID; what comes for that day afterwards stays. Then its files go (on a full disk only that makes room), then the rows,
then the index of texts is written anew without them, once that is a tenth of all, and the database's file shrinks.

What somebody else put into the folder gets back to `events/DAY`, where it was, and stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Final

import structlog

from sightlogd import durable
from sightlogd.daylogs.days import EVENTS, TRASH, Leaving, folders, make_folder
from sightlogd.daylogs.own import event_of, is_own
from sightlogd.daylogs.writer import DayLogs
from sightlogd.directory import Directory
from sightlogd.errors import WriteRefused
from sightlogd.store import Store

log = structlog.get_logger()

SLICE_SECONDS: Final = 0.02
"""What a slice may take: the loop waits for it."""
FILES_A_SLICE: Final = 100
KEPT: Final = ".kept"
"""Ends the name of a folder in TRASH whose day is gone, and in which there is what cannot be moved out of it."""


class Pace:
    """How much to do at once so that it takes about SLICE_SECONDS; never less than at first.

    A slow card's fsync takes longer than that by itself: a transaction for a row each would only wear it out.
    """

    def __init__(self, count: int) -> None:
        self.count = self._least = count
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.monotonic()

    def end(self) -> None:
        took = time.monotonic() - self._began
        if took > SLICE_SECONDS:
            self.count = max(self._least, self.count // 2)
        elif took < SLICE_SECONDS / 4:
            self.count *= 2


class Immovable(OSError):
    """A day's folder that stays where it is: a mount, or one with chattr +i. No fault of any other day."""


def begin(data_dir: Path, day: str, store: Store, logs: DayLogs, now: str) -> Leaving:
    """From here on the day goes. Raises OSError, Immovable, and nothing has happened then."""
    folder = data_dir / EVENTS / day
    trash = make_folder(data_dir, TRASH)
    target = trash / f"{day}.{store.last_id()}"
    logs.write_all()  # what waits for this day goes with it, and would make its folder anew
    if _is_folder(folder):
        _carry_over(day, logs, now)
        logs.close(day)
        try:
            os.rename(folder, target)
        except OSError as error:
            if durable.is_full(error) or error.errno == errno.EIO:
                raise
            why = "it is a mount" if error.errno in (errno.EBUSY, errno.EXDEV) else error.strerror
            raise Immovable(error.errno, why, os.fspath(folder)) from error
        durable.sync(trash)
        durable.sync(folder.parent)
    else:  # gone; or a link, and what that leads to is not ours
        target.mkdir()
        durable.sync(trash)
    return Leaving(day, store.last_id(), target)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _carry_over(day: str, logs: DayLogs, now: str) -> None:
    """Persons that became known that day do not go with it."""
    kept = [(now, line) for line in logs.persons_of(day) if line.stored]
    if kept:
        logs.write_lines(kept)
        if not logs.sync():
            raise OSError("the day logs cannot be written")


def finish(leaving: Leaving, store: Store) -> Generator[None, None, int]:
    """The rest, a slice at a time. Returns how many files of others stay, in `events/DAY`.

    Raises OSError, WriteRefused, Stop; `unfinished` finds it again then.
    """
    kept = yield from _clear(leaving, store)
    pace = Pace(50)
    deleted = -1
    while deleted:
        pace.begin()
        there = folders(leaving.folder.parents[2])
        deleted = store.delete_of(leaving.day, leaving.up_to_id, pace.count, there)
        pace.end()
        store.checkpoint_if_due()
        yield
    # Without room for that the index stays as it is until the next day goes: nothing else may wait for it.
    with contextlib.suppress(WriteRefused):
        if store.wants_merge:
            yield from _merge_texts(store)
    _forget(leaving.folder)
    pace, left = Pace(50), -1
    while left:
        pace.begin()
        before, left = left, store.give_back(pace.count)
        pace.end()
        store.checkpoint_if_due()
        yield
        if left == before:
            break  # not one page could be given back
    store.checkpoint()
    return kept


def kept_files(number: int, day: str) -> str:
    """What to say of the files that `finish` counted."""
    return f"{number} files that sightlog did not make stay in {EVENTS}/{day}"


def _forget(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # A directory of another user cannot be moved out by its own. Without a name of that kind it is no day any more.
        if not any(folder.iterdir()):
            raise
        os.rename(folder, f"{folder}{KEPT}")
    durable.sync(folder.parent)


def _merge_texts(store: Store) -> Iterator[None]:
    pace = Pace(50)
    begin = more = True
    while more:
        pace.begin()
        more = store.merge_texts(pace.count, begin=begin)
        pace.end()
        begin = False
        store.checkpoint_if_due()
        yield


def _clear(leaving: Leaving, store: Store) -> Generator[None, None, int]:
    """What the daemon made goes, and all else back to where it was, as it is: neither followed nor looked into."""
    stay: set[str] = set()
    kept = number = 0
    data_dir = leaving.folder.parents[2]
    with Directory(data_dir) as data, data.folder(f"{TRASH}/{leaving.folder.name}") as folder:
        user_id = os.fstat(folder.fd).st_uid
        is_empty = False
        while not is_empty:  # a file system may leave some out while others are removed
            is_empty = True
            for entry in folder.list():
                if entry.name in stay:
                    continue
                is_empty = False
                if is_own(entry, user_id) or _has_row(entry, leaving.day, store):
                    if not _remove(entry.name, folder):
                        stay.add(entry.name)
                else:
                    kept += 1
                    if not _move_back(entry.name, folder, data, f"{EVENTS}/{leaving.day}"):
                        stay.add(entry.name)
                if (number := number + 1) % FILES_A_SLICE == 0:
                    yield
            yield
        if kept:
            with contextlib.suppress(FileNotFoundError):  # none could be moved there
                durable.sync(data_dir / EVENTS / leaving.day)
    return kept


def _remove(name: str, folder: Directory) -> bool:
    """Whether it is gone. What cannot be removed, as a file with chattr +i, holds up nothing else. Raises OSError."""
    try:
        folder.remove(name)
    except OSError as error:
        if durable.is_full(error) or error.errno == errno.EIO:
            raise
        path = f"{folder.path}/{name}"
        log.error("cannot remove a file of a day that goes; it stays", path=path, reason=error.strerror)
        return False
    return True


def _has_row(entry: os.DirEntry[str], day: str, store: Store) -> bool:
    """Whether it is the picture of an event, whoever owns the file."""
    if event_of(entry.name) is None or not entry.is_file(follow_symlinks=False):
        return False
    return bool(store.known_thumbnails([f"{EVENTS}/{day}/{entry.name}"]))


def _move_back(name: str, folder: Directory, data: Directory, to: str) -> bool:
    """Whether it is in `to` now; never in the place of something else. What cannot be moved stays where it is."""
    try:
        with data.make_folder(to) as day:
            free = next(free for n in count() if day.lstat(free := f"{name}.{n}" if n else name) is None)
            os.rename(name, free, src_dir_fd=folder.fd, dst_dir_fd=day.fd)
    except OSError as error:
        log.warning("cannot move back what is not ours; it stays", path=f"{folder.path}/{name}", reason=error.strerror)
        return False
    return True

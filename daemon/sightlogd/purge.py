"""Removes a day: its folder and its rows go together, in slices. What a crash interrupts is finished at the next start.

The folder is renamed to `trash/DAY.ID` first: that is the durable word that the day goes, with the events up to ID;
what comes for that day afterwards stays. Then its files go (on a full disk only that makes room), then the rows, then
the index of texts is written anew without them, once that is a tenth of all, and the database's file shrinks.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from . import durable
from .errors import WriteRefused
from .files.daylog import DayLogs
from .files.days import EVENTS, Days, folders, is_day
from .store import Store

TRASH: Final = "trash"
SLICE_SECONDS: Final = 0.02
"""What a slice may take: the loop waits for it."""
FILES_A_SLICE: Final = 100
is_leaving = re.compile(r"(.{10})\.(\d{1,18})").fullmatch


class Leaving(NamedTuple):
    """A day on its way out."""

    day: str
    up_to_id: int
    folder: Path


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


def unfinished(data_dir: Path) -> list[Leaving]:
    """Days whose removal was interrupted."""
    with contextlib.suppress(OSError):
        folders = (data_dir / TRASH).iterdir()
        found = ((path, is_leaving(path.name)) for path in sorted(folders) if path.is_dir())
        return [Leaving(match[1], int(match[2]), path) for path, match in found if match and is_day(match[1])]
    return []


def begin(data_dir: Path, day: str, store: Store, logs: DayLogs, now: str) -> Leaving:
    """From here on the day goes. Raises OSError, and nothing has happened then."""
    folder = data_dir / EVENTS / day
    trash = data_dir / TRASH
    durable.make_directories(trash)
    target = trash / f"{day}.{store.last_id()}"
    logs.write_all()  # what waits for this day goes with it, and would make its folder anew
    if folder.is_dir():
        _carry_over(day, logs, now)
        logs.close(day)
        os.rename(folder, target)
        durable.sync(trash)
        durable.sync(folder.parent)
    else:
        target.mkdir()
        durable.sync(trash)
    return Leaving(day, store.last_id(), target)


def _carry_over(day: str, logs: DayLogs, now: str) -> None:
    """Persons that became known that day do not go with it."""
    kept = [(now, line) for line in logs.persons_of(day) if line.stored]
    if kept:
        logs.write_lines(kept)
        if not logs.sync():
            raise OSError("the day logs cannot be written")


def finish(leaving: Leaving, store: Store, days: Days) -> Iterator[None]:
    """The rest, a slice at a time. Raises OSError, WriteRefused, Stop; `unfinished` finds it again then."""
    yield from _remove_files(leaving.folder)
    first, after = days.range_of(leaving.day)
    pace = Pace(50)
    deleted = -1
    while deleted:
        pace.begin()
        there = folders(leaving.folder.parents[1])
        deleted = store.delete_between(first, after, leaving.up_to_id, pace.count, there)
        pace.end()
        store.checkpoint_if_due()
        yield
    # Without room for that the index stays as it is until the next day goes: nothing else may wait for it.
    with contextlib.suppress(WriteRefused):
        if store.wants_merge:
            yield from _merge_texts(store)
    leaving.folder.rmdir()
    durable.sync(leaving.folder.parent)
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


def _remove_files(folder: Path) -> Iterator[None]:
    """All of what is in it; somebody may have put folders there."""
    while True:
        with os.scandir(folder) as entries:
            some = list(islice(entries, FILES_A_SLICE))
        if not some:
            return
        for entry in some:
            if entry.is_dir(follow_symlinks=False):
                yield from _remove_files(Path(entry.path))
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
        yield

"""A disk between two power cuts: what its medium has for certain, what may be on it besides, and images of it.

What was written before the last fsync of its file is there, and so are the names of a directory that was fsynced. Of
everything else any part may be: a write whole, not at all, or torn at 512 bytes; a longer file with zeros where the
data did not come; names in any order that keeps those of one entry in theirs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = 0
SECTOR: Final = 512


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Cut(NamedTuple):
    """The file's size is another one."""

    file: int
    size: int


class Sync(NamedTuple):
    file: int


class SyncFailed(NamedTuple):
    """The kernel takes the pages for clean, and the medium does not have them."""

    file: int


class Names(NamedTuple):
    """Entries (directory, name) get another file, or none; all of them at once."""

    changes: tuple[tuple[int, str, int | None], ...]
    after_last: bool = False
    """Not without the change of names before it: a file that moves is never nowhere."""


class SyncNames(NamedTuple):
    directory: int


class SyncAll(NamedTuple):
    """syncfs(2)"""


class Mark(NamedTuple):
    """Nothing that the disk sees: what the world was told."""

    what: object


Entry = Write | Cut | Sync | SyncFailed | Names | SyncNames | SyncAll | Mark


@dataclass
class Log:
    """What was done to a disk that had `names` and `data` at first. `directories` are all there ever were."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    data: dict[int, bytes] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)


class Medium:
    """Fed with the entries of a log in their order; `image` at any moment."""

    def __init__(self, log: Log) -> None:
        self._names = {directory: dict(entries) for directory, entries in log.names.items()}
        self._data = {file: bytearray(data) for file, data in log.data.items()}
        self._writes: dict[int, list[Write | Cut]] = {}
        self._changes: list[Names] = []
        self._journaled = 0
        """How many of the changes a journal that keeps their order would have."""

    def feed(self, entry: Entry, choose: random.Random) -> None:
        if isinstance(entry, (Write, Cut)):
            self._writes.setdefault(entry.file, []).append(entry)
        elif isinstance(entry, Sync):
            for write in self._writes.pop(entry.file, ()):
                _apply(self._data.setdefault(entry.file, bytearray()), write)
        elif isinstance(entry, SyncAll):
            for file in [*self._writes]:
                self.feed(Sync(file), choose)
            self._keep(set(range(len(self._changes))))
        elif isinstance(entry, SyncFailed):
            # Written back before, or lost for good: nobody writes them again.
            lost = self._writes.pop(entry.file, [])
            if choose.random() < 0.5:
                self._data[entry.file] = _some(lost, choose, self._data.get(entry.file, b""))
        elif isinstance(entry, Names):
            self._changes.append(entry)
        elif isinstance(entry, SyncNames):
            self._keep(self._with_what_they_need({n for n, c in enumerate(self._changes) if _is_of(c, entry)}))

    def _with_what_they_need(self, wanted: set[int]) -> set[int]:
        """Changes of one name are kept in their order, and a move's end not without its beginning."""
        needed: set[tuple[int, str]] = set()
        kept = set()
        follows = False
        for number in range(len(self._changes) - 1, -1, -1):
            change = self._changes[number]
            places = {(directory, name) for directory, name, _ in change.changes}
            if follows or number in wanted or places & needed:
                kept.add(number)
                needed |= places
                follows = change.after_last
        return kept

    def _keep(self, numbers: set[int]) -> None:
        for number in sorted(numbers):
            _rename(self._names, self._changes[number])
        self._journaled = max((n + 1 - len([m for m in numbers if m <= n]) for n in numbers), default=self._journaled)
        self._changes = [change for number, change in enumerate(self._changes) if number not in numbers]

    def image(self, choose: random.Random) -> dict[str, bytes | None]:
        """Paths and what is in them, None for a directory; a directory comes before what is in it."""
        names = self._names
        if self._changes:
            names = {directory: dict(entries) for directory, entries in names.items()}
            if choose.random() < 0.5:  # as a journal would
                kept = set(range(choose.randint(min(self._journaled, len(self._changes)), len(self._changes))))
            else:
                share = choose.choice((0.0, 0.2, 0.5, 0.8))
                kept = {number for number in range(len(self._changes)) if choose.random() < share}
            for number in sorted(self._with_what_they_need(kept)):
                _rename(names, self._changes[number])
        found: dict[str, bytes | None] = {}
        self._walk(names, ROOT, "", found, choose)
        return found

    def _walk(
        self,
        names: dict[int, dict[str, int]],
        directory: int,
        path: str,
        found: dict[str, bytes | None],
        choose: random.Random,
    ) -> None:
        for name, there in names[directory].items():
            if there in self._names or there in names:
                found[path + name] = None
                self._walk(names, there, f"{path}{name}/", found, choose)
            else:
                data = self._data.get(there, b"")
                writes = self._writes.get(there)
                found[path + name] = _some(writes, choose, data) if writes else data


def _is_of(change: Names, entry: SyncNames) -> bool:
    return any(directory == entry.directory for directory, _, _ in change.changes)


def _rename(names: dict[int, dict[str, int]], change: Names) -> None:
    for directory, name, there in change.changes:
        if there is None:
            names[directory].pop(name, None)
        else:
            names[directory][name] = there


def _apply(data: bytearray, write: Write | Cut) -> None:
    if isinstance(write, Write):
        _reach(data, write.offset)
        data[write.offset : write.offset + len(write.data)] = write.data
    else:
        del data[write.size :]
        _reach(data, write.size)


def _reach(data: bytearray, size: int) -> None:
    if len(data) < size:
        data.extend(bytes(size - len(data)))


def _some(writes: Iterable[Write | Cut], choose: random.Random, before: bytes | bytearray) -> bytearray:
    """A part of the writes, over what was there before."""
    data = bytearray(before)
    writes = list(writes)
    way = choose.randrange(6)
    if way == 0:
        return data
    if way == 1:  # in their order, the last one torn
        count = choose.randint(0, len(writes))
        for write in writes[:count]:
            _apply(data, write)
        if count < len(writes):
            _tear(data, writes[count], choose)
        return data
    share = (0.5, 0.1, 0.9, 0.5)[way - 2]
    for write in writes:
        if choose.random() < share:
            _apply(data, write)
        elif way == 5 and choose.random() < 0.7:
            _tear(data, write, choose)
    return data


def _tear(data: bytearray, write: Write | Cut, choose: random.Random) -> None:
    """Some sectors of a write; or the file is longer and the data is not there."""
    if isinstance(write, Cut):
        return
    start, end = write.offset, write.offset + len(write.data)
    if choose.random() < 0.3:
        _reach(data, end)
    share = choose.random()
    at = start
    while at < end:
        stop = min(end, at - at % SECTOR + SECTOR)
        if choose.random() < share:
            _apply(data, Write(write.file, at, write.data[at - start : stop - start]))
        at = stop


def materialise(image: dict[str, bytes | None], directory: Path) -> None:
    """The image as files in a new directory."""
    base = f"{directory}/"
    directory.mkdir()
    for path, data in image.items():
        if data is None:
            (directory / path).mkdir()
        else:
            with open(base + path, "wb", buffering=0) as file:
                file.write(data)

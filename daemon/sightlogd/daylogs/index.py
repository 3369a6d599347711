"""The lines of a day's events.json, found by what they are about: only those that are asked for are in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from sightlogd.calendar import DayRange
from sightlogd.directory import Odd, open_file
from sightlogd.store.tools.line_offsets import Place, Places

from .lines import DayLine, EventLine, Line, ObservationLine, PersonLine, Replay, decode_line
from .tails import TAIL_BYTES, whole_lines, whole_size


class LogLines:
    """Reads all of the file once. `unreadable` is given the numbers of what is no line, from 1; `person` those lines.

    What has the file's name and is no file is unreadable as 0. `range` is what is noted of the day's, None: nothing.
    Raises OSError but for a missing file, which has no lines, and Stop.
    """

    def __init__(self, path: Path, unreadable: Callable[[int], None], person: Callable[[PersonLine], None]) -> None:
        self._unreadable = unreadable
        self._person = person
        self.range: DayRange | None = None
        self._file: BinaryIO | None = None
        try:
            self._file = os.fdopen(open_file(path), "rb")
        except (FileNotFoundError, Odd) as error:
            if isinstance(error, Odd):
                unreadable(0)
            self._places = Places(())
            return
        try:
            self._places = Places(self._read(self._file))
        except BaseException:
            self._file.close()
            raise

    def _read(self, file: BinaryIO) -> Iterator[Place]:
        for number, offset, line in numbered(file):
            if line is None:
                self._unreadable(number)
            elif isinstance(line, PersonLine):
                self._person(line)
            elif isinstance(line, DayLine):
                self.range = line.range
            elif not line.stored:
                continue
            elif isinstance(line, ObservationLine):
                yield Place("observations", line.observation_id, offset, True)
            else:
                yield Place("events", line.event_id, offset, isinstance(line, EventLine))

    def replay(self, table: str, keys: Sequence[str]) -> Replay:
        """What the lines about these rows add up to."""
        replay = Replay()
        if self._file:
            for offset in self._places.of(table, keys):
                self._file.seek(offset)
                replay.add(decode_line(self._file.readline()))
        return replay

    def known(self, table: str, keys: Sequence[str]) -> set[str]:
        return self._places.known(table, keys)

    def pages(self, table: str, count: int) -> Iterator[list[str]]:
        return self._places.pages(table, count)

    def close(self) -> None:
        self._places.close()
        if self._file:
            self._file.close()


def numbered(file: BinaryIO) -> Iterator[tuple[int, int, Line | None]]:
    """Number, from 1, offset and line; None for what is no line. A torn end is left out: the daemon cuts it off."""
    left = whole_size(file.fileno(), os.fstat(file.fileno()).st_size, whole_lines)
    number = offset = 0
    lines = lines_of(file)
    while left > 0 and (found := next(lines, None)):
        size, data = found
        number += 1
        try:
            yield number, offset, None if data is None else decode_line(data)
        except msgspec.MsgspecError:
            yield number, offset, None
        offset += size
        left -= size


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Size and bytes of each line; None for one that is longer than any of ours. Raises OSError."""
    while data := file.readline(TAIL_BYTES):
        size, rest = len(data), data
        while not rest.endswith(b"\n") and (rest := file.readline(TAIL_BYTES)):
            size += len(rest)
        yield size, data if size == len(data) else None


def read_lines(path: Path, prefix: bytes = b"") -> list[Line]:
    """What can be read of an events.json, of the lines that begin so. Raises OSError but for one that is not there."""
    lines = []
    with contextlib.suppress(FileNotFoundError, Odd), open(open_file(path), "rb") as file:
        for _, line in lines_of(file):
            if line is not None and line.startswith(prefix):
                with contextlib.suppress(msgspec.MsgspecError):
                    lines.append(decode_line(line))
    return lines

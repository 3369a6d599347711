"""backup.json: what a backup consists of. JSON Lines: a header, a line a file, and the end, which says it is complete.

Days are in their order, so the manifest of a million pictures is read a day at a time; the database and what waits come
behind them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta, Struct

from sightlogd.daylogs.days import EVENTS, INCOMING, is_day, leaving_of
from sightlogd.daylogs.own import is_event_id
from sightlogd.directory import Directory, Odd
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR
from sightlogd.protocol.decoder import DECODE_ERRORS
from sightlogd.store import DATABASE

NAME: Final = "backup.json"
UNFINISHED: Final = f"{NAME}.new"
FORMAT: Final = 1
LINE_BYTES_MAX: Final = 1 << 20
BYTES_MAX: Final = 1 << 32
"""Of a manifest: twenty million files, and the most that FAT has."""
MODE: Final = 0o640
NAME_BYTES_MAX: Final = 255
_is_odd = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]").search
"""Control characters, and what is no text: Linux takes any bytes for a name, a manifest is UTF-8."""
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Header(Struct, tag_field="kind", tag="backup", frozen=True):
    format: int
    version: str
    """Of sightlog."""
    source: str
    """The data directory."""
    created: str
    """When the store's database was made: what tells it from others."""
    begun_at: str


class Entry(Struct, tag_field="kind", tag="file", frozen=True, omit_defaults=True):
    path: str
    """In the data directory."""
    size: _Count
    """How much of it belongs to the backup: a day's log may have grown behind that."""
    mtime_ns: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    """Of the original."""
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    replaced: bool = False
    """It may still be under the name it was written with: the very end was cut off."""


class End(Struct, tag_field="kind", tag="end", frozen=True):
    taken_at: str
    """As of when the database is."""
    files: _Count
    bytes: _Count
    events: _Count
    observations: _Count
    days: _Count
    leaving: list[str]
    """Days whose removal was under way, as their folders in trash/ are named."""


Line = Header | Entry | End
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


class Unusable(Exception):
    """Why there is no backup to use. The text says what was found."""

    def __init__(self, text: str, exit_code: int = EXIT_IO_ERROR) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Manifest:
    """The one that is there. Raises Unusable, OSError. `close` it.

    A stranger may have written it: names are those of a store, numbers are such as there are, and its end says what
    there is, or it is unusable.
    """

    def __init__(self, directory: Directory) -> None:
        self.path = directory.path / NAME
        self.end: End | None = None
        """None: no backup was ever completed here."""
        try:
            self._fd = directory.open_file(NAME)
        except Odd as error:
            raise Unusable(f"{error.filename} is not the manifest of a backup: {error.strerror}") from error
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._fd)

    def _look(self) -> None:
        last: Line | None = None
        for last in self._lines():
            if isinstance(last, Header):
                self.header = last
        if last is None:
            raise Unusable(f"{self.path} is not the manifest of a backup")
        if isinstance(last, End):
            self.end = last
        elif not isinstance(last, Header):
            raise Unusable(f"{self.path} is cut off: its end is missing")

    def entries(self) -> Iterator[Entry]:
        for line in self._lines():
            if isinstance(line, Entry):
                yield line

    def _lines(self) -> Iterator[Line]:
        """Checked as far as they are read."""
        size = os.fstat(self._fd).st_size
        if size > BYTES_MAX:
            raise Unusable(f"{self.path} is damaged: no manifest has {size} bytes")
        files = total = 0
        line: Line | None = None
        with io.BufferedReader(_Beginning(self._fd, size), LINE_BYTES_MAX) as file:
            while data := file.readline(LINE_BYTES_MAX):
                before = line
                try:
                    line = _decoder.decode(data)
                except DECODE_ERRORS as error:
                    raise Unusable(f"{self.path} is damaged: {error}") from error
                if before is None and not isinstance(line, Header):
                    raise Unusable(f"{self.path} is not the manifest of a backup")
                if isinstance(line, Entry):
                    files, total = files + 1, total + line.size
                self._check(line, before, files, total)
                yield line

    def _check(self, line: Line, before: Line | None, files: int, total: int) -> None:
        if isinstance(line, Header):
            if before is not None:
                raise Unusable(f"{self.path} is damaged: it begins twice")
            if line.format != FORMAT:
                found = f"has format {line.format}, written by a newer sightlog; this one knows {FORMAT}"
                raise Unusable(f"{self.path} {found}")
            return
        if isinstance(before, End):
            raise Unusable(f"{self.path} is damaged: it goes on behind its end")
        if isinstance(line, End) and (line.files, line.bytes) != (files, total):
            raise Unusable(f"{self.path} is damaged: its end does not say what is in it")
        names = [line.path] if isinstance(line, Entry) and not is_expected(line.path) else []
        names += [name for name in line.leaving if not leaving_of(name)] if isinstance(line, End) else []
        if names:
            raise Unusable(f"{names[0]!r:.200} has no place in a backup, and {self.path} says so", EXIT_CONFIG)


class _Beginning(io.RawIOBase):
    """The first `size` bytes of an open file, from the first one on, whoever else reads it."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._left, self._offset = fd, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = os.preadv(self._fd, [buffer[: self._left]], self._offset)
        self._offset += count
        self._left -= count
        return count


class Former:
    """The files of a manifest, a day at a time and in their order."""

    def __init__(self, manifest: Manifest) -> None:
        self._entries = manifest.entries() if manifest.end else iter(())
        self._next = next(self._entries, None)

    def day(self, name: str) -> dict[str, Entry]:
        """By path. Days have to be asked for in their order."""
        found = {}
        while self._next is not None and (day := _day_of(self._next.path)) <= name:
            if day == name:
                found[self._next.path] = self._next
            self._next = next(self._entries, None)
        return found


def _day_of(path: str) -> str:
    """Behind all others for what is of no day."""
    parts = path.split("/")
    return parts[1] if parts[0] == EVENTS else "~"


def is_expected(path: str) -> bool:
    """Whether a backup may have this file: somebody may have written ../../etc into a manifest."""
    parts = path.split("/")
    if _is_odd(path) or any(part in ("", ".", "..") or len(part.encode()) > NAME_BYTES_MAX for part in parts):
        return False
    if path.startswith(f"{INCOMING}/"):
        return len(parts) == 3 and is_event_id(parts[2]) is not None
    return path == DATABASE or (len(parts) == 3 and parts[0] == EVENTS and is_day(parts[1]))


class Writer:
    """Writes lines, under a name of their own until they are complete, behind `end`. Raises OSError."""

    def __init__(self, directory: Directory, header: Header) -> None:
        self._file: BinaryIO = os.fdopen(directory.create(UNFINISHED, MODE), "wb")
        self.files = self.bytes = 0
        self._write(header)

    def add(self, entry: Entry) -> None:
        self.files += 1
        self.bytes += entry.size
        self._write(entry)

    def end(self, end: End) -> None:
        self._write(end)

    def _write(self, line: Line) -> None:
        self._file.write(_encoder.encode(line) + b"\n")

    def close(self) -> None:
        self._file.close()

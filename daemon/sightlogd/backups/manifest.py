"""backup.json: what a backup consists of. JSON Lines: a header, a line a file, and the end, which says it is complete.

Days are in their order, so the manifest of a million pictures is read a day at a time; the database and what waits come
behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from sightlogd.decoder import DECODE_ERRORS
from sightlogd.files.days import EVENTS, is_day

NAME: Final = "backup.json"
UNFINISHED: Final = f"{NAME}.new"
FORMAT: Final = 1
INCOMING: Final = "incoming"
LINE_BYTES_MAX: Final = 1 << 20


class Header(Struct, tag_field="kind", tag="backup", frozen=True):
    format: int
    version: str
    """Of sightlog."""
    source: str
    """The data directory."""
    created: str
    """When the store's database was made: what tells it from others."""
    begun_at: str


class Entry(Struct, tag_field="kind", tag="file", frozen=True):
    path: str
    """In the data directory."""
    size: int
    """How much of it belongs to the backup: a day's log may have grown behind that."""
    mtime_ns: int
    """Of the original."""
    sha256: str


class End(Struct, tag_field="kind", tag="end", frozen=True):
    taken_at: str
    """As of when the database is."""
    files: int
    bytes: int
    events: int
    observations: int
    days: int
    leaving: list[str]
    """Days whose removal was under way, as their folders in trash/ are named."""
    replaced: list[str]
    """Files that may still be under the name they were written with: the very end was cut off."""


Line = Header | Entry | End
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


class Unusable(Exception):
    """Why there is no backup to use. The text says what was found."""


class Manifest:
    """One that is there. Raises Unusable, OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end: End | None = None
        """None: no backup was ever completed here."""
        first: Line | None = None
        last: Line | None = None
        for number, line in enumerate(_lines(path)):
            if number == 0:
                first = line
            last = line
        if not isinstance(first, Header):
            raise Unusable(f"{path} is not the manifest of a backup")
        if first.format != FORMAT:
            raise Unusable(f"{path} has format {first.format}, written by a newer sightlog; this one knows {FORMAT}")
        self.header = first
        if isinstance(last, End):
            self.end = last
        elif last is not first:
            raise Unusable(f"{path} is cut off: its end is missing")

    def entries(self) -> Iterator[Entry]:
        for line in _lines(self.path):
            if isinstance(line, Entry):
                yield line


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
    parts = PurePosixPath(path).parts
    if "/".join(parts) != path or ".." in parts or "\0" in path:
        return False
    if len(parts) == 3:
        return parts[0] == EVENTS and is_day(parts[1])
    return path == "events.db" or (len(parts) == 2 and parts[0] == INCOMING)


class Writer:
    """Writes lines into `path`, which is complete behind `end`. Raises OSError."""

    def __init__(self, path: Path, header: Header) -> None:
        self._file: BinaryIO = path.open("wb")
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


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        while data := file.readline(LINE_BYTES_MAX):
            try:
                yield _decoder.decode(data)
            except DECODE_ERRORS as error:
                raise Unusable(f"{path} is damaged: {error}") from error

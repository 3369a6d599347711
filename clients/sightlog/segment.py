"""The file format of a spool segment, and reading it back past damage.

A segment is a row of entries. An entry: marker (4 bytes), CRC-32 of all that follows it, record bytes, image bytes
(each u32, little-endian), seq (u64), then the record and the image.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from .wire import IMAGE_BYTES_MAX, RECORD_BYTES_MAX, Position

log = logging.getLogger("sightlog.spool")

MARKER: Final = b"\xf1SL\x01"
"""Starts every entry, so that reading can go on behind a damaged one."""
_HEAD: Final = struct.Struct("<4sIIIQ")
_LENGTHS: Final = struct.Struct("<IIQ")
_CHECKED_FROM: Final = 8
_WINDOW_BYTES: Final = 256 * 1024
_ENTRY_BYTES_MAX: Final = _HEAD.size + RECORD_BYTES_MAX + IMAGE_BYTES_MAX


class Entry(NamedTuple):
    seq: int
    record: bytes
    image: bytes
    end: int
    """Offset behind it."""


def encode(record: bytes, image: bytes, seq: int) -> bytes:
    lengths = _LENGTHS.pack(len(record), len(image), seq)
    crc = zlib.crc32(image, zlib.crc32(record, zlib.crc32(lengths)))
    return b"%b%b%b%b%b" % (MARKER, crc.to_bytes(4, "little"), lengths, record, image)


def _parse(data: bytes, at: int, offset: int = 0) -> Entry | None:
    """The entry at `at`, or None when there is no whole and undamaged one. `offset` is added to its `end`."""
    body = at + _HEAD.size
    if len(data) < body:
        return None
    marker, crc, record_bytes, image_bytes, seq = _HEAD.unpack_from(data, at)
    middle = body + record_bytes
    end = middle + image_bytes
    if marker != MARKER or len(data) < end or zlib.crc32(data[at + _CHECKED_FROM : end]) != crc:
        return None
    return Entry(seq, data[body:middle], data[middle:end], offset + end)


def _is_torn(data: bytes) -> bool:
    """Whether `data` is the front part of one entry: what a killed writer leaves."""
    if len(data) < _HEAD.size:
        return data[: len(MARKER)] == MARKER[: len(data)]
    marker, _, record_bytes, image_bytes, _ = _HEAD.unpack_from(data)
    return bool(marker == MARKER and _HEAD.size + record_bytes + image_bytes > len(data))


@dataclass(slots=True, eq=False)
class Segment:
    path: Path
    epoch: int
    first_seq: int
    next_seq: int
    """Seq behind the last record."""
    size: int = 0
    """Bytes written in full: reading goes no further."""
    damaged: bool = False
    _fd: int = field(default=-1, repr=False)

    @property
    def last(self) -> Position:
        return Position(self.epoch, self.next_seq - 1)

    def read(self, offset: int) -> tuple[list[Entry], int]:
        """Entries from `offset` on, as many as one read holds, and the offset to go on at.

        Skips what is damaged: no entries and an offset beyond the damage is a possible answer.
        """
        data = self._pread(offset, _WINDOW_BYTES)
        if _parse(data, 0) is None:
            data = self._pread(offset, _ENTRY_BYTES_MAX)
        entries = []
        at = 0
        while (entry := _parse(data, at, offset)) is not None:
            at = entry.end - offset
            entries.append(entry)
        if entries:
            return entries, entries[-1].end
        return [], self._beyond_damage(offset, data)

    def scan(self) -> int:
        """Read to the end to learn `next_seq`; returns how many records are missing in between."""
        missing = 0
        offset = 0
        while offset < self.size:
            entries, offset = self.read(offset)
            for entry in entries:
                missing += entry.seq - self.next_seq
                self.next_seq = entry.seq + 1
        return missing

    def _beyond_damage(self, offset: int, data: bytes) -> int:
        at = data.find(MARKER, 1)
        while at >= 0 and _parse(data, at) is None:
            at = data.find(MARKER, at + 1)
        if at < 0 and offset + len(data) >= self.size and _is_torn(data):
            log.info("spool %s: the last %d bytes are a write that was not finished", self.path, len(data))
            self.size = offset
            return offset
        beyond = offset + (at if at >= 0 else max(1, len(data) - len(MARKER) + 1))
        if at < 0 and offset + len(data) >= self.size:
            beyond = self.size
        self.damaged = True
        log.error(
            "spool %s is damaged: bytes %d to %d are unreadable; once the rest is delivered the file is kept as %s",
            self.path,
            offset,
            beyond,
            self.path.with_suffix(".damaged").name,
        )
        return beyond

    def _pread(self, offset: int, length: int) -> bytes:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._fd, min(length, self.size - offset), offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

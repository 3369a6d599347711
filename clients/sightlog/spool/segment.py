"""The file format of a spool segment, and reading it back past damage.

A segment is a row of entries. An entry, all numbers little-endian: marker (4 bytes); CRC-32 of the rest of the head;
CRC-32 of record and image; record bytes, image bytes (each u32); seq (u64); then the record and the image. The CRC of
the head starts from the segment's own name, so that an entry of another segment (in a block used again, or inside an
image) is not taken for one of this. Two CRCs, because only an intact head tells a write cut short from damage.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sightlog.fsutil import is_in_place, open_file, sync_directory
from sightlog.protocol.limits import IMAGE_BYTES_MAX, RECORD_BYTES_MAX
from sightlog.protocol.messages import Position, unsendable

log = logging.getLogger("sightlog.spool")

MARKER: Final = b"\xf1SL\x01"
"""Starts every entry, so that reading can go on behind a damaged one. Its last byte is the format."""
_HEAD: Final = struct.Struct("<4sIIIIQ")
HEAD_BYTES: Final = _HEAD.size
"""What an entry takes beside its record and image."""
_CHECKED: Final = struct.Struct("<IIIQ")
"""What the CRC of the head covers."""
_CHECKED_FROM: Final = HEAD_BYTES - _CHECKED.size
Entry = tuple[int, bytes, bytes, int]
"""Seq, record, image, and the offset behind it."""
_NAME: Final = re.compile(r"(\d{15,})-(\d{12,})\.spool")
_WINDOW_BYTES: Final = 256 * 1024
_ENTRY_BYTES_MAX: Final = HEAD_BYTES + RECORD_BYTES_MAX + IMAGE_BYTES_MAX
"""Of those that are written here; a version that takes more may have left larger ones."""


@dataclass(slots=True, eq=False)
class Segment:
    """`<epoch>-<first seq>.spool`, written by one session of a producer."""

    path: Path
    epoch: int
    first_seq: int
    next_seq: int
    """Seq behind the last record."""
    size: int = 0
    """Bytes written in full: reading goes no further."""
    synced: int = 0
    """Bytes that survive a power cut, as far as this session knows."""
    doubtful: bool = False
    """An fsync failed: the page cache has what the disk may lack, and takes it for written."""
    torn: int = 0
    """Bytes behind those, of a write that was cut short."""
    damaged: bool = False
    kept: int = 0
    """The last record that is kept because it cannot be sent."""
    lost: int = 0
    """Records that `scan` found to be missing."""
    fd: int = field(default=-1, repr=False)
    """Open from the first read on; of this session from the beginning, so that it can be read whatever becomes of
    its name."""
    _seed: int = 0

    def __post_init__(self) -> None:
        self._seed = zlib.crc32(f"{self.epoch}-{self.first_seq}".encode())

    @property
    def last(self) -> Position:
        return Position(self.epoch, self.next_seq - 1)

    def encode(self, encoded: Sequence[tuple[bytes, bytes]], first_seq: int) -> bytes:
        """The entries of (record, image) pairs of this segment, the first of them under `first_seq`."""
        crc32, pack, seed = zlib.crc32, _CHECKED.pack, self._seed
        parts: list[bytes] = []
        for seq, (record, image) in enumerate(encoded, first_seq):
            body = crc32(record)
            checked = pack(crc32(image, body) if image else body, len(record), len(image), seq)
            parts += (MARKER, crc32(checked, seed).to_bytes(4, "little"), checked, record, image)
        return b"".join(parts)

    def read(self, offset: int, behind: int) -> tuple[list[Entry], int]:
        """Entries from `offset` on, as many as one read holds, and the offset to go on at.

        Skips what is damaged: no entries and an offset beyond the damage is a possible answer. `behind` is the seq of
        the last entry before `offset`: a disk may have written a block of this file over another one.
        """
        data = self._pread(offset, _WINDOW_BYTES)
        entries = self._parse(data, 0, offset)
        if not entries:
            head = self._parse_head(data, 0)
            size = HEAD_BYTES + head[1] + head[2] if head else 0
            data = self._pread(offset, max(_ENTRY_BYTES_MAX, size))
            entries = self._parse(data, 0, offset)
        if entries:
            return entries, entries[-1][3]
        return [], self._beyond_damage(offset, data, behind)

    def is_of_another_format(self) -> bool:
        """Whether it begins like an entry of another format, and has none of this one. Raises OSError.

        One that begins with anything else is damaged: whoever wrote another format said so at its beginning.
        """
        marker = self._pread(0, len(MARKER))
        if marker[:-1] != MARKER[:-1] or marker == MARKER:
            return False
        data = self._pread(0, self.size)
        at = data.find(MARKER)
        while at >= 0 and self._parse_head(data, at) is None:
            at = data.find(MARKER, at + 1)
        return at < 0

    def is_in_place(self) -> bool:
        """Whether its file still has its name. Raises OSError."""
        return is_in_place(self.fd, self.path) if self.fd >= 0 else os.path.lexists(self.path)

    def keep(self, seq: int, size: int) -> None:
        """It has a record that cannot be sent: the file stays when all of it is acked, as a damaged one does."""
        if self.damaged and self.kept >= seq:
            return
        self.damaged, self.kept = True, seq
        kept = self.path.with_suffix(".damaged").name
        log.error(
            "spool %s: record %d/%d takes %d bytes with its thumbnail, more than any daemon takes. It is rejected, and "
            "its bytes are kept in %s", self.path, self.epoch, seq, size, kept
        )  # fmt: skip

    def write_anew(self) -> None:
        """Its name was removed, or is another file's by now: what is in it gets it again. Raises OSError."""
        temporary = self.path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        fd = open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        try:
            size, offset = self.size, 0
            while data := os.pread(self.fd, min(_WINDOW_BYTES, size - offset), offset):
                offset += os.write(fd, data)
            if offset != size:
                raise OSError(errno.EIO, "cannot be read back", str(self.path))
            os.fsync(fd)
            os.replace(temporary, self.path)
            sync_directory(self.path.parent)
            # Under the same number: another thread may be reading or writing there just now.
            os.dup2(fd, self.fd, inheritable=False)
        finally:
            os.close(fd)
        self.synced, self.doubtful = size, False

    def write_again(self, fd: int, size: int) -> None:
        """What is behind `synced`, up to `size`, so that an fsync covers it once more. Raises OSError."""
        offset = self.synced
        while data := os.pread(fd, min(_WINDOW_BYTES, size - offset), offset):
            offset += os.pwrite(fd, data, offset)

    def scan(self, before: int | None = None) -> None:
        """Read to the end to learn `next_seq` and `lost`.

        `before` is where the next segment of the same session begins: what stands here under such numbers was refused
        to its publisher when the disk failed, and could not be taken back.
        """
        offset = 0
        while offset < self.size:
            entries, beyond = self.read(offset, self.next_seq - 1)
            for seq, record, image, end in entries:
                if before is not None and seq >= before:
                    self.torn += self.size - offset
                    self.size = offset
                    return
                offset = end
                if unsendable(record, image) is not None:
                    self.keep(seq, len(record) + len(image))
                if seq >= self.next_seq:
                    self.lost += seq - self.next_seq
                    self.next_seq = seq + 1
            if not entries and beyond > offset and beyond == self.size:
                self.lost += 1  # at least
                self.next_seq += 1
            offset = beyond

    def _parse(self, data: bytes, at: int, offset: int, entries_max: int = sys.maxsize) -> list[Entry]:
        """The whole and undamaged entries from `at` of `data`, which begins at `offset`, without a gap."""
        # A burst is read back record by record: without a call for each.
        unpack, crc32, seed, size = _HEAD.unpack_from, zlib.crc32, self._seed, len(data)
        entries: list[Entry] = []
        while (body := at + HEAD_BYTES) <= size and len(entries) < entries_max:
            marker, crc, body_crc, record_bytes, image_bytes, seq = unpack(data, at)
            middle = body + record_bytes
            end = middle + image_bytes
            if marker != MARKER or end > size or crc32(data[at + _CHECKED_FROM : body], seed) != crc:
                break
            record = data[body:middle]
            image = data[middle:end] if image_bytes else b""
            if crc32(image, crc32(record)) != body_crc:
                break
            entries.append((seq, record, image, offset + end))
            at = end
        return entries

    def _parse_head(self, data: bytes, at: int) -> tuple[int, int, int, int] | None:
        if len(data) < at + HEAD_BYTES:
            return None
        marker, crc, *head = _HEAD.unpack_from(data, at)
        if marker != MARKER or zlib.crc32(data[at + _CHECKED_FROM : at + HEAD_BYTES], self._seed) != crc:
            return None
        body_crc, record_bytes, image_bytes, seq = head
        return body_crc, record_bytes, image_bytes, seq

    def _is_torn(self, data: bytes) -> bool:
        """Whether `data`, the rest of the file, is the front part of one entry: what a killed writer leaves."""
        if len(data) < HEAD_BYTES:
            return data[: len(MARKER)] == MARKER[: len(data)]
        head = self._parse_head(data, 0)
        return head is not None and len(data) < HEAD_BYTES + head[1] + head[2]

    def _beyond_damage(self, offset: int, data: bytes, behind: int) -> int:
        """Where the next readable entry begins, or may begin; `data` was read at `offset`, where none does."""
        is_rest = offset + len(data) >= self.size
        following = self._next_whole(data, behind)
        if following is None and is_rest and self._is_torn(data):
            self.torn = self.size - offset
            self.size = offset
            log.info("spool %s: the last %d bytes are a write that was not finished", self.path, self.torn)
            return offset
        if not self.damaged:
            self.damaged = True
            kept = self.path.with_suffix(".damaged").name
            log.error(
                "spool %s is damaged at %d; what is readable is sent, then it is kept as %s", self.path, offset, kept
            )
        if following is not None:
            return offset + following
        at = data.find(MARKER, 1)
        while at >= 0:
            if self._parse_head(data, at) is not None or len(data) < at + HEAD_BYTES:
                return offset + at
            at = data.find(MARKER, at + 1)
        return self.size if is_rest else offset + len(data) - len(MARKER) + 1

    def _next_whole(self, data: bytes, behind: int) -> int | None:
        """Where in `data`, but not at its beginning, the undamaged entry is that comes next behind that seq."""
        found: tuple[int, int] | None = None
        at = data.find(MARKER, 1)
        while at >= 0:
            entry = next(iter(self._parse(data, at, 0, 1)), None)
            if entry is not None and entry[0] > behind and (found is None or entry[0] < found[0]):
                found = entry[0], at
            at = data.find(MARKER, at + 1 if entry is None else entry[3])
        return None if found is None else found[1]

    def _pread(self, offset: int, length: int) -> bytes:
        if self.fd < 0:
            self.fd = open_file(self.path, os.O_RDONLY)
        return os.pread(self.fd, min(length, self.size - offset), offset)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def segments_in(directory: Path) -> list[Segment]:
    """Those of a spool in order, not scanned. A link, or a file of another name, is none. Raises OSError."""
    found = []
    for path in sorted(directory.glob("*.spool")):
        named = _NAME.fullmatch(path.name)
        status = path.lstat()
        if named and stat.S_ISREG(status.st_mode):
            first_seq = int(named[2])
            found.append(Segment(path, int(named[1]), first_seq, first_seq, status.st_size))
    return found

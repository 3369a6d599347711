"""Records not yet acked, on disk: an append-only log in segments.

What it keeps: when `append` returns, the records have been handed to the kernel in one write, so they survive SIGKILL
of the process. They survive a power cut once they are acked, or once `sync` ran; the publisher runs it when no ack has
come for a second. A segment whose records are all acked is deleted, normally before the kernel wrote it to the card.

A spool is a directory with `lock`, `identity.json` (see `identity`) and segments `<epoch>-<first seq>.spool`. Every
life of a producer has a new epoch and writes only segments of its own: a torn tail left by a crash is never appended
to, and a sequence number that a power cut took back is never used again under the same epoch.

Why not SQLite: a record costs 2 to 5 µs here, and 10 to 12 µs as an autocommitted row with `synchronous=OFF` and WAL.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final

from .directories import make_directories, sync_directory
from .errors import InvalidRecord, SpoolDamaged, SpoolFull, SpoolInUse
from .identity import begin_life
from .playback import Chunk, Playback
from .segment import HEAD_BYTES, Segment
from .wire import START, Position, Told

log = logging.getLogger("sightlog.spool")

SEGMENT_BYTES_MAX: Final = 4 * 1024 * 1024
SEGMENT_REUSE_BYTES: Final = 64 * 1024
"""An active segment larger than this whose records are all acked is given back."""


def default_spool_dir() -> Path:
    """`SIGHTLOG_SPOOL_DIR`, or `$XDG_STATE_HOME/sightlog/spool`, or `~/.local/state/sightlog/spool`."""
    if given := os.environ.get("SIGHTLOG_SPOOL_DIR"):
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "sightlog" / "spool"


class Spool:
    """One producer's spool. `append` may be called by one thread while another reads and drops.

    Raises SpoolInUse when another process has it, SpoolDamaged when the directory cannot be used.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, bytes_max: int) -> None:
        self.directory = Path(directory)
        self.bytes_max = bytes_max
        self.segment_bytes_max = min(SEGMENT_BYTES_MAX, max(bytes_max // 16, 4096))
        self._fd = -1
        self._acked = START
        self._unsynced_since: float | None = None
        self._unsynced_until = START
        """Once all up to here is acked, what is left is younger than `_unsynced_since`."""
        self._write_lock = threading.Lock()
        self._lock_fd = -1
        self._segments: list[Segment] = []
        self._playback = Playback(self._segments)
        try:
            make_directories(self.directory)
            self._lock()
            self._find_segments()
            self._identity = begin_life(self.directory, name, self._segments)
            self._drop_empty()
        except OSError as error:
            self.close()
            raise SpoolDamaged(
                f"cannot use the spool directory {self.directory}: {error.strerror or error}. "
                "Give a spool_dir that this process may write to, and room on its disk"
            ) from error
        except SpoolDamaged:
            self.close()
            raise
        self.producer_id, self.epoch = self._identity.producer_id, self._identity.epoch
        self._next_seq = 1

    # -- opening --------------------------------------------------------------------------------------------

    def _lock(self) -> None:
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise SpoolInUse(
                f"the spool {self.directory} is in use by process {holder}. "
                "Give every process a producer name of its own, or stop that one"
            ) from None
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())

    def _find_segments(self) -> None:
        """Read what earlier lives left, to its end: how much there is, and what of it is damaged."""
        self._bytes = sum(path.stat().st_size for path in self.directory.glob("*.damaged"))
        for path in sorted(self.directory.glob("*.spool")):
            try:
                epoch, first_seq = (int(part) for part in path.stem.split("-"))
            except ValueError:
                continue
            self._segments.append(Segment(path, epoch, first_seq, first_seq, path.stat().st_size))
        for segment, following in zip_longest(self._segments, self._segments[1:]):
            self._bytes += segment.size
            segment.scan(following.first_seq if following and following.epoch == segment.epoch else None)
            segment.close()

    def _drop_empty(self) -> None:
        """Segments without a record, once the identity has counted what their names tell."""
        for segment in [*self._segments]:
            if segment.next_seq == segment.first_seq and not segment.damaged:
                segment.path.unlink()
                self._bytes -= segment.size + segment.torn
                self._segments.remove(segment)

    # -- writing --------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes on disk, acked records in segments not yet deleted included."""
        return self._bytes

    @property
    def next_position(self) -> Position:
        """What the next appended record gets."""
        return Position(self.epoch, self._next_seq)

    def append(self, encoded: Sequence[tuple[bytes, bytes]]) -> Position:
        """Write (record, image) pairs in one write; returns the position of the last.

        All or nothing. Raises SpoolFull at `bytes_max`, or when the disk under it is full.
        """
        with self._write_lock:
            seq = self._next_seq
            size = sum(HEAD_BYTES + len(record) + len(image) for record, image in encoded)
            if size > self.bytes_max:
                raise InvalidRecord(
                    f"{size} bytes at once never fit in a spool of {self.bytes_max}. "
                    "Publish fewer records at a time, or give a larger spool_bytes_max"
                )
            if self._bytes + size > self.bytes_max:
                self._give_back(0)
            if self._bytes + size > self.bytes_max:
                raise SpoolFull(
                    f"the spool {self.directory} holds {self._bytes} of at most {self.bytes_max} bytes: the daemon has "
                    "not taken records for a while. Look at `sightlog status`; publish again when it runs"
                )
            segment = self._active_segment()
            entries = [segment.encode(record, image, seq + index) for index, (record, image) in enumerate(encoded)]
            data = entries[0] if len(entries) == 1 else b"".join(entries)
            now, last = time.monotonic(), Position(self.epoch, seq + len(entries) - 1)
            try:
                _write_all(self._fd, data)
            except BaseException as error:
                # A signal's, too: behind what is written and not noted, the next record would not be found.
                self._take_back(segment)
                if not isinstance(error, OSError) or error.errno is None:  # a handler's TimeoutError is one, too
                    raise
                raise SpoolFull(
                    f"cannot write to the spool {self.directory}: {error.strerror}. "
                    "Make room on its disk, then publish again"
                ) from error
            # From here on nothing is called: a signal's handler runs behind calls alone.
            if self._unsynced_since is None:
                self._unsynced_since, self._unsynced_until = now, last
            self._bytes += size
            # Readable first, announced last: whoever looks without the lock must not see a number without its record.
            segment.size += size
            segment.next_seq = self._next_seq = last.seq + 1
            return last

    def _take_back(self, segment: Segment) -> None:
        """The part of an entry that was written before the disk failed: it would look like damage."""
        try:
            os.ftruncate(self._fd, segment.size)
        except OSError:
            # Nothing may be written behind it: what comes next begins a segment.
            os.close(self._fd)
            self._fd = -1

    def _active_segment(self) -> Segment:
        if self._fd >= 0 and self._segments[-1].size < self.segment_bytes_max:
            return self._segments[-1]
        try:
            return self._begin_segment()
        except OSError as error:
            raise SpoolFull(
                f"cannot make {error.filename}: {error.strerror}. Make room on its disk, then publish again"
            ) from error

    def _begin_segment(self) -> Segment:
        path = self.directory / f"{self.epoch:015d}-{self._next_seq:012d}.spool"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
        # None in between, should a signal raise: what comes next begins a segment.
        before, self._fd = self._fd, -1
        if before >= 0:
            os.close(before)
        if not self._segments or self._segments[-1].path != path:  # else no record of it was written in full
            self._segments.append(Segment(path, self.epoch, self._next_seq, self._next_seq))
        self._fd = fd
        return self._segments[-1]

    @property
    def unsynced_since(self) -> float | None:
        """time.monotonic() of the oldest append that `sync` has not covered; None when there is none."""
        return self._unsynced_since

    def sync(self) -> None:
        """Make everything appended so far survive a power cut. Appending goes on meanwhile. Raises OSError."""
        since = self._unsynced_since
        try:
            with self._write_lock:
                self._unsynced_since = None
                written = [segment for segment in self._segments if segment.synced < segment.size]
            if written:
                sync_directory(self.directory)  # first: what is synced is not looked at again
            for segment in written:
                self._sync_segment(segment)
        except BaseException:  # a signal's, too, where a caller that waits does this
            self._unsynced_since = since
            raise

    @staticmethod
    def _sync_segment(segment: Segment) -> None:
        size = segment.size
        try:
            fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # acked meanwhile
        try:
            if segment.doubtful:
                segment.write_again(fd, size)
            os.fdatasync(fd)
            segment.synced, segment.doubtful = size, False
        except OSError:
            segment.doubtful = True
            raise
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let another process have the spool. What is not acked stays; idempotent."""
        with self._write_lock:
            if self._fd >= 0:
                with contextlib.suppress(OSError):  # acked records that stay are asked for and dropped by the next life
                    self._give_back(0)
            for segment in self._segments:
                segment.close()
            for fd in (self._fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock_fd = -1

    def fence(self) -> None:
        """Give up this identity: the next life gets a new producer id and takes what is left along."""
        self._identity.fence(self.directory)

    def is_foreign(self, settled: Position) -> bool:
        """Whether the daemon has this from a copy of this spool, and records here would be taken for settled with it.

        Of every life of this spool that published behind a record that is left, a segment is left too.
        """
        if settled.epoch == self.epoch or settled.epoch in self._identity.epochs_before:
            return False
        left = [segment.last for segment in list(self._segments)]
        return settled.epoch not in {last.epoch for last in left} and any(self._acked < last < settled for last in left)

    # -- reading and dropping -----------------------------------------------------------------------------------------

    def first_after(self, after: Position) -> Position:
        """What comes behind `after`: the next record there is, or else the next to be appended."""
        # Read before looking: a record appended after the look is still behind this position, never skipped by it.
        upcoming = self.next_position
        chunk = self.read_after(after, 1, 1)
        return chunk.first if chunk else max(upcoming, Position(after.epoch, after.seq + 1))

    @property
    def published(self) -> int | None:
        """Records of all lives; None when an earlier version, which did not count, had this spool."""
        before = self._identity.published
        return None if before is None else before + self._next_seq - 1

    @property
    def lost(self) -> int:
        """Records of all lives that could not be read back because the file was damaged."""
        return self._identity.lost_records

    def told(self) -> Told:
        """How it stands, all of one moment."""
        with self._write_lock:
            last = Position(self.epoch, self._next_seq - 1)
            return Told(last, self._acked, self.published, self.lost, self.depth(), self._bytes)

    def depth(self) -> int:
        """Records not acked."""
        return sum(
            segment.next_seq - max(segment.first_seq, self._acked.seq + 1 if segment.epoch == self._acked.epoch else 0)
            for segment in list(self._segments)
            if segment.last > self._acked
        )

    def read_after(self, after: Position, records_max: int, bytes_max: int) -> Chunk | None:
        """The records behind `after`: consecutive, of one epoch, at least one however large; None when none is left.

        When `chunk.first` does not follow `after` directly, there is nothing in between.
        """
        return self._playback.read_after(after, records_max, bytes_max)

    def drop_through(self, acked: Position) -> None:
        """Forget the records up to `acked`; delete the segments that hold nothing else."""
        with self._write_lock:
            self._acked = max(self._acked, acked)
            if self._unsynced_since is not None and self._acked >= self._unsynced_until:
                self._unsynced_until = Position(self.epoch, self._next_seq - 1)
                self._unsynced_since = time.monotonic() if self._unsynced_until > self._acked else None
            self._give_back(min(SEGMENT_REUSE_BYTES, self.segment_bytes_max))

    def _give_back(self, active_bytes: int) -> None:
        """Delete the segments that are acked to the end; this life's newest only when larger than `active_bytes`."""
        while self._segments and self._segments[0].last <= self._acked:
            segment = self._segments[0]
            if len(self._segments) == 1 and segment.epoch == self.epoch:
                if segment.size <= active_bytes:
                    return
                # The name of the newest segment keeps the count of what this life published, should it be killed.
                try:
                    self._begin_segment()
                except OSError:
                    return  # no room for one more name: tried again with the next ack
            if segment.damaged:
                segment.path.rename(segment.path.with_suffix(".damaged"))
            else:
                segment.path.unlink(missing_ok=True)
                self._bytes -= segment.size + segment.torn
            # Only now, so that a failure above is tried again with the next ack.
            del self._segments[0]
            segment.close()
            self._playback.forget(segment)


def _write_all(fd: int, data: bytes) -> None:
    """A short write to a file means a full disk or a file-size limit: writing the rest says which."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

"""Records not yet acked, on disk: an append-only log in segments.

What it keeps: when `append` returns, the records have been handed to the kernel in one write, so they survive SIGKILL
of the process. They survive a power cut once they are acked, or once `sync` ran; the publisher runs it when no ack has
come for a second. A segment whose records are all acked is deleted, normally before the kernel wrote it to the card.

A spool is a directory with `lock`, `identity.json` (see `identity`) and segments `<epoch>-<first seq>.spool`. Every
session of a producer has a new epoch and writes only segments of its own: a torn tail left by a crash is never appended
to, and a sequence number that a power cut took back is never used again under the same epoch.

An open file can be written long after its name was removed, and is gone with the process. So the segments of this
session are held open, and once a second while records are published `look` gives them their names again.

Why not SQLite: a record costs 2 to 5 µs here, and 10 to 12 µs as an autocommitted row with `synchronous=OFF` and WAL.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final

from sightlog import volatile
from sightlog.errors import NOT_TAKEN, InvalidRecord, SpoolDamaged, SpoolFormatUnknown, SpoolFull, SpoolInUse
from sightlog.fsutil import make_directories, open_file, sync_directory
from sightlog.protocol.messages import START, Position, SpoolReport

from . import identity
from .cursor import Playback, SpooledChunk
from .lock import SpoolLock
from .segment import HEAD_BYTES, Segment, segments_in

log = logging.getLogger("sightlog.spool")

SEGMENT_BYTES_MAX: Final = 4 * 1024 * 1024
SEGMENT_REUSE_BYTES: Final = 64 * 1024
"""An active segment larger than this whose records are all acked is given back."""
LOOK_SECONDS: Final = 1.0
"""How long records may be published into files whose names are gone."""


def default_spool_dir() -> Path:
    """`SIGHTLOG_SPOOL_DIR`, or `$XDG_STATE_HOME/sightlog/spool`, or `~/.local/state/sightlog/spool`."""
    if given := os.environ.get("SIGHTLOG_SPOOL_DIR"):
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "sightlog" / "spool"


class Spool:
    """One producer's spool. `append` may be called by one thread while another reads and drops.

    Raises SpoolInUse when another process has it, SpoolDamaged when the directory cannot be used, SpoolFormatUnknown.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, bytes_max: int) -> None:
        self.directory = Path(directory)
        self.bytes_max = bytes_max
        self.segment_bytes_max = min(SEGMENT_BYTES_MAX, max(bytes_max // 16, 4096))
        self.look_at = math.inf
        """time.monotonic() at which `look` is due."""
        self._is_out_of_place = False
        """Some of the files have no name, and could not be given one."""
        self._is_taken = False
        """Another process has the directory: nothing in there is ours any more."""
        self._fd = -1
        """Of the segment that is written to, which owns it."""
        self._unsynced_since: float | None = None
        self._unsynced_until = START
        """Once all up to here is acked, what is left is younger than `_unsynced_since`."""
        self._write_lock = threading.Lock()
        self._lock = SpoolLock(self.directory)
        self._segments: list[Segment] = []
        self._playback = Playback(self._segments)
        try:
            self._check_format()
            make_directories(self.directory)
            self._lock.take()
            self._find_segments()
            self._identity = identity.begin_session(self.directory, name, self._segments)
            self._drop_empty()
        except OSError as error:
            self.close()
            raise SpoolDamaged(
                f"cannot use the spool directory {self.directory}: {_said(error)}. "
                "Give a spool_dir that this process may write to, and room on its disk"
            ) from error
        except BaseException:
            self.close()
            raise
        self.producer_id, self.epoch = self._identity.producer_id, self._identity.epoch
        self._next_seq = 1
        if on := volatile.why(self.directory):
            log.warning(
                "%s: the spool directory %s is on %s: what the daemon has not acked is gone when the power is. Give a "
                "spool_dir on a disk, or SIGHTLOG_SPOOL_DIR",
                name,
                self.directory,
                on,
            )
        _open_here.add(self)

    # -- opening --------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        """Before anything is touched. Raises SpoolFormatUnknown, SpoolDamaged, OSError."""
        identity.read(self.directory)
        for segment in segments_in(self.directory):
            with contextlib.closing(segment):
                if segment.is_of_another_format():
                    raise SpoolFormatUnknown(
                        f"{segment.path} is of a format that this version of sightlog does not know. Nothing was "
                        "changed. Install the version that wrote it, or give another spool_dir"
                    )

    def _find_segments(self) -> None:
        """Read what earlier sessions left, to its end: how much there is, and what of it is damaged."""
        self._bytes = sum(path.lstat().st_size for path in self.directory.glob("*.damaged"))
        self._segments += segments_in(self.directory)
        for path in {*self.directory.glob("*.spool")} - {segment.path for segment in self._segments}:
            log.warning("spool %s: %s is none of its files, and is left alone", self.directory, path.name)
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

    def append(self, encoded: Sequence[tuple[bytes, bytes]], acked: Position = START) -> Position:
        """Write (record, image) pairs in one write; returns the position of the last.

        All or nothing. What is acked makes room. Raises SpoolFull at `bytes_max`, or when the disk under it is full;
        SpoolInUse when its files were removed and another process has it by now.
        """
        with self._write_lock:
            try:
                self._put_in_place(acked)
            except OSError as error:
                raise SpoolFull(
                    f"the files of the spool {self.directory} were removed, and cannot be made anew: {_said(error)}. "
                    f"Make that possible, then publish again. {NOT_TAKEN}"
                ) from error
            except SpoolInUse as error:
                raise SpoolInUse(f"{error}. {NOT_TAKEN}") from None
            seq = self._next_seq
            size = sum(HEAD_BYTES + len(record) + len(image) for record, image in encoded)
            if size > self.bytes_max:
                raise InvalidRecord(
                    f"{size} bytes at once never fit in a spool of {self.bytes_max}. "
                    f"Publish fewer records at a time, or give a larger spool_bytes_max. {NOT_TAKEN}"
                )
            if self._bytes + size > self.bytes_max:
                self._give_back(acked, 0)
            if self._bytes + size > self.bytes_max:
                raise SpoolFull(
                    f"the spool {self.directory} holds {self._bytes} of at most {self.bytes_max} bytes: the daemon has "
                    f"not taken records for a while. Look at `sightlog status`; publish again when it runs. {NOT_TAKEN}"
                )
            segment = self._active_segment()
            data = segment.encode(encoded, seq)
            now, last = time.monotonic(), Position(self.epoch, seq + len(encoded) - 1)
            try:
                _write_all(self._fd, data)
            except BaseException as error:
                # A signal's, too: behind what is written and not noted, the next record would not be found.
                self._take_back(segment)
                if not isinstance(error, OSError) or error.errno is None:  # a handler's TimeoutError is one, too
                    raise
                raise SpoolFull(
                    f"cannot write to the spool {self.directory}: {error.strerror}. "
                    f"Make room on its disk, then publish again. {NOT_TAKEN}"
                ) from error
            # From here on nothing is called: a signal's handler runs behind calls alone.
            if self._unsynced_since is None:
                self._unsynced_since, self._unsynced_until = now, last
            if self.look_at == math.inf:
                self.look_at = now + LOOK_SECONDS
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
            self._fd = -1  # nothing may be written behind it: what comes next begins a segment

    def _active_segment(self) -> Segment:
        if self._fd >= 0 and self._segments[-1].size < self.segment_bytes_max:
            return self._segments[-1]
        try:
            return self._begin_segment()
        except OSError as error:
            raise SpoolFull(
                f"cannot make {error.filename}: {error.strerror}. Make room on its disk, then publish again. "
                f"{NOT_TAKEN}"
            ) from error

    def _begin_segment(self) -> Segment:
        path = self.directory / f"{self.epoch:015d}-{self._next_seq:012d}.spool"
        fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self._fd = -1  # none in between, should a signal raise: what comes next begins a segment
        if self._segments and self._segments[-1].path == path:  # no record of it was written in full
            self._segments[-1].close()
        else:
            self._segments.append(Segment(path, self.epoch, self._next_seq, self._next_seq))
        self._segments[-1].fd = self._fd = fd
        return self._segments[-1]

    def look(self, acked: Position) -> None:
        """Whether the files are where they were made, and what is not acked in files that can be found after a crash.

        To be called at `look_at`. Raises SpoolInUse when another process has the directory by now, and OSError when a
        name cannot be given back: then nothing is appended before it is.
        """
        with self._write_lock:
            self.look_at = math.inf
            try:
                if not self._is_out_of_place and not self._is_in_place():
                    self._is_out_of_place = True
                    log.error("spool %s: files in it were removed or replaced. They are made anew", self.directory)
                self._put_in_place(acked)
            except OSError:
                self.look_at = time.monotonic() + LOOK_SECONDS
                raise

    def _put_in_place(self, acked: Position) -> None:
        """Raises SpoolInUse, OSError."""
        if not self._is_out_of_place:
            return
        try:
            self._make_anew(acked)
        except SpoolInUse:
            self._is_taken = True
            raise
        self._is_out_of_place = False

    def _is_in_place(self) -> bool:
        """Raises OSError."""
        return (
            self._lock.is_in_place()
            and os.path.lexists(self.directory / identity.NAME)
            and all(segment.is_in_place() for segment in self._segments)
        )

    def _make_anew(self, acked: Position) -> None:
        """Raises SpoolInUse, OSError."""
        make_directories(self.directory)
        self._lock.take()
        try:
            there = identity.read(self.directory)
        except (SpoolDamaged, SpoolFormatUnknown):
            there = None
        if there is None:
            self._identity.write(self.directory)
        elif there.epoch != self.epoch:
            raise SpoolInUse(
                f"the files of the spool {self.directory} were removed, and another process has used it since. Give "
                "every process a producer name of its own"
            )
        for segment in [*self._segments]:
            # The newest one's name keeps the count of what this session published.
            is_done = segment.last <= acked and segment is not self._segments[-1]
            if is_done or segment.is_in_place():
                continue
            if segment.fd >= 0:
                segment.write_anew()
            else:
                self._lose(segment)

    def _lose(self, segment: Segment) -> None:
        """Of an earlier session, and nobody held it open."""
        records = segment.next_seq - segment.first_seq
        log.error("spool %s: %s was removed, with up to %d records", self.directory, segment.path.name, records)
        self._identity = self._identity.with_lost(segment.path.stem, records)
        self._identity.write(self.directory)
        self._remove(segment)
        self._bytes -= segment.size + segment.torn

    def doubt(self) -> None:
        """A file could not be read: `look` is due."""
        self.look_at = -math.inf

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
        except OSError:
            self._unsynced_since = since
            raise

    @staticmethod
    def _sync_segment(segment: Segment) -> None:
        size = segment.size
        try:
            fd = open_file(segment.path, os.O_RDWR)
        except FileNotFoundError:
            return  # acked meanwhile; or removed, and `look` makes it anew
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

    def close(self, acked: Position = START) -> None:
        """Let another process have the spool. What is not acked stays; idempotent."""
        with self._write_lock:
            if self._fd >= 0:
                with contextlib.suppress(
                    OSError
                ):  # acked records that stay are asked for and dropped by the next session
                    self._give_back(acked, 0)
            self.let_go()

    def let_go(self) -> None:
        """Close all files, whatever is in them: a forked child does that too, or the lock would outlive its parent."""
        for segment in self._segments:
            segment.close()
        self._lock.release()
        self._fd = -1

    def fence(self) -> None:
        """Give up this identity: the next session gets a new producer id and takes what is left along. Raises
        OSError."""
        if not self._is_taken:
            self._identity.fence(self.directory)

    def is_foreign(self, resolved: Position, acked: Position) -> bool:
        """Whether the daemon has this from a copy of this spool, and records here would be taken for resolved with it.

        Of every session of this spool that published behind a record that is left, a segment is left too.
        """
        if resolved.epoch == self.epoch or resolved.epoch in self._identity.epochs_before:
            return False
        left = [segment.last for segment in list(self._segments)]
        return resolved.epoch not in {last.epoch for last in left} and any(acked < last < resolved for last in left)

    # -- reading and dropping -----------------------------------------------------------------------------------------

    def first_after(self, after: Position) -> Position:
        """What comes behind `after`: the next record there is, or else the next to be appended."""
        # Read before looking: a record appended after the look is still behind this position, never skipped by it.
        upcoming = self.next_position
        chunk = self.read_after(after, 1, 1)
        return chunk.first if chunk else max(upcoming, Position(after.epoch, after.seq + 1))

    @property
    def published(self) -> int:
        """Records of all sessions."""
        return self._identity.published + self._next_seq - 1

    @property
    def lost(self) -> int:
        """Records of all sessions that could not be read back because the file was damaged."""
        return self._identity.lost_records

    def report(self, acked: Position) -> SpoolReport:
        """How it stands, all of one moment."""
        with self._write_lock:
            last = Position(self.epoch, self._next_seq - 1)
            return SpoolReport(last, acked, self.published, self.lost, self.depth(acked), self._bytes)

    def depth(self, acked: Position) -> int:
        """Records behind `acked`."""
        return sum(
            segment.next_seq - max(segment.first_seq, acked.seq + 1 if segment.epoch == acked.epoch else 0)
            for segment in list(self._segments)
            if segment.last > acked
        )

    def read_after(self, after: Position, records_max: int, bytes_max: int) -> SpooledChunk | None:
        """The records behind `after`: consecutive, of one epoch, at least one however large; None when none is left.

        When `chunk.first` does not follow `after` directly, there is nothing in between.
        """
        return self._playback.read_after(after, records_max, bytes_max)

    def drop_through(self, acked: Position) -> None:
        """Forget the records up to `acked`; delete the segments that hold nothing else. Raises OSError."""
        with self._write_lock:
            if self._unsynced_since is not None and acked >= self._unsynced_until:
                self._unsynced_until = Position(self.epoch, self._next_seq - 1)
                self._unsynced_since = time.monotonic() if self._unsynced_until > acked else None
            self._give_back(acked, min(SEGMENT_REUSE_BYTES, self.segment_bytes_max))

    def _give_back(self, acked: Position, active_bytes: int) -> None:
        """Delete the segments that are acked to the end; this life's newest only when larger than `active_bytes`."""
        while self._segments and self._segments[0].last <= acked and not self._is_taken:
            segment = self._segments[0]
            if len(self._segments) == 1 and segment.epoch == self.epoch:
                if segment.size <= active_bytes:
                    return
                # The name of the newest segment keeps the count of what this session published, should it be killed.
                try:
                    self._begin_segment()
                except OSError:
                    return  # no room for one more name: tried again with the next ack
            if segment.damaged:
                with contextlib.suppress(FileNotFoundError):
                    segment.path.rename(segment.path.with_suffix(".damaged"))
            else:
                segment.path.unlink(missing_ok=True)
                self._bytes -= segment.size + segment.torn
            # Only now, so that a failure above is tried again with the next ack.
            self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        segment.close()
        self._playback.forget(segment)


_open_here: Final[weakref.WeakSet[Spool]] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for spool in list(_open_here):
        spool.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def _said(error: OSError) -> str:
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)


def _write_all(fd: int, data: bytes) -> None:
    """A short write to a file means a full disk or a file-size limit: writing the rest says which."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

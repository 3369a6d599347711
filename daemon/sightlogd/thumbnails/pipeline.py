"""Thumbnails: `events/YYYY-MM-DD/<event_id>.jpg`.

A picture that is an acceptable JPEG is kept as it was sent, durable before the row that names it. Any other waits in
`events/incoming`, durable before its event is acked, until a process of its own has made a JPEG of it; only then the
row gets its path. Nothing is decoded here, and no record waits for a picture.

Nor for a folder: a picture that cannot be put in its place (a day's folder that belongs to another user, is a link or a
file, is on a disk that may only be read) waits there too, is told, and is tried again. Where it cannot wait either, it
is dropped and counted, and its event is stored without one. Only where there is no room for files are records refused.

A crash at any point leaves the picture where the next start finds it: it is removed from INCOMING last, and doing
any step again changes nothing.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from sightlog.protocol.limits import IMAGE_BYTES_MAX
from sightlogd import durable
from sightlogd.daylogs.days import EVENTS, INCOMING, make_folder
from sightlogd.daylogs.own import PICTURE
from sightlogd.daylogs.writer import DayLogs
from sightlogd.directory import Odd, open_file
from sightlogd.errors import STORAGE_FULL, WriteRefused
from sightlogd.logs import Warnings
from sightlogd.metrics.metrics import PictureCounts
from sightlogd.protocol.decoder import EventRecord
from sightlogd.protocol.session import Chunk
from sightlogd.room import ran_out
from sightlogd.store import Store

from . import formats as jpeg
from .formats import FORMATS, NotAcceptable, PictureLimits, looks_like_one
from .queue import Incoming, check_free
from .worker import Answer, Child, Outcome

log = structlog.get_logger()

IMAGE_SECONDS: Final = 10.0
"""For decoding one picture; then its process is killed."""
RETRY_SECONDS: Final = 30.0
"""After a failure that is not the picture's: a full disk, a process that does not start."""
HELD_SECONDS: Final = 300.0
"""Until a picture is tried again that could not be put in its place."""
HELD_SHARE: Final = 0.5
"""Of what may wait: those must not keep others from being re-encoded."""


class Thumbnails:
    """Owns the pictures on their way from a message to their day's folder. Raises Stop.

    `save` before each commit; `collect` whenever `fileno()` is readable or `deadline` has passed. `image_seconds` is
    how long the decoder may take for one picture, `command` the decoder. `grew` is given each day, and the bytes
    and files its folder grew by.
    """

    def __init__(
        self,
        data_dir: Path,
        limits: PictureLimits,
        store: Store,
        logs: DayLogs,
        grew: Callable[[str, int, int], None],
        counts: PictureCounts,
        *,
        image_seconds: float = IMAGE_SECONDS,
        command: Sequence[str] = (),
    ) -> None:
        self._data_dir = data_dir
        self._limits = limits
        self._store = store
        self._logs = logs
        self._grew = grew
        self._incoming = Incoming(data_dir)
        self._unsynced: list[str] = []
        self._asked = ""
        self._retry_at = 0.0
        self._warn = Warnings()
        self._counts = counts
        try:
            self._incoming.load()
        except OSError as error:
            self._warn.error("incoming", f"cannot look for pictures that wait in {INCOMING}: {_why(error)}")
        self._child = Child(command or self._decoder(), image_seconds)

    def _decoder(self) -> list[str]:
        limits = self._limits
        # -P: whoever can write to the working directory must not have his code run.
        command = [sys.executable, "-P", "-m", "sightlogd.thumbnails.reencode"]
        return [
            *command, str(self._incoming.directory), str(self._incoming.encoded), str(limits.pixels_max),
            str(limits.bytes_max),
        ]  # fmt: skip

    # -- before the commit -------------------------------------------------------------------------------------------

    def save(self, chunks: Sequence[Chunk]) -> dict[tuple[int, int], str]:
        """Durable files before the rows; returns the paths to store, by chunk and record.

        An image that is not acceptable, or has no place, costs the picture, never the event; a duplicate's is not
        looked at. Raises WriteRefused when there is no room for files: that passes, and the producers still have them.
        """
        ids = [
            r.event_id
            for p in chunks
            if p.images or self._incoming
            for r in p.records
            if isinstance(r, EventRecord) and (p.images or r.event_id in self._incoming)
        ]
        if not ids:
            return {}
        known = self._store.known_events(ids)
        saved: dict[Path, list[tuple[tuple[int, int], str, bytes]]] = {}
        try:
            for number, chunk in enumerate(chunks):
                for index, record in enumerate(chunk.records):
                    if not isinstance(record, EventRecord) or record.event_id in known:
                        continue
                    known.add(record.event_id)
                    self._supersede(record.event_id)
                    image = chunk.images.get(index)
                    if image is not None and (target := self._save_one(record, image)) is not None:
                        saved.setdefault(target.parent, []).append(((number, index), record.event_id, image))
            paths: dict[tuple[int, int], str] = {}
            for folder, pictures in saved.items():
                if self._is_durable(folder, pictures):
                    day = folder.relative_to(self._data_dir)
                    paths |= {place: f"{day}/{event_id}{PICTURE}" for place, event_id, _ in pictures}
            self._sync_incoming()
        except OSError as error:
            self._counts.failures += 1
            what = ran_out(error.errno, self._incoming.directory) or str(error)
            code = STORAGE_FULL if durable.is_full(error) else "not_writable"
            raise WriteRefused(code, f"no room for thumbnails: {what}") from error
        return paths

    def _supersede(self, event_id: str) -> None:
        """One that waits under this id was left by a commit that was refused, or is of an event that was deleted. This
        may be another producer's event of the same name."""
        if event_id in self._incoming:
            self._forget(event_id)
            self._asked = "" if self._asked == event_id else self._asked

    def _save_one(self, record: EventRecord, image: bytes) -> Path | None:
        """Where it was written; None when it waits, or was dropped. Raises OSError when there is no room."""
        try:
            jpeg.check(image, self._limits)
        except NotAcceptable as error:
            try:
                self._check_worth_decoding(image, error)
            except NotAcceptable as why:
                self._drop(record.event_id, str(why))
            else:
                self._wait(record.event_id, image)
            return None
        try:
            target = self._target(record.event_id, record.recorded_at)
            before = check_free(target)  # of a commit that was refused
            durable.write(target, image, self._incoming.unfinished)
        except OSError as error:
            self._hold(record.event_id, image, error)
            return None
        self._grew(target.parent.name, durable.blocks(len(image)) - before, not before)
        return target

    def _hold(self, event_id: str, image: bytes, error: OSError) -> None:
        """It cannot be put in its place. Raises OSError when there is no room."""
        if _holds_for_all(error):
            raise error
        self._counts.failures += 1
        if _is_taken(error, event_id):
            self._drop(event_id, _taken(error))
        elif not self._incoming.has_room(len(image), HELD_SHARE):
            self._drop(event_id, f"{_why(error)}, and {len(self._incoming)} others wait already")
        else:
            self._wait(event_id, image)
            if event_id in self._incoming:
                self._incoming.postpone(event_id, time.monotonic() + HELD_SECONDS)
                self._warn.error("held", f"the thumbnail of event {event_id} waits in {INCOMING}: {_why(error)}")

    def _wait(self, event_id: str, image: bytes) -> None:
        """Raises OSError when there is no room."""
        try:
            self._incoming.put(event_id, image)
        except OSError as error:
            if _holds_for_all(error):
                raise
            self._counts.failures += 1
            self._drop(event_id, _taken(error) if _is_taken(error, event_id) else _why(error))
        else:
            self._unsynced.append(event_id)

    def _is_durable(self, folder: Path, pictures: Sequence[tuple[object, str, bytes]]) -> bool:
        try:
            durable.sync(folder)
        except OSError as error:
            for _, event_id, image in pictures:
                self._hold(event_id, image, error)
            return False
        return True

    def _sync_incoming(self) -> None:
        waiting, self._unsynced = self._unsynced, []
        try:
            if waiting:
                durable.sync(self._incoming.directory)
        except OSError as error:
            if _holds_for_all(error):
                raise
            self._counts.failures += 1
            for event_id in waiting:
                self._drop(event_id, _why(error))
                self._forget(event_id)

    def _check_worth_decoding(self, image: bytes, why: NotAcceptable) -> None:
        if not looks_like_one(image):
            raise NotAcceptable(f"not a picture ({', '.join(FORMATS)})")
        if not self._incoming.has_room(len(image)):
            raise NotAcceptable(f"{why}, and {len(self._incoming)} others wait to be re-encoded already")

    def _target(self, event_id: str, recorded_at: str) -> Path:
        """In its day's folder, which is there then. Raises OSError."""
        return make_folder(self._data_dir, f"{EVENTS}/{self._store.day_of(recorded_at)}") / f"{event_id}{PICTURE}"

    # -- after the ack -----------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when there is something to collect."""
        return self._child.fileno()

    @property
    def deadline(self) -> float:
        """When to call `collect` at the latest, in seconds of the monotonic clock."""
        wants = self._child.absent or self._child.idle
        return min(self._child.deadline, max(self._retry_at, self._incoming.due)) if wants else self._child.deadline

    def collect(self, now: float) -> None:
        """Take what the decoder has made, and give it the next picture. Raises Stop as the store does."""
        answer = self._child.step(now)
        if answer is not None:
            self._resolve(answer, now)
        if now < self._retry_at or not (self._child.absent or self._child.idle):
            return
        event_id = self._next(now)
        if event_id is None or self._place(event_id, now):
            return
        if self._child.idle:
            self._ask(event_id, now)
            return
        try:
            self._child.start(now)
        except OSError as error:
            self._fail(f"cannot start the decoder: {error}", now)

    def _ask(self, event_id: str, now: float) -> None:
        try:
            # What a picture before it left there must not be taken for this one.
            self._incoming.encoded.unlink(missing_ok=True)
        except OSError as error:
            self._fail(f"cannot re-encode pictures: {error}", now, event_id)
            return
        self._asked = event_id
        self._child.ask(event_id, now)

    def _place(self, event_id: str, now: float) -> bool:
        """One that needs no decoder gets to where it should have been. Whether it was one."""
        try:
            with open(open_file(self._incoming.directory / event_id), "rb") as file:
                image = file.read(IMAGE_BYTES_MAX + 1)
            jpeg.check(image, self._limits)
        except (OSError, NotAcceptable):
            return False  # the decoder tells
        unfinished = self._incoming.unfinished
        self._counts.stored += self._resolve_one(event_id, now, lambda target: durable.write(target, image, unfinished))
        return True

    def _next(self, now: float) -> str | None:
        while (event_id := self._incoming.first(now)) is not None:
            if self._store.awaits_thumbnail(event_id) is not None:
                return event_id
            # It has its picture: the last daemon died before the file was removed. Or the event was never stored, or
            # is deleted by now.
            path = f"{INCOMING}/{event_id}"
            log.warning("removed a picture that no event waits for", path=path, reason="no row, or it has its picture")
            self._forget(event_id)
        return None

    def _resolve(self, answer: Answer, now: float) -> None:
        event_id, self._asked = self._asked, ""
        if answer.outcome is Outcome.FAILED:
            self._fail(f"cannot re-encode pictures: {answer.reason}", now, event_id)
        elif not event_id:
            return  # its event was deleted meanwhile
        elif answer.outcome is Outcome.BROKEN:
            self._drop(event_id, answer.reason)
            self._forget(event_id)
        else:
            # Its bytes are durable: the decoder has fsynced them.
            encoded = self._incoming.encoded
            self._counts.reencoded += self._resolve_one(
                event_id, now, lambda target: os.rename(encoded, target), self._check_encoded
            )

    def _resolve_one(
        self, event_id: str, now: float, put: Callable[[Path], None], check: Callable[[], None] = lambda: None
    ) -> bool:
        """`put` it in its place, and give its row the path; or tell why not. Whether it is there."""
        is_placed = False
        try:
            if (recorded_at := self._store.awaits_thumbnail(event_id)) is not None:
                check()
                self._publish(event_id, recorded_at, put)
                is_placed = True
        except NotAcceptable as error:
            self._drop(event_id, str(error))
        except WriteRefused as error:
            # The row may have its path all the same, and nobody else would log that.
            self._logs.behind = True
            self._fail(f"cannot store a re-encoded picture: {error}", now, event_id)
            return False
        except OSError as error:
            if durable.is_full(error):
                self._fail(f"cannot store a re-encoded picture: {_why(error)}", now, event_id)
                return False
            if not _is_taken(error, event_id):
                self._counts.failures += 1
                self._incoming.postpone(event_id, now + HELD_SECONDS)
                self._warn.error("held", f"the thumbnail of event {event_id} waits in {INCOMING}: {_why(error)}")
                return False
            self._drop(event_id, _taken(error))
        self._forget(event_id)
        return is_placed

    def _publish(self, event_id: str, recorded_at: str, put: Callable[[Path], None]) -> None:
        """Raises OSError, WriteRefused."""
        target = self._target(event_id, recorded_at)
        before = check_free(target)
        put(target)
        durable.sync(target.parent)
        self._grew(target.parent.name, durable.blocks(target.stat().st_size) - before, not before)
        change = self._store.set_thumbnail(event_id, str(target.relative_to(self._data_dir)))
        if change is not None:
            self._logs.add([change], 0)

    def _check_encoded(self) -> None:
        """What decoded a stranger's picture may have become the stranger's: its word is not enough."""
        try:
            fd = open_file(self._incoming.encoded)
        except (FileNotFoundError, Odd) as error:
            raise NotAcceptable("the decoder made no file") from error
        with open(fd, "rb") as file:
            jpeg.check(file.read(self._limits.bytes_max + 1), self._limits)

    def _drop(self, event_id: str, reason: str) -> None:
        self._counts.dropped += 1
        self._warn("dropped", f"no thumbnail for event {event_id}: {reason}")

    def _fail(self, reason: str, now: float, event_id: str = "") -> None:
        self._counts.failures += 1
        self._retry_at = now + RETRY_SECONDS
        if event_id:
            self._incoming.postpone(event_id)
        self._warn("failed", f"{reason}; it is tried again in {RETRY_SECONDS:g} s")

    def _forget(self, event_id: str) -> None:
        try:
            self._incoming.remove(event_id)
        except OSError as error:
            self._counts.failures += 1
            self._warn("forget", f"cannot remove a picture from {INCOMING}: {_why(error)}; the next start does")

    def close(self) -> None:
        """What waits is taken up at the next start."""
        self._child.close()


def _holds_for_all(error: OSError) -> bool:
    """No fault of one folder: no room, a disk that fails, or a process that may open nothing. Records wait for that."""
    return durable.is_full(error) or error.errno in (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def _is_taken(error: OSError, event_id: str) -> bool:
    """Something else has the picture's own name; of what has the folder's it can be rid of."""
    return isinstance(error, Odd) and Path(error.filename).stem == event_id


def _taken(error: OSError) -> str:
    return f"its place {error.filename} is taken: {error.strerror} that sightlog did not make"


def _why(error: OSError) -> str:
    return f"{error.filename or 'a file'}: {error.strerror}"

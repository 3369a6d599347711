"""Thumbnails: `events/YYYY-MM-DD/<event_id>.jpg`.

A picture that is an acceptable JPEG is kept as it was sent, durable before the row that names it. Any other waits in
`incoming/`, durable before its event is acked, until a process of its own has made a JPEG of it; only then the row gets
its path. Nothing is decoded here, and no record waits for a picture.

A crash at any point leaves the picture where the next start finds it: it is removed from `incoming/` last, and doing
any step again changes nothing.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from sightlogd import durable
from sightlogd.decoder import EventRecord
from sightlogd.directory import Odd, open_file
from sightlogd.errors import EXIT_IO_ERROR, EXIT_PERMISSION, STORAGE_FULL, Stop, WriteRefused
from sightlogd.logs import Warnings
from sightlogd.metrics import PictureCounts
from sightlogd.session import Parcel
from sightlogd.store import Store

from . import formats, jpeg
from .child import Answer, Child, Outcome
from .daylog import DayLogs
from .days import EVENTS
from .incoming import Incoming, check_free
from .jpeg import NotAcceptable, PictureLimits

log = structlog.get_logger()

IMAGE_SECONDS: Final = 10.0
"""For decoding one picture; then its process is killed."""
RETRY_SECONDS: Final = 30.0
"""After a failure that is not the picture's: a full disk, a process that does not start."""


class Thumbnails:
    """Owns the pictures on their way from a message to their day's folder. Raises Stop.

    `save` before each commit; `collect` whenever `fileno()` is readable or `deadline` has passed. `image_seconds` is
    how long the decoder may take for one picture, `command` the decoder. `grew` is given each day and the bytes its
    folder grew by.
    """

    def __init__(
        self,
        data_dir: Path,
        limits: PictureLimits,
        store: Store,
        logs: DayLogs,
        grew: Callable[[str, int], None],
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
        self._incoming = _opened(data_dir / "incoming")
        self._asked = ""
        self._retry_at = 0.0
        self._warn = Warnings()
        self._counts = counts
        self._child = Child(command or self._decoder(), image_seconds)

    def _decoder(self) -> list[str]:
        limits = self._limits
        # -P: whoever can write to the working directory must not have his code run.
        command = [sys.executable, "-P", "-m", "sightlogd.files.reencode"]
        return [
            *command, str(self._incoming.directory), str(self._incoming.encoded), str(limits.pixels_max),
            str(limits.bytes_max),
        ]  # fmt: skip

    # -- before the commit -------------------------------------------------------------------------------------------

    def save(self, parcels: Sequence[Parcel]) -> dict[tuple[int, int], str]:
        """Durable files before the rows; returns the paths to store, by parcel and record.

        An image that is not acceptable costs the picture, never the event; a duplicate's is not looked at. Raises
        WriteRefused when a file cannot be written: that passes, and the producers still have it.
        """
        ids = [
            r.event_id
            for p in parcels
            if p.images or self._incoming
            for r in p.records
            if isinstance(r, EventRecord) and (p.images or r.event_id in self._incoming)
        ]
        if not ids:
            return {}
        known = self._store.known_events(ids)
        paths: dict[tuple[int, int], Path] = {}
        touched: set[Path] = set()
        try:
            for number, parcel in enumerate(parcels):
                for index, record in enumerate(parcel.records):
                    if not isinstance(record, EventRecord) or record.event_id in known:
                        continue
                    known.add(record.event_id)
                    if record.event_id in self._incoming:
                        # Left by a commit that was refused, or of an event that was deleted. This may be another
                        # producer's event of the same name.
                        self._incoming.remove(record.event_id)
                        self._asked = "" if self._asked == record.event_id else self._asked
                    image = parcel.images.get(index)
                    if image is None or (written := self._save_one(record, image)) is None:
                        continue
                    touched.add(written.parent)
                    if written.parent != self._incoming.directory:
                        paths[number, index] = written.relative_to(self._data_dir)
            for directory in touched:
                durable.sync(directory)
        except OSError as error:
            self._counts.failures += 1
            code = STORAGE_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else "not_writable"
            raise WriteRefused(code, f"cannot write thumbnails: {error}") from error
        return {key: str(path) for key, path in paths.items()}

    def _save_one(self, record: EventRecord, image: bytes) -> Path | None:
        """Where it was written; None when it was dropped."""
        try:
            target = self._target(record.event_id, record.recorded_at)
            try:
                jpeg.check(image, self._limits)
            except NotAcceptable as error:
                self._check_worth_decoding(image, error)
                self._incoming.put(record.event_id, image)
                return self._incoming.directory / record.event_id
            before = check_free(target)  # of a commit that was refused
        except NotAcceptable as error:
            self._drop(record.event_id, str(error))
            return None
        except Odd as error:
            self._drop(record.event_id, _taken(error))
            return None
        durable.write(target, image, self._incoming.unfinished)
        self._grew(target.parent.name, durable.blocks(len(image)) - before)
        return target

    def _check_worth_decoding(self, image: bytes, why: NotAcceptable) -> None:
        if not formats.looks_like_one(image):
            raise NotAcceptable(f"not a picture ({', '.join(formats.FORMATS)})")
        if not self._incoming.has_room(len(image)):
            raise NotAcceptable(f"{why}, and {len(self._incoming)} others wait to be re-encoded already")

    def _target(self, event_id: str, recorded_at: str) -> Path:
        return self._data_dir / EVENTS / self._store.day_of(recorded_at) / f"{event_id}.jpg"

    # -- after the ack -----------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when there is something to collect."""
        return self._child.fileno()

    @property
    def deadline(self) -> float:
        """When to call `collect` at the latest, in seconds of the monotonic clock."""
        wants = self._incoming and (self._child.absent or self._child.idle)
        return min(self._child.deadline, self._retry_at) if wants else self._child.deadline

    def collect(self, now: float) -> None:
        """Take what the decoder has made, and give it the next picture. Raises Stop as the store does."""
        answer = self._child.step(now)
        if answer is not None:
            self._settle(answer, now)
        if now < self._retry_at or not (self._child.absent or self._child.idle):
            return
        event_id = self._next()
        if event_id is None:
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

    def _next(self) -> str | None:
        while (event_id := self._incoming.first) is not None:
            if self._store.awaits_thumbnail(event_id) is not None:
                return event_id
            # It has its picture: the last daemon died before the file was removed. Or the event was never stored, or
            # is deleted by now.
            path = f"{self._incoming.directory.name}/{event_id}"
            log.warning("removed a picture that no event waits for", path=path, reason="no row, or it has its picture")
            self._forget(event_id)
        return None

    def _settle(self, answer: Answer, now: float) -> None:
        event_id, self._asked = self._asked, ""
        if answer.outcome is Outcome.FAILED:
            self._fail(f"cannot re-encode pictures: {answer.reason}", now, event_id)
        elif not event_id:
            return  # its event was deleted meanwhile
        elif answer.outcome is Outcome.BROKEN:
            self._drop(event_id, answer.reason)
            self._forget(event_id)
        else:
            try:
                self._publish(event_id)
            except NotAcceptable as error:
                self._drop(event_id, str(error))
                self._forget(event_id)
            except Odd as error:
                self._drop(event_id, _taken(error))
                self._forget(event_id)
            except (OSError, WriteRefused) as error:
                # The row may have its path all the same, and nobody else would log that.
                self._logs.behind |= isinstance(error, WriteRefused)
                self._fail(f"cannot store a re-encoded picture: {error}", now, event_id)

    def _publish(self, event_id: str) -> None:
        recorded_at = self._store.awaits_thumbnail(event_id)
        if recorded_at is not None:
            self._check_encoded()
            target = self._target(event_id, recorded_at)
            durable.make_directories(target.parent)
            check_free(target)
            os.rename(self._incoming.encoded, target)  # its bytes are durable: the decoder has fsynced them
            durable.sync(target.parent)
            self._grew(target.parent.name, durable.blocks(target.stat().st_size))
            change = self._store.set_thumbnail(event_id, str(target.relative_to(self._data_dir)))
            if change is not None:
                self._logs.add([change], 0)
            self._counts.reencoded += 1
        self._forget(event_id)

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
            self._warn("forget", f"cannot remove a picture from incoming: {error}; the next start does")

    def close(self) -> None:
        """What waits is taken up at the next start."""
        self._child.close()


def _taken(error: Odd) -> str:
    return f"its place {error.filename} is taken: {error.strerror} that sightlog did not make"


def _opened(directory: Path) -> Incoming:
    try:
        return Incoming(directory)
    except OSError as error:
        code = EXIT_PERMISSION if isinstance(error, PermissionError) else EXIT_IO_ERROR
        raise Stop(
            code, f"cannot look for pictures in {directory}: {error}. Give the daemon's user that directory"
        ) from error

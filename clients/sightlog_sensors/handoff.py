"""Frames on their way from a camera to the processes that look at them: a directory per consumer, a JPEG per event.

A frame appears under its name whole or not at all. Its consumer deletes it only after what it found was published,
which means spooled: a consumer that crashes sees the frame again. One that is down or too slow costs WAITING_MAX files
at most; what is skipped beyond it is counted. A power cut may take frames, but not events: those are in the spool.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sightlog import NotNow

from .process import Stop

log = logging.getLogger("sightlog.handoff")

WAITING_MAX: Final = 50
"""Frames that may wait for one consumer."""
RETRY_SECONDS: Final = 1.0
UNFINISHED_SECONDS_MAX: Final = 60.0
"""An unfinished file older than this was left by a crash."""

_IN_MOVED_TO: Final = 0x80  # <sys/inotify.h>
_SUFFIX: Final = ".jpg"


class Outbox:
    """The camera's side. `skipped` counts, for each consumer, the frames it does not get."""

    def __init__(self, directory: Path, consumers: Sequence[str]) -> None:
        self._directories = {consumer: directory / consumer for consumer in consumers}
        self.skipped = dict.fromkeys(consumers, 0)
        for path in self._directories.values():
            path.mkdir(parents=True, exist_ok=True)
            for unfinished in path.glob(".*.tmp"):
                if time.time() - unfinished.stat().st_mtime > UNFINISHED_SECONDS_MAX:
                    unfinished.unlink(missing_ok=True)

    def put(self, event_id: str, image: bytes) -> None:
        """Hand one event's encoded frame to every consumer. A full disk costs the frame, never the camera."""
        for consumer, directory in self._directories.items():
            if len(_waiting(directory)) >= WAITING_MAX:
                self._skip(consumer, f"{WAITING_MAX} frames wait for it")
                continue
            unfinished = directory / f".{event_id}.tmp"
            try:
                unfinished.write_bytes(image)
                os.replace(unfinished, directory / f"{event_id}{_SUFFIX}")
            except OSError as error:
                unfinished.unlink(missing_ok=True)
                self._skip(consumer, str(error))

    def _skip(self, consumer: str, reason: str) -> None:
        self.skipped[consumer] += 1
        if self.skipped[consumer] == 1:
            log.warning("frames for %s are skipped: %s", consumer, reason)


class Inbox:
    """A consumer's side."""

    def __init__(self, directory: Path, consumer: str) -> None:
        self._directory = directory / consumer
        self._directory.mkdir(parents=True, exist_ok=True)
        self._notices = _watch(self._directory)

    def serve(self, stop: Stop, handle: Callable[[str, bytes], None]) -> None:
        """Call `handle(event_id, image)` for every frame, the oldest first, until `stop`.

        A frame is deleted when `handle` has returned, so `handle` publishes before it does. When it raises NotNow (the
        spool is full), the frame is tried again; any other error goes through, and the frame stays.
        """
        while not stop.requested:
            self._forget_notices()
            pause = None
            for path in _waiting(self._directory):
                if stop.requested:
                    return
                try:
                    handle(path.stem, path.read_bytes())
                except NotNow as error:
                    log.warning("%s; trying again", error)
                    pause = RETRY_SECONDS
                    break
                path.unlink(missing_ok=True)
            # A frame that came since the listing has left a notice: then this returns at once.
            stop.wait(pause, *([self._notices] if pause is None else []))

    def _forget_notices(self) -> None:
        try:
            while os.read(self._notices, 65_536):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._notices)

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _waiting(directory: Path) -> list[Path]:
    """Complete frames, the oldest first: event ids grow with time."""
    return sorted(path for path in directory.iterdir() if path.suffix == _SUFFIX and not path.name.startswith("."))


def _watch(directory: Path) -> int:
    """A descriptor that is readable when a file was renamed into `directory`."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(directory), _IN_MOVED_TO) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot watch {directory}: {os.strerror(code)}")
    return descriptor

"""Wakes a thread that waits in poll()."""

from __future__ import annotations

import contextlib
import os
import threading


class Waker:
    """`fd` becomes readable with `wake`, from any thread; the waiting one calls `clear` after every wait."""

    def __init__(self) -> None:
        self.fd, self._writing_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._waking = False

    def wake(self) -> None:
        if self._waking:
            return
        with self._lock:
            if self._writing_end >= 0:  # else it is closed, and the number may be another file's by now
                self._waking = True
                with contextlib.suppress(BlockingIOError):  # full: it is awake
                    os.write(self._writing_end, b"!")

    def clear(self, *, readable: bool) -> None:
        """`readable`: whether the wait ended with `fd` readable."""
        if readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self.fd, 64)
        # Emptied first, cleared second: who calls wake in between writes nothing, but what it appended is seen by the
        # next turn. The other way round its byte would be swallowed and the flag stay set for good.
        self._waking = False

    def close(self) -> None:
        with self._lock:
            os.close(self._writing_end)
            os.close(self.fd)
            self._writing_end = self.fd = -1

"""Wakes a thread that waits in poll()."""

from __future__ import annotations

import os
import threading


class Waker:
    """`fd` becomes readable with `wake`, from any thread; the one that waited calls `clear` before it looks for work.

    While the flag is set there is one byte in the pipe, and else none.
    """

    def __init__(self) -> None:
        self.fd, self._writing_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._waking = False

    def wake(self) -> None:
        if self._waking:
            return
        with self._lock:
            # Closed, the number may be another file's by now.
            if not self._waking and self._writing_end >= 0:
                self._waking = True
                os.write(self._writing_end, b"!")

    def clear(self) -> None:
        if not self._waking:
            return
        with self._lock:
            # Whoever still finds it set writes nothing, but what it appended is seen by the turn that begins now. First
            # this, because a signal may raise behind the read: the flag without a byte would stay set for good.
            self._waking = False
            os.read(self.fd, 1)

    def close(self) -> None:
        with self._lock:
            os.close(self._writing_end)
            os.close(self.fd)
            self._writing_end = self.fd = -1

"""Tells the service manager whether the daemon makes progress, so that one that is stuck is killed and started anew."""

from __future__ import annotations

import math
import os
import threading
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from .notify import Notifier

LOOK_SECONDS: Final = 5.0
"""Between two looks while it starts or stops."""
EXTEND_SECONDS: Final = 30.0


class Phase(Enum):
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class Seen(NamedTuple):
    """One look at the daemon's thread."""

    beats: int
    """Turns of the loop."""
    state: str
    """As the kernel has it: R runs, S waits for somebody, D waits for a device."""
    ticks: int
    """Processor time."""


def makes_progress(phase: Phase, before: Seen, now: Seen) -> bool:
    """A slow card is waited for, however long it takes: that is a wait that the kernel calls uninterruptible.

    A thread that waits for a lock sleeps otherwise. Starting and stopping have work (recovery, migrations, the last
    batch) that no loop counts, so processor time counts there.
    """
    if now.state == "D":
        return True
    return now.beats != before.beats if phase is Phase.SERVING else now.ticks != before.ticks


def seen(beats: int, stat: str) -> Seen:
    """From /proc/PID/task/TID/stat (proc(5)); the name in parentheses may have anything in it."""
    fields = stat.rpartition(")")[2].split()
    return Seen(beats, fields[0], int(fields[11]) + int(fields[12]))


class Watchdog:
    """Looks at the thread that makes it, from one of its own; it asks for nothing when nobody listens."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        self._phase = Phase.STARTING
        self._beats = 0
        self._woken = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        watched = notifier.watchdog_seconds
        self._interval = watched / 4 if watched else math.inf
        if notifier.is_heard:
            self._thread.start()

    @property
    def turn_seconds(self) -> float:
        """The loop has to turn at least as often."""
        return self._interval

    def beat(self) -> None:
        self._beats += 1

    def serving(self) -> None:
        self._to(Phase.SERVING)

    def stopping(self) -> None:
        self._to(Phase.STOPPING)

    def _to(self, phase: Phase) -> None:
        self._phase = phase
        self._woken.set()

    def close(self) -> None:
        self._ended = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        before = self._look()
        while not self._ended:
            seconds = self._interval if self._phase is Phase.SERVING else min(LOOK_SECONDS, self._interval)
            if self._woken.wait(None if math.isinf(seconds) else seconds):
                self._woken.clear()
                continue
            now = self._look()
            phase = self._phase
            if makes_progress(phase, before, now):
                if phase is Phase.SERVING:
                    self._notifier.alive()
                else:
                    self._notifier.extend(EXTEND_SECONDS)
            before = now

    def _look(self) -> Seen:
        return seen(self._beats, os.fsdecode(self._stat.read_bytes()))

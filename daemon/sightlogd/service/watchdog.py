"""Tells the service manager whether the daemon makes progress, so that one that is stuck is killed and started anew."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from .sd_notify import Notifier

LOOK_SECONDS: Final = 5.0
"""Between two looks while it starts or stops."""
SERVING_LOOK_SECONDS: Final = 15.0
"""Between two looks while it serves, at most: a stop may be asked for during a commit that takes minutes."""
EXTEND_SECONDS: Final = 30.0
STAT_BYTES_MAX: Final = 4_096
STOPS: Final = {signal.SIGTERM, signal.SIGINT}


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
        self._phase = Phase.STARTING
        self._stop_is_wanted: Callable[[], bool] = lambda: False
        self._beats = 0
        self._woken = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        watched = notifier.watchdog_seconds
        self._interval = watched / 4 if watched else math.inf
        if notifier.is_heard:
            # Kept open: a daemon without a free descriptor is to be seen too.
            self._stat = os.open(f"/proc/self/task/{threading.get_native_id()}/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._thread.start()

    @property
    def turn_seconds(self) -> float:
        """The loop has to turn at least as often."""
        return self._interval

    def beat(self) -> None:
        self._beats += 1

    def serving(self, stop_is_wanted: Callable[[], bool]) -> None:
        """`stop_is_wanted` is asked from the other thread: the loop may be in a commit when it is told to stop."""
        self._stop_is_wanted = stop_is_wanted
        self._phase = Phase.SERVING
        self._woken.set()

    def stopping(self) -> None:
        """The loop has ended, or is about to."""
        if self._phase is not Phase.STOPPING:
            self._phase = Phase.STOPPING
            self._notifier.stopping("writing down the last records")
            self._woken.set()

    def close(self) -> None:
        self._ended = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()
            os.close(self._stat)

    def _run(self) -> None:
        # Blocked here, a stop is seen that the loop's thread cannot take while the kernel has it wait for the card.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        before = self._look()
        while not self._ended:
            look = SERVING_LOOK_SECONDS if self._phase is Phase.SERVING else LOOK_SECONDS
            if self._woken.wait(min(look, self._interval)):
                self._woken.clear()
                continue
            now = self._look()
            is_to_stop = self._stop_is_wanted() or bool(STOPS & signal.sigpending())
            phase = Phase.STOPPING if is_to_stop else self._phase
            if makes_progress(phase, before, now):
                if phase is not Phase.SERVING:
                    self._notifier.extend(EXTEND_SECONDS)
                elif self._notifier.watchdog_seconds:
                    self._notifier.alive()
            before = now

    def _look(self) -> Seen:
        return seen(self._beats, os.fsdecode(os.pread(self._stat, STAT_BYTES_MAX, 0)))

"""The process that decodes, as the daemon sees it: one at a time, watched by the clock, and never waited for."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Final, NamedTuple

START_SECONDS: Final = 60.0
"""To import its libraries with the lowest priority, on a busy machine."""
STARVED_TIMES: Final = 30
"""So many times over a picture may take as long when the process wants to go on and other programs do not let it."""
IDLE_SECONDS: Final = 10.0
END_SECONDS: Final = 5.0
LINE_BYTES_MAX: Final = 1_024
REASON_CHARS_MAX: Final = 200


class Outcome(Enum):
    DONE = auto()
    BROKEN = auto()
    """The picture cannot be decoded, or it took the process along."""
    FAILED = auto()
    """No fault of the picture: a file could not be read or written, or the process did not start."""


class Answer(NamedTuple):
    outcome: Outcome
    reason: str


class _State(Enum):
    ABSENT = auto()
    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    ENDING = auto()


class Child:
    """Call `step` when `fileno()` is readable or `deadline` has passed. Times are seconds of one monotonic clock.

    `image_seconds` is how long one picture may take, by the clock on the wall; longer while it has no processor. It has
    the lowest priority, and a board whose cores all run a detector is no reason to drop pictures.
    """

    def __init__(self, command: Sequence[str], image_seconds: float) -> None:
        self._command = command
        self._image_seconds = image_seconds
        self._state = _State.ABSENT
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._why = ""
        self._given_up_at = math.inf
        self.deadline = math.inf
        # Pipes come and go with the processes; whoever polls sees one descriptor that stays.
        self._epoll = select.epoll()

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def absent(self) -> bool:
        return self._state is _State.ABSENT

    @property
    def idle(self) -> bool:
        return self._state is _State.IDLE

    def start(self, now: float) -> None:
        """Raises OSError."""
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._process, self._said, self._why = process, b"", ""
        self._enter(_State.STARTING, now + START_SECONDS)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._epoll.register(process.stdout, select.EPOLLIN)

    def ask(self, request: str, now: float) -> None:
        """One line, when it is idle; the answer comes from `step`, or never when the process is gone by now."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{request}\n".encode())  # far less than a pipe holds
        except OSError:
            self._kill("ended by itself")  # between two pictures: it costs none
        else:
            self._given_up_at = now + STARVED_TIMES * self._image_seconds
            self._enter(_State.BUSY, now + self._image_seconds)

    def step(self, now: float) -> Answer | None:
        """What became of the request, or of the start; None while that is open, and when there was none."""
        answer = self._read(now) if self._process is not None and self._epoll.poll(0) else None
        if answer is None and now >= self.deadline:
            self._overdue(now)
        return answer

    def _overdue(self, now: float) -> None:
        if self._state is _State.IDLE:
            # Asked, not left to itself: it would end now and then between a look at it and the next request.
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._enter(_State.ENDING, now + END_SECONDS)
        elif self._state is _State.STARTING:
            self._kill(f"not ready within {START_SECONDS:g} s")
        elif now < self._given_up_at and self._wants_to_go_on():
            self.deadline = now + self._image_seconds
        else:
            self._kill(f"took longer than {self._image_seconds:g} s")

    def _wants_to_go_on(self) -> bool:
        """Runnable, or in the kernel's hands: its own limit of processor time ends it if that is a loop."""
        assert self._process is not None
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b") ")[2][:1] in (b"R", b"D")

    def _kill(self, why: str) -> None:
        # Its end is heard of as the end of its output: waiting for it could hold up the writer.
        assert self._process is not None
        self._why = self._why or why
        self._process.kill()
        self._enter(_State.ENDING if self._state is _State.IDLE else self._state, math.inf)

    def _read(self, now: float) -> Answer | None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            said = os.read(self._process.stdout.fileno(), LINE_BYTES_MAX)
        except BlockingIOError:
            return None
        if not said:
            return self._ended()
        self._said += said
        line, newline, rest = self._said.partition(b"\n")
        if rest or len(line) > LINE_BYTES_MAX:
            self._said = b""
            self._kill("said more than it was asked")
            return None
        return self._take(line, now) if newline else None

    def _take(self, line: bytes, now: float) -> Answer | None:
        self._said = b""
        word, _, reason = line.decode("ascii", "replace").partition(" ")
        outcomes = {"ok": Outcome.DONE, "no": Outcome.BROKEN, "io": Outcome.FAILED}
        if self._state is _State.STARTING and line == b"ready":
            self._enter(_State.IDLE, now + IDLE_SECONDS)
        elif self._state is _State.BUSY and word in outcomes and not self._why:
            self._enter(_State.IDLE, now + IDLE_SECONDS)
            return Answer(outcomes[word], "".join(c if c.isprintable() else "?" for c in reason[:REASON_CHARS_MAX]))
        else:
            self._kill("said what it was not asked")
        return None

    def _ended(self) -> Answer | None:
        """Reaps it. That costs the picture it was at, and nothing else."""
        assert self._process is not None
        state, why = self._state, self._why
        code = self._end()
        if not why:
            why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if state is _State.STARTING:
            return Answer(Outcome.FAILED, f"the decoder {why} before it was ready")
        return Answer(Outcome.BROKEN, f"the decoder {why}") if state is _State.BUSY else None

    def _end(self) -> int:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()  # it may have closed its output and gone on
        self._epoll.unregister(process.stdout)
        process.stdin.close()
        process.stdout.close()
        self._process = None
        self._enter(_State.ABSENT, math.inf)
        return process.wait()

    def _enter(self, state: _State, deadline: float) -> None:
        self._state, self.deadline = state, deadline

    def close(self) -> None:
        if self._process is not None:
            self._end()
        self._epoll.close()

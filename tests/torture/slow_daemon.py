"""sightlogd on a disk that takes its time: every fsync, SQLite's and the daemon's own, takes so many seconds longer.

    python tests/torture/slow_daemon.py SECONDS_FILE WITHOUT run --data-dir …

SECONDS_FILE has the number and is read anew each time: a disk that gets slow, and well again; "-" leaves the disk as
it is (under a VFS of Python's SQLite's calls keep the GIL: nothing else runs while one waits). WITHOUT is nothing or,
for the controls: limits (producers may send all they have, and all of it waits in memory), commit (acks leave before
the commit), shares (every producer has the whole window), patience (the watchdog does not wait for the disk) or quiet
(ZeroMQ's own heartbeats). The product's own code, wrapped from outside.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import zmq

from sightlog.protocol import messages
from sightlogd.__main__ import main
from sightlogd.protocol import session
from sightlogd.service import loop, watchdog
from sightlogd.transport import local

BOUNDLESS = messages.Limits(window_records=10**9, window_bytes=10**12)
UNIX = "unix"
HEARTBEAT_MS = 200
HEARTBEAT_TIMEOUT_MS = 5_000


class SlowDisk(apsw.VFS):
    def __init__(self, seconds: Path) -> None:
        super().__init__("slow", UNIX, makedefault=True)
        self._seconds = seconds
        self._fsync = os.fsync
        os.fsync = self.fsync  # type: ignore[assignment]

    def wait(self) -> None:
        time.sleep(float(self._seconds.read_text() or 0))

    def fsync(self, fd: int) -> None:
        self.wait()
        self._fsync(fd)

    def xOpen(self, name: Any, flags: list[int]) -> SlowFile:  # noqa: N802
        return SlowFile(name, flags, self.wait)


class SlowFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], wait: Any) -> None:
        super().__init__(UNIX, name, flags)
        self._wait = wait

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._wait()
        super().xSync(flags)


def ack_first(self: loop.Ingest, reason: Any) -> None:
    for chunk in self._batch.chunks:
        self._send(chunk.session.route, messages.ack(chunk.last, []))
    commit(self, reason)


def with_heartbeats(context: Any) -> zmq.Socket[bytes]:
    router = make_router(context)
    router.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    return router


if __name__ == "__main__":
    if sys.argv[1] != "-":
        disk = SlowDisk(Path(sys.argv[1]))
    without = sys.argv[2]
    commit, make_router = loop.Ingest._commit, local.make_router
    if without == "limits":
        loop.Limits = lambda **_: BOUNDLESS
        local.RECEIVE_QUEUE_MESSAGES = 0
    elif without == "commit":
        loop.Ingest._commit = ack_first
    elif without == "shares":
        session.WHOLE_WINDOWS = 10**6
        local.RECEIVE_QUEUE_MESSAGES = 0
    elif without == "patience":
        watchdog.makes_progress = lambda _, before, now: now.beats != before.beats
    elif without == "quiet":
        local.make_router = with_heartbeats
    elif without != "nothing":
        sys.exit(f"unknown protection {without}")
    sys.exit(main(sys.argv[3:]))

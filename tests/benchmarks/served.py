"""A daemon as a service manager starts it: on what is there already, told when it is ready, and watched."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bench

CONFIG = '[storage]\nmax_storage_gb = 1000\nkeep_free_gb = 0\nmin_retention_days = 0\n[store]\ntimezone = "UTC"\n'
WATCHDOG_SECONDS = 60
"""Of the unit."""
READY_SECONDS_MAX = 120.0
SETTLED_SECONDS = 600.0


class Served:
    """A daemon that a service manager would have started."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self.data = path / "data"
        self.endpoint = f"ipc://{path}/s"
        (path / "config.toml").write_text(CONFIG)
        manager = path / "notify"
        manager.unlink(missing_ok=True)
        with open(path / "log", "ab") as log, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(os.fspath(manager))
            heard.settimeout(READY_SECONDS_MAX)
            began = time.perf_counter()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sightlogd", "run", "--config", path / "config.toml", "--data-dir", self.data,
                 "--endpoint", self.endpoint],
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": os.fspath(manager), "WATCHDOG_USEC": f"{WATCHDOG_SECONDS * 10**6}"},
            )  # fmt: skip
            try:
                while b"READY=1" not in heard.recv(65_536):
                    pass
            except TimeoutError:
                self.process.kill()
                raise RuntimeError(f"not ready: {(path / 'log').read_text()}") from None
            self.ready_seconds = time.perf_counter() - began

    @property
    def pid(self) -> int:
        return self.process.pid

    def resolve(self) -> float:
        """Waits for the end of what a start has to do; returns the processor's seconds that it took."""
        taken, ends = [self._cpu_seconds()], time.monotonic() + SETTLED_SECONDS
        while len(taken) < 5 or taken[-1] - taken[-5] > 0.02:
            if time.monotonic() > ends:
                raise RuntimeError("it does not come to rest")
            time.sleep(0.5)
            taken.append(self._cpu_seconds())
        return taken[-1] - taken[0]

    def _cpu_seconds(self) -> float:
        return bench.cpu_seconds(self.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            if self.process.wait() != 0:
                raise RuntimeError(f"sightlogd failed: {(self.path / 'log').read_text()}")


@contextlib.contextmanager
def served(path: Path) -> Iterator[Served]:
    daemon = Served(path)
    try:
        yield daemon
    finally:
        daemon.stop()

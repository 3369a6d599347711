"""A daemon that other machines may connect to, here by loopback, and the files of its keys."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import Daemon

from sightlog import Publisher


def free_port() -> int:
    # Below those that the kernel gives to connections: one of another test would take it before the daemon does.
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


class Remote:
    """Give it a daemon that is not started yet. Keys are in `home/keys`, producers' files in `home/carried`."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self.keys_dir = daemon.home / "keys"
        self.carried = daemon.home / "carried"
        self.carried.mkdir()
        daemon.settings = f'[remote]\nlisten = "{self.endpoint}"\nkeys_dir = "{self.keys_dir}"\n'
        (daemon.home / "config.toml").write_text(daemon.settings)

    def keys(self, verb: str, *arguments: str | Path, code: int = 0) -> str:
        """`sightlogd keys …`; what it said."""
        daemon = self.daemon
        where = ["--config", daemon.home / "config.toml", "--data-dir", daemon.data_dir]
        done = subprocess.run(
            [sys.executable, "-m", "sightlogd", "keys", verb, *where, *arguments],
            cwd=self.carried, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def new(self, name: str) -> Path:
        """The key file of a new producer, which is allowed."""
        self.keys("new", name)
        return self.carried / f"{name}.key_secret"

    def publisher(self, name: str, key_file: Path, **options: Any) -> Publisher:
        return Publisher(self.endpoint, name, self.daemon.home / "spool", key_file=key_file, **options)

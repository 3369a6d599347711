"""The installed `sightlog` command: run, shown on a terminal, its output taken apart."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

from conftest import Daemon

SIGHTLOG = str(Path(sys.executable).with_name("sightlog"))


def environment(where: Daemon | Path, **more: str) -> dict[str, str]:
    """`where` is a daemon, or a data directory that has none."""
    # Buffered as for users: flushing is part of what is tested.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if isinstance(where, Path):
        places = {"SIGHTLOG_DATA_DIR": str(where)}
    else:
        places = {
            "SIGHTLOG_DATA_DIR": str(where.data_dir),
            "SIGHTLOG_ENDPOINT": where.endpoint,
            "SIGHTLOG_SPOOL_DIR": str(where.home / "spool"),
        }
    return {**inherited, **places, "TZ": "Europe/Zurich", "PYTHONIOENCODING": "utf-8", **more}


def run(where: Daemon | Path, *arguments: object, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SIGHTLOG, *map(str, arguments)], input=given, capture_output=True, encoding="utf-8", timeout=60,
        env=environment(where, **more), check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


class Screen(NamedTuple):
    code: int
    text: str


def on_a_terminal(
    where: Daemon | Path, columns: int, *arguments: object, errors_too: bool = False, **more: str
) -> Screen:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [SIGHTLOG, *map(str, arguments)], stdout=subprocess.DEVNULL if errors_too else follower, stderr=follower,
        env=environment(where, **{"TERM": "xterm", **more}),
    )  # fmt: skip
    os.close(follower)
    said = b""
    try:
        while select.select([leader], [], [], 60)[0] and (data := os.read(leader, 65_536)):
            said += data
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(leader)
    return Screen(process.wait(20), said.decode())


def objects(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def event_ids(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Of JSON Lines."""
    return [one["event_id"] for one in objects(done)]


def ids(output: str) -> list[str]:
    """Of lines that end in them."""
    return [line.split()[-1] for line in output.splitlines()]

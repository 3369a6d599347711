"""Real daemons, real spools, real files for the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lab
import pytest
import sample
import stored

from sightlog import Event, Publisher, Reader

# A shell without job control starts what is in the background with SIGINT ignored. Children of the tests would inherit
# that, and be programs that nobody can interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
    """The first true value of `condition()`; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            pytest.fail(f"not within {timeout} s: {what}")
        time.sleep(0.005)


SMALL_DISK = "[storage]\nkeep_free_gb = 0.0\n"
"""On a file system of some megabytes there is never as much free as an owner would want."""
NOBODY = 65534
"""uid of `nobody` and gid of `nogroup`."""
# Imports first: the interpreter may live where only root may look.
AS_NOBODY = f"""
import importlib.readers, importlib.resources, os, sys, sightlog.reader.reader, sightlogd.__main__
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""


def open_to_all(path: Path) -> None:
    """Let other users pass through pytest's private directories down to `path`."""
    for part in (path, *path.parents):
        if part.is_relative_to(tempfile.gettempdir()) and part != Path(tempfile.gettempdir()):
            part.chmod(0o755)


@contextmanager
def small_file_system(path: Path, size: str) -> Iterator[None]:
    """A real one of so many bytes ("4m"), mounted at `path`. Needs root."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def fill_the_disk(filler: Path) -> None:
    """To the last byte."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 65_536):
            pass
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4_096):
            pass
    assert os.statvfs(filler).f_bavail == 0


class Daemon:
    """`sightlogd run` as a process of its own, on a data directory that outlives it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data_dir = home / "data"
        self.database = self.data_dir / "events.db"
        # A socket's path has 107 bytes at most, and pytest's temporary directories are deep.
        self._socket_dir = tempfile.TemporaryDirectory(prefix="sightlog-")
        self.endpoint = f"ipc://{self._socket_dir.name}/s"
        self.log = home / "sightlogd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._readers: list[Reader] = []
        self.settings = ""
        """In front of every configuration."""

    def start(
        self,
        *arguments: str,
        config: str = "",
        wait: bool = True,
        env: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "sightlogd"),
        pass_fds: Sequence[int] = (),
    ) -> Daemon:
        file = self.home / "config.toml"
        file.write_text(self.settings + config)
        file.chmod(0o644)  # whatever the umask is: some daemons run as another user
        command = [sys.executable, *program, "run", "--config", str(file), "--data-dir", str(self.data_dir)]
        ready = self._count_ready()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--endpoint", self.endpoint, *arguments],
                stderr=log,
                env={**os.environ, **(env or {})},
                pass_fds=pass_fds,
            )
        if wait:
            wait_for(lambda: self._count_ready() > ready or self.process.poll() is not None, "sightlogd is ready")
            assert self.process.poll() is None, self.log.read_text()
        return self

    def _count_ready(self) -> int:
        return self.log.read_text().count('"event": "ready"') if self.log.exists() else 0

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer or a power cut's little brother would."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def publisher(self, name: str = "sensor", **options: Any) -> Publisher:
        return Publisher(self.endpoint, name, self.home / "spool", **options)

    def reader(self, site: str = "default") -> Reader:
        self._readers.append(Reader(self.database, site))
        return self._readers[-1]

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for reader in self._readers:
            reader.close()
        self._socket_dir.cleanup()


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """Commands that a test runs in this process set theirs, and tests behind it would make files nobody may read."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def idle_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Not started yet."""
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.end()


@pytest.fixture
def daemon(idle_daemon: Daemon) -> Daemon:
    """Running."""
    return idle_daemon.start()


@pytest.fixture
def filled(daemon: Daemon) -> Daemon:
    """Thirty events, a minute apart, of two cameras: e00 is the oldest."""
    with daemon.publisher() as publisher:
        base = datetime(2026, 3, 1, 10, tzinfo=UTC)
        publisher.insert_events(
            Event(f"cam{n % 2}", event_id=f"e{n:02}", recorded_at=base.replace(minute=n)) for n in range(30)
        )
    return daemon


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with `sample`'s events; nobody may write to it."""
    data_dir = tmp_path_factory.mktemp("home")
    stored.write(data_dir / "events.db", sample.EVENTS, sample.OBSERVATIONS)
    return data_dir


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a store of nothing."""
    data_dir = tmp_path_factory.mktemp("empty")
    stored.write(data_dir / "events.db")
    return data_dir


@pytest.fixture
def zurich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of a place whose clocks change."""
    monkeypatch.setenv("TZ", "Europe/Zurich")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Iterator[lab.Attack]:
    """The row of this test in the lab's table, and its seed, which is shown when the test fails."""
    row = lab.Attack(request.node.nodeid.rpartition("/")[2], lab.SEED)
    request.node.add_report_section("setup", "seed", f"SIGHTLOG_SEED={row.seed}")
    yield row
    print(row.end(passed=request.node.stash.get(PASSED, False)))

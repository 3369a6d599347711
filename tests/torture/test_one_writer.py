"""One writer, whatever becomes of the files that say so: locks removed and replaced, starts in masses, containers."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Daemon, wait_for
from lab import often
from overload import Crowd, check, ending

from sightlog import Event

ROUNDS = often(1, 10)
RIVALS = 2
AGAIN = 75
UNGUARDED = str(Path(__file__).parents[1] / "unguarded_daemon.py")


class Rival:
    """Another `sightlogd run` on the same data directory."""

    def __init__(
        self, daemon: Daemon, name: str, program: tuple[str, ...] = ("-m", "sightlogd"), data: str = ""
    ) -> None:
        self.log = daemon.home / f"{name}.log"
        # Each with an endpoint of its own: the socket is not to be what keeps it out.
        endpoint = f"{daemon.endpoint}.{name}"
        command = [*program, "run", "--data-dir", data or str(daemon.data_dir), "--endpoint", endpoint]
        self.process = self.start(command)

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            return subprocess.Popen([sys.executable, *command], stderr=log)

    @property
    def is_ready(self) -> bool:
        return '"event": "ready"' in self.log.read_text()

    @property
    def writes(self) -> bool:
        return self.is_ready and self.process.poll() is None

    @property
    def is_decided(self) -> bool:
        return self.is_ready or self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def rivals(daemon: Daemon, count: int = RIVALS, **options) -> Iterator[list[Rival]]:
    """Started at once."""
    started = [Rival(daemon, f"rival{number}", **options) for number in range(count)]
    try:
        yield started
    finally:
        for rival in started:
            rival.kill()


def crowd_of(daemon: Daemon) -> Crowd:
    return Crowd(daemon, spool_bytes=16 << 20, text_chars=100, pause_ms=2, urgent=1)


def is_sound(daemon: Daemon) -> None:
    with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]


# -- what is done to the files ---------------------------------------------------------------------------------------


def remove(lock: Path) -> None:
    lock.unlink(missing_ok=True)


def rename(lock: Path) -> None:
    lock.rename(lock.with_name("lock.old"))


def link(lock: Path) -> None:
    remove(lock)
    lock.symlink_to(lock.parent / "elsewhere")


def hard_link(lock: Path) -> None:
    remove(lock)
    os.link(lock.parent / "secret", lock)


def copy(lock: Path) -> None:
    shutil.copy(lock, lock.with_name("lock.copy"))
    lock.with_name("lock.copy").rename(lock)


def everything_but_the_database(lock: Path) -> None:
    for name in ("lock", "writer.json", "control.sock", "ballast", "metrics"):
        path = lock.with_name(name)
        shutil.rmtree(path, ignore_errors=True)  # the daemon makes it again, while it is looked at too
        with suppress(OSError):
            path.unlink()


DEEDS: tuple[Callable[[Path], None], ...] = (remove, rename, link, hard_link, copy, everything_but_the_database)


@pytest.mark.timeout(120 + ROUNDS * len(DEEDS) * 30)
def test_whatever_becomes_of_the_lock_file_another_daemon_is_kept_out(idle_daemon, attack):
    attack.on("P11", "its lock file removed or replaced under a running daemon, and others started", "starts")
    daemon = idle_daemon.start()
    lock, secret = daemon.data_dir / "lock", daemon.data_dir / "secret"
    secret.write_text("not ours")
    secret.chmod(0o644)
    crowd = crowd_of(daemon)
    with ending(crowd), daemon.publisher("calm") as calm:
        crowd.start("camera")
        for deed in DEEDS * ROUNDS:
            deed(lock)
            with rivals(daemon) as started:
                for rival in started:
                    assert rival.process.wait(30) == AGAIN, f"{deed.__name__}\n{rival.log.read_text()}"
                    assert not rival.is_ready
                    attack.runs += 1
            assert calm.insert_event(Event("calm"), timeout=20)
            wait_for(
                lambda: lock.is_file() and not lock.is_symlink() and lock.stat().st_nlink == 1, "lock is made again"
            )
            assert lock.stat().st_mode & 0o777 == 0o600
            assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("not ours", 0o644)
            assert not (daemon.data_dir / "elsewhere").exists()
        crowd.end(60)
    assert daemon.process.poll() is None
    assert any("made again" in line["event"] for line in daemon.logged())
    check(daemon.database, crowd.ledgers, delivered=True)
    assert daemon.stop() == 0


@contextmanager
def removing(*paths: Path) -> Iterator[None]:
    """Again and again, as fast as it goes."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            for path in paths:
                with suppress(OSError):
                    path.unlink()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(60 + ROUNDS * 60)
def test_of_many_that_start_while_the_lock_file_is_removed_one_writes(idle_daemon, attack):
    attack.on(
        "P11, P1", "daemons started at once, on a new store and on one that was killed, rm lock in a loop", "starts"
    )
    daemon = idle_daemon
    daemon.data_dir.mkdir()
    with removing(daemon.data_dir / "lock"):
        for number in range(ROUNDS + 1):
            with rivals(daemon, 3) as started:
                wait_for(lambda started=started: all(rival.is_decided for rival in started), "all are decided", 60)
                writers = [rival for rival in started if rival.writes]
                assert len(writers) == 1, [rival.log.read_text()[-500:] for rival in started]
                assert [r.process.returncode for r in started if r not in writers] == [AGAIN] * 2
                endpoint = f"{daemon.endpoint}.rival{started.index(writers[0])}"
                daemon.endpoint, before = endpoint, daemon.endpoint
                with daemon.publisher(f"camera{number}") as publisher:
                    publisher.insert_events([Event("door") for _ in range(50)])
                daemon.endpoint = before
                attack.runs += len(started)  # and now all of them are killed
    daemon.start()
    assert daemon.reader().count_events() == 50 * (ROUNDS + 1)
    is_sound(daemon)


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
@pytest.mark.timeout(120)
def test_two_containers_on_one_folder_have_one_writer(idle_daemon, attack):
    attack.on(
        "P11", "daemons in network and mount namespaces of their own, on one bind mount, without a lock", "starts"
    )
    daemon = idle_daemon
    daemon.data_dir.mkdir()
    inside = daemon.home / "inside"
    inside.mkdir()
    container = (
        "-c",
        "import os, sys; os.execvp('unshare', ['unshare', '--net', '--mount', 'sh', '-c', "
        f'\'mount --bind {daemon.data_dir} {inside} && exec "$0" -m sightlogd "$@"\', sys.executable, *sys.argv[1:]])',
    )
    with rivals(daemon, 1, program=container, data=str(inside)) as [first]:
        wait_for(lambda: first.is_decided, "it starts", 30)
        assert first.writes
        for _ in range(ROUNDS):
            everything_but_the_database(daemon.data_dir / "lock")
            second = Rival(daemon, "second", container, str(inside))
            try:
                assert second.process.wait(30) == AGAIN
            finally:
                second.kill()
            attack.runs += 1
        assert first.writes
    is_sound(daemon)


@pytest.mark.timeout(120)
def test_no_verb_writes_beside_a_daemon_that_lost_its_lock_file(idle_daemon, attack):
    attack.on("P11", "every writing verb, beside a daemon whose lock file and control socket are gone", "verbs")
    daemon = idle_daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    wait_for(lambda: list(daemon.data_dir.glob("events/*/events.json")), "its day has a folder")
    backup = daemon.home / "backup"
    sightlogd = [sys.executable, "-m", "sightlogd"]
    where = ["--data-dir", str(daemon.data_dir)]
    subprocess.run([*sightlogd, "backup", *where, backup], check=True, capture_output=True)
    # As if an upgrade had not ended.
    shutil.copy(daemon.database, daemon.data_dir / "events.before-upgrade.db")
    config = daemon.home / "upgrade.toml"
    config.write_text(f"[store]\ndata_dir = '{daemon.data_dir}'\n")
    verbs = [
        [*sightlogd, "purge", *where, "--force", "--before", "2999-01-01"],
        [*sightlogd, "rebuild", "--from-logs", *where, "--output", str(daemon.data_dir / "other.db")],
        [*sightlogd, "restore", *where, str(backup)],
        [sys.executable, "-m", "sightlogd.cli.upgrade", "undo", "--config", str(config)],
        [*sightlogd, "run", *where, "--endpoint", f"{daemon.endpoint}.other"],
    ]
    for verb in verbs:
        done = None
        # The daemon makes its control socket again, and then does itself what it is asked for.
        while done is None or (
            done.returncode == 0 and "purge" in verb and (daemon.data_dir / "control.sock").exists()
        ):
            everything_but_the_database(daemon.data_dir / "lock")
            done = subprocess.run(verb, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, "another sightlogd" in done.stderr) == (AGAIN, True), f"{verb}\n{done.stderr}"
        attack.runs += 1
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
    assert daemon.reader().count_events() == 2
    is_sound(daemon)
    assert daemon.stop() == 0


@pytest.mark.timeout(60)
def test_without_the_lock_on_the_database_two_write(idle_daemon, attack):
    attack.without("P11", "the lock on the database itself", "starts")
    daemon = idle_daemon.start(program=(UNGUARDED,))
    (daemon.data_dir / "lock").unlink()
    with rivals(daemon, 1, program=(UNGUARDED,)) as [second]:
        wait_for(lambda: second.is_decided, "it is decided", 30)
        attack.runs += 1
        attack.caught += second.writes and daemon.process.poll() is None
    assert attack.caught == 1

"""Locks of readers, links in the place of files, foreign file systems: the daemon writes alone, or says why not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run
from conftest import NOBODY, Daemon, open_to_all, wait_for
from fuse import fuse
from locker import locked
from managed_daemon import Manager

from sightlog import DatabaseWriteError, Event, writer
from sightlog.writer import FACTS, WRITER_BYTE
from sightlogd import filesystem
from sightlogd.service import control
from sightlogd.service.control import PurgeRequest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to read as another user needs root")

WRITE, CHECKPOINT = 120, 121
SIGHTLOGD = (sys.executable, "-m", "sightlogd")


@pytest.fixture
def open_daemon(idle_daemon):
    """Stopped, with an event; `nobody` is of the readers' group."""
    daemon = idle_daemon
    daemon.data_dir.mkdir()
    os.chown(daemon.data_dir, 0, NOBODY)
    open_to_all(daemon.data_dir)
    daemon.data_dir.chmod(0o2750)
    daemon.start()
    publish(daemon)
    assert daemon.stop() == 0
    return daemon


def publish(daemon: Daemon) -> None:
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"), timeout=30)


def told(daemon: Daemon, words: str) -> bool:
    return any(words in json.dumps(line, ensure_ascii=False) for line in daemon.logged())


def status(daemon: Daemon) -> dict[str, object]:
    found = json.loads(run(daemon, "status", "-o", "json").stdout)["daemon"]
    return {name: found[name] for name in ("running", "pid", "trouble")}


def rival(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    command = [*SIGHTLOGD, "run", "--data-dir", daemon.data_dir, "--endpoint", f"{daemon.endpoint}.rival"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


# -- readers that lock -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["posix", "ofd"])
@pytest.mark.parametrize("count", [1, 0], ids=["the byte", "all behind it"])
def test_a_reader_on_the_writers_byte_is_named_and_hinders_nothing(open_daemon, how, count):
    daemon = open_daemon
    with locked(daemon.database, WRITER_BYTE, count, how, NOBODY) as reader:
        daemon.start()
        publish(daemon)
        assert told(daemon, "locked the database against its writer")
        assert told(daemon, f"process {reader.pid} (python")
        refused = rival(daemon)
        assert (refused.returncode, str(daemon.process.pid) in refused.stderr) == (75, True)
        (daemon.data_dir / "lock").unlink()
        refused = rival(daemon)
        assert (refused.returncode, str(daemon.process.pid) in refused.stderr) == (75, True)
        (daemon.data_dir / "lock").touch()  # and now nothing keeps another one out
        with daemon.publisher() as publisher:
            publisher.publish(Event("door"))
            assert daemon.process.wait(20) == 74
            publisher.close(timeout=0)
        assert daemon.logged()[-1]["event"].startswith(f"{daemon.data_dir}/lock was removed or replaced")
        daemon.start()
    publish(daemon)
    assert told(daemon, "is held again")
    (daemon.data_dir / FACTS).unlink()
    assert writer.find(daemon.data_dir) is not None


def test_a_reader_that_locked_the_lock_file_once_hinders_nothing(open_daemon):
    daemon = open_daemon
    lock = daemon.data_dir / "lock"
    lock.chmod(0o640)  # as it once was
    with locked(lock, 0, 1, "flock", NOBODY):
        daemon.start()
        publish(daemon)
        assert lock.stat().st_mode & 0o777 == 0o600
        assert rival(daemon).returncode == 75


@pytest.mark.parametrize("how", ["posix", "ofd"])
@pytest.mark.parametrize("byte", [WRITE, CHECKPOINT, 122])
def test_a_start_waits_loudly_for_a_reader_that_locks_writers_out(open_daemon, tmp_path, byte, how):
    daemon = open_daemon
    daemon.start()
    publish(daemon)
    daemon.kill()
    wal = daemon.database.with_name("events.db-wal")
    before = wal.stat().st_mtime_ns
    manager = Manager(tmp_path)
    with locked(daemon.database.with_name("events.db-shm"), byte, 1, how, NOBODY) as reader:
        daemon.start(wait=False, env=manager.environment())
        name = f"process {reader.pid} (python"
        wait_for(lambda: told(daemon, f"the start waits: {name}"), "the log names it")
        wait_for(lambda: name in (status(daemon)["trouble"] or ""), "the status names it")
        assert status(daemon)["pid"] == daemon.process.pid
        wait_for(
            lambda: any(line.startswith("STATUS=cannot write") and name in line for line in manager.heard), "STATUS"
        )
        wait_for(
            lambda: any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in manager.heard), "it asks for more time"
        )
        assert wal.stat().st_mtime_ns == before
        assert rival(daemon).returncode == 75
        daemon.process.terminate()
        assert daemon.process.wait(20) in (0, -signal.SIGTERM)
        assert status(daemon)["running"] is False
        daemon.log.write_text("")
        daemon.start(wait=False, env=manager.environment())
        wait_for(lambda: told(daemon, "the start waits"), "it waits again")
    wait_for(lambda: "READY=1" in manager.heard, "it goes on")
    assert status(daemon) == {"running": True, "pid": daemon.process.pid, "trouble": None}
    publish(daemon)
    assert daemon.stop() == 0
    manager.close()


def test_a_command_does_not_wait_and_names_who_is_in_the_way(open_daemon):
    with locked(open_daemon.database.with_name("events.db-shm"), WRITE, 1, "posix", NOBODY) as reader:
        command = [*SIGHTLOGD, "purge", "--data-dir", open_daemon.data_dir]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, f"process {reader.pid} (python" in done.stderr) == (75, True)


@pytest.mark.parametrize(("first", "count"), [(WRITE, 1), (WRITE, 8), (WRITE, 9), (123, 5)])
def test_a_reader_that_locks_writers_out_is_named_and_work_goes_on_behind_it(open_daemon, first, count):
    daemon = open_daemon.start()
    with daemon.publisher() as publisher:
        with locked(daemon.database.with_name("events.db-shm"), first, count, "posix", NOBODY) as reader:
            name = f"process {reader.pid} (python"
            with pytest.raises(DatabaseWriteError, match=f"locked: process {reader.pid} "):
                publisher.insert_event(Event("door"), timeout=30)
            assert name in status(daemon)["trouble"]
        assert publisher.flush(60)
    assert status(daemon)["trouble"] is None
    assert daemon.reader().count_events() == 2
    assert daemon.stop() == 0


@pytest.mark.parametrize(("first", "count"), [(CHECKPOINT, 1), (122, 1), (123, 2), (128, 1)])
def test_other_locks_of_a_reader_do_not_end_the_daemon(open_daemon, first, count):
    daemon = open_daemon.start()
    with locked(daemon.database.with_name("events.db-shm"), first, count, "posix", NOBODY):
        for _ in range(3):
            publish(daemon)
    publish(daemon)
    assert daemon.stop() == 0
    assert daemon.reader().count_events() == 5


# -- its files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["events.db", "events.db-wal", "events.db-shm"])
@pytest.mark.parametrize("how", ["removed", "copied over", "moved behind a link"])
def test_a_file_of_the_database_that_is_another_one_ends_the_daemon_before_an_ack(daemon, name, how):
    publish(daemon)
    path, other = daemon.data_dir / name, daemon.home / name
    if how == "removed":
        path.unlink()
    elif how == "copied over":
        shutil.copy(path, other)
        other.rename(path)
    else:
        path.rename(other)
        path.symlink_to(other)
    with daemon.publisher("another") as publisher:
        receipt = publisher.publish(Event("door"))
        assert daemon.process.wait(20) == 74
        assert not receipt.settled
        publisher.close(timeout=0)
    assert "was removed, moved or replaced while the daemon ran" in daemon.logged()[-1]["event"]


def test_a_database_behind_a_link_is_refused(daemon):
    publish(daemon)
    daemon.stop()
    daemon.database.rename(daemon.home / "events.db")
    daemon.database.symlink_to(daemon.home / "events.db")
    refused = rival(daemon)
    assert (refused.returncode, f"{daemon.database} is a link to" in refused.stderr) == (78, True)


def test_one_database_in_two_directories_has_one_writer(daemon):
    """As cp -al makes them: a WAL of each, and one file that both are moved into."""
    publish(daemon)
    shutil.copytree(daemon.data_dir, daemon.home / "other", copy_function=os.link, ignore=lambda *_: ["control.sock"])
    for name in ("lock", "writer.json"):
        (daemon.home / "other" / name).unlink()
    command = [*SIGHTLOGD, "run", "--data-dir", daemon.home / "other", "--endpoint", f"{daemon.endpoint}.other"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (refused.returncode, f"process {daemon.process.pid}" in refused.stderr) == (75, True)


def test_what_the_status_says_lives_and_ends_with_the_daemon(daemon):
    facts = daemon.data_dir / FACTS
    assert facts.stat().st_mode & 0o777 == 0o640
    facts.unlink()
    assert status(daemon) == {"running": True, "pid": None, "trouble": None}

    def is_told() -> bool:
        publish(daemon)
        return status(daemon)["pid"] == daemon.process.pid

    wait_for(is_told, "the facts are made again")
    daemon.kill()
    packed = writer.pack(writer.Writer(os.getpid(), "run", "2026-01-01T00:00:00.000Z"))
    for content in (facts.read_bytes(), packed, b"", b"{", b"[1]", b'{"pid": "x"}'):
        facts.write_bytes(content)  # whatever it says, and whoever has that number by now
        assert status(daemon) == {"running": False, "pid": None, "trouble": None}
    with locked(daemon.database, 0, 0), locked(facts, 0, 0):
        assert status(daemon)["running"] is False
    daemon.start()
    assert status(daemon)["pid"] == daemon.process.pid


def test_a_reader_of_the_group_sees_the_daemon_and_a_stranger_is_told_why_not(open_daemon):
    daemon = open_daemon.start()
    code = f"""
import importlib.readers, importlib.resources, os, sys, sightlog.cli.commands.status, sightlog.writer
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid({NOBODY})
try:
    seen = sightlog.cli.commands.status.daemon_of(sightlog.writer.Path({str(daemon.data_dir)!r}))
    print(seen["running"], seen["pid"], seen["trouble"])
except Exception as error:
    print(error)
"""
    seen = [
        subprocess.run([sys.executable, "-c", code, group], capture_output=True, text=True, check=True).stdout
        for group in (str(NOBODY), "12345")
    ]
    assert seen[0].strip() == f"True {daemon.process.pid} None"
    assert "cannot look at" in seen[1]
    assert "readers' group" in seen[1]


def test_what_a_crash_left_of_a_new_database_is_cleared_but_not_what_another_process_is_making(idle_daemon):
    daemon = idle_daemon
    daemon.data_dir.mkdir()
    new = daemon.data_dir / "events.new"
    new.write_bytes(bytes(4_096))  # a power cut left its length
    daemon.start()
    publish(daemon)
    assert not new.exists()
    daemon.kill()
    os.link(daemon.database, new)  # a crash between its two names
    daemon.start()
    assert not new.exists()
    daemon.stop()
    for path in [*daemon.data_dir.glob("events*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    making = (
        "import fcntl, os, struct, sys; fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        f"fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack('hhqqi0q', fcntl.F_WRLCK, 0, {WRITER_BYTE}, 1, 0));"
        "print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", making, new], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"locked\n"
    assert rival(daemon).returncode == 75
    assert new.exists()
    other.communicate()


# -- what is beside it -----------------------------------------------------------------------------------------------


def test_a_control_socket_that_is_gone_is_made_again_and_nobody_writes_meanwhile(daemon):
    publish(daemon)
    path, keys = daemon.data_dir / "control.sock", daemon.home / "keys.toml"
    keys.write_text(f"[remote]\nkeys_dir = '{daemon.home}/keys'\n")
    configured = ("--data-dir", daemon.data_dir, "--config", keys)
    for verb in (
        (*SIGHTLOGD, "keys", "new", "front", *configured, "--output", daemon.home / "front.key"),
        (*SIGHTLOGD, "keys", "revoke", "front", *configured),
        (*SIGHTLOGD, "purge", "--data-dir", daemon.data_dir, "--force", "--before", "2999-01-01"),
    ):
        done = None
        while done is None or (path.exists() and "purge" in verb):  # on a slow machine it is there again before that
            path.unlink(missing_ok=True)
            done = subprocess.run(verb, capture_output=True, text=True, timeout=30, check=False)
        expected = {"new": (0, ""), "revoke": (75, "what is connected stays"), "front": (75, "another sightlogd")}
        code, words = next(expected[word] for word in (*verb, "front") if word in expected)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr

    def answers() -> bool:
        publish(daemon)
        return path.is_socket() and control.ask(daemon.data_dir, PurgeRequest(dry_run=True), lambda _: None) == 0

    wait_for(answers, "it listens again", 60)
    replaced = daemon.log.read_text().count("control.sock was removed or replaced")
    path.unlink()
    path.write_text("not ours")

    def is_told() -> bool:
        publish(daemon)
        return daemon.log.read_text().count("control.sock was removed or replaced") > replaced

    wait_for(is_told, "it is told", 60)
    assert path.read_text() == "not ours"
    path.unlink()
    wait_for(answers, "it listens again", 60)
    path.unlink()
    path.write_text("not ours")
    assert daemon.stop() == 0
    assert path.read_text() == "not ours"


def test_a_file_at_the_endpoint_is_not_removed(idle_daemon):
    path = Path(idle_daemon.endpoint.removeprefix("ipc://"))
    path.write_text("not ours")
    idle_daemon.start(wait=False)
    assert idle_daemon.process.wait(20) == 78
    assert path.read_text() == "not ours"


def test_a_listener_that_is_busy_keeps_its_endpoint(idle_daemon):
    """Its queue is full, so that a connection would be waited for."""
    path = idle_daemon.endpoint.removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(path)
        busy.listen(0)
        first.connect(path)
        before = os.stat(path).st_ino
        idle_daemon.start(wait=False)
        assert idle_daemon.process.wait(20) == 75
        assert os.stat(path).st_ino == before


def test_of_daemons_that_start_at_once_on_one_endpoint_one_has_it(idle_daemon):
    logs = [idle_daemon.home / f"{number}.log" for number in range(4)]
    started = []
    for log in logs:
        command = [*SIGHTLOGD, "run", "--data-dir", log.with_suffix(".data"), "--endpoint", idle_daemon.endpoint]
        with log.open("wb") as output:
            started.append(subprocess.Popen(command, stderr=output))
    try:
        wait_for(
            lambda: all('"ready"' in log.read_text() or p.poll() for log, p in zip(logs, started, strict=True)),
            "all",
            60,
        )
        codes = sorted(process.poll() or 0 for process in started)
        assert codes == [0, 75, 75, 75]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_ballast_that_is_a_link_stays_what_it_is(idle_daemon):
    daemon = idle_daemon.start()
    daemon.stop()
    precious = daemon.home / "precious"
    precious.write_bytes(b"x")
    for make in (os.link, os.symlink):
        (daemon.data_dir / "ballast").unlink(missing_ok=True)
        make(precious, daemon.data_dir / "ballast")
        daemon.start()
        wait_for(lambda: told(daemon, "no room for the reserve file"), "it is told")
        assert (precious.read_bytes(), precious.stat().st_blocks <= 8) == (b"x", True)
        daemon.stop()


def test_a_store_on_fuse_is_refused_before_anything_is_made(idle_daemon):
    place = idle_daemon.home / "fuse"
    with fuse(place):
        for data_dir in (place, place / "deeper"):
            command = [*SIGHTLOGD, "run", "--data-dir", data_dir, "--endpoint", idle_daemon.endpoint]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert (done.returncode, "file system of type FUSE" in done.stderr) == (78, True)
    filesystem.check(idle_daemon.home)

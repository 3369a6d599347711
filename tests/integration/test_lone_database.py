"""The database without what is beside it: its WAL removed under the daemon, or the file alone where somebody reads."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import backups
import pytest
from commands import run
from conftest import Daemon, fill_the_disk, small_file_system, wait_for
from test_exclusion import told

from sightlog import DatabaseNotFound, Event, Reader
from sightlogd.store import rescue

ROOT_ALONE = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def publish(daemon: Daemon, count: int, name: str = "sensor") -> set[str]:
    with daemon.publisher(name) as publisher:
        ids = {f"{name}-{number}" for number in range(count)}
        assert all(publisher.insert_event(Event("door", event_id=one)) for one in ids)
    return ids


def stored(daemon: Daemon) -> set[str]:
    with closing(daemon.reader()) as reader:
        return {event.event_id for event in reader.get_recent_events(10_000)}


def end_by_a_record(daemon: Daemon, code: int = 74) -> str:
    """Its last word."""
    with daemon.publisher("late") as publisher:
        publisher.publish(Event("door", event_id="late"))
        assert daemon.process.wait(30) == code
        publisher.close(timeout=0)
    return str(daemon.logged()[-1]["event"])


# -- the WAL is removed under the daemon -----------------------------------------------------------------------------


def remove(daemon: Daemon, *endings: str) -> None:
    for ending in endings:
        daemon.database.with_name(f"events.db{ending}").unlink()


def move(daemon: Daemon, *endings: str) -> None:
    for ending in endings:
        path = daemon.database.with_name(f"events.db{ending}")
        path.rename(daemon.home / path.name)


@pytest.mark.parametrize("endings", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="".join)
@pytest.mark.parametrize("how", [remove, move])
def test_what_was_acked_is_there_after_the_wal_was_taken_away(idle_daemon, how, endings):
    daemon = idle_daemon.start()
    acked = publish(daemon, 50)
    how(daemon, *endings)
    assert "Nothing that was acked is lost" in end_by_a_record(daemon)
    daemon.start()
    assert stored(daemon) >= acked
    with daemon.publisher("late") as publisher:
        assert publisher.flush(20)
    assert stored(daemon) == acked | {"late"}
    assert daemon.stop() == 0
    done = backups.verify(daemon.data_dir)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_that_they_would_be_gone(idle_daemon):
    daemon = idle_daemon.start()
    acked = publish(daemon, 50)
    remove(daemon, "-wal")
    daemon.kill()
    daemon.start()
    assert not acked & stored(daemon)
    assert told(daemon, "the database has no WAL beside it"), "the start names the cause"


def test_an_idle_daemon_notices_too(daemon):
    acked = publish(daemon, 5)
    remove(daemon, "-wal")
    assert daemon.process.wait(60) == 74
    daemon.start()
    assert stored(daemon) == acked


def test_readers_that_came_meanwhile_are_no_hindrance(idle_daemon):
    """One holds an old moment, and one has made an empty WAL where there was none."""
    daemon = idle_daemon.start()
    acked = publish(daemon, 20, "first")
    with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True, isolation_level=None)) as old:
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM events").fetchone()
        acked |= publish(daemon, 20, "second")
        remove(daemon, "-wal")
        with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as new:
            new.execute("PRAGMA schema_version")
            assert "Nothing that was acked is lost" in end_by_a_record(daemon)
    daemon.start()
    assert stored(daemon) >= acked
    assert daemon.stop() == 0


def test_a_reader_that_had_the_removed_wal_open_goes_on_with_the_one_that_is_there(idle_daemon):
    daemon = idle_daemon.start()
    acked = publish(daemon, 20, "before")
    with Reader(daemon.database) as reader:
        assert reader.count_events() == len(acked)
        remove(daemon, "-wal")
        end_by_a_record(daemon)
        daemon.start()
        acked |= publish(daemon, 300, "after")
        assert {event.event_id for event in reader.get_recent_events(1_000)} >= acked
        assert daemon.stop() == 0


@pytest.mark.parametrize("name", ["events.db", "events.db-wal"])
def test_never_into_another_ones_files(idle_daemon, name):
    daemon = idle_daemon.start()
    publish(daemon, 5)
    path = daemon.data_dir / name
    shutil.copy(path, daemon.home / "other")
    if name == "events.db":
        remove(daemon, "-wal")
    os.replace(daemon.home / "other", path)
    before = path.read_bytes()
    last = end_by_a_record(daemon)
    assert "rebuild --from-logs" in last
    assert path.read_bytes() == before
    assert daemon.database.with_name("events.db-wal").exists() == (name == "events.db-wal")


@ROOT_ALONE
def test_on_a_full_disk_the_wal_goes_into_the_database(idle_daemon):
    with small_file_system(idle_daemon.data_dir, "24m"):
        daemon = idle_daemon
        daemon.settings = "[storage]\nkeep_free_gb = 0.0\n"
        daemon.start()
        wait_for(lambda: (daemon.data_dir / "ballast").exists(), "the ballast is there")
        acked = publish(daemon, 50)
        fill_the_disk(daemon.data_dir / "filler")
        remove(daemon, "-wal")
        last = end_by_a_record(daemon)
        assert "Nothing that was acked is lost" in last, last
        (daemon.data_dir / "filler").unlink()
        daemon.start()
        assert stored(daemon) >= acked
        assert daemon.stop() == 0


def test_a_wal_is_written_back_whole_or_not_at_all(tmp_path, monkeypatch):
    wal = tmp_path / "events.db-wal"
    wal.write_bytes(os.urandom(5_000_000))
    data = wal.read_bytes()
    with closing(rescue.HeldWal(wal)) as held:
        wal.unlink()
        child = os.fork()
        if not child:  # killed between the bytes and the name
            monkeypatch.setattr(os, "link", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            held.write_back()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert not wal.exists()
        assert held.write_back() == len(data)
        assert wal.read_bytes() == data
        assert [path.name for path in tmp_path.iterdir()] == [wal.name]
        with pytest.raises(FileExistsError):
            held.write_back()


# -- the file alone is where somebody reads --------------------------------------------------------------------------


@contextmanager
def mounted_alone(file: Path, place: Path) -> Iterator[Path]:
    place.touch()
    subprocess.run(["mount", "--bind", file, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def linked(file: Path, place: Path) -> Iterator[Path]:
    os.link(file, place)
    yield place


WAYS = [pytest.param(mounted_alone, marks=ROOT_ALONE), linked]
NOT_HERE = "Mount the directory"


@pytest.mark.parametrize("way", WAYS)
def test_a_database_whose_wal_is_elsewhere_is_not_read(daemon, tmp_path, way):
    publish(daemon, 5)
    (place := tmp_path / "a container").mkdir()
    with way(daemon.database, place / "events.db") as lone:
        with pytest.raises(DatabaseNotFound, match=NOT_HERE):
            Reader(lone)
        for command in (["events"], ["status"], ["export"]):
            done = run(place, *command, "-o", "json") if command != ["export"] else run(place, *command)
            assert (done.returncode != 0, NOT_HERE in done.stderr) == (True, True), done.stdout + done.stderr
        for command in (["verify"], ["backup", tmp_path / "backup"]):
            done = backups.run(*command, "--data-dir", place)
            assert (done.returncode, NOT_HERE in done.stderr) == (78, True), done.stdout + done.stderr
        assert [path.name for path in place.iterdir()] == ["events.db"], "nothing was made beside it"
        (place / "events.db-wal").touch()  # as another program makes them
        shutil.copy(daemon.data_dir / "events.db-shm", place)
        with pytest.raises(DatabaseNotFound, match=NOT_HERE):
            Reader(lone)
        assert daemon.stop() == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_daemon_that_starts_later_is_noticed_too(idle_daemon, tmp_path, way):
    daemon = idle_daemon.start()
    publish(daemon, 5)
    assert daemon.stop() == 0
    (place := tmp_path / "container").mkdir()
    with way(daemon.database, place / "events.db") as lone, Reader(lone) as reader:
        assert reader.count_events() == 5, "nobody writes: what is in the file is all there is"
        daemon.start()
        with pytest.raises(DatabaseNotFound, match=NOT_HERE):
            reader.count_events()
        assert daemon.stop() == 0


@ROOT_ALONE
def test_in_another_mount_namespace_too(daemon, tmp_path):
    publish(daemon, 5)
    (place := tmp_path / "container").mkdir()
    (place / "events.db").touch()
    script = f"mount --bind '{daemon.database}' '{place}/events.db'; exec '{sys.executable}' -c \"$0\""
    program = f"import sightlog; sightlog.Reader('{place}/events.db')"
    command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, NOT_HERE in done.stderr) == (1, True), done.stderr


def test_no_false_alarm(idle_daemon, tmp_path):
    daemon = idle_daemon.start()
    acked = publish(daemon, 5)
    (daemon.data_dir / "writer.json").unlink()  # it cannot always be written
    assert stored(daemon) == acked
    (tmp_path / "name").symlink_to(daemon.data_dir)
    with Reader(tmp_path / "name" / "events.db") as reader:
        assert reader.count_events() == 5
    (tmp_path / "link.db").symlink_to(daemon.database)
    with Reader(tmp_path / "link.db") as reader:
        assert reader.count_events() == 5
    assert backups.backup(daemon.data_dir, tmp_path / "backup").returncode == 0
    with Reader(tmp_path / "backup" / "events.db") as reader:
        assert reader.count_events() == 5
    assert daemon.stop() == 0
    with Reader(daemon.database) as reader:  # of a daemon that is stopped, and starts
        daemon.start()
        assert reader.count_events() == 5
    (copy := tmp_path / "laptop").mkdir()
    shutil.copy(daemon.database, copy)
    with Reader(copy / "events.db") as reader:
        reader.count_events()
    assert daemon.stop() == 0

"""Starting on what is there: every damage gets its message and exit code, and nothing is changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

import apsw
import daylogs
import made_up
import pytest
from backups import verify
from conftest import AS_NOBODY, NOBODY, Daemon, open_to_all, wait_for

from sightlog import DatabaseDamaged, DatabaseNotFound, Event, Reader, SchemaMismatch


def fails_to_start(daemon: Daemon, start: Callable[[Daemon], object] | None = None) -> tuple[int, str]:
    """(exit code, what it said on its last line)."""
    start(daemon) if start else daemon.start(wait=False)
    code = daemon.process.wait(20)
    text = daemon.log.read_text()
    assert "Traceback" not in text
    return code, daemon.logged()[-1]["event"]


def start_as_nobody(daemon: Daemon) -> None:
    with open(daemon.log, "ab") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, "-c", AS_NOBODY + "sys.exit(sightlogd.__main__.main())", "run",
             "--data-dir", str(daemon.data_dir), "--endpoint", daemon.endpoint],
            stderr=log,
        )  # fmt: skip


@pytest.fixture
def stopped(daemon):
    """A daemon that ran once and stored one event."""
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("front_door"))
    assert daemon.stop() == 0
    return daemon


def snapshot(daemon: Daemon) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in daemon.data_dir.glob("events.db*")
        if path.stat().st_size and path.suffix != ".db-shm"
    }


def test_a_database_of_a_newer_version_is_refused(stopped):
    connection = sqlite3.connect(stopped.database)
    connection.execute("INSERT INTO schema_version VALUES (999, '999_future.sql', '')")
    connection.commit()
    connection.close()
    before = snapshot(stopped)
    code, said = fails_to_start(stopped)
    assert code == 78
    assert "999" in said
    assert "newer" in said
    assert snapshot(stopped) == before
    with pytest.raises(SchemaMismatch, match="999"):
        stopped.reader()


@pytest.mark.parametrize("offset", [0, 18, 100, 3 * 4096 + 3])
def test_a_damaged_database_is_refused_and_left_alone(stopped, offset):
    with open(stopped.database, "r+b") as file:
        file.seek(offset)
        file.write(os.urandom(64))
    before = snapshot(stopped)
    code, said = fails_to_start(stopped)
    assert code == 78
    assert str(stopped.database) in said
    assert snapshot(stopped) == before
    with pytest.raises((DatabaseDamaged, SchemaMismatch, DatabaseNotFound)):
        stopped.reader().get_recent_events()


def test_an_empty_file_is_damage_and_not_an_invitation(stopped):
    stopped.database.write_bytes(b"")
    code, said = fails_to_start(stopped)
    assert code == 78
    assert "empty" in said
    assert stopped.database.stat().st_size == 0


def test_a_wal_beside_an_empty_database_is_not_deleted_by_those_who_read(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    daemon.kill()
    daemon.database.write_bytes(b"")
    wal = daemon.database.with_name("events.db-wal")
    before = wal.read_bytes()
    assert before
    with pytest.raises(DatabaseDamaged, match="empty"):
        daemon.reader()
    assert verify(daemon.data_dir).returncode == 78
    code, _ = fails_to_start(daemon)
    assert code == 78
    assert wal.read_bytes() == before


def test_a_wal_without_its_database_is_refused(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("front_door"))
    wait_for(lambda: list(daemon.data_dir.glob("events/*/events.log")), "its day has a folder")  # behind the ack
    daemon.kill()
    daemon.database.unlink()
    code, said = fails_to_start(daemon)
    assert code == 78
    assert "the database is gone" in said
    shutil.rmtree(daemon.data_dir / "events")
    code, said = fails_to_start(daemon)
    assert code == 78
    assert "WAL" in said
    assert not daemon.database.exists()


def test_somebody_elses_database_is_refused(idle_daemon):
    idle_daemon.data_dir.mkdir()
    connection = sqlite3.connect(idle_daemon.database)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    code, said = fails_to_start(idle_daemon)
    assert code == 78
    assert "not one of sightlog" in said


def test_a_schema_changed_by_hand_is_refused_by_name(stopped):
    connection = sqlite3.connect(stopped.database)
    connection.execute("ALTER TABLE events ADD COLUMN mood TEXT")
    connection.close()
    code, said = fails_to_start(stopped)
    assert code == 78
    assert "table events" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")
def test_without_permission_it_says_so_and_exits_77(stopped, tmp_path):
    open_to_all(tmp_path)
    for path in (stopped.data_dir, stopped.data_dir / "lock"):
        os.chown(path, NOBODY, NOBODY)
    stopped.database.chmod(0o600)
    code, said = fails_to_start(stopped, start_as_nobody)
    assert code == 77
    assert str(stopped.database) in said


def test_a_second_daemon_on_the_same_data_is_refused_and_the_first_goes_on(daemon):
    second = subprocess.run(
        [sys.executable, "-m", "sightlogd", "run", "--data-dir", daemon.data_dir, "--endpoint", daemon.endpoint],
        stderr=subprocess.PIPE, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 75
    assert str(daemon.process.pid) in second.stderr.decode()
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("front_door"))


def test_a_database_locked_by_another_program_is_waited_for_and_then_reported(stopped):
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA locking_mode = EXCLUSIVE');"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, stopped.database], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"locked\n"
    code, said = fails_to_start(stopped)
    holder.communicate(b"")
    assert code == 74
    assert "locked" in said


def test_a_failing_migration_leaves_the_database_as_it_was(stopped, tmp_path):
    from sightlogd.errors import Stop
    from sightlogd.store import migrate

    good = migrate.packaged()
    bad = migrate.Migration(
        good[-1].version + 1, "999_bad.sql", "ALTER TABLE events ADD COLUMN mood TEXT; INSERT INTO nowhere VALUES (1);"
    )
    connection = apsw.Connection(str(stopped.database))
    before = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    for _ in range(2):
        with pytest.raises(Stop, match=r"999_bad\.sql.*previous version") as stop:
            migrate.migrate(connection, [*good, bad], lambda: "now")
        assert stop.value.exit_code == 78
        assert connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall() == before
        assert migrate.version_of(connection) == good[-1].version
    connection.close()
    stopped.start()
    assert stopped.reader().count_events() == 1


def test_a_database_is_migrated_with_its_rows_by_the_version_that_changes_the_schema(stopped):
    before = daylogs.rows(stopped.database)
    stopped.start(program=(made_up.__file__, "sightlogd"))
    told = [line["migrations"] for line in stopped.logged() if line["event"] == "migrated the database"]
    assert told == [[migration.name for migration in made_up.MIGRATIONS]]
    with closing(sqlite3.connect(f"file:{stopped.database}?mode=ro", uri=True)) as connection:
        made_up.check(connection)
    assert daylogs.rows(stopped.database) == before
    with stopped.publisher() as publisher, made_up.later():
        assert publisher.insert_event(Event("front_door", llm_description="another package"))
        assert [hit.event.camera_id for hit in stopped.reader().search("package")] == ["front_door"]
        assert stopped.reader().count_events() == len(before["events"]) + 1
    assert stopped.stop() == 0
    code, said = fails_to_start(stopped)
    assert code == 78
    assert f"has schema {made_up.NEWEST}, written by a newer sightlog" in said


def test_a_reader_without_a_database_says_what_makes_one(tmp_path):
    with pytest.raises(DatabaseNotFound, match="sightlogd makes it"):
        Reader(tmp_path / "events.db")


def test_a_database_that_is_gone_from_beside_its_days_is_not_begun_anew(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    assert daemon.stop() == 0
    for file in daemon.data_dir.glob("events.db*"):
        file.unlink()
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 78
    assert "the folders of 1 days are there" in daemon.logged()[-1]["event"]
    assert not daemon.database.exists()
    (daemon.data_dir / "events").rename(daemon.home / "moved-away")
    daemon.start()

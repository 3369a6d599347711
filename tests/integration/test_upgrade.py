"""The steps of an upgrade that know the data: what the installer asks before, between and after two versions."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import SMALL_DISK, Daemon, small_file_system

from sightlog import Event
from sightlog.database import SCHEMA_VERSION

OLD = Path(__file__).parents[1] / "fixtures/schema_002.db"


def step(daemon: Daemon, name: str) -> tuple[int, str]:
    """(exit code, what it said)."""
    config = daemon.home / "upgrade.toml"
    config.write_text(f'[store]\ndata_dir = "{daemon.data_dir}"\n')
    done = subprocess.run(
        [sys.executable, "-m", "sightlogd.cli.upgrade", name, "--config", config],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def schema(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]


def files(daemon: Daemon) -> set[str]:
    return {path.name for path in daemon.data_dir.glob("events.*")} - {"events.db-wal", "events.db-shm"}


@pytest.fixture
def old(idle_daemon: Daemon) -> Daemon:
    """Stopped, with a database of an older schema."""
    idle_daemon.data_dir.mkdir()
    shutil.copy(OLD, idle_daemon.database)
    return idle_daemon


def test_a_migration_is_undone_when_nothing_was_acked_since(old):
    assert step(old, "check") == (
        0,
        f"the database is changed from schema 2 to {SCHEMA_VERSION}; a copy is kept until that has worked\n",
    )
    assert step(old, "keep")[0] == 0
    assert files(old) == {"events.db", "events.before-upgrade.db"}
    old.start()
    old.kill()
    assert schema(old.database) == SCHEMA_VERSION
    assert step(old, "undo") == (0, "the database is again as it was, with schema 2: nothing was acked since\n")
    assert schema(old.database) == 2
    assert files(old) == {"events.db"}
    old.start()
    assert old.reader().count_events() == 2


def test_a_migration_stays_when_a_record_was_acked_since(old):
    step(old, "keep")
    old.start()
    with old.publisher() as publisher:
        publisher.insert_event(Event("front_door"))
    old.kill()
    assert step(old, "undo")[0] == 3
    assert schema(old.database) == SCHEMA_VERSION
    old.start()
    assert old.reader().count_events() == 3
    assert step(old, "forget") == (0, "")
    assert files(old) == {"events.db"}


def test_a_migration_that_failed_has_nothing_to_undo(old):
    step(old, "keep")
    before = old.database.read_bytes()
    assert step(old, "undo") == (0, "")
    assert old.database.read_bytes() == before
    assert files(old) == {"events.db"}


def test_the_copy_has_what_is_in_the_wal_only(old):
    with closing(sqlite3.connect(old.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO cameras (site, camera_id, first_seen_at) VALUES ('default', 'wal', '')")
        connection.commit()
        wal = old.database.with_name("events.db-wal").read_bytes()
        database = old.database.read_bytes()
    old.database.write_bytes(database)  # as a daemon that was killed leaves both
    old.database.with_name("events.db-wal").write_bytes(wal)
    assert step(old, "keep")[0] == 0
    with closing(sqlite3.connect(old.data_dir / "events.before-upgrade.db")) as connection:
        assert connection.execute("SELECT count(*) FROM cameras WHERE camera_id = 'wal'").fetchone() == (1,)


def test_the_same_schema_needs_no_copy(daemon):
    assert step(daemon, "check") == (0, ""), "while it runs"
    daemon.stop()
    for name in ("keep", "undo", "forget"):
        assert step(daemon, name) == (0, "")
    assert files(daemon) == {"events.db"}


def test_a_database_of_a_newer_version_is_told_before_anything_is_stopped(daemon):
    with closing(sqlite3.connect(daemon.database)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (999, '999_future.sql', '')")
        connection.commit()
    code, said = step(daemon, "check")
    assert code == 78
    assert "schema 999" in said


def test_nothing_is_copied_or_put_back_under_a_running_daemon(old):
    older = old.database.read_bytes()
    old.start()
    (old.data_dir / "events.before-upgrade.db").write_bytes(older)
    with closing(sqlite3.connect(old.database)) as connection:
        connection.execute("DELETE FROM schema_version WHERE version = 4")
        connection.commit()
    for name in ("keep", "undo"):
        code, said = step(old, name)
        assert code == 75
        assert "another sightlogd" in said
    assert old.reader().count_events() == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_without_room_for_the_copy_it_says_how_much_is_missing(old):
    with small_file_system(old.home / "small", "4m"):
        old.settings = SMALL_DISK
        old.data_dir = old.home / "small"
        old.database = old.data_dir / "events.db"
        shutil.copy(OLD, old.database)
        with (old.data_dir / "filler").open("wb") as filler:
            filler.write(bytes(os.statvfs(old.data_dir).f_bavail * 4096 - 60_000))
        code, said = step(old, "check")
        assert code == 28
        assert "a copy of 0.1 MB" in said
        assert "0.0 MB free" in said
        assert step(old, "keep")[0] == 28
        assert files(old) == {"events.db"}

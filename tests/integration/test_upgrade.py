"""The steps of an upgrade that know the data: what the installer asks before, between and after two versions."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import made_up
import pytest
import stored
from conftest import SMALL_DISK, Daemon, small_file_system

from sightlog import Event
from sightlog.reader.database import SCHEMA_VERSION as OLD
from sightlogd.store.lock import Lock

SAME = "-m"
"""To this version."""


def step(daemon: Daemon, name: str, program: str = made_up.__file__) -> tuple[int, str]:
    """Of the upgrade to a version that migrates, or another `program`: (exit code, what it said)."""
    config = daemon.home / "upgrade.toml"
    config.write_text(f'[store]\ndata_dir = "{daemon.data_dir}"\n')
    done = subprocess.run(
        [sys.executable, program, "sightlogd.cli.upgrade", name, "--config", config],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def schema(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]


def files(daemon: Daemon) -> set[str]:
    return {path.name for path in daemon.data_dir.glob("events.*")} - {"events.db-wal", "events.db-shm"}


def upgraded(old: Daemon) -> Daemon:
    """Runs, as the version that migrates."""
    return old.start(program=(made_up.__file__, "sightlogd"))


def count(old: Daemon) -> int:
    """Its events, as the reader of the later version sees them."""
    with made_up.later():
        return old.reader().count_events()


@pytest.fixture
def old(daemon: Daemon) -> Daemon:
    """Stopped, with a database of this version."""
    with daemon.publisher() as publisher:
        publisher.insert_events(Event("front_door", llm_description="x" * 500) for _ in range(200))
        publisher.amend("comes-later", person_name="anna").wait(10)
    daemon.stop()
    return daemon


def test_a_migration_is_undone_when_nothing_was_acked_since(old):
    assert step(old, "check") == (
        0,
        f"the database is changed from schema {OLD} to {made_up.NEWEST}; a copy is kept until that has worked\n",
    )
    assert step(old, "keep")[0] == 0
    assert files(old) == {"events.db", "events.before-upgrade.db"}
    upgraded(old).kill()
    with closing(sqlite3.connect(f"file:{old.database}?mode=ro", uri=True)) as connection:
        made_up.check(connection)
    assert step(old, "undo") == (0, f"the database is again as it was, with schema {OLD}: nothing was acked since\n")
    assert schema(old.database) == OLD
    assert files(old) == {"events.db"}
    old.start()
    assert old.reader().count_events() == 200


def test_a_migration_stays_when_a_record_was_acked_since(old):
    step(old, "keep")
    upgraded(old)
    with old.publisher() as publisher:
        publisher.insert_event(Event("front_door"))
    old.kill()
    assert step(old, "undo")[0] == 3
    assert schema(old.database) == made_up.NEWEST
    upgraded(old)
    assert count(old) == 201
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
        connection.execute(
            "INSERT INTO cameras (site, camera_id, first_seen_at) VALUES ('default', 'wal', '2026-11-20T12:00:00.000Z')"
        )
        connection.commit()
        wal = old.database.with_name("events.db-wal").read_bytes()
        database = old.database.read_bytes()
    old.database.write_bytes(database)  # as a daemon that was killed leaves both
    old.database.with_name("events.db-wal").write_bytes(wal)
    assert step(old, "keep")[0] == 0
    with closing(sqlite3.connect(old.data_dir / "events.before-upgrade.db")) as connection:
        assert connection.execute("SELECT count(*) FROM cameras WHERE camera_id = 'wal'").fetchone() == (1,)


def test_the_same_schema_needs_no_copy(daemon):
    assert step(daemon, "check", SAME) == (0, ""), "while it runs"
    daemon.stop()
    for name in ("keep", "undo", "forget"):
        assert step(daemon, name, SAME) == (0, "")
    assert files(daemon) == {"events.db"}


def test_a_database_of_a_newer_version_is_told_before_anything_is_stopped(daemon):
    with closing(sqlite3.connect(daemon.database)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (999, '999_future.sql', '')")
        connection.commit()
    code, said = step(daemon, "check", SAME)
    assert code == 78
    assert "schema 999" in said


def test_nothing_is_copied_or_put_back_under_a_running_daemon(old):
    older = old.database.read_bytes()
    old.start()
    (old.data_dir / "events.before-upgrade.db").write_bytes(older)
    for name in ("keep", "undo"):
        code, said = step(old, name)
        assert code == 75
        assert "another sightlogd" in said
    assert old.reader().count_events() == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_without_room_for_the_copy_it_says_how_much_is_missing(old):
    kept = old.database
    with small_file_system(old.home / "small", "4m"):
        old.settings = SMALL_DISK
        old.data_dir = old.home / "small"
        old.database = old.data_dir / "events.db"
        shutil.copy(kept, old.database)
        with (old.data_dir / "filler").open("wb") as filler:
            filler.write(bytes(os.statvfs(old.data_dir).f_bavail * 4096 - 60_000))
        code, said = step(old, "check")
        assert code == 28
        assert "a copy of 0.4 MB" in said
        assert "0.0 MB free" in said
        assert step(old, "keep")[0] == 28
        assert files(old) == {"events.db"}


@pytest.mark.parametrize("verb", [["backup"], ["verify"]], ids=" ".join)
def test_while_the_daemon_migrates_a_backup_is_asked_to_come_again(idle_daemon, tmp_path, verb):
    stored.write(idle_daemon.data_dir / "events.db", made_up.EVENTS)
    where = [tmp_path / "copy"] if verb == ["backup"] else []
    command = [sys.executable, made_up.__file__, "sightlogd", *verb, "--data-dir", idle_daemon.data_dir, *where]

    def done() -> tuple[int, str]:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return found.returncode, found.stdout + found.stderr

    with closing(Lock(idle_daemon.data_dir)):  # as a daemon has it from before it opens the database
        code, said = done()
        assert (code, "Try again when it is ready" in said) == (75, True), said
    code, said = done()
    assert (code, "Start sightlogd once" in said) == (78, True), said

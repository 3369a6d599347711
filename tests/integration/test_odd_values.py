"""Values that sightlog never wrote, in each table: what cannot go on names the row and what to do."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import apsw
import backups
import pytest
from commands import run
from conftest import Daemon, wait_for
from pictures import jpeg

from sightlog import Amendment, Detection, Event, Observation, Person
from sightlogd.store import migrate

NO_UTF8 = "CAST(x'ff' AS TEXT)"
TEXTS = [NO_UTF8, "'2026-02-30T10:00:00.000Z'"]
VALUES = {
    "TEXT": TEXTS,
    "INTEGER": ["9223372036854775807"],
    "REAL": ["9e999"],
    "BLOB": ["x'010203'"],
    "": ["'abc'", "9223372036854775807"],
}
REFUSED = {  # by the schema: what a hand would write
    "persons": ("created_at", ""),
    "cameras": ("first_seen_at", "yesterday"),
    "producers": ("last_seen_at", "now"),
    "dead_letters": ("received_at", "2026-02-30T10:00:00.000Z"),
    "pending_amendments": ("received_at", "2026-13-01T10:00:00.000Z"),
    "clock_days": ("day", "2026-02-30"),
    "day_log_marks": ("last_id", -1),
    "counted": ("last_id", -1),
}


def columns() -> list[tuple[str, str, str]]:
    """(table, column, type) of all of ours."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for sql in migrate.packaged_sql():
            connection.executescript(sql)
        query = (
            "SELECT t.name, c.name, c.type FROM sqlite_schema t, pragma_table_info(t.name) c "
            "WHERE t.type = 'table' AND t.sql NOT LIKE 'CREATE VIRTUAL%' AND t.name NOT LIKE 'texts_index%'"
        )
        return connection.execute(query).fetchall()


COLUMNS = columns()


@pytest.fixture(scope="module")
def filled_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a row in every table that a daemon fills."""
    daemon = Daemon(tmp_path_factory.mktemp("filled"))
    daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(
            Event(
                "door", event_id="e", llm_description="a parcel", detections=[Detection("cat", 0.5)],
                embedding=[1.0, 2.0], metadata={"a": 1}, thumbnail=jpeg(),
            )
        )  # fmt: skip
        publisher.publish(Observation("a cat", "model", event_id="e", embedding=[1.0, 2.0], metadata={"a": 1}))
        for _ in range(2):  # the second becomes a dead letter
            publisher.publish(Person("anna"))
        publisher.publish(Amendment("not-yet", person_name="anna"))
        assert publisher.flush(20)
    assert daemon.stop() == 0
    daemon.end()
    return daemon.data_dir


@pytest.fixture
def on_a_copy(filled_store: Path, idle_daemon: Daemon) -> Daemon:
    ignored = shutil.ignore_patterns("lock", "control.sock", "ballast")
    shutil.copytree(filled_store, idle_daemon.data_dir, ignore=ignored)
    return idle_daemon


def put(daemon: Daemon, table: str, column: str, value: str) -> bool:
    """Whether the database took it."""
    with closing(apsw.Connection(str(daemon.database))) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            connection.execute(f"UPDATE {table} SET {column} = {value}")
        except apsw.ConstraintError:  # its type, or its uniqueness
            return False
    return True


def rest(daemon: Daemon) -> None:
    """Whatever is done with it, and the end of the daemon."""
    with daemon.publisher("late") as publisher:
        publisher.publish(Event("door", event_id="late"))
        publisher.publish(Person("bob"))
        publisher.publish(Amendment("e", person_name="anna"))
        wait_for(
            lambda: not publisher.spooled or daemon.process.poll() is not None, "it was stored, or the daemon ended"
        )
        publisher.close(timeout=0)
    for command in (["status"], ["events"], ["show", "e"], ["stats"], ["search", "parcel"]):
        done = run(daemon, *command)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 1, 3, 74), done.stderr
    assert backups.backup(daemon.data_dir, daemon.home / "backup").returncode in (0, 74, 78)
    assert backups.run("purge", "--data-dir", daemon.data_dir, "--before", "2020-01-01", "--force").returncode in (
        0,
        1,
        78,
    )
    if daemon.process.poll() is None:
        daemon.stop()


@pytest.mark.parametrize(("table", "column", "kind"), COLUMNS, ids=lambda text: str(text))
def test_no_value_ends_anything_without_its_name(filled_store, tmp_path, table, column, kind):
    for number, value in enumerate(VALUES[kind]):
        (home := tmp_path / str(number)).mkdir()
        daemon = Daemon(home)
        try:
            shutil.copytree(
                filled_store, daemon.data_dir, ignore=shutil.ignore_patterns("lock", "control.sock", "ballast")
            )
            if not put(daemon, table, column, value):
                continue
            found = backups.verify(daemon.data_dir)
            assert found.returncode in (0, 74, 78)
            daemon.start(wait=False)
            wait_for(lambda d=daemon: d._count_ready() or d.process.poll() is not None, "it is ready, or has ended")
            if daemon.process.poll() is None and value == NO_UTF8:
                rest(daemon)
            elif daemon.process.poll() is None:
                daemon.stop()
            assert "Traceback" not in daemon.log.read_text(), value
            code = daemon.process.wait(20)
            if code:
                last = daemon.logged()[-1]["event"]
                # It may have been ending by itself when it was told to stop.
                assert (code in (78, -15), table in last or "schema" in last) == (True, True), (code, value, last)
                assert found.returncode in (74, 78), "verify finds it too"
        finally:
            daemon.end()


@pytest.mark.parametrize("table", REFUSED)
def test_what_a_hand_would_write_is_refused_by_the_schema(on_a_copy, table):
    column, value = REFUSED[table]
    with closing(sqlite3.connect(on_a_copy.database)) as connection:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
            connection.execute(f"UPDATE {table} SET {column} = ?", (value,))


def test_the_statement_in_the_message_is_the_way_on(on_a_copy):
    daemon = on_a_copy
    assert put(daemon, "persons", "created_at", "''")
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 78
    last = daemon.logged()[-1]["event"]
    assert "table persons, the row with id = 1, column created_at: '' is no time" in last
    with closing(sqlite3.connect(daemon.database)) as connection:
        connection.executescript(re.search(r"DELETE FROM .*;", last)[0])
    daemon.start()
    assert daemon.stop() == 0

"""Other programs' objects in the live database: what is harmless is named, and what is not is said when it happens."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import apsw
import backups
import pytest
import stored
from commands import run
from conftest import Daemon, wait_for
from test_start import fails_to_start

from sightlog import DatabaseWriteError, Event
from sightlogd.store import migrate, schema

HARMLESS = {
    "a table": ("CREATE TABLE recipes (name TEXT); CREATE INDEX recipes_by_name ON recipes (name)", "table recipes"),
    # As Litestream 0.3 issues them.
    "Litestream": (
        "CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER); "
        "CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER); INSERT INTO _litestream_seq VALUES (1, 1)",
        "table _litestream_lock",
    ),
    # As `sqlite-utils enable-fts events.db events camera_id` (4.2) issues it.
    "sqlite-utils enable-fts": (
        'CREATE VIRTUAL TABLE "events_fts" USING FTS5 ("camera_id", content="events"); '
        'INSERT INTO "events_fts" (rowid, "camera_id") SELECT rowid, "camera_id" FROM "events"',
        "table events_fts",
    ),
    "a view": ("CREATE VIEW mornings AS SELECT * FROM events WHERE recorded_at LIKE '%T07%'", "view mornings"),
    "a view of what is gone": ("CREATE VIEW lost AS SELECT * FROM nowhere", "view lost"),
    "an index on our table": ("CREATE INDEX by_image ON events (image_path, site)", "index by_image on events"),
    "a trigger on their own table": (
        "CREATE TABLE log (x); CREATE TRIGGER log_kept AFTER DELETE ON log BEGIN SELECT 1; END",
        "trigger log_kept on log",
    ),
    "ANALYZE": ("ANALYZE", "table sqlite_stat1"),
    "a row that breaks a rule of theirs": (
        "CREATE TABLE strict_one (x CHECK (x > 0)); PRAGMA ignore_check_constraints = ON; "
        "INSERT INTO strict_one VALUES (-1); PRAGMA ignore_check_constraints = OFF",
        "table strict_one",
    ),
    "a reference to nothing": (
        "CREATE TABLE parents (id INTEGER PRIMARY KEY); CREATE TABLE children (x REFERENCES parents (id)); "
        "PRAGMA foreign_keys = OFF; INSERT INTO children VALUES (7)",
        "table children",
    ),
    "an index whose tokenizer nobody knows": (
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES "
        "('table', 'strange', 'strange', 0, 'CREATE VIRTUAL TABLE strange USING fts5 (x, tokenize=theirs)'), "
        "('table', 'stranger', 'stranger', 0, 'CREATE VIRTUAL TABLE stranger USING theirs (x)'); "
        "PRAGMA writable_schema = OFF; PRAGMA schema_version = 4711",
        "table strange",
    ),
}

RELATED = {
    "a trigger": ("CREATE TRIGGER told AFTER INSERT ON Events BEGIN SELECT 1; END", "trigger told on Events"),
    # As `sqlite-utils enable-fts --create-triggers` issues it.
    "sqlite-utils enable-fts --create-triggers": (
        'CREATE VIRTUAL TABLE "events_fts" USING FTS5 ("camera_id", content="events"); '
        'CREATE TRIGGER "events_ai" AFTER INSERT ON "events" BEGIN\n'
        '  INSERT INTO "events_fts" (rowid, "camera_id") VALUES (new.rowid, new."camera_id");\nEND;'
        'CREATE TRIGGER "events_ad" AFTER DELETE ON "events" BEGIN\n'
        '  INSERT INTO "events_fts" ("events_fts", rowid, "camera_id") '
        "VALUES('delete', old.rowid, old.\"camera_id\");\nEND;",
        "trigger events_ai on events",
    ),
    "a trigger on our view": (
        'CREATE TRIGGER "order by" INSTEAD OF INSERT ON texts BEGIN SELECT 1; END', "trigger order by on texts",
    ),
    "a unique index": ("CREATE UNIQUE INDEX one_a_type ON events (event_type, event_id)", "index one_a_type on events"),
    "a computed index": ("CREATE INDEX moods ON events (json_extract(metadata, '$.mood'))", "index moods on events"),
    "a reference to us": (
        "CREATE TABLE alerts (id INTEGER PRIMARY KEY, event_id INTEGER REFERENCES events (id))", "table alerts",
    ),
    "a column more": ("ALTER TABLE events ADD COLUMN mood TEXT", "table events was changed"),
    "a column more, with a name that has to be quoted": (
        'ALTER TABLE producers ADD COLUMN "my group" TEXT', "table producers was changed",
    ),
    "a column renamed": ("ALTER TABLE events RENAME COLUMN camera_id TO camera", "table events was changed"),
    "a table renamed": ("ALTER TABLE events RENAME TO sightings", "table events is missing"),
    "an index dropped": ("DROP INDEX events_by_time", "index events_by_time on events is missing"),
    "a trigger dropped": ("DROP TRIGGER events_uncounted", "trigger events_uncounted on events is missing"),
    "a view changed": (
        "DROP VIEW events_with_objects; CREATE VIEW events_with_objects AS SELECT id, event_id FROM events",
        "view events_with_objects was changed",
    ),
    "the index of texts dropped": ("DROP TABLE texts_index", "table texts_index is missing"),
    "several at once": (
        'CREATE TRIGGER "a b" AFTER INSERT ON events BEGIN SELECT 1; END; ALTER TABLE events ADD COLUMN mood TEXT; '
        "DROP INDEX days_by_first",
        "index days_by_first on days is missing",
    ),
}  # fmt: skip


def change(daemon: Daemon, sql: str) -> None:
    with closing(apsw.Connection(str(daemon.database))) as connection:
        connection.set_busy_timeout(5_000)
        connection.execute(sql)


def publish(daemon: Daemon, *ids: str) -> None:
    with daemon.publisher() as publisher:
        assert all(publisher.insert_event(Event("door", event_id=one, llm_description="a parcel")) for one in ids)


def said(daemon: Daemon, words: str) -> list[dict[str, object]]:
    return [line for line in daemon.logged() if words in json.dumps(line)]


def status(daemon: Daemon) -> dict[str, object]:
    """Of the last snapshot; before one tells of the change, the database may just not be readable."""
    said = run(daemon, "status", "-o", "json").stdout
    return json.loads(said)["metrics"] if said else {"schema_changes": [], "foreign_objects": []}


def sound(daemon: Daemon) -> None:
    done = backups.verify(daemon.data_dir)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_touches_nothing_of_ours_is_named_and_hinders_nothing(idle_daemon, tmp_path, kind):
    sql, name = HARMLESS[kind]
    daemon = idle_daemon.start()
    publish(daemon, "a")
    change(daemon, sql)
    publish(daemon, "b")
    wait_for(lambda: said(daemon, name), "the log names it when it happens")
    wait_for(lambda: name in status(daemon)["foreign_objects"], "the status names it")
    assert name in run(daemon, "status").stdout
    done = backups.backup(daemon.data_dir, tmp_path / "backup")
    assert (done.returncode, name in done.stdout) == (0, True), done.stdout + done.stderr
    assert daemon.stop() == 0
    daemon.start()
    publish(daemon, "c")
    assert name in str([line["objects"] for line in daemon.logged() if "objects" in line][-1]), "and at the next start"
    done = backups.verify(daemon.data_dir)
    assert (done.returncode, name in done.stdout + done.stderr) == (0, True), done.stdout + done.stderr
    assert backups.run("purge", "--force", "--data-dir", daemon.data_dir, "--dry-run").returncode in (0, 1)
    daemon.kill()
    done = backups.verify(tmp_path / "backup")
    assert (done.returncode, name in done.stdout + done.stderr) == (0, True), done.stdout + done.stderr
    daemon.data_dir = backups.restored(tmp_path / "backup", tmp_path / "restored")
    daemon.database = daemon.data_dir / "events.db"
    daemon.start()
    publish(daemon, "d")
    assert {event.event_id for event in daemon.reader().get_recent_events()} == {"a", "b", "d"}
    assert daemon.stop() == 0


@pytest.mark.parametrize("kind", RELATED)
def test_a_change_of_ours_is_said_when_it_happens_and_can_be_undone(idle_daemon, tmp_path, kind):
    sql, name = RELATED[kind]
    daemon = idle_daemon.start()
    publish(daemon, "a")
    change(daemon, sql)
    # It may be one that lets nothing be stored.
    with daemon.publisher("other") as publisher:
        publisher.publish(Event("door", event_id="b"))
        wait_for(lambda: said(daemon, name), "the log says it")
        wait_for(lambda: name in str(status(daemon)["schema_changes"]), "the status says it")
        undo = status(daemon)["schema_undo"]
        assert undo
        shown = run(daemon, "status").stdout
        assert name in shown
        done = backups.backup(daemon.data_dir, tmp_path / "backup")
        is_made = kind != "a table renamed"
        if is_made:
            assert (name in done.stdout, "does not start" in done.stdout) == (True, True), done.stdout + done.stderr
        else:
            assert (done.returncode, "sightlogd verify names" in done.stderr) == (78, True), done.stdout + done.stderr
        for place, code in ((daemon.data_dir, 78), (tmp_path / "backup", 74))[: 1 + is_made]:
            done = backups.verify(place)
            assert (done.returncode, name in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
            assert undo[0] in done.stdout + done.stderr
        assert daemon.process.poll() is None
        daemon.kill()
        code, last = fails_to_start(daemon)
        assert (code, name in last, " ".join(undo) in last) == (78, True, True), last
        with closing(sqlite3.connect(daemon.database)) as connection:
            connection.executescript(" ".join(undo))
        daemon.start()
        assert publisher.flush(20)
    assert {event.event_id for event in daemon.reader().get_recent_events()} == {"a", "b"}
    assert daemon.stop() == 0


@pytest.fixture
def with_a_rule(daemon: Daemon) -> Iterator[Daemon]:
    publish(daemon, "a")
    change(daemon, "CREATE TRIGGER no_more BEFORE INSERT ON events BEGIN SELECT raise(ABORT, 'enough'); END")
    yield daemon
    assert daemon.stop() == 0


def test_records_that_a_rule_of_others_refuses_wait_and_are_not_dropped(with_a_rule):
    daemon = with_a_rule
    with daemon.publisher() as publisher:
        with pytest.raises(DatabaseWriteError, match="DROP TRIGGER no_more"):
            publisher.insert_event(Event("door", event_id="b"), timeout=3)
        assert "DROP TRIGGER no_more" in run(daemon, "status").stdout
        wait_for(lambda: said(daemon, "the next start refuses it"), "it is looked at")
        change(daemon, "DROP TRIGGER no_more")
        assert publisher.flush(40)
    assert daemon.reader().count_events() == 2
    assert sum(daemon.reader().status()["dead_letters"].values()) == 0
    wait_for(lambda: said(daemon, "is as it should be again"), "that it is over is said")


def test_a_duplicate_is_settled_whatever_others_added(with_a_rule):
    daemon = with_a_rule
    change(daemon, "DROP TRIGGER no_more; CREATE TRIGGER told AFTER INSERT ON events BEGIN SELECT 1; END")
    with daemon.publisher("again") as publisher:
        publisher.publish(Event("door", event_id="a"))
        assert publisher.flush(20)


def test_a_change_that_no_statement_undoes_says_so(idle_daemon):
    daemon = idle_daemon.start()
    publish(daemon, "a")
    assert daemon.stop() == 0
    change(daemon, "ALTER TABLE persons DROP COLUMN display_name")
    code, last = fails_to_start(daemon)
    assert (code, "No statement undoes that" in last, "rebuild --from-logs" in last) == (78, True, True)


@pytest.mark.parametrize("sql", [sql for sql, _ in RELATED.values()], ids=RELATED)
def test_what_is_given_as_the_way_back_is_the_way_back(tmp_path, sql):
    with closing(apsw.Connection(str(stored.write(tmp_path / "events.db", [Event("door")])))) as connection:
        before = connection.execute("SELECT * FROM events").fetchall()
        connection.execute(sql)
        connection.execute(" ".join(schema.compare(connection, migrate.packaged_sql()).undo))
        assert schema.compare(connection, migrate.packaged_sql()).changed == []
        assert connection.execute("SELECT * FROM events").fetchall() == before


def test_an_idle_daemon_says_it_too(daemon):
    publish(daemon, "a")
    began = time.monotonic()
    change(daemon, RELATED["a trigger"][0])
    wait_for(lambda: said(daemon, "trigger told"), "nobody sends anything", 60)
    assert time.monotonic() - began < 60

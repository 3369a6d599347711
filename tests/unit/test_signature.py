"""Whose a database is, by its mark and its table of versions; and what we leave where there is none."""

from __future__ import annotations

import apsw
import pytest
import stored
from folders import DATABASES, NAMES, tree

from sightlog.layout import APPLICATION_ID
from sightlogd.service import leftovers
from sightlogd.store.signature import VERSION_COLUMNS, Owner, connect, signature_of

UNKNOWN = {"a text", "a short text", "an empty file"}
NOT_FILES = {"a directory", "a pipe", "a WAL alone"}


@pytest.mark.parametrize("kind", sorted(DATABASES.keys() - NOT_FILES))
def test_no_other_database_is_ours_and_looking_leaves_no_trace(tmp_path, kind):
    DATABASES[kind](tmp_path)
    before = tree(tmp_path)
    assert signature_of(tmp_path / "events.db").owner is (Owner.UNKNOWN if kind in UNKNOWN else Owner.ANOTHER)
    assert tree(tmp_path) == before


def test_our_own_is_known_before_its_first_checkpoint(tmp_path):
    path = stored.write(tmp_path / "events.db")
    before = tree(tmp_path)
    assert signature_of(path).owner is Owner.US
    assert tree(tmp_path) == before
    writer = apsw.Connection(str(path))
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute("INSERT INTO cameras VALUES ('default', 'door', '2026-11-20T12:00:00.000Z')")
    assert path.with_name("events.db-wal").stat().st_size
    before = tree(tmp_path)
    assert signature_of(path).owner is Owner.US
    reading = connect(path)
    assert reading.execute("SELECT count(*) FROM cameras").get == 1, "what is in the WAL is seen"
    with pytest.raises(apsw.ReadOnlyError):
        reading.execute("DELETE FROM cameras")
    reading.close()
    assert tree(tmp_path) == before
    writer.close()


def test_a_missing_one_is_nobodys(tmp_path):
    assert signature_of(tmp_path / "events.db").owner is Owner.NOBODY


def test_the_mark_is_the_first_that_is_written_and_the_columns_are_those_of_the_schema(tmp_path):
    connection = apsw.Connection(str(stored.write(tmp_path / "events.db")))
    assert connection.execute("PRAGMA application_id").get == APPLICATION_ID
    assert connection.execute("PRAGMA auto_vacuum").get == 2
    columns = connection.execute("SELECT name FROM pragma_table_info('schema_version')").fetchall()
    assert tuple(name for (name,) in columns) == VERSION_COLUMNS
    connection.close()


@pytest.mark.parametrize("said", [b"", b"4711\n", b"4711\nno room", b"\0" * 9, b"4711\n" + b"x" * 1_000])
def test_a_lock_of_ours(tmp_path, said):
    (tmp_path / "lock").write_bytes(said)
    assert leftovers.of_lock(tmp_path / "lock") is None


@pytest.mark.parametrize("said", [b"mine", b"4711 is the number\n", b"4711\n" + b"x" * 1_100, b"\n4711"])
def test_a_lock_of_others(tmp_path, said):
    (tmp_path / "lock").write_bytes(said)
    assert leftovers.of_lock(tmp_path / "lock") is not None


def test_a_ballast_of_ours(tmp_path):
    (tmp_path / "ballast").write_bytes(b"\0" * 8 * 1024 * 1024)
    assert leftovers.of_reserve(tmp_path / "ballast") is None


@pytest.mark.parametrize("name", ["ballast: a text", "ballast: a video", "ballast: larger"])
def test_a_ballast_of_others(tmp_path, name):
    NAMES[name](tmp_path)
    assert leftovers.of_reserve(tmp_path / "ballast") is not None


def test_what_a_crash_left_of_a_new_database(tmp_path):
    for data in (b"", b"\0" * 4_096, stored.write(tmp_path / "events.db").read_bytes()):
        (tmp_path / "events.new").write_bytes(data)
        assert leftovers.of_database(tmp_path / "events.new") is None

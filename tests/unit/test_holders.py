"""Who holds up the WAL, as the kernel tells it of real readers in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from conftest import NOBODY, open_to_all

from sightlogd.store.wal_readers import Holder, holders

READER = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM t").fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "events.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.set_wal_hook(lambda *_: apsw.SQLITE_OK)
    connection.execute("CREATE TABLE t (x)")
    yield connection
    connection.close()


@pytest.fixture
def read(database):
    """Starts a reader that keeps its transaction."""
    readers = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", READER, database.filename]
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        readers.append(reader)
        assert reader.stdout.readline()
        return reader

    yield start
    for reader in readers:
        reader.communicate()


def add(database) -> None:
    database.execute("INSERT INTO t VALUES (randomblob(10000))")


def found(database) -> list[Holder]:
    # As everywhere in the daemon's process the files of the database are not opened a second time.
    return holders(Path(database.filename + "-shm"))


def test_the_oldest_reader_comes_first_and_one_that_is_up_to_date_is_not_named(database, read):
    assert found(database) == []
    readers = []
    for _ in range(3):
        add(database)
        readers.append(read())
    add(database)
    read()
    assert [holder.pid for holder in found(database)] == [reader.pid for reader in readers]
    assert all(holder.name.startswith("python") for holder in found(database))
    readers[0].communicate()
    assert [holder.pid for holder in found(database)] == [reader.pid for reader in readers[1:]]


def test_a_reader_that_began_when_the_wal_was_empty_is_in_the_way_of_everything(database, read):
    add(database)
    database.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    reader = read()
    add(database)
    assert [holder.pid for holder in found(database)] == [reader.pid]


def test_a_checkpoint_gets_stuck_exactly_while_somebody_is_named(database, read):
    add(database)
    reader = read()
    add(database)
    frames, moved = database.wal_checkpoint()
    assert (moved < frames, len(found(database))) == (True, 1)
    reader.communicate()
    frames, moved = database.wal_checkpoint()
    assert (moved < frames, found(database)) == (False, [])


def test_looking_takes_no_lock_away_from_sqlite(database, read):
    add(database)
    reader = read()
    add(database)
    database.execute("BEGIN IMMEDIATE")
    found(database)
    write = f"import sqlite3; sqlite3.connect({database.filename!r}, timeout=0).execute('INSERT INTO t VALUES (1)')"
    other = subprocess.run([sys.executable, "-c", write], capture_output=True, text=True, check=False)
    assert "database is locked" in other.stderr
    database.execute("COMMIT")
    assert [holder.pid for holder in found(database)] == [reader.pid]


@pytest.mark.skipif(os.geteuid() != 0, reason="another pid namespace needs root")
def test_of_another_container_it_is_known_that_there_is_somebody(database, read):
    add(database)
    read()
    add(database)
    look = f"""
import apsw
from pathlib import Path
from sightlogd.store.wal_readers import holders
connection = apsw.Connection({database.filename!r})
connection.execute("SELECT count(*) FROM t").get
print(*holders(Path({database.filename!r} + "-shm")))
"""
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", look]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "a process of another container\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="another /proc needs root")
def test_where_proc_shows_nobody_else_the_process_is_named_all_the_same(database, read):
    """As under ProcSubset=pid and ProtectProc=invisible, and as another user than the reader."""
    add(database)
    reader = read()
    add(database)
    folder = Path(database.filename).parent
    for path in (folder, *folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    open_to_all(folder)
    look = f"""
import apsw, os
from pathlib import Path
from sightlogd.store.wal_readers import holders
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
connection = apsw.Connection({database.filename!r})
connection.execute("SELECT count(*) FROM t").get
print(os.path.exists("/proc/locks"), os.path.exists("/proc/1"), *holders(Path({database.filename!r} + "-shm")))
"""
    mount = "mount -t proc -o hidepid=invisible,subset=pid proc /proc"
    command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, look]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"False False process {reader.pid}\n", "")


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        (Holder(4711, "dashboard"), "process 4711 (dashboard)"),
        (Holder(4711, None), "process 4711"),
        (Holder(0, None), "a process of another container"),
    ],
)
def test_it_is_said_as_far_as_it_is_known(holder, text):
    assert str(holder) == text


def test_a_file_that_nobody_has_open_or_that_is_gone_has_no_holders(tmp_path):
    (tmp_path / "shm").write_bytes(b"x" * 200)
    assert holders(tmp_path / "shm") == []
    assert holders(tmp_path / "nothing") == []

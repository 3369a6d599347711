"""A copy of the database from before a migration, beside it, until the version that migrated it has started.

For the time of an upgrade only, while no daemon runs: the caller holds the lock on the data directory. The copy is one
file, whole and durable under its name, or not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

import apsw

from sightlogd import durable
from sightlogd.errors import EXIT_IO_ERROR, Stop
from sightlogd.store import migrate
from sightlogd.store.guard import Guard
from sightlogd.store.opening import BUSY_TIMEOUT_MS, DATABASE, explained

KEPT: Final = "events.before-upgrade.db"
UNFINISHED: Final = "events.before-upgrade.new"
_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)
_CHUNK_BYTES: Final = 1 << 20


def schema_of(path: Path) -> int:
    """The database's schema, 0 when there is none yet. Raises Stop. It may be in use."""
    if not path.exists():
        return 0
    with explained(path), contextlib.closing(_open(path, apsw.SQLITE_OPEN_READONLY)) as connection:
        return migrate.version_of(connection)


def newest_schema() -> int:
    """This version's."""
    return migrate.packaged()[-1].version


def bytes_needed(data_dir: Path) -> int:
    """What the copy takes: nothing where the file system lets two files share their blocks. Raises OSError."""
    probe = data_dir / UNFINISHED
    try:
        if _shares_blocks(data_dir / DATABASE, probe):
            return 0
    finally:
        probe.unlink(missing_ok=True)
    # While its WAL is moved into the copy, those pages are there twice.
    return durable.allocated(data_dir / DATABASE) + 2 * durable.allocated(_wal(data_dir / DATABASE))


def keep(data_dir: Path) -> None:
    """Make the copy. Raises Stop."""
    database, new = data_dir / DATABASE, data_dir / UNFINISHED
    with explained(database), contextlib.closing(Guard(database)):
        for leftover in (new, _wal(new), _shm(new)):
            leftover.unlink(missing_ok=True)
        try:
            _copy(database, new)
            if _wal(database).exists():
                _copy(_wal(database), _wal(new))
            with contextlib.closing(_open(new, apsw.SQLITE_OPEN_READWRITE)) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")  # one file
            durable.sync(new)
        except BaseException:
            for leftover in (new, _wal(new), _shm(new)):
                leftover.unlink(missing_ok=True)
            raise
        os.replace(new, data_dir / KEPT)
        durable.sync(data_dir)


def forget(data_dir: Path) -> None:
    """Raises OSError."""
    (data_dir / KEPT).unlink(missing_ok=True)


def was_stored_since(data_dir: Path) -> bool:
    """Whether anything was acked since the copy was made. Raises Stop.

    An ack comes after the COMMIT that moves its producer's position, so where no position has moved, none was sent.
    """
    positions = []
    for path in (data_dir / KEPT, data_dir / DATABASE):
        with explained(path), contextlib.closing(_open(path, apsw.SQLITE_OPEN_READONLY)) as connection:
            found = connection.execute("SELECT producer_id, epoch, last_seq FROM producers ORDER BY producer_id")
            positions.append(found.fetchall())
    return positions[0] != positions[1]


def put_back(data_dir: Path) -> None:
    """The copy in the database's place. Raises Stop.

    The WAL is emptied first, by moving it into the database that is replaced: whenever the power is cut, there is one
    database or the other, and no WAL of the one beside the other.
    """
    database = data_dir / DATABASE
    # Both: from the moment that the copy has the name, nobody else may write to it.
    with explained(database), contextlib.closing(Guard(database)), contextlib.closing(Guard(data_dir / KEPT)):
        with contextlib.closing(_open(database, apsw.SQLITE_OPEN_READWRITE)) as connection:
            [(busy, _, _)] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            raise Stop(
                EXIT_IO_ERROR,
                f"a program that reads {database} holds up its checkpoint. Nothing was changed. End that program "
                "(fuser names it) and try again",
            )
        os.replace(data_dir / KEPT, database)
        _wal(database).unlink(missing_ok=True)
        _shm(database).unlink(missing_ok=True)
        durable.sync(data_dir)


def _open(path: Path, flags: int) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    return connection


def _copy(source: Path, target: Path) -> None:
    if _shares_blocks(source, target):
        return
    with open(source, "rb") as read, open(target, "wb") as write:
        while data := read.read(_CHUNK_BYTES):
            write.write(data)


def _shares_blocks(source: Path, target: Path) -> bool:
    """A new file of the same blocks, as btrfs and XFS can; an empty one where the file system cannot."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, durable.FILE_MODE)
        try:
            fcntl.ioctl(made, _FICLONE, fd)
        except OSError:
            return False
        finally:
            os.close(made)
    finally:
        os.close(fd)
    return True


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _shm(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")

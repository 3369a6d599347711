"""Compares all of a backup with its manifest. Nothing is changed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_TRY_AGAIN, Stop
from sightlogd.findings import Finding, Kind
from sightlogd.retention import gigabytes
from sightlogd.store import DATABASE, copying
from sightlogd.store.copying import Damaged

from . import files, manifest
from .files import Unreadable
from .manifest import Entry, Manifest, Unusable


def is_backup(directory: Path) -> bool:
    return os.path.exists(directory / manifest.NAME)  # not where this user may not look


def check(directory: Path, show: Callable[[str], None]) -> Iterator[Finding]:
    """Every file's size and hash, and the database's pages. Raises Stop, OSError."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(EXIT_TRY_AGAIN, f"a backup to {directory} is under way. Wait for it to end") from None
        try:
            yield from _compare(directory, Manifest(directory / manifest.NAME), show)
        except Unusable as error:
            raise Stop(EXIT_IO_ERROR, f"{error}. Make a backup to another directory; this one needs a look") from error
    finally:
        os.close(lock)


def _compare(directory: Path, backup: Manifest, show: Callable[[str], None]) -> Iterator[Finding]:
    end = backup.end
    if end is None:
        raise Stop(EXIT_CONFIG, f"no backup was ever completed in {directory}. Run sightlogd backup again")
    done = 0
    database = None
    for entry in backup.entries():
        show(f"{gigabytes(done)} of {gigabytes(end.bytes)}")
        stored = directory / files.stored_name(entry.path)
        # Where the backup was cut off at its very end.
        places = [stored, *([Path(f"{stored}{files.NEW}")] if entry.path in end.replaced else [])]
        found = next((place for place in places if _is_as_it_was(place, entry)), None)
        if found is None:
            why = "is not what was backed up" if any(place.exists() for place in places) else "is not there"
            yield Finding(Kind.BACKUP, f"{stored}: it {why}")
        elif entry.path == DATABASE:
            database = found
        done += entry.size
    if database is not None:
        show("looking whether the database is sound")
        try:
            copying.check(database)
        except Damaged as error:
            yield Finding(Kind.BACKUP, f"{database}: {error}")


def _is_as_it_was(place: Path, entry: Entry) -> bool:
    """Raises OSError where it may not be read."""
    try:
        return files.hash_of(place, entry.size) == entry.sha256
    except Unreadable:
        return False

"""Compares all of a backup with its manifest. Nothing is changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sightlogd.directory import Directory, Odd
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_TRY_AGAIN, Stop
from sightlogd.findings import Finding, Kind
from sightlogd.store import DATABASE
from sightlogd.store.tools import copying
from sightlogd.store.tools.copying import Damaged
from sightlogd.units import gigabytes

from . import io, manifest
from .io import Unreadable
from .manifest import Manifest, Unusable


def is_backup(directory: Path) -> bool:
    return os.path.lexists(directory / manifest.NAME)  # not where this user may not look


def check(directory: Path, show: Callable[[str], None]) -> Iterator[Finding]:
    """Every file's size and hash, and the database's pages. Raises Stop, OSError."""
    with Directory(directory) as held:
        try:
            fcntl.flock(held.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(EXIT_TRY_AGAIN, f"a backup to {directory} is under way. Wait for it to end") from None
        try:
            with contextlib.closing(Manifest(held)) as backup:
                yield from _compare(held, backup, show)
        except Unusable as error:
            raise Stop(EXIT_IO_ERROR, f"{error}. Make a backup to another directory; this one needs a look") from error


def _compare(directory: Directory, backup: Manifest, show: Callable[[str], None]) -> Iterator[Finding]:
    end = backup.end
    if end is None:
        raise Stop(EXIT_CONFIG, f"no backup was ever completed in {directory.path}. Run sightlogd backup again")
    done = 0
    database = None
    for entry in backup.entries():
        show(f"{gigabytes(done)} of {gigabytes(end.bytes)}")
        stored = io.stored_name(entry.path)
        said = "is not there"
        for place in io.places(stored, replaced=entry.replaced):
            try:
                digest = io.hash_of(directory, place, entry.size)
            except (Odd, Unreadable) as error:
                said = f"cannot be read: {error}"
                continue
            if digest == entry.sha256:
                database = directory.real_path / place if entry.path == DATABASE else database
                break
            if directory.file(place):
                said = "is not what was backed up"
        else:
            yield Finding(Kind.BACKUP, f"{directory.path / stored}: it {said}")
        done += entry.size
    if database is not None:
        show("looking whether the database is sound")
        try:
            schema = copying.check(database)
        except Damaged as error:
            yield Finding(Kind.BACKUP, f"{directory.path / database.name}: {error}")
            return
        for text in schema.foreign:
            yield Finding(Kind.OBJECT, f"{DATABASE}: {text}")
        if schema.changed:
            text = f"{', '.join(schema.changed)}. {schema.remedy('events.db of the restored store')}"
            yield Finding(Kind.CHANGED, f"{DATABASE}: {text}")

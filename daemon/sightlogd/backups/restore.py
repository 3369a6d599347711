"""Makes a store of a backup. Everything is copied and checked under another name first, and the database comes last.

A picture or a log that is not what was backed up is left out and named, and the rest is restored: the database has all
but the pictures, and the daemon writes lines that the logs lack. A database that is not sound is not put in place.

`restoring/` in the data directory is what a restore that was interrupted left: the next one begins anew. `restored/` is
a whole store that only has to be put in place: the next one does that. The daemon starts on neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, Stop
from sightlogd.files.daylog import FILE_MODE as LOG_MODE
from sightlogd.files.days import EVENTS
from sightlogd.lock import Lock
from sightlogd.purge import TRASH, is_leaving
from sightlogd.retention import gigabytes
from sightlogd.store import DATABASE, copying
from sightlogd.store.copying import Damaged
from sightlogd.store.opening import RESTORED, RESTORING

from . import files, manifest
from .files import Unreadable
from .manifest import INCOMING, End, Entry, Manifest, Unusable
from .source import LOGS

KEPT: Final = "Nothing was put in place"
_FOLDERS: Final = (INCOMING, TRASH, EVENTS)


class Restore:
    """`run` once. `show` is told what is being done. Raises Stop, and nothing was put in place then."""

    def __init__(self, source: Path, data_dir: Path, show: Callable[[str], None]) -> None:
        self._source = source
        self._data_dir = data_dir
        self._show = show
        self.damaged: list[str] = []
        """Files that are not in the store, because they are not what was backed up."""
        self._lacks_lines = False
        self._restoring = data_dir / RESTORING
        self._restored = data_dir / RESTORED

    def run(self) -> End | None:
        """None: an earlier restore was finished, which had only to be put in place."""
        self._check_place()
        with contextlib.closing(Lock(self._data_dir)):
            if self._restored.is_dir():
                self._check_only_restored()
                with files.explained(self._data_dir, "The rest is done when this is run again"):
                    self._put_in_place()
                return None
            self._check_empty()
            backup, end = self._manifest()
            try:
                with files.explained(self._data_dir, KEPT):
                    self._check_room(end)
                    self._copy(backup, end)
                    self._check(end)
                    files.sync(self._data_dir)
                    os.rename(self._restoring, self._restored)
                    files.sync(self._data_dir)
            finally:
                shutil.rmtree(self._restoring, ignore_errors=True)
            with files.explained(self._data_dir, "Run this again: all is copied and has only to be put in place"):
                self._put_in_place()
            return end

    # -- may it? -----------------------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        here, there = self._source.resolve(), self._data_dir.resolve()
        if there.is_relative_to(here) or here.is_relative_to(there):
            raise Stop(EXIT_CONFIG, f"{self._source} and the data directory {self._data_dir} are within one another")

    def _check_only_restored(self) -> None:
        """Somebody may have brought the store back meanwhile."""
        for name in (DATABASE, f"{DATABASE}-wal"):
            if (self._restored / DATABASE).exists() and (self._data_dir / name).exists():
                raise Stop(
                    EXIT_CONFIG,
                    f"{self._data_dir / name} is there, and {self._restored} of a restore that was interrupted is too. "
                    f"Nothing was changed. Move the one away that is not to be used (all of {DATABASE}*, or "
                    f"{RESTORED}/), and run this again for the restored one",
                )

    def _check_empty(self) -> None:
        there = [name for name in (DATABASE, f"{DATABASE}-wal") if (self._data_dir / name).exists()]
        there += [
            name for name in _FOLDERS if (self._data_dir / name).is_dir() and any((self._data_dir / name).iterdir())
        ]
        if there:
            names = [*there, *(["events.db-shm"] if f"{DATABASE}-wal" in there else [])]
            raise Stop(
                EXIT_CONFIG,
                f"there is a store in {self._data_dir} already: {', '.join(there)}. Nothing was changed. Its day "
                "folders are newer than any backup: sightlogd rebuild --from-logs makes a database of them. To use the "
                f"backup all the same, with sightlogd stopped:\n  mkdir -m 750 {self._data_dir}.before\n"
                f"  cd {self._data_dir} && mv {' '.join(names)} {self._data_dir}.before/",
            )

    def _manifest(self) -> tuple[Manifest, End]:
        try:
            backup = Manifest(self._source / manifest.NAME)
        except FileNotFoundError as error:
            raise Stop(
                EXIT_CONFIG, f"{self._source} is not a backup: it has no {manifest.NAME}. Is the disk mounted?"
            ) from error
        except PermissionError as error:
            raise self._denied(self._source / manifest.NAME) from error
        except OSError as error:
            raise self._unreadable(manifest.NAME, str(error.strerror)) from error
        except Unusable as error:
            raise Stop(EXIT_IO_ERROR, f"{error}. {self._else()}") from error
        if backup.end is None:
            raise Stop(
                EXIT_CONFIG, f"no backup was ever completed in {self._source}: it was interrupted. {self._else()}"
            )
        return backup, backup.end

    def _else(self) -> str:
        return (
            f"{KEPT}. Take another backup; or sightlogd rebuild --from-logs --data-dir {self._source} --output FILE "
            "makes a database of the day folders in there"
        )

    def _unreadable(self, path: str, reason: str) -> Stop:
        """Of what nothing goes without."""
        return Stop(EXIT_IO_ERROR, f"cannot read {self._source / files.stored_name(path)}: {reason}. {self._else()}")

    def _denied(self, path: Path) -> Stop:
        return Stop(
            EXIT_PERMISSION,
            f"this user may not read {path}. {KEPT}. Give the backup to the daemon's "
            "user first: chown -R; on FAT, mount it for that user",
        )

    def _check_room(self, end: End) -> None:
        shutil.rmtree(self._restoring, ignore_errors=True)
        free = files.free_bytes(self._data_dir)
        if end.bytes > free:
            raise Stop(
                EXIT_STORAGE_FULL,
                f"no room in {self._data_dir}: the backup has {gigabytes(end.bytes)}, and {gigabytes(free)} are free. "
                f"{KEPT}. Make room, or restore to a larger disk",
            )

    # -- copying -----------------------------------------------------------------------------------------------------

    def _copy(self, backup: Manifest, end: End) -> None:
        done = 0
        self._restoring.mkdir(mode=files.DIRECTORY_MODE)
        try:
            for entry in backup.entries():
                self._show(f"{gigabytes(done)} of {gigabytes(end.bytes)}")
                self._copy_file(entry, end)
                done += entry.size
        except Unusable as error:
            raise Stop(EXIT_IO_ERROR, f"{error}. {self._else()}") from error
        for name in end.leaving:
            if is_leaving(name):
                (self._restoring / TRASH / name).mkdir(parents=True)

    def _copy_file(self, entry: Entry, end: End) -> None:
        if not manifest.is_expected(entry.path):
            raise Stop(EXIT_CONFIG, f"{entry.path!r} has no place in a backup. {self._else()}")
        stored = self._source / files.stored_name(entry.path)
        # Where the backup was cut off at its very end.
        new = [Path(f"{stored}{files.NEW}")] if entry.path in end.replaced else []
        said = "it is not there"
        for place in (stored, *new):
            try:
                if self._copied(place, entry):
                    return
                said = "it is not what was backed up (its size or its hash differs)"
            except FileNotFoundError:
                continue
            except Unreadable as error:
                said = str(error)
        if entry.path == DATABASE:
            raise self._unreadable(entry.path, said)
        (self._restoring / entry.path).unlink(missing_ok=True)
        self.damaged.append(f"{files.stored_name(entry.path)}: {said}")
        self._lacks_lines |= entry.path.rpartition("/")[2] in LOGS

    def _copied(self, place: Path, entry: Entry) -> bool:
        """Whether what was copied is what was backed up. Raises FileNotFoundError, Unreadable, OSError."""
        try:
            fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise self._denied(place) from error
        except OSError as error:
            raise Unreadable(error) from error
        digest = hashlib.sha256()
        target = self._restoring / entry.path
        try:
            to = files.create(target)
            try:
                size = files.read_into(fd, entry.size, digest, lambda data: files.write_all(to, data))
            finally:
                os.close(to)
        finally:
            os.close(fd)
        if target.name in LOGS:
            target.chmod(LOG_MODE)
        # The next backup of this store to the same place has not to copy it again.
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
        return size == entry.size and digest.hexdigest() == entry.sha256

    def _check(self, end: End) -> None:
        self._show("looking whether the database is sound")
        place = self._restoring / DATABASE
        if not place.exists():
            raise Stop(EXIT_IO_ERROR, f"{self._source} has no {DATABASE}. {self._else()}")
        try:
            copying.check(place)
        except Damaged as error:
            raise Stop(EXIT_IO_ERROR, f"the database in {self._source} is damaged: {error}. {self._else()}") from error
        with copying.opened(place) as view:
            found = view.count("events"), view.count("observations")
        if found != (end.events, end.observations):
            raise Stop(
                EXIT_IO_ERROR,
                f"the database in {self._source} has {found[0]} events and {found[1]} observations, and its manifest "
                f"says {end.events} and {end.observations}. {self._else()}",
            )
        copying.to_wal(place, compare=self._lacks_lines)

    # -- in place ----------------------------------------------------------------------------------------------------

    def _put_in_place(self) -> None:
        for name in (*_FOLDERS, DATABASE):
            here, there = self._restored / name, self._data_dir / name
            if here.exists():
                if there.is_dir():
                    there.rmdir()  # empty, or this is not ours to touch
                os.rename(here, there)
                files.sync(self._data_dir)
        self._restored.rmdir()
        files.sync(self._data_dir)

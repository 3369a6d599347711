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
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from sightlogd import durable
from sightlogd.daylogs.days import EVENTS, INCOMING, TRASH
from sightlogd.daylogs.writer import FILE_MODE as LOG_MODE
from sightlogd.directory import DIRECTORY_MODE, Directory
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_STORAGE_FULL, Stop
from sightlogd.store import DATABASE
from sightlogd.store.guard import Guard, made_by_another
from sightlogd.store.lock import Lock
from sightlogd.store.opening import RESTORED, RESTORING
from sightlogd.store.schema import NOTHING_FOREIGN
from sightlogd.store.tools import copying
from sightlogd.store.tools.copying import Damaged
from sightlogd.units import gigabytes

from . import io, manifest
from .io import Unreadable
from .manifest import End, Entry, Manifest, Unusable
from .source import LOGS

KEPT: Final = "Nothing was put in place"


class Restore:
    """`run` once. `show` is told what is being done. Raises Stop, and nothing was put in place then.

    The files of `source` are opened within `reading`: root may do that, and does all else as the store's owner. A
    stranger may have written them.
    """

    def __init__(
        self,
        source: Path,
        data_dir: Path,
        show: Callable[[str], None],
        reading: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._source = source
        self._data_dir = data_dir
        self._show = show
        self._reading = reading
        self.damaged: list[str] = []
        """Files that are not in the store, because they are not what was backed up."""
        self.schema = NOTHING_FOREIGN
        """What other programs have in the database, and what they changed of it."""
        self._lacks_lines = False

    def run(self) -> End | None:
        """None: an earlier restore was finished, which had only to be put in place."""
        self._check_place()
        if not os.path.lexists(self._data_dir / DATABASE) and not (self._data_dir / RESTORED).is_dir():
            self._check_empty()  # not even the lock is made beside something else
        with contextlib.closing(Lock(self._data_dir, "restore")), contextlib.ExitStack() as held:
            data = held.enter_context(Directory(self._data_dir))
            there = data.lstat(RESTORED)
            if there is not None and stat.S_ISDIR(there.st_mode):
                self._check_only_restored()
                with io.explained(self._data_dir, "The rest is done when this is run again"):
                    self._put_in_place(data)
                return None
            self._check_empty()
            source, backup, end = self._opened(held)
            try:
                with io.explained(self._data_dir, KEPT):
                    shutil.rmtree(RESTORING, ignore_errors=True, dir_fd=data.fd)
                    self._check_room(end)
                    os.mkdir(RESTORING, DIRECTORY_MODE, dir_fd=data.fd)
                    with data.folder(RESTORING) as restoring:
                        self._copy(source, backup, end, restoring)
                        self._check(end, restoring)
                    io.sync(data)
                    data.rename(RESTORING, RESTORED)
                    io.sync(data)
            finally:
                shutil.rmtree(RESTORING, ignore_errors=True, dir_fd=data.fd)
            with io.explained(self._data_dir, "Run this again: all is copied and has only to be put in place"):
                self._put_in_place(data)
            return end

    # -- may it? -----------------------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        here, there = self._source.resolve(), self._data_dir.resolve()
        if there.is_relative_to(here) or here.is_relative_to(there):
            raise Stop(EXIT_CONFIG, f"{self._source} and the data directory {self._data_dir} are within one another")

    def _check_only_restored(self) -> None:
        """Somebody may have brought the store back meanwhile."""
        restored = self._data_dir / RESTORED
        for name in (DATABASE, f"{DATABASE}-wal"):
            here, there = restored / DATABASE, self._data_dir / name
            # Both, and the same: a crash while it was put there.
            if here.exists() and os.path.lexists(there) and not (there.exists() and there.samefile(here)):
                raise Stop(
                    EXIT_CONFIG,
                    f"{self._data_dir / name} is there, and {restored} of a restore that was interrupted is too. "
                    f"Nothing was changed. Move the one away that is not to be used (all of {DATABASE}*, or "
                    f"{RESTORED}/), and run this again for the restored one",
                )

    def _check_empty(self) -> None:
        there = [name for name in (DATABASE, f"{DATABASE}-wal") if os.path.lexists(self._data_dir / name)]
        if not _is_free(self._data_dir / EVENTS):
            there.append(EVENTS)
        if there:
            names = [*there, *(["events.db-shm"] if f"{DATABASE}-wal" in there else [])]
            raise Stop(
                EXIT_CONFIG,
                f"there is a store in {self._data_dir} already: {', '.join(there)}. Nothing was changed. Its day "
                "folders are newer than any backup: sightlogd rebuild --from-logs makes a database of them. To use the "
                f"backup all the same, with sightlogd stopped:\n  mkdir -m 750 {self._data_dir}.before\n"
                f"  cd {self._data_dir} && mv {' '.join(names)} {self._data_dir}.before/",
            )

    def _opened(self, held: contextlib.ExitStack) -> tuple[Directory, Manifest, End]:
        try:
            with self._reading():
                source = held.enter_context(Directory(self._source))
                backup = held.enter_context(contextlib.closing(Manifest(source)))
        except FileNotFoundError as error:
            raise Stop(
                EXIT_CONFIG, f"{self._source} is not a backup: it has no {manifest.NAME}. Is the disk mounted?"
            ) from error
        except PermissionError as error:
            raise self._denied(self._source / manifest.NAME) from error
        except OSError as error:
            raise self._unreadable(manifest.NAME, str(error.strerror)) from error
        except Unusable as error:
            raise self._unusable(error) from error
        if backup.end is None:
            raise Stop(
                EXIT_CONFIG, f"no backup was ever completed in {self._source}: it was interrupted. {self._else()}"
            )
        return source, backup, backup.end

    def _unusable(self, error: Unusable) -> Stop:
        return Stop(error.exit_code, f"{error}. {self._else()}")

    def _else(self) -> str:
        return (
            f"{KEPT}. Take another backup; or sightlogd rebuild --from-logs --data-dir {self._source} --output FILE "
            "makes a database of the day folders in there"
        )

    def _unreadable(self, path: str, reason: str) -> Stop:
        """Of what nothing goes without."""
        return Stop(EXIT_IO_ERROR, f"cannot read {self._source / io.stored_name(path)}: {reason}. {self._else()}")

    def _denied(self, path: Path) -> Stop:
        return Stop(
            EXIT_PERMISSION,
            f"this user may not read {path}. {KEPT}. Give the backup to the daemon's "
            "user first: chown -R; on FAT, mount it for that user",
        )

    def _check_room(self, end: End) -> None:
        free = io.free_bytes(self._data_dir)
        if end.bytes > free:
            raise Stop(
                EXIT_STORAGE_FULL,
                f"no room in {self._data_dir}: the backup has {gigabytes(end.bytes)}, and {gigabytes(free)} are free. "
                f"{KEPT}. Make room, or restore to a larger disk",
            )

    # -- copying -----------------------------------------------------------------------------------------------------

    def _copy(self, source: Directory, backup: Manifest, end: End, restoring: Directory) -> None:
        done = 0
        try:
            for entry in backup.entries():
                self._show(f"{gigabytes(done)} of {gigabytes(end.bytes)}")
                self._copy_file(source, entry, restoring)
                done += entry.size
        except Unusable as error:
            raise self._unusable(error) from error
        for name in end.leaving:
            restoring.make_folder(f"{TRASH}/{name}").close()

    def _copy_file(self, source: Directory, entry: Entry, restoring: Directory) -> None:
        stored = io.stored_name(entry.path)
        said = "it is not there"
        for place in io.places(stored, replaced=entry.replaced):
            try:
                if self._copied(source, place, entry, restoring):
                    return
                said = "it is not what was backed up (its size or its hash differs)"
            except FileNotFoundError:
                continue
            except Unreadable as error:
                said = str(error)
        if entry.path == DATABASE:
            raise self._unreadable(entry.path, said)
        restoring.remove(entry.path)
        self.damaged.append(f"{stored}: {said}")
        self._lacks_lines |= entry.path.rpartition("/")[2] in LOGS

    def _copied(self, source: Directory, place: str, entry: Entry, restoring: Directory) -> bool:
        """Whether what was copied is what was backed up. Raises FileNotFoundError, Unreadable, OSError."""
        try:
            with self._reading():
                fd = source.open_file(place)
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise self._denied(self._source / place) from error
        except OSError as error:
            raise Unreadable(error) from error
        digest = hashlib.sha256()
        try:
            if os.fstat(fd).st_size < entry.size:
                return False
            to = restoring.create(entry.path, manifest.MODE)
            try:
                size = io.read_into(fd, entry.size, digest, lambda data: io.write_all(to, data))
                if entry.path.rpartition("/")[2] in LOGS:
                    os.fchmod(to, LOG_MODE)
                # The next backup of this store to the same place has not to copy it again.
                os.utime(to, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(to)
        finally:
            os.close(fd)
        return size == entry.size and digest.hexdigest() == entry.sha256

    def _check(self, end: End, restoring: Directory) -> None:
        self._show("looking whether the database is sound")
        place = restoring.real_path / DATABASE
        if restoring.file(DATABASE) is None:
            raise Stop(EXIT_IO_ERROR, f"{self._source} has no {DATABASE}. {self._else()}")
        try:
            self.schema = copying.check(place)
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

    def _put_in_place(self, data: Directory) -> None:
        if data.lstat(f"{RESTORED}/{EVENTS}") is not None:
            for name in (INCOMING, TRASH, EVENTS):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(name, dir_fd=data.fd)  # empty, or this is not ours to touch
            data.rename(f"{RESTORED}/{EVENTS}", EVENTS)
            io.sync(data)
        database = self._data_dir / RESTORED / DATABASE
        if data.lstat(f"{RESTORED}/{DATABASE}") is not None:
            # Guarded before it has its name, and never in the place of one that a daemon made meanwhile.
            with contextlib.closing(Guard(database)):
                try:
                    durable.put(database, self._data_dir / DATABASE)
                except FileExistsError as error:
                    raise made_by_another(self._data_dir / DATABASE) from error
            io.sync(data)
        os.rmdir(RESTORED, dir_fd=data.fd)
        io.sync(data)


def _is_free(events: Path) -> bool:
    """Whether the folder may be put there: nothing has its name, or one in which a daemon has stored nothing."""
    try:
        if not stat.S_ISDIR(os.lstat(events).st_mode):
            return False
        names = {path.name for path in events.iterdir()}
        ours = [events.parent / path for path in (INCOMING, TRASH)]
        return names <= {path.name for path in ours} and not any(any(path.iterdir()) for path in ours if path.exists())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False

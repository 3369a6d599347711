"""Where a backup goes. Until a new one is complete, the one before stays as it is.

A file that grew (a day's log) grows in its place: the former manifest says how much of it is the former's. A file that
is another one is written beside it, as NAME%new, and takes its name after the new manifest has: that is the one moment
in which the new backup takes the place of the former. What a day's file then said that the new one does not say stays
in kept/: a day that was removed may come again with a late record, and this may be the only copy of what it had.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sightlog
from sightlogd.errors import EXIT_CONFIG, EXIT_TRY_AGAIN, Stop
from sightlogd.files.daylog import JSON_NAME, TEXT_NAME
from sightlogd.files.days import EVENTS, folders
from sightlogd.store import DATABASE

from . import files, manifest
from .files import Unreadable
from .manifest import End, Entry, Header, Manifest, Unusable, Writer

if TYPE_CHECKING:
    from hashlib import _Hash

KEPT: Final = "What was in the backup before is as it was"
KEPT_FILES: Final = "kept"
_GROWS: Final = (JSON_NAME, TEXT_NAME)


class Target:
    """Takes the lock, and looks whether `source` may be backed up there. Raises Stop. Call `close`."""

    def __init__(self, directory: Path, source: Path, created: str, now: str) -> None:
        self.directory = directory
        self.aside: Path | None = None
        """Where what would replace a file goes instead: nothing takes the place of a good backup."""
        self.replaced: list[str] = []
        self.kept: list[str] = []
        """Files that are not what the store has now, under their new names in the directory."""
        self._check_place(source)
        self._header = Header(manifest.FORMAT, sightlog.__version__, str(source.resolve()), created, now)
        with files.explained(directory, KEPT):
            if not directory.is_dir():
                directory.mkdir(mode=files.DIRECTORY_MODE)
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._take_lock()
                self.former = self._former(source, created)
                self._finish_replacing()
            except BaseException:
                os.close(self._lock)
                raise

    def _check_place(self, source: Path) -> None:
        here, there = source.resolve(), self.directory.resolve()
        if there.is_relative_to(here) or here.is_relative_to(there):
            raise Stop(
                EXIT_CONFIG,
                f"{self.directory} and the data directory {source} are within one another. Give a directory elsewhere, "
                "best on another disk",
            )
        if not self.directory.parent.is_dir():
            raise Stop(
                EXIT_CONFIG, f"{self.directory.parent} is not there. Is the disk mounted? Only the last folder is made"
            )
        if os.path.lexists(self.directory) and not self.directory.is_dir():
            raise Stop(EXIT_CONFIG, f"{self.directory} is not a directory. Give a directory")

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(EXIT_TRY_AGAIN, f"another backup to {self.directory} is under way. Wait for it to end") from None

    def _former(self, source: Path, created: str) -> Manifest:
        path = self.directory / manifest.NAME
        if not path.exists():
            if any(name != manifest.UNFINISHED for name in os.listdir(self.directory)):
                raise Stop(
                    EXIT_CONFIG,
                    f"{self.directory} is not empty, and not a backup: it has no {manifest.NAME}. Nothing was changed. "
                    "Give an empty or a new directory",
                )
            # From here on it is known as a backup's, complete or not.
            self._write_header()
            return Manifest(path)
        try:
            former = Manifest(path)
        except Unusable as error:
            raise Stop(
                EXIT_CONFIG, f"{error}. Nothing was changed. Give another directory; this one needs a look by hand"
            ) from error
        if former.end and former.header.created != created and not _continues(former, source):
            raise Stop(
                EXIT_CONFIG,
                f"{self.directory} is a backup of another store: of {former.header.source}, made "
                f"{former.header.created}, and no day's log is the same here. Nothing was changed. Give each store a "
                "directory of its own",
            )
        return former

    def _write_header(self) -> None:
        new = self.directory / manifest.UNFINISHED
        writer = Writer(new, self._header)
        writer.close()
        files.sync(self.directory)
        os.replace(new, self.directory / manifest.NAME)
        files.sync(self.directory)

    def _finish_replacing(self) -> None:
        """What a backup that was cut off at its very end left under the new names."""
        end = self.former.end
        replaced = set(end.replaced if end else ())
        waiting = {path for path in replaced if self._new(path).exists()}
        for entry in self.former.entries() if waiting else ():
            if entry.path in waiting and files.hash_of(self._new(entry.path), entry.size) == entry.sha256:
                self._replace(entry.path, self.former.header.begun_at)
        self._new(DATABASE).unlink(missing_ok=True)  # of one that was killed: it takes much room
        files.sync(self.directory)

    # -- files -------------------------------------------------------------------------------------------------------

    def stored(self, path: str) -> Path:
        return self.directory / files.stored_name(path)

    def _new(self, path: str) -> Path:
        return self.directory / f"{files.stored_name(path)}{files.NEW}"

    def has(self, entry: Entry) -> bool:
        """Whether it is there, as far as its size says: its bytes are read when it is restored."""
        try:
            return self.stored(entry.path).stat().st_size >= entry.size
        except FileNotFoundError:
            return False

    def days(self) -> list[str]:
        """All that have a folder there, also those that the store does not have any more."""
        return folders(self.directory)

    def put(self, path: str, source: int, size: int, former: Entry | None) -> Entry:
        """Copy an open file up to `size`. `former` is what the backup that is there has of it.

        Raises Unreadable, OSError.
        """
        mtime_ns = os.fstat(source).st_mtime_ns
        digest = hashlib.sha256()
        found = self._beginning(path, source, size, former, digest)
        try:
            if found is None:
                os.lseek(source, 0, os.SEEK_SET)
                digest = hashlib.sha256()
                found = 0
                fd = files.create(self._replacement(path) if self.stored(path).exists() else self.stored(path))
            else:
                fd = os.open(self.stored(path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                os.ftruncate(fd, found)
                os.lseek(fd, 0, os.SEEK_END)
            try:
                found += files.read_into(source, size - found, digest, lambda data: files.write_all(fd, data))
            finally:
                os.close(fd)
        except Unreadable:
            if path in self.replaced:  # what is not whole takes no place
                self.replaced.remove(path)
                self._new(path).unlink(missing_ok=True)
            raise
        return Entry(path, found, mtime_ns, digest.hexdigest())

    def _beginning(self, path: str, source: int, size: int, former: Entry | None, digest: _Hash) -> int | None:
        """How much of the source the file that is there begins with; None when it is another one, damaged or not there.

        Of what the former backup has, a log alone may grow in its place.
        """
        if former and path.rpartition("/")[2] not in _GROWS:
            return None
        try:
            # Without a former, one of a backup that was cut off, or of a day that was removed and comes again.
            there = former.size if former else self.stored(path).stat().st_size
            if there > size or (stored := files.hash_of(self.stored(path), there)) is None:
                return None
        except FileNotFoundError:
            return None
        except Unreadable:
            return None  # a bad sector of the backup's disk: copied anew
        files.read_into(source, there, digest, lambda _: None)
        return there if digest.hexdigest() == stored else None

    def _replacement(self, path: str) -> Path:
        if self.aside is not None:
            return self.aside / files.stored_name(path)
        self.replaced.append(path)
        return self._new(path)

    def place_for(self, path: str) -> Path:
        """The name under which a file that is made here is written."""
        (place := self._replacement(path)).parent.mkdir(mode=files.DIRECTORY_MODE, parents=True, exist_ok=True)
        return place

    # -- the end -----------------------------------------------------------------------------------------------------

    def begin_manifest(self) -> Writer:
        return Writer(self.directory / manifest.UNFINISHED, self._header)

    def commit(self, writer: Writer, end: End) -> None:
        """From here on it is the backup. Raises OSError."""
        writer.end(end)
        writer.close()
        files.sync(self.directory)
        # Whatever fails from here on, they may be the backup's already: nothing of them is to be abandoned.
        replaced, self.replaced = self.replaced, []
        os.replace(self.directory / manifest.UNFINISHED, self.directory / manifest.NAME)
        with files.explained(self.directory, "The new backup is complete; the next one gives its files their names"):
            files.sync(self.directory)
            for path in replaced:
                self._replace(path, self._header.begun_at)
            files.sync(self.directory)

    def _replace(self, path: str, at: str) -> None:
        """The new file takes its name. Raises OSError."""
        new, stored = self._new(path), self.stored(path)
        if path.startswith(f"{EVENTS}/") and stored.exists() and not _begins_with(new, stored):
            _, day, name = files.stored_name(path).split("/")
            kept = f"{KEPT_FILES}/{day}.{''.join(filter(str.isalnum, at)).lower()}/{name}"
            (place := self.directory / kept).parent.mkdir(mode=files.DIRECTORY_MODE, parents=True, exist_ok=True)
            os.rename(stored, place)
            self.kept.append(kept)
        os.replace(new, stored)

    def abandon(self) -> None:
        """What was begun and is not part of any backup goes: its room may be needed."""
        for path in [self.directory / manifest.UNFINISHED, *map(self._new, self.replaced)]:
            path.unlink(missing_ok=True)
        self.replaced.clear()

    def close(self) -> None:
        os.close(self._lock)


def _begins_with(path: Path, other: Path) -> bool:
    size = other.stat().st_size
    try:
        return (digest := files.hash_of(other, size)) is not None and digest == files.hash_of(path, size)
    except Unreadable:
        return False


def _continues(former: Manifest, source: Path) -> bool:
    """Whether some day's log begins as the backup's: a store that was rebuilt or moved is still that store."""
    return any(
        entry.path.endswith(f"/{JSON_NAME}") and entry.size and _has(source / entry.path, entry)
        for entry in (former.entries() if former.end else ())
    )


def _has(path: Path, entry: Entry) -> bool:
    try:
        return files.hash_of(path, entry.size) == entry.sha256
    except (OSError, Unreadable):
        return False

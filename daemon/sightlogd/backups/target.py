"""Where a backup goes. Until a new one is complete, the one before stays as it is.

A file that grew (a day's log) grows in its place: the former manifest says how much of it is the former's. A file that
is another one is written beside it, as NAME%new, and takes its name after the new manifest has: that is the one moment
in which the new backup takes the place of the former. What a day's file then said that the new one does not say stays
in kept/: a day that was removed may come again with a late record, and this may be the only copy of what it had.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sightlog
from sightlogd.daylogs.days import EVENTS, INCOMING, folders
from sightlogd.daylogs.writer import JSON_NAME, TEXT_NAME
from sightlogd.directory import DIRECTORY_MODE, Directory, user_for
from sightlogd.errors import EXIT_CONFIG, EXIT_TRY_AGAIN, Stop
from sightlogd.store import DATABASE

from . import io, manifest
from .io import Unreadable
from .manifest import End, Entry, Header, Manifest, Unusable, Writer

if TYPE_CHECKING:
    from hashlib import _Hash

KEPT: Final = "What was in the backup before is as it was"
KEPT_FILES: Final = "kept"
_GROWS: Final = (JSON_NAME, TEXT_NAME)


class Target:
    """Takes the lock, and looks whether `source` may be backed up there. Raises Stop. Call `close`.

    Whoever had the disk before may have written what is there: it is reached from the directory's descriptor, and what
    is no regular file where one should be is neither read nor written to.
    """

    def __init__(self, directory: Path, source: Path, created: str, now: str) -> None:
        self.directory = directory
        self.aside: str | None = None
        """The folder for what would replace a file: nothing takes the place of a good backup."""
        self._replaced: list[str] = []
        self.kept: list[str] = []
        """Files that are not what the store has now, under their new names in the directory."""
        self._check_place(source)
        self._header = Header(manifest.FORMAT, sightlog.__version__, str(source.resolve()), created, now)
        # Root's files would be in the way of the next backup by the daemon's user.
        self._user = user_for(source)
        with contextlib.ExitStack() as held, io.explained(directory, KEPT):
            if not directory.is_dir():
                directory.mkdir(mode=DIRECTORY_MODE)
            self.held = held.enter_context(Directory(directory, self._user))
            self._take_lock()
            self.former = held.enter_context(contextlib.closing(self._former(source, created)))
            if self._user and os.fstat(self.held.fd).st_uid == 0:
                self._user.gets(self.held.fd)
            self._finish_replacing()
            self._open = held.pop_all()

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
            fcntl.flock(self.held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(EXIT_TRY_AGAIN, f"another backup to {self.directory} is under way. Wait for it to end") from None

    def _former(self, source: Path, created: str) -> Manifest:
        if self.held.lstat(manifest.NAME) is None:
            if any(entry.name != manifest.UNFINISHED for entry in self.held.list()):
                raise Stop(
                    EXIT_CONFIG,
                    f"{self.directory} is not empty, and not a backup: it has no {manifest.NAME}. Nothing was changed. "
                    "Give an empty or a new directory",
                )
            # From here on it is known as a backup's, complete or not.
            self._write_header()
        try:
            former = Manifest(self.held)
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
        writer = Writer(self.held, self._header)
        writer.close()
        io.sync(self.held)
        self.held.rename(manifest.UNFINISHED, manifest.NAME)
        io.sync(self.held)

    def _finish_replacing(self) -> None:
        """What a backup that was cut off at its very end left under the new names."""
        for entry in self.former.entries() if self.former.end else ():
            new = _new(entry.path)
            if entry.replaced and self.held.file(new) and io.hash_of(self.held, new, entry.size) == entry.sha256:
                self._replace(entry.path, self.former.header.begun_at)
        self.held.remove(_new(DATABASE))  # of one that was killed: it takes much room
        io.sync(self.held)

    # -- files -------------------------------------------------------------------------------------------------------

    def has(self, entry: Entry) -> bool:
        """Whether it is there, as far as its size says: its bytes are read when it is restored."""
        there = self.held.file(io.stored_name(entry.path))
        return there is not None and there.st_size >= entry.size

    def days(self) -> list[str]:
        """All that have a folder there, also those that the store does not have any more."""
        return folders(self.directory)

    def put(self, path: str, source: int, size: int, former: Entry | None) -> Entry:
        """Copy an open file up to `size`. `former` is what the backup that is there has of it.

        Raises Unreadable, OSError.
        """
        mtime_ns = os.fstat(source).st_mtime_ns
        stored = io.stored_name(path)
        digest = hashlib.sha256()
        found = self._beginning(path, source, size, former, digest)
        replaced = False
        try:
            if found is None:
                os.lseek(source, 0, os.SEEK_SET)
                digest = hashlib.sha256()
                found = 0
                replaced = self.held.lstat(stored) is not None
                fd = self.held.create(self._replacement(path) if replaced else stored, manifest.MODE)
            else:
                fd = self.held.open_file(stored, os.O_WRONLY)
                if self._user:
                    self._user.gets(fd)
                os.ftruncate(fd, found)
                os.lseek(fd, 0, os.SEEK_END)
            try:
                found += io.read_into(source, size - found, digest, lambda data: io.write_all(fd, data))
            finally:
                os.close(fd)
        except Unreadable:
            if path in self._replaced:  # what is not whole takes no place
                self._replaced.remove(path)
                self.held.remove(_new(path))
            raise
        return Entry(path, found, mtime_ns, digest.hexdigest(), replaced)

    def _beginning(self, path: str, source: int, size: int, former: Entry | None, digest: _Hash) -> int | None:
        """How much of the source the file that is there begins with; None when it is another one, damaged or not there.

        Of what the former backup has, a log alone may grow in its place.
        """
        if former and path.rpartition("/")[2] not in _GROWS:
            return None
        name = io.stored_name(path)
        found = self.held.file(name)
        if found is None or found.st_nlink > 1:  # it may have another name elsewhere
            return None
        try:
            # Without a former, one of a backup that was cut off, or of a day that was removed and comes again.
            there = former.size if former else found.st_size
            if there > size or (stored := io.hash_of(self.held, name, there)) is None:
                return None
        except Unreadable:
            return None  # a bad sector of the backup's disk: copied anew
        io.read_into(source, there, digest, lambda _: None)
        return there if digest.hexdigest() == stored else None

    def _replacement(self, path: str) -> str:
        if self.aside is not None:
            return f"{self.aside}/{io.stored_name(path)}"
        self._replaced.append(path)
        return _new(path)

    def begin_database(self) -> Path:
        """Where the copy of the database is made, by what takes nothing but a path."""
        return self.held.real_path / self._replacement(DATABASE)

    def entry_of_database(self) -> Entry:
        """Of the copy. Raises OSError, Unreadable."""
        fd = self.held.open_file(_new(DATABASE))
        try:
            there = os.fstat(fd)
            digest = hashlib.sha256()
            io.read_into(fd, there.st_size, digest, lambda _: None)
            if self._user:
                self._user.gets(fd)
        finally:
            os.close(fd)
        return Entry(DATABASE, there.st_size, there.st_mtime_ns, digest.hexdigest(), replaced=True)

    # -- the end -----------------------------------------------------------------------------------------------------

    def begin_manifest(self) -> Writer:
        return Writer(self.held, self._header)

    def commit(self, writer: Writer, end: End) -> None:
        """From here on it is the backup. Raises OSError."""
        writer.end(end)
        writer.close()
        io.sync(self.held)
        # Whatever fails from here on, they may be the backup's already: nothing of them is to be abandoned.
        replaced, self._replaced = self._replaced, []
        self.held.rename(manifest.UNFINISHED, manifest.NAME)
        with io.explained(self.directory, "The new backup is complete; the next one gives its files their names"):
            io.sync(self.held)
            for path in replaced:
                self._replace(path, self._header.begun_at)
            io.sync(self.held)

    def _replace(self, path: str, at: str) -> None:
        """The new file takes its name. What a day's file said, and what is no file, is kept. Raises OSError."""
        new, stored = _new(path), io.stored_name(path)
        if (there := self.held.lstat(stored)) is not None and not self._may_be_replaced(path, new, there):
            folder, _, name = f"{self.directory.name}/{stored}".rpartition("/")
            kept = f"{KEPT_FILES}/{folder.rpartition('/')[2]}.{''.join(filter(str.isalnum, at)).lower()}/{name}"
            self.held.rename(stored, kept)
            self.kept.append(kept)
        self.held.rename(new, stored)

    def _may_be_replaced(self, path: str, new: str, there: os.stat_result) -> bool:
        if not stat.S_ISREG(there.st_mode):
            return False
        if path.startswith(f"{INCOMING}/") or not path.startswith(f"{EVENTS}/"):
            return True
        try:  # where it goes on from there, nothing is lost
            digest = io.hash_of(self.held, io.stored_name(path), there.st_size)
            return digest is not None and digest == io.hash_of(self.held, new, there.st_size)
        except Unreadable:
            return False

    def abandon(self) -> None:
        """What was begun and is not part of any backup goes: its room may be needed."""
        for path in [manifest.UNFINISHED, *map(_new, self._replaced)]:
            self.held.remove(path)
        self._replaced.clear()

    def close(self) -> None:
        self._open.close()


def _new(path: str) -> str:
    """The name that a file is written under which is to replace another one."""
    return f"{io.stored_name(path)}{io.NEW}"


def _continues(former: Manifest, source: Path) -> bool:
    """Whether some day's log begins as the backup's: a store that was rebuilt or moved is still that store."""
    with Directory(source) as store:
        return any(
            entry.path.endswith(f"/{JSON_NAME}") and entry.size and _has(store, entry)
            for entry in (former.entries() if former.end else ())
        )


def _has(store: Directory, entry: Entry) -> bool:
    try:
        return io.hash_of(store, entry.path, entry.size) == entry.sha256
    except (OSError, Unreadable):
        return False

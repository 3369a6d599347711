"""A directory held open. What is below it is reached from descriptor to descriptor, never through a link.

So whoever may write there can neither lead elsewhere with a link nor by putting one in a folder's place meanwhile, nor
make who reads wait for a pipe or read a device without end: a file is a regular file, or it is `Odd`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

DIRECTORY_MODE: Final = 0o750
_HOLDS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS: Final = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


class Odd(OSError):
    """Something else has the name of a file or a directory of ours. `strerror` says what it is."""

    def __init__(self, mode: int, path: str) -> None:
        super().__init__(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'a device')}", path)


class User(NamedTuple):
    """Whose a file is to be."""

    uid: int
    gid: int

    def gets(self, fd: int) -> None:
        """Raises OSError but where files have no owner: FAT."""
        with contextlib.suppress(PermissionError):
            os.fchown(fd, self.uid, self.gid)


def user_for(data_dir: Path) -> User | None:
    """Whose a file is to be that is made for this store: root makes it for the owner. None: it is so anyway."""
    there = data_dir.stat()
    return User(there.st_uid, there.st_gid) if os.geteuid() == 0 != there.st_uid else None


def open_file(path: str | Path, flags: int = os.O_RDONLY, dir_fd: int | None = None) -> int:
    """One that is there. Raises OSError, Odd."""
    # Before it is opened: opening a device may do something already, a pipe wakes who waits for it.
    there = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISREG(there.st_mode):
        raise Odd(there.st_mode, os.fspath(path))
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    if not stat.S_ISREG(mode := os.fstat(fd).st_mode):
        os.close(fd)
        raise Odd(mode, os.fspath(path))
    return fd


class Directory:
    """Names below it are paths of it: "events/2026-11-20/a.jpg". Raises OSError with the whole path, Odd. `close` it.

    What is made in it belongs to `user`, None: to who makes it.
    """

    def __init__(self, path: Path, user: User | None = None) -> None:
        self._hold(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), user)

    def _hold(self, path: Path, fd: int, user: User | None) -> Directory:
        self.path, self.fd, self._user = path, fd, user
        return self

    def close(self) -> None:
        os.close(self.fd)

    @property
    def real_path(self) -> Path:
        """Where it is now, without a link: for what takes nothing but a path."""
        return Path(os.readlink(f"/proc/self/fd/{self.fd}"))

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _at(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that something is in, as a descriptor, and its name there."""
        *folders, name = path.split("/")
        fd, done = self.fd, self.path
        try:
            for folder in folders:
                done /= folder
                below = self._made(folder, fd) if make else _held(folder, fd)
                if fd != self.fd:
                    os.close(fd)
                fd = below
            done /= name
            yield fd, name
        except OSError as error:
            if not os.path.isabs(os.fsdecode(error.filename or "")):  # of one directory within another, the inner one
                error.filename = os.fspath(done)
            raise
        finally:
            if fd != self.fd:
                os.close(fd)

    def _made(self, name: str, dir_fd: int) -> int:
        try:
            return _held(name, dir_fd)
        except FileNotFoundError:
            os.mkdir(name, DIRECTORY_MODE, dir_fd=dir_fd)
            if self._user:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
                try:
                    self._user.gets(fd)
                finally:
                    os.close(fd)
            return _held(name, dir_fd)

    # -- directories -------------------------------------------------------------------------------------------------

    def folder(self, path: str) -> Directory:
        with self._at(path) as (fd, name):
            held = _held(name, fd)
            try:
                below = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
            finally:
                os.close(held)
        return Directory.__new__(Directory)._hold(self.path / path, below, self._user)

    def make_folder(self, path: str) -> Directory:
        """The same; made when it is not there, and what is missing above it."""
        with self._at(f"{path}/.", make=True):
            return self.folder(path)

    def list(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.fd) as entries:
            yield from entries

    def sync(self) -> None:
        """Make the names in it durable."""
        os.fsync(self.fd)

    # -- files -------------------------------------------------------------------------------------------------------

    def lstat(self, path: str) -> os.stat_result | None:
        """None for what is not there."""
        try:
            with self._at(path) as (fd, name):
                return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def file(self, path: str) -> os.stat_result | None:
        """The same, None also for what is no regular file, or is in something that is no directory."""
        try:
            there = self.lstat(path)
        except Odd:
            return None
        return there if there and stat.S_ISREG(there.st_mode) else None

    def open_file(self, path: str, flags: int = os.O_RDONLY) -> int:
        """One that is there."""
        with self._at(path) as (fd, name):
            return open_file(name, flags, fd)

    def create(self, path: str, mode: int) -> int:
        """A new one, open for writing, and the folders above it. What had its name before loses it, but a directory."""
        with self._at(path, make=True) as (fd, name):
            # Never what is there emptied: it may have another name elsewhere.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
            new = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)
            if self._user:
                self._user.gets(new)
            return new

    def rename(self, path: str, to: str) -> None:
        """What had the new name before is replaced; folders above it are made."""
        with self._at(path) as (fd, name), self._at(to, make=True) as (to_fd, new):
            os.rename(name, new, src_dir_fd=fd, dst_dir_fd=to_fd)

    def remove(self, path: str) -> None:
        """A file, or whatever has its name, but a directory. It need not be there."""
        with contextlib.suppress(FileNotFoundError), self._at(path) as (fd, name):
            os.unlink(name, dir_fd=fd)


def _held(name: str, dir_fd: int) -> int:
    try:
        return os.open(name, _HOLDS, dir_fd=dir_fd)
    except NotADirectoryError:
        there = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        raise Odd(there.st_mode, name) from None

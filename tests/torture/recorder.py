"""Writes down everything that is done to a directory: by SQLite, through a VFS; by Python, through `os` and `open`."""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import math
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
from medium import ROOT, Cut, Entry, Log, Mark, Names, Sync, SyncAll, SyncFailed, SyncNames, Write

from sightlogd.backups import io as files

VFS = "recorder"


class Killed(BaseException):
    """The process is dead: nothing that it does reaches a file any more."""


_SAME = {"fdatasync": "fsync", "replace": "rename", "remove": "unlink", "rmdir": "unlink"}


class Recorder:
    """As a context manager: while it is entered, `log` grows by what happens below `root`.

    With `dies_at` entries in it whatever would be the next raises Killed. `fail_sync_at` is the number of the fsync of
    a file that `may_fail`, counted from 1, that fails.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self.log = Log()
        self.syncs = 0
        self.fail_sync_at = 0
        self.dies_at = math.inf
        self.may_fail: Callable[[str], bool] = lambda _path: True
        self.skip: Callable[[Entry], bool] = lambda _entry: False
        """Entries that are not to be seen: a control leaves out what it wants to be missed."""
        self._tree: dict[int, dict[str, int]] = {ROOT: {}}
        self._last = ROOT
        self._open: dict[int, int] = {}
        self._stack = ExitStack()
        self._take_over(Path(self.root), ROOT)

    def _take_over(self, path: Path, directory: int) -> None:
        """What is there already is durable."""
        for entry in sorted(path.iterdir()):
            there = self._new()
            self._tree[directory][entry.name] = there
            if entry.is_dir():
                self._tree[there] = {}
                self._take_over(entry, there)
            else:
                self.log.data[there] = entry.read_bytes()
        self.log.names[directory] = dict(self._tree[directory])

    def _new(self) -> int:
        self._last += 1
        return self._last

    def mark(self, what: object) -> None:
        self.log.entries.append(Mark(what))

    def _add(self, entry: Entry) -> None:
        if not self.skip(entry):
            self.log.entries.append(entry)

    def is_alive(self) -> None:
        """Before anything is done. Raises Killed."""
        if len(self.log.entries) >= self.dies_at:
            raise Killed

    def is_reaped(self) -> None:
        """A dead process lets go of its files; another one may begin."""
        self.dies_at = math.inf
        for fd in [*self._open]:
            with suppress(OSError):  # a file object that nobody held closed it unseen
                os.close(fd)

    def __enter__(self) -> Recorder:
        for name in ("open", "close", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "rename", "replace",
                     "link", "unlink", "remove", "mkdir", "rmdir"):  # fmt: skip
            wrapped = getattr(self, f"_os_{_SAME.get(name, name)}")
            self._stack.enter_context(mock.patch.object(os, name, wrapped(getattr(os, name))))
        self._stack.enter_context(mock.patch.object(files, "sync", self._sync_all))
        opener = self._opener(io.open)
        self._stack.enter_context(mock.patch.object(io, "open", opener))
        self._stack.enter_context(mock.patch.object(builtins, "open", opener))
        self._vfs = _VFS(self)
        self._stack.callback(self._vfs.unregister)
        self._stack.callback(apsw.set_default_vfs, "unix")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- names -------------------------------------------------------------------------------------------------------

    def _place(self, path: Any) -> tuple[int, str] | None:
        """(directory, name), None for what is elsewhere."""
        text = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not text.startswith(f"{self.root}/"):
            return None
        *folders, name = text[len(self.root) + 1 :].split("/")
        directory = ROOT
        for folder in folders:
            directory = self._tree[directory].get(folder, -1)
            if directory not in self._tree:
                return None
        return directory, name

    def find(self, path: Any) -> int | None:
        """The file or directory of that name."""
        if isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)) == self.root:
            return ROOT
        place = self._place(path)
        return None if place is None else self._tree[place[0]].get(place[1])

    def path_of(self, there: int) -> str:
        """Of a file or directory, below the root; "" for the root and for what has no name any more."""
        for directory, entries in self._tree.items():
            for name, other in entries.items():
                if other == there:
                    return f"{self.path_of(directory)}/{name}"
        return ""

    def found_or_made(self, path: Any) -> int | None:
        """The same for a file that was opened: when it is new, that is written down."""
        place = self._place(path)
        if place is None:
            return self.find(path)
        there = self._tree[place[0]].get(place[1])
        if there is None:
            there = self._tree[place[0]][place[1]] = self._new()
            self._add(Names(((*place, there),)))
        return there

    def removed(self, path: Any) -> None:
        place = self._place(path)
        if place is not None and self._tree[place[0]].pop(place[1], None) is not None:
            self._add(Names(((*place, None),)))

    def synced_directory(self, path: Any) -> None:
        there = self.find(path)
        if there in self._tree:
            self._add(SyncNames(there))

    # -- files -------------------------------------------------------------------------------------------------------

    def wrote(self, file: int, offset: int, data: bytes) -> None:
        self._add(Write(file, offset, bytes(data)))

    def cut(self, file: int, size: int) -> None:
        self._add(Cut(file, size))

    def syncs_now(self, file: int) -> bool:
        """Before the fsync of a file; False: it has to fail."""
        failing = False
        if self.may_fail(self.path_of(file)):
            self.syncs += 1
            failing = self.syncs == self.fail_sync_at
        self._add(SyncFailed(file) if failing else Sync(file))
        return not failing

    # -- os ----------------------------------------------------------------------------------------------------------

    def _os_open(self, real: Any) -> Any:
        def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            full = _at(path, dir_fd)
            if flags & os.O_CREAT and (flags & os.O_TRUNC or self.find(full) is None) and self._place(full):
                self.is_alive()
            fd = real(path, flags, mode, dir_fd=dir_fd)
            self._open.pop(fd, None)
            there = self.found_or_made(full) if os.path.basename(full) != "." else self.find(full)
            if there is not None:
                self._open[fd] = there
                if flags & os.O_TRUNC:
                    self.cut(there, 0)
            return fd

        return opened

    def _os_close(self, real: Any) -> Any:
        def close(fd: int) -> None:
            self._open.pop(fd, None)
            real(fd)

        return close

    def _os_write(self, real: Any) -> Any:
        def write(fd: int, data: Any) -> int:
            if fd in self._open:
                self.is_alive()
            count = real(fd, data)
            if fd in self._open:
                self.wrote(self._open[fd], os.lseek(fd, 0, os.SEEK_CUR) - count, bytes(data[:count]))
            return count

        return write

    def _os_pwrite(self, real: Any) -> Any:
        def pwrite(fd: int, data: Any, offset: int) -> int:
            if fd in self._open:
                self.is_alive()
            count = real(fd, data, offset)
            if fd in self._open:
                self.wrote(self._open[fd], offset, bytes(data[:count]))
            return count

        return pwrite

    def _os_fsync(self, _real: Any) -> Any:
        def fsync(fd: int) -> None:
            there = self._open.get(fd)
            if there is not None:
                self.is_alive()
            if there in self._tree:
                self._add(SyncNames(there))
            elif there is not None and not self.syncs_now(there):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        return fsync

    def _os_ftruncate(self, real: Any) -> Any:
        def ftruncate(fd: int, size: int) -> None:
            if fd in self._open:
                self.is_alive()
            real(fd, size)
            if fd in self._open:
                self.cut(self._open[fd], size)

        return ftruncate

    def _os_rename(self, real: Any) -> Any:
        def rename(source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            full, new_full = _at(source, src_dir_fd), _at(target, dst_dir_fd)
            if self._place(full):
                self.is_alive()
            real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            old, new = self._place(full), self._place(new_full)
            if old is None or new is None:
                assert old is new, "a move into or out of what is recorded"
                return
            there = self._tree[old[0]].pop(old[1])
            self._tree[new[0]][new[1]] = there
            if old[0] == new[0] or there in self._tree:
                self._add(Names(((*old, None), (*new, there))))
            else:  # the new name may be durable before the old one is gone
                self._add(Names(((*new, there),)))
                self._add(Names(((*old, None),), after_last=True))

        return rename

    def _os_link(self, real: Any) -> Any:
        def link(source: Any, target: Any) -> None:
            there, new = self.find(source), self._place(target)
            if there is not None:
                self.is_alive()
            real(source, target)
            assert (there is None) == (new is None), "a link into or out of what is recorded"
            if new is not None:
                self._tree[new[0]][new[1]] = there
                self._add(Names(((*new, there),)))

        return link

    def _os_unlink(self, real: Any) -> Any:
        def unlink(path: Any, *, dir_fd: int | None = None) -> None:
            full = _at(path, dir_fd)
            if self.find(full) is not None:
                self.is_alive()
            real(path, dir_fd=dir_fd)
            self.removed(full)

        return unlink

    def _os_mkdir(self, real: Any) -> Any:
        def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            full = _at(path, dir_fd)
            if self._place(full):
                self.is_alive()
            real(path, mode, dir_fd=dir_fd)
            there = self.found_or_made(full)
            if there is not None:
                self._tree[there] = {}
                self.log.names[there] = {}

        return mkdir

    def _sync_all(self, _directory: Path) -> None:
        self.is_alive()
        self._add(SyncAll())

    def _opener(self, real: Any) -> Any:
        def opened(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
            writes = set(mode) & set("wax+")
            there = self._open.get(file) if isinstance(file, int) else self._place(file)
            if not writes or there is None:
                return real(file, mode, buffering, *more, **named)
            raw = _File(self, file, mode.replace("b", "").replace("t", ""))
            if "b" in mode:
                return raw if buffering == 0 else io.BufferedWriter(raw)
            return io.TextIOWrapper(io.BufferedWriter(raw), *more, **named)

        return opened


def _at(path: Any, dir_fd: int | None) -> Any:
    """The whole path of what is named from an open directory."""
    if dir_fd is None or not isinstance(path, (str, bytes, os.PathLike)):
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fsdecode(path))


class _File(io.FileIO):
    """What `open` gives: its writes do not go through `os.write`."""

    def __init__(self, recorder: Recorder, file: Any, mode: str) -> None:
        self._recorder = recorder
        recorder.is_alive()
        super().__init__(file, mode)
        if not isinstance(file, int):
            recorder._open[self.fileno()] = recorder.found_or_made(file)
            if "w" in mode:
                recorder.cut(recorder._open[self.fileno()], 0)

    def write(self, data: Any) -> int:
        self._recorder.is_alive()
        count = super().write(data)
        self._recorder.wrote(self._recorder._open[self.fileno()], self.tell() - count, bytes(data[:count]))
        return count

    def close(self) -> None:
        if not self.closed:
            self._recorder._open.pop(self.fileno(), None)
        super().close()


# -- SQLite -----------------------------------------------------------------------------------------------------------

_OpenDirectory = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))
_unix = apsw.VFS("looked-through", "unix")
_open_directory = _OpenDirectory(_unix.xGetSystemCall("openDirectory"))
_recording: Recorder | None = None


@_OpenDirectory
def _opens_directory(path: bytes, fd: Any) -> int:
    """SQLite opens the directory of a file for nothing but to fsync it."""
    code = _open_directory(path, fd)
    if code == apsw.SQLITE_OK and _recording is not None:
        _recording.synced_directory(os.path.dirname(path))
    return code


class _VFS(apsw.VFS):
    """The real one, and what goes through it is written down."""

    def __init__(self, recorder: Recorder) -> None:
        global _recording
        _recording = self.recorder = recorder
        super().__init__(VFS, "unix", makedefault=True)
        self.xSetSystemCall("openDirectory", ctypes.cast(_opens_directory, ctypes.c_void_p).value)

    def unregister(self) -> None:
        global _recording
        _recording = None
        self.xSetSystemCall("openDirectory", 0)
        super().unregister()

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's names
        self.recorder.is_alive()
        return _DatabaseFile(self.recorder, name, flags)

    def xDelete(self, path: str, sync_directory: bool) -> None:  # noqa: N802
        self.recorder.is_alive()
        # In this order: the directory is fsynced within.
        self.recorder.removed(path)
        super().xDelete(path, sync_directory)


class _DatabaseFile(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        super().__init__("unix", name, flags)
        self._recorder = recorder
        self._there = None if path is None else recorder.found_or_made(path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._recorder.is_alive()
        super().xWrite(data, offset)
        if self._there is not None:
            self._recorder.wrote(self._there, offset, data)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._recorder.is_alive()
        super().xTruncate(size)
        if self._there is not None:
            self._recorder.cut(self._there, size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._recorder.is_alive()
        if self._there is not None and not self._recorder.syncs_now(self._there):
            error = apsw.IOError("fsync")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise error
        super().xSync(flags)

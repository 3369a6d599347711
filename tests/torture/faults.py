"""A disk that fails at a chosen operation: a VFS below SQLite, and wrappers around what Python calls, from outside."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw

VFS: Final = "faults"
WHOLE, HALF, NONE = "whole", "half", "none"
_SQLITE: Final = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "size": apsw.SQLITE_IOERR_FSTAT,
    "delete": apsw.SQLITE_IOERR_DELETE,
}
_TAKES_ROOM: Final = ("write", "create", "mkdir", "rename", "fallocate")
_TAKE: Final = {"sync", "write", "truncate", "delete", "rename", "mkdir", "rmdir"}
"""May take effect and be reported as failed all the same."""


@dataclass
class Fault:
    """The `nth` operation that may fail with `error` ("full", "io") does; 0: none does. `lasting`: all behind it too.

    `done` says how much of a failed operation takes effect: WHOLE, HALF (of a write), NONE. `only` those are counted
    that have this in their description.
    """

    nth: int = 0
    error: str = "io"
    lasting: bool = False
    done: str = NONE
    only: str = ""
    roots: Sequence[str] = ()
    operations: list[str] = field(default_factory=list)
    """Those that may fail, in order, as "sqlite write events.db-wal"."""
    failed: list[str] = field(default_factory=list)
    synced_in_vain: bool = False
    """SQLite was told that an fsync failed."""

    def cure(self) -> None:
        """Nothing fails any more."""
        self.nth = 0

    def concerns(self, path: str) -> bool:
        return any(f"{path}/".startswith(root) for root in self.roots)

    def fails(self, layer: str, what: str, path: str) -> bool:
        """Count one operation; whether it is to fail."""
        if self.error == "full" and what not in _TAKES_ROOM:
            return False
        operation = f"{layer} {what} {os.path.basename(path)}"
        if self.only not in operation:
            return False
        self.operations.append(operation)
        number = len(self.operations)
        if not self.nth or number < self.nth or (number > self.nth and not self.lasting):
            return False
        self.failed.append(self.operations[-1])
        return True

    def part(self, data: bytes | memoryview) -> bytes | memoryview:
        """Of a write that fails, what arrives."""
        return data if self.done == WHOLE else data[: len(data) // 2] if self.done == HALF else b""

    def takes_effect(self, what: str) -> bool:
        return self.done == WHOLE and what in _TAKE


# -- below SQLite ----------------------------------------------------------------------------------------------------


def _refuse(fault: Fault, what: str, path: str) -> apsw.Error:
    if fault.error == "full":
        return apsw.FullError("database or disk is full")
    if what in ("open", "create"):
        return apsw.CantOpenError("unable to open database file")
    error = apsw.IOError("disk I/O error")
    error.extendedresult = _SQLITE[what]
    # A database that is being made is written over itself at the end (durable.write_again), whatever SQLite was told.
    fault.synced_in_vain |= what == "sync" and not Path(path).name.startswith("events.new")
    return error


class _File(apsw.VFSFile):
    def __init__(self, fault: Fault, name: Any, flags: Any) -> None:
        super().__init__("", name, flags)
        self._fault = fault
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._path = filename or "temporary"

    def _do(self, what: str, work: Callable[[], Any]) -> Any:
        fault = self._fault
        if not fault.fails("sqlite", what, self._path):
            return work()
        if fault.takes_effect(what):
            work()
        raise _refuse(fault, what, self._path)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return self._do("read", lambda: super(_File, self).xRead(amount, offset))

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._fault.fails("sqlite", "write", self._path):
            if part := self._fault.part(data):
                super().xWrite(part, offset)
            raise _refuse(self._fault, "write", self._path)
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._do("truncate", lambda: super(_File, self).xTruncate(size))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._do("sync", lambda: super(_File, self).xSync(flags))

    def xFileSize(self) -> int:  # noqa: N802
        return self._do("size", super().xFileSize)


class _Vfs(apsw.VFS):
    def __init__(self, fault: Fault) -> None:
        super().__init__(VFS, "")
        self._fault = fault

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        what = "create" if path and flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.exists(path) else "open"
        if path and self._fault.concerns(path) and self._fault.fails("sqlite", what, path):
            raise _refuse(self._fault, what, path)
        return _File(self._fault, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        if os.path.exists(name) and self._fault.fails("sqlite", "delete", name):
            if self._fault.takes_effect("delete"):
                super().xDelete(name, syncdir)
            raise _refuse(self._fault, "delete", name)
        super().xDelete(name, syncdir)


# -- what Python calls -----------------------------------------------------------------------------------------------


class _System:
    """Wraps functions of `os`, and `open`."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def path_of(self, target: Any, dir_fd: int | None = None) -> str:
        if dir_fd is not None:
            return os.path.join(self.path_of(dir_fd), os.fsdecode(target))
        if isinstance(target, int):
            try:
                return self.readlink(f"/proc/self/fd/{target}")
            except OSError:
                return ""
        return os.path.abspath(os.fsdecode(target)) if target is not None else ""

    def step(self, what: str, target: Any, dir_fd: int | None = None) -> bool:
        """Whether it fails. The path stays the file's name, as the product would see it."""
        path = self.path_of(target, dir_fd)
        return self._fault.concerns(path) and self._fault.fails("system", what, path)

    def error(self, target: Any) -> OSError:
        number = errno.ENOSPC if self._fault.error == "full" else errno.EIO
        return OSError(number, os.strerror(number), None if isinstance(target, int) else os.fspath(target))

    def wrap(self, name: str, what: str) -> None:
        original = getattr(os, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            target = arguments[0] if arguments else "."
            if self.step(what, target, options.get("dir_fd", options.get("src_dir_fd"))):
                if self._fault.takes_effect(what):
                    original(*arguments, **options)
                raise self.error(target)
            return original(*arguments, **options)

        setattr(os, name, wrapped)

    def wrap_write(self, name: str) -> None:
        original = getattr(os, name)

        def wrapped(fd: int, data: Any, *offset: int) -> int:
            if self.step("write", fd):
                if part := self._fault.part(memoryview(data)):
                    original(fd, part, *offset)
                raise self.error(fd)
            return original(fd, data, *offset)

        setattr(os, name, wrapped)

    def install(self) -> None:
        self.readlink, self._os_open, self._open = os.readlink, os.open, io.open
        for name, what in (
            ("fsync", "sync"), ("fdatasync", "sync"), ("ftruncate", "truncate"), ("rename", "rename"),
            ("replace", "rename"), ("link", "rename"), ("unlink", "delete"), ("rmdir", "rmdir"),
            ("mkdir", "mkdir"), ("scandir", "list"),
            ("listdir", "list"), ("read", "read"), ("pread", "read"), ("posix_fallocate", "fallocate"),
            ("fchmod", "chmod"), ("chmod", "chmod"),
        ):  # fmt: skip
            self.wrap(name, what)
        for name in ("write", "pwrite"):
            self.wrap_write(name)
        os.open = self._fd_opened  # type: ignore[assignment]
        builtins.open = io.open = self._file_opened  # type: ignore[assignment]

    def _fd_opened(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        dir_fd = options.get("dir_fd")
        creates = flags & os.O_CREAT and not os.path.exists(self.path_of(path, dir_fd))
        if not flags & os.O_PATH and self.step("create" if creates else "open", path, dir_fd):
            raise self.error(path)
        return self._os_open(path, flags, *arguments, **options)

    def _file_opened(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **options: Any) -> Any:
        if not self._fault.concerns(self.path_of(file)):
            return self._open(file, mode, buffering, *text, **options)
        kind = mode.replace("b", "").replace("t", "")
        if not isinstance(file, int):
            creates = kind[0] in "wxa" and not os.path.exists(file)
            if self.step("create" if creates else "open", file):
                raise self.error(file)
        raw = _RawFile(self, file, kind)
        if buffering == 0:
            return raw
        buffered = io.BufferedReader(raw) if kind == "r" else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **options)


class _RawFile(io.FileIO):
    def __init__(self, system: _System, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self._system = system

    def write(self, data: Any) -> int:
        if self._system.step("write", self.fileno()):
            if part := self._system._fault.part(memoryview(data)):
                super().write(part)
            raise self._system.error(self.fileno())
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        if self._system.step("read", self.fileno()):
            raise self._system.error(self.fileno())
        return super().readinto(buffer)

    def readall(self) -> bytes:
        if self._system.step("read", self.fileno()):
            raise self._system.error(self.fileno())
        return super().readall()


def install(fault: Fault) -> None:
    """For the rest of this process. What is already open is not concerned."""
    fault.roots = [str(Path(root).resolve()) + "/" for root in fault.roots]
    vfs = _Vfs(fault)

    class Connection(apsw.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._vfs = vfs  # it has to outlive them
            super().__init__(*arguments, **{"vfs": VFS, **options})

        def close(self, force: bool = False) -> None:
            # SQLite checkpoints on closing and says nothing of what fails then; only an exception in here would.
            with contextlib.suppress(apsw.IOError, apsw.FullError, apsw.CantOpenError):
                super().close(force)

    apsw.Connection = Connection  # type: ignore[misc]
    _System(fault).install()

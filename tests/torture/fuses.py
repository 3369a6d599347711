"""A process that kills itself with SIGKILL at a chosen point: the product's own code, wrapped from outside.

A fuse counts what changes a disk: the calls of `os` and, beneath SQLite, those of the system. It burns at the Nth of
them within a function ("sightlogd.store.store:Store.write"; "" is the whole process), before the call, after it or,
where it writes, with only half of it done. With ENTERED and RETURNED it counts the calls of the function itself.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

BEFORE: Final = "before"
HALF: Final = "half"
AFTER: Final = "after"
ENTERED: Final = "entered"
RETURNED: Final = "returned"

CHANGES: Final = (
    "rename", "replace", "link", "unlink", "ftruncate", "mkdir", "rmdir", "fsync", "fdatasync", "posix_fallocate",
)  # fmt: skip
WRITES: Final = {"write": 1, "pwrite": 1}
"""Calls of `os`, and which argument is what they write."""
_WRITE = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, use_errno=True)
_PWRITE = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int64, use_errno=True)
_UNLINK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, use_errno=True)
SYSTEM_CALLS: Final = {
    "write": _WRITE,
    "pwrite": _PWRITE,
    "pwrite64": _PWRITE,
    "ftruncate": _TRUNCATE,
    "unlink": _UNLINK,
}

_kept: list[Any] = []
"""What SQLite calls must not be collected."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Fuse:
    within: str
    nth: int
    how: str


def function_of(name: str) -> tuple[Any, str]:
    """Where `module:function` or `module:Class.function` stands, and under which name."""
    module, _, path = name.partition(":")
    *parents, last = path.split(".")
    return functools.reduce(getattr, parents, importlib.import_module(module)), last


def wrap(name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    place, last = function_of(name)
    setattr(place, last, wrapper(getattr(place, last)))


class _Counter:
    def __init__(self, fuse: Fuse) -> None:
        self._left = fuse.nth
        self.how = fuse.how
        self.depth = 0 if fuse.within else 1

    def burns(self) -> bool:
        if self.depth:
            self._left -= 1
        return self._left == 0 and self.depth > 0


def arm(fuse: Fuse) -> None:
    """For this process, before its main()."""
    counter = _Counter(fuse)
    if fuse.how in (ENTERED, RETURNED):
        counter.depth = 1
        wrap(fuse.within, lambda function: _counted(function, counter))
        return
    if fuse.within:
        wrap(fuse.within, lambda function: _inside(function, counter))
    for name in CHANGES:
        wrap(f"os:{name}", lambda function: _operation(function, counter))
    for name, argument in WRITES.items():
        wrap(f"os:{name}", lambda function, argument=argument: _writing(function, counter, argument))
    _beneath_sqlite(counter)


def _counted(function: Callable[..., Any], counter: _Counter) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        burns = counter.burns()
        if burns and counter.how == ENTERED:
            die()
        result = function(*arguments, **options)
        if burns:
            die()
        return result

    return wrapped


def _inside(function: Callable[..., Any], counter: _Counter) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        counter.depth += 1
        try:
            return function(*arguments, **options)
        finally:
            counter.depth -= 1

    return wrapped


def _operation(function: Callable[..., Any], counter: _Counter) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        burns = counter.burns()
        if burns and counter.how != AFTER:
            die()
        result = function(*arguments, **options)
        if burns:
            die()
        return result

    return wrapped


def _writing(function: Callable[..., Any], counter: _Counter, argument: int) -> Callable[..., Any]:
    whole = _operation(function, counter)

    def wrapped(*arguments: Any) -> Any:
        if counter.how != HALF:
            return whole(*arguments)
        if counter.burns():
            data = arguments[argument]
            try:
                function(*arguments[:argument], data[: len(data) // 2], *arguments[argument + 1 :])
            finally:
                die()
        return function(*arguments)

    return wrapped


def _beneath_sqlite(counter: _Counter) -> None:
    import apsw  # a producer has none

    vfs = apsw.VFS("fused", "unix")
    _kept.append(vfs)
    for name, kind in SYSTEM_CALLS.items():
        address = vfs.xGetSystemCall(name)
        if address:
            call = kind(_system_call(kind(address), counter, writes=kind in (_WRITE, _PWRITE)))
            _kept.append(call)
            vfs.xSetSystemCall(name, ctypes.cast(call, ctypes.c_void_p).value)


def _system_call(real: Callable[..., int], counter: _Counter, *, writes: bool) -> Callable[..., int]:
    def wrapped(*arguments: Any) -> int:
        burns = counter.burns()
        if burns and counter.how == BEFORE:
            die()
        if burns and counter.how == HALF:
            if writes:
                fd, data, count, *at = arguments
                real(fd, data, count // 2, *at)
            die()
        result = real(*arguments)
        if burns:
            die()
        return result

    return wrapped

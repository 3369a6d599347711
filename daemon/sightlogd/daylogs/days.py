"""The folders of days, and where they are."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

from sightlogd import durable
from sightlogd.directory import Directory, Odd

EVENTS: Final = "events"
"""The day folders' folder in the data directory. It may be a mount of its own."""
INCOMING: Final = f"{EVENTS}/incoming"
"""Pictures that wait. Within EVENTS, as TRASH is: only within one mount can something be renamed."""
TRASH: Final = f"{EVENTS}/trash"
"""Days on their way out."""
_is_date = re.compile(r"\d{4}-\d\d-\d\d").fullmatch
_is_leaving = re.compile(r"([0-9-]{10})\.([0-9]{1,18})").fullmatch


def is_day(name: str) -> bool:
    """Whether it is a day, YYYY-MM-DD: somebody may have made a folder 2025-99-99."""
    try:
        return bool(_is_date(name) and date.fromisoformat(name))
    except ValueError:
        return False


class HeldFolder:
    """A day's folder as it is now. A folder that is made after it was removed is another one, by whatever is asked.

    Held open, because a file system gives the number (inode) of what is gone to what is new. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        os.close(self._fd)


def folders(data_dir: Path) -> list[str]:
    """The days that have a folder, the oldest first. Nothing is looked at through a link. Raises OSError."""
    try:
        with Directory(data_dir) as data, data.folder(EVENTS) as events:
            return sorted(
                entry.name for entry in events.list() if is_day(entry.name) and entry.is_dir(follow_symlinks=False)
            )
    except (FileNotFoundError, NotADirectoryError, Odd):
        return []


def prepare(data_dir: Path, failed: Callable[[str], None]) -> None:
    """Make beforehand what room-making needs: on a disk that is full to the last inode nothing can be made."""
    for name in (TRASH, INCOMING):
        try:
            make_folder(data_dir, name)
        except OSError as error:
            where = error.filename or data_dir / name
            failed(f"{where} cannot be used: {error.strerror}. Pictures, or day logs, wait for it; records do not")


def make_folder(data_dir: Path, name: str) -> Path:
    """A day's, as "events/2026-11-20", or another; durable. Raises OSError, Odd: who knows where a link leads."""
    path = data_dir
    for part in name.split("/"):
        path /= part
        durable.make_directories(path)
        check_folder(path)
    return path


def check_folder(path: Path) -> None:
    """That it is one, and no link to one. Raises OSError, Odd."""
    if not stat.S_ISDIR(mode := os.lstat(path).st_mode):
        raise Odd(mode, os.fspath(path))


# -- days on their way out -------------------------------------------------------------------------------------------


class Leaving(NamedTuple):
    """A day on its way out."""

    day: str
    up_to_id: int
    folder: Path


def leaving_of(name: str) -> tuple[str, int] | None:
    """Which day goes, up to which id, by the name of its folder in TRASH; None for any other name."""
    match = _is_leaving(name)
    return (match[1], int(match[2])) if match and is_day(match[1]) else None


def unfinished(data_dir: Path) -> list[Leaving]:
    """Days whose removal was interrupted."""
    with contextlib.suppress(OSError), Directory(data_dir) as data, data.folder(TRASH) as trash:
        names = sorted(entry.name for entry in trash.list() if entry.is_dir(follow_symlinks=False))
        found = ((name, leaving_of(name)) for name in names)
        return [Leaving(*leaving, trash.path / name) for name, leaving in found if leaving]
    return []

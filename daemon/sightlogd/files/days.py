"""The folders of days, and where they are."""

from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path
from typing import Final

EVENTS: Final = "events"
"""The day folders' folder in the data directory."""
_has_its_shape = re.compile(r"\d{4}-\d\d-\d\d").fullmatch


def is_day(name: str) -> bool:
    """Whether it is a day, YYYY-MM-DD: somebody may have made a folder 2025-99-99."""
    try:
        return bool(_has_its_shape(name) and date.fromisoformat(name))
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
    """The days that have a folder, the oldest first."""
    try:
        with os.scandir(data_dir / EVENTS) as entries:
            return sorted(entry.name for entry in entries if is_day(entry.name) and entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []

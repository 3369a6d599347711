"""Thumbnails: `events/YYYY-MM-DD/<event_id>.jpg`, durable before the row that names it.

The picture is not decoded here: a stranger sent it. It is kept when it is framed as a JPEG.
"""

from __future__ import annotations

import os
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Final

DIRECTORY_MODE: Final = 0o2750
FILE_MODE: Final = 0o640


class NotAcceptable(Exception):
    """The image is not stored; the event is."""


def day_of(recorded_at: str, zone: tzinfo | None) -> str:
    """The event's own day, YYYY-MM-DD in `zone` (None: the system's)."""
    return datetime.fromisoformat(recorded_at).astimezone(zone).date().isoformat()


def save(data_dir: Path, day: str, event_id: str, image: bytes) -> Path:
    """Returns the path relative to `data_dir`. An image that is there already is kept.

    Durable once `sync` ran on the returned path's parent too. Raises NotAcceptable, OSError.
    """
    if not (image.startswith(b"\xff\xd8\xff") and image.endswith(b"\xff\xd9")):
        raise NotAcceptable("not a JPEG")
    relative = Path("events") / day / f"{event_id}.jpg"
    target = data_dir / relative
    if target.exists():
        return relative
    if not target.parent.is_dir():
        _make_directory(target.parent.parent)
        _make_directory(target.parent)
    temporary = target.with_suffix(".tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        with open(fd, "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return relative


def sync(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o750, exist_ok=True)
    path.chmod(DIRECTORY_MODE)
    sync(path.parent)

"""What the daemon made of all that is in a day's folder. Whatever else somebody put there is not ours to touch."""

from __future__ import annotations

import os
import re
from typing import Final

from sightlog.protocol.limits import ID_PATTERN

from .writer import JSON_NAME, TEXT_NAME

PICTURE: Final = ".jpg"
is_event_id = re.compile(ID_PATTERN).fullmatch


def event_of(name: str) -> str | None:
    """The event whose picture has this name; None when no picture has it."""
    stem = name.removesuffix(PICTURE)
    return stem if stem != name and is_event_id(stem) else None


def is_own(entry: os.DirEntry[str], user_id: int) -> bool:
    """By its name, its kind and, where an owner's photograph may have such a name, whose it is. Raises OSError.

    `user_id` is the one whom its folder belongs to.
    """
    if not entry.is_file(follow_symlinks=False):
        return False
    if entry.name in (JSON_NAME, TEXT_NAME):
        return True
    return event_of(entry.name) is not None and entry.stat(follow_symlinks=False).st_uid == user_id

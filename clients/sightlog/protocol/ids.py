"""Ids and names: which texts are one, and those that passed their check. For both ends of the wire. No I/O."""

from __future__ import annotations

import re
from typing import Final

from .limits import ID_PATTERN

KNOWN_MAX: Final = 10_000
is_id = re.compile(ID_PATTERN).fullmatch
known_ids: Final[set[str]] = set()
"""Sites, cameras and event types that passed their check: they repeat, ids of records do not."""
known_names: Final[set[str]] = set()
"""Labels, and other names."""


def remember(known: set[str], value: str) -> None:
    """In one of the sets, which stay small whatever is sent."""
    if len(known) >= KNOWN_MAX:
        known.clear()
    known.add(value)

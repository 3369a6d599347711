"""Settles what a crash or a hand left in a day's folder: pictures without a row, rows whose picture is gone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sightlogd.store import Store

from .daylog import DayLogs
from .days import EVENTS, Days

PICTURES_A_SLICE: Final = 500
ON_ITS_WAY_SECONDS: Final = 60
"""A picture is there before its row: for who looks from outside, one that has none and is younger is not lost."""


def settle(
    data_dir: Path, day: str, days: Days, store: Store, logs: DayLogs, tell: Callable[[str], None]
) -> Iterator[None]:
    """In slices, between batches: a batch's pictures are there before its rows. Raises OSError, WriteRefused."""
    folder = data_dir / EVENTS / day
    pictures: set[str] = set()
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        pictures = {f"{EVENTS}/{day}/{entry.name}" for entry in entries if entry.name.endswith(".jpg")}
    yield
    found = sorted(pictures)
    removed = 0
    logged: set[str] | None = None
    for start in range(0, len(found), PICTURES_A_SLICE):
        some = found[start : start + PICTURES_A_SLICE]
        orphans = sorted(set(some) - store.known_thumbnails(some))
        if orphans and logged is None:
            logged = logs.event_ids_of(day)
        for orphan in orphans:
            # An event that the logs know was stored: the database is older than they are, or new.
            if Path(orphan).stem not in (logged or ()):
                with contextlib.suppress(FileNotFoundError):  # the whole day has gone meanwhile
                    (data_dir / orphan).unlink()
                    removed += 1
        yield
    if removed:
        tell(f"removed {removed} pictures of {day} that no event has")
    if not folder.is_dir():
        return  # all of it is gone: somebody may bring it back
    lost = 0
    for page in store.thumbnail_pages(*days.range_of(day), PICTURES_A_SLICE):
        missing = [path for path in page if path not in pictures and not (data_dir / path).exists()]
        if missing:
            store.clear_thumbnails(missing)
            lost += len(missing)
        yield
    if lost:
        tell(f"{lost} events of {day} have no thumbnail any more: their files are gone")

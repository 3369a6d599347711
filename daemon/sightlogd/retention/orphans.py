"""Settles what a crash or a hand left in a day's folder: pictures without a row, rows whose picture is gone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog

from sightlogd.daylogs.days import EVENTS
from sightlogd.daylogs.own import PICTURE, event_of
from sightlogd.daylogs.writer import DayLogs
from sightlogd.directory import Directory, Odd
from sightlogd.store import Store

log = structlog.get_logger()

PICTURES_A_SLICE: Final = 500
ON_ITS_WAY_SECONDS: Final = 60
"""A picture is there before its row: for who looks from outside, one that has none and is younger is not lost."""


def resolve(data_dir: Path, day: str, store: Store, logs: DayLogs, tell: Callable[[str], None]) -> Iterator[None]:
    """In slices, between batches: a batch's pictures are there before its rows. Raises OSError, WriteRefused."""
    with contextlib.ExitStack() as held:
        try:
            events = held.enter_context(Directory(data_dir / EVENTS))
            folder = held.enter_context(events.folder(day))
        except (FileNotFoundError, Odd):
            return  # all of it is gone: somebody may bring it back
        found = sorted(
            entry.name for entry in folder.list() if event_of(entry.name) and entry.is_file(follow_symlinks=False)
        )
        yield
        yield from _remove_orphans(folder, found, day, store, logs, tell)
    if not (data_dir / EVENTS / day).is_dir():
        return
    pictures = {f"{EVENTS}/{day}/{name}" for name in found}
    lost = 0
    for page in store.thumbnail_pages(day, PICTURES_A_SLICE):
        missing = [path for path in page if path not in pictures and not os.path.lexists(data_dir / path)]
        if missing:
            store.clear_thumbnails(missing)
            lost += len(missing)
        yield
    if lost:
        tell(f"{lost} events of {day} have no thumbnail any more: their files are gone")


def _remove_orphans(
    folder: Directory, found: Sequence[str], day: str, store: Store, logs: DayLogs, tell: Callable[[str], None]
) -> Iterator[None]:
    removed = 0
    logged: set[str] | None = None
    for start in range(0, len(found), PICTURES_A_SLICE):
        some = [f"{EVENTS}/{day}/{name}" for name in found[start : start + PICTURES_A_SLICE]]
        orphans = sorted(set(some) - store.known_thumbnails(some))
        if orphans and logged is None:
            logged = logs.event_ids_of(day)
        for path in orphans:
            name = path.rpartition("/")[2]
            # An event that the logs know was stored: the database is older than they are, or new.
            if name.removesuffix(PICTURE) not in (logged or ()):
                removed += _remove(folder, name, path)
        yield
    if removed:
        tell(f"removed {removed} pictures of {day} that no event has")


def _remove(folder: Directory, name: str, path: str) -> bool:
    """Whether it did. An owner's photograph may have the name of an event's picture."""
    try:
        there = folder.file(name)
        if there is None or there.st_uid != os.fstat(folder.fd).st_uid:
            return False
        folder.remove(name)
    except OSError as error:
        log.warning("cannot remove a picture that no event has; it stays", path=path, reason=str(error.strerror))
        return False
    log.warning("removed a picture that no event has", path=path, reason="no row and no line of its day knows it")
    return True

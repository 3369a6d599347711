"""Who a spool belongs to, from life to life: `identity.json`, replaced whole and fsynced when a life begins.

It also carries over how many records were published and lost. What a life published is not written down while it
lasts: the next one reads it off the segments, of which the newest stays, empty if need be, until it is counted here.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from .directories import sync_directory
from .errors import SpoolDamaged
from .segment import Segment

EPOCH_MAX: Final = 2**62
EPOCHS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Identity:
    """`published`: records of the lives before this one, None when a version that did not count was among them.

    `lost` maps segments to how many of their records could not be read back; those of segments that are gone are under
    the empty name.
    """

    producer_id: str
    name: str
    epoch: int
    published: int | None = 0
    lost: dict[str, int] = field(default_factory=dict)
    fenced: bool = False
    epochs_before: list[int] = field(default_factory=list)
    """Of the life before this one, and of those behind the oldest segment that was left: a power cut can take back that
    one was removed, and take away the segments of lives behind it."""

    @property
    def lost_records(self) -> int:
        """Over all lives."""
        return sum(self.lost.values())

    def fence(self, directory: Path) -> None:
        """Give it up: the next life gets a new producer id."""
        _write(directory, replace(self, fenced=True))


def begin_life(directory: Path, name: str, segments: Sequence[Segment]) -> Identity:
    """The identity of a life that begins with `segments`, scanned, left of earlier ones. Raises SpoolDamaged, OSError.

    After a power cut `published` is short of records that the cut took from the spool after they were acked.
    """
    last = _read(directory)
    last_epoch = max((segment.epoch for segment in segments), default=0)
    lost = {segment.path.stem: segment.lost for segment in segments if segment.lost}
    published: int | None
    if last is None or last.fenced:
        # What is left is sent under the new id, and all there is to it.
        producer_id = str(uuid.uuid4())
        published = sum(segment.next_seq - segment.first_seq for segment in segments)
    else:
        producer_id, published = last.producer_id, last.published
        if published is not None:
            published += max((s.next_seq - 1 for s in segments if s.epoch == last.epoch), default=0)
        lost |= {stem: max(count, lost.get(stem, 0)) for stem, count in last.lost.items()}
        present = {segment.path.stem for segment in segments}
        gone = sum(lost.pop(stem) for stem in [*lost] if stem not in present)
        if gone:
            lost[""] = gone
    if last is not None:
        last_epoch = max(last_epoch, last.epoch)
    # Milliseconds, so that of two copies of one spool the life that began later has the larger epoch. Never at or
    # below the last one, because clocks go backwards; then by chance, because two copies must not get the same.
    epoch = time.time_ns() // 1_000_000
    if epoch <= last_epoch:
        epoch = last_epoch + 1 + secrets.randbits(30)
    oldest = min((segment.epoch for segment in segments), default=last_epoch)
    before = [*[e for e in last.epochs_before if e > oldest][-EPOCHS_MAX:], last.epoch] if last else []
    identity = Identity(producer_id, name, epoch, published, lost, epochs_before=before)
    _write(directory, identity)
    return identity


def _read(directory: Path) -> Identity | None:
    path = directory / "identity.json"
    try:
        stored = json.loads(path.read_bytes())
        epoch, published = _count(stored["epoch"]), stored.get("published")
        if not 0 < epoch < EPOCH_MAX:
            raise ValueError(f"epoch {epoch}")
        return Identity(
            str(uuid.UUID(stored["producer_id"])),
            "",
            epoch,
            None if published is None else _count(published),
            {str(stem): _count(count) for stem, count in stored.get("lost", {}).items()},
            bool(stored.get("fenced")),
            [_count(epoch) for epoch in stored.get("epochs_before", [])],
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SpoolDamaged(
            f"{path} is not readable as a spool's identity ({error!r}). Move it away: what is spooled is then sent "
            "under a new producer id, and events that were stored already are reported as duplicates"
        ) from error


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is not a count")
    return value


def _write(directory: Path, identity: Identity) -> None:
    path = directory / "identity.json"
    temporary = path.with_suffix(".tmp")
    text = json.dumps({key: getattr(identity, key) for key in Identity.__slots__})
    with open(temporary, "wb") as file:
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(directory)

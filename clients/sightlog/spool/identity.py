"""Who a spool belongs to, from session to session: `identity.json`, replaced whole and fsynced when a session begins.

It also carries over how many records were published and lost. What a session published is not written down while it
lasts: the next one reads it off the segments, of which the newest stays, empty if need be, until it is counted here.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sightlog.errors import SpoolDamaged, SpoolFormatUnknown
from sightlog.fsutil import read_file, replace_file

from .segment import Segment

NAME: Final = "identity.json"
FORMAT: Final = 1
"""Of the spool as a whole: this file, and the segments beside it."""
EPOCH_MAX: Final = 2**62
EPOCHS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Identity:
    """`published`: records of the sessions before this one.

    `lost` maps segments to how many of their records could not be read back; those of segments that are gone are under
    the empty name.
    """

    producer_id: str
    name: str
    epoch: int
    published: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    fenced: bool = False
    epochs_before: list[int] = field(default_factory=list)
    """Of the session before this one, and of those behind the oldest segment that was left: a power cut can take back
    that one was removed, and take away the segments of sessions behind it."""

    @property
    def lost_records(self) -> int:
        """Over all sessions."""
        return sum(self.lost.values())

    def fence(self, directory: Path) -> None:
        """Give it up: the next session gets a new producer id. Raises OSError."""
        replace(self, fenced=True).write(directory)

    def with_lost(self, stem: str, records: int) -> Identity:
        """The same, and so many records of a segment are lost."""
        return replace(self, lost=self.lost | {stem: records})

    def write(self, directory: Path) -> None:
        """Durable, whole or not at all. Raises OSError."""
        text = json.dumps({"format": FORMAT} | {key: getattr(self, key) for key in self.__slots__})
        replace_file(directory / NAME, text.encode() + b"\n")


def begin_session(directory: Path, name: str, segments: Sequence[Segment]) -> Identity:
    """The identity of a session that begins with `segments`, scanned, left of earlier ones. Raises SpoolDamaged,
    OSError.

    After a power cut `published` is short of records that the cut took from the spool after they were acked.
    """
    last = read(directory)
    last_epoch = max((segment.epoch for segment in segments), default=0)
    lost = {segment.path.stem: segment.lost for segment in segments if segment.lost}
    if last is None or last.fenced:
        # What is left is sent under the new id, and all there is to it.
        producer_id = str(uuid.uuid4())
        published = sum(segment.next_seq - segment.first_seq for segment in segments)
    else:
        producer_id = last.producer_id
        published = last.published + max((s.next_seq - 1 for s in segments if s.epoch == last.epoch), default=0)
        lost |= {stem: max(count, lost.get(stem, 0)) for stem, count in last.lost.items()}
        present = {segment.path.stem for segment in segments}
        gone = sum(lost.pop(stem) for stem in [*lost] if stem not in present)
        if gone:
            lost[""] = gone
    if last is not None:
        last_epoch = max(last_epoch, last.epoch)
    # Milliseconds, so that of two copies of one spool the session that began later has the larger epoch. Never at or
    # below the last one, because clocks go backwards; then by chance, because two copies must not get the same.
    epoch = time.time_ns() // 1_000_000
    if epoch <= last_epoch:
        epoch = last_epoch + 1 + secrets.randbits(30)
    oldest = min((segment.epoch for segment in segments), default=last_epoch)
    before = [*[e for e in last.epochs_before if e > oldest][-EPOCHS_MAX:], last.epoch] if last else []
    identity = Identity(producer_id, name, epoch, published, lost, epochs_before=before)
    identity.write(directory)
    return identity


def read(directory: Path) -> Identity | None:
    """What is written there; None when nothing is. Raises SpoolDamaged, SpoolFormatUnknown, OSError."""
    path = directory / NAME
    try:
        stored = json.loads(read_file(path))
        if stored["format"] != FORMAT:
            raise SpoolFormatUnknown(
                f"{path} says that this spool has the format {stored['format']!r:.40}, and this version of sightlog "
                f"knows {FORMAT}. Nothing was changed. Install the version that wrote it, or give another spool_dir"
            )
        epoch = _count(stored["epoch"])
        if not 0 < epoch < EPOCH_MAX:
            raise ValueError(f"epoch {epoch}")
        return Identity(
            str(uuid.UUID(stored["producer_id"])),
            "",
            epoch,
            _count(stored["published"]),
            {str(stem): _count(count) for stem, count in stored["lost"].items()},
            bool(stored["fenced"]),
            [_count(epoch) for epoch in stored["epochs_before"]],
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

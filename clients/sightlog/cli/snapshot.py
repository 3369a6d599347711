"""What the daemon last wrote down about itself, in `metrics/`, and what follows from it for each producer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sightlog.protocol.accounts import Resolved, account
from sightlog.protocol.messages import Position, SpoolReport

TAIL_BYTES: Final = 256 * 1024
"""More than two snapshots take."""
_TRIES: Final = 3

Snapshot = Mapping[str, Any]
"""See sightlogd.metrics.metrics.MetricsSnapshot."""


def last_snapshot(data_dir: Path) -> Snapshot | None:
    """The newest; None when there is none, or it may not be read."""
    found = [one for one in (_latest(data_dir / "metrics"), _last_line(data_dir / "metrics")) if one]
    return max(found, key=lambda one: datetime.fromisoformat(one["at"]), default=None)


def _latest(directory: Path) -> Snapshot | None:
    """What is written over once a second, while the daemon works."""
    for _ in range(_TRIES):
        data = _tail(directory / "latest.json")
        if not data or (found := _decoded(data)):
            return found if data else None
        time.sleep(0.01)  # being written at this moment
    return None


def _last_line(directory: Path) -> Snapshot | None:
    # Cut short by a crash, or being written at this moment: then the one before.
    lines = reversed(_tail(directory / "metrics.json").splitlines())
    return next(filter(None, map(_decoded, lines)), None)


def _tail(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_opener) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read(TAIL_BYTES)
    except OSError:
        return b""


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that somebody put there is not waited for


def _decoded(line: bytes) -> Snapshot | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return dict(found) if _is_sound(found) else None


_SPREADS: Final = ("commit_ms", "batch_records", "latency_ms")
_LISTS: Final = ("wal_held_by", "foreign_objects", "schema_changes", "schema_undo")
"""Of texts."""
_OTHER_KINDS: Final = ("at", "producers", "inference_ms", "volatile", *_LISTS)
_REPORT: Final = {"last", "acked", "published", "lost", "spooled_records", "spooled_bytes"}


def _is_sound(found: Any) -> bool:
    """Whether it can be shown: a card may have flipped a bit, and anybody who may write there could have."""
    if not isinstance(found, dict) or not {"at", "pid", "producers", "inference_ms"} <= found.keys():
        return False
    try:
        if datetime.fromisoformat(found["at"]).utcoffset() is None:
            return False
        spreads = [found.get(key) for key in _SPREADS] + [one["ms"] for one in found["inference_ms"]]
        texts = [text for one in found["inference_ms"] for text in (one["producer"], one["name"])]
        told = [one["told"] for one in found["producers"] if one["told"] is not None]
        pairs = [(*one["last"], *one["acked"]) for one in told]
        texts += [text for key in _LISTS for text in found.get(key, [])]
        texts += [found["volatile"]] if found.get("volatile") is not None else []
        others = [value for key, value in found.items() if key not in (*_SPREADS, *_OTHER_KINDS)]
        return (
            all(isinstance(one["producer_id"], str) for one in found["producers"])
            and all(
                _are_numbers(spread[key] for key in ("p95", "average", "min", "max")) for spread in spreads if spread
            )
            and all(isinstance(text, str) for text in texts)
            and all(one.keys() == _REPORT for one in told)
            and all(len(pair) == 4 and _are_numbers(pair) for pair in pairs)
            and all(_are_numbers(one[key] for key in _REPORT - {"last", "acked"}) for one in told)
            and _are_numbers(value for value in others if value is not None)
            and isinstance(last_id := found.get("last_id", 0), int)
            and 0 <= last_id < 2**63
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def accounts(snapshot: Snapshot | None, producers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`producers`, rows of the table read after the snapshot, each with `account`: published, spooled, lost and
    difference. None when the producer has told nothing of this session since the daemon's start."""
    told = {one["producer_id"]: one["told"] for one in snapshot["producers"]} if snapshot else {}
    found = []
    for producer in producers:
        spool = told.get(producer["producer_id"])
        drawn_up = account(_report(spool), _resolved(producer)) if spool else None
        found.append({**producer, "account": drawn_up._asdict() if drawn_up else None})
    return found


def _report(spool: Mapping[str, Any]) -> SpoolReport:
    return SpoolReport(**{**spool, "last": Position(*spool["last"]), "acked": Position(*spool["acked"])})


def _resolved(row: Mapping[str, Any]) -> Resolved:
    counters = (row[name] for name in ("stored", "duplicates", "rejected", "missing"))
    return Resolved(Position(row["epoch"], row["last_seq"]), *counters)

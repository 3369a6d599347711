"""What the daemon last wrote down about itself, `metrics/metrics.json`, and what follows from it for each producer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sightlog.accounts import Settled, account
from sightlog.wire import Position, Told

TAIL_BYTES: Final = 256 * 1024
"""More than two snapshots take."""

Snapshot = Mapping[str, Any]
"""See sightlogd.metrics.MetricsSnapshot."""


def last_snapshot(data_dir: Path) -> Snapshot | None:
    """The newest whole line; None when there is none, or it may not be read."""
    try:
        with (data_dir / "metrics" / "metrics.json").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:  # cut short by a crash, or being written at this moment
            continue
        if _is_sound(found):
            return dict(found)
    return None


_SPREADS: Final = ("commit_ms", "batch_records", "latency_ms")
_LISTS: Final = ("wal_held_by", "foreign_objects", "schema_changes", "schema_undo")
"""Of texts."""
_OTHER_KINDS: Final = ("at", "producers", "inference_ms", *_LISTS)
_TOLD: Final = {"last", "acked", "published", "lost", "spooled_records", "spooled_bytes"}


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
        others = [value for key, value in found.items() if key not in (*_SPREADS, *_OTHER_KINDS)]
        return (
            all(isinstance(one["producer_id"], str) for one in found["producers"])
            and all(
                _are_numbers(spread[key] for key in ("p95", "average", "min", "max")) for spread in spreads if spread
            )
            and all(isinstance(text, str) for text in texts)
            and all(one.keys() == _TOLD for one in told)
            and all(len(pair) == 4 and _are_numbers(pair) for pair in pairs)
            and all(_are_numbers(one[key] for key in _TOLD - {"last", "acked"}) for one in told)
            and _are_numbers(value for value in others if value is not None)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def accounts(snapshot: Snapshot | None, producers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`producers`, rows of the table read after the snapshot, each with `account`: published, spooled, lost and
    difference. None when the producer has told nothing of this life since the daemon's start."""
    told = {one["producer_id"]: one["told"] for one in snapshot["producers"]} if snapshot else {}
    found = []
    for producer in producers:
        spool = told.get(producer["producer_id"])
        drawn_up = account(_told(spool), _settled(producer)) if spool else None
        found.append({**producer, "account": drawn_up._asdict() if drawn_up else None})
    return found


def _told(spool: Mapping[str, Any]) -> Told:
    return Told(**{**spool, "last": Position(*spool["last"]), "acked": Position(*spool["acked"])})


def _settled(row: Mapping[str, Any]) -> Settled:
    counters = (row[name] for name in ("stored", "duplicates", "rejected", "missing"))
    return Settled(Position(row["epoch"], row["last_seq"]), *counters)

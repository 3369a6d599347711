"""What the daemon last wrote down about itself, `metrics/metrics.json`, and what follows from it for each producer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
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
        if isinstance(found, dict) and {"at", "pid", "producers"} <= found.keys():
            return found
    return None


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

"""What campaigns of kills begin with, and what they have beside a daemon and three producers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import made_up
import stored
from conftest import NOBODY, open_to_all


@dataclass(frozen=True)
class Plan:
    """What a campaign has beside a daemon and three producers."""

    schema: int = 0
    """Of the database it begins with; 0: none."""
    purges: bool = False
    backups: bool = False
    encodes: bool = False
    """Some pictures have to be re-encoded."""


PLANS = (
    Plan(),
    Plan(purges=True),
    Plan(schema=1),
    Plan(backups=True),
    Plan(encodes=True),
    Plan(schema=2, purges=True, backups=True, encodes=True),
)


def prepare(data_dir: Path, plan: Plan) -> None:
    """A data directory as tmpfiles.d makes it, and the database to begin with."""
    data_dir.mkdir()
    if os.geteuid() == 0:  # the reader is somebody else, as a dashboard would be
        os.chown(data_dir, 0, NOBODY)
        open_to_all(data_dir.parent)
    data_dir.chmod(0o2750)
    if not plan.schema:
        return
    with made_up.later(plan.schema):
        stored.write(data_dir / "events.db", made_up.EVENTS, zone=UTC).chmod(0o640)

"""What became of everything a producer published, from its own words and the store's counters. No I/O.

    published = stored + duplicates + rejected + in spool + lost

The producer tells how many it published and how deep its spool is, the store counts what it resolved, and neither waits
for the other: the account is taken at the store's position, and what was resolved since the producer spoke is moved.
"""

from __future__ import annotations

from typing import NamedTuple

from .messages import Position, SpoolReport


class Resolved(NamedTuple):
    """A row of the `producers` table: counters of all sessions, and how far they go."""

    position: Position
    stored: int
    duplicates: int
    rejected: int
    missing: int


class Account(NamedTuple):
    """`difference` is what the equation leaves open: positive when records are unaccounted for."""

    published: int
    spooled: int
    lost: int
    difference: int


def account(report: SpoolReport, resolved: Resolved) -> Account | None:
    """None while it cannot be drawn up: the producer has told nothing of this session yet."""
    position, published = resolved.position, report.published
    if position <= report.acked:
        spooled = report.spooled_records
    elif position.epoch == report.last.epoch:
        # Resolved since: everything of earlier sessions, and of this one up to the position.
        spooled = max(0, report.last.seq - position.seq)
        published += max(0, position.seq - report.last.seq)
    else:
        return None
    open_records = published - resolved.stored - resolved.duplicates - resolved.rejected - spooled
    # Both sides count the same losses, and neither sees all of them: the producer not those of a restored database, the
    # daemon not those at the end of a session; and some of what the producer cannot read any more was stored before.
    lost = min(max(0, open_records), max(report.lost, resolved.missing))
    return Account(published, spooled, lost, open_records - lost)

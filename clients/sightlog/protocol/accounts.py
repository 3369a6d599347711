"""What became of everything a producer published, from its own words and the store's counters. No I/O.

    published = stored + duplicates + rejected + in spool + lost

The producer tells how many it published and how deep its spool is, the store counts what it settled, and neither waits
for the other: the account is taken at the store's position, and what was settled since the producer spoke is moved.
"""

from __future__ import annotations

from typing import NamedTuple

from .messages import Position, Told


class Settled(NamedTuple):
    """A row of the `producers` table: counters of all lives, and how far they go."""

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


def account(told: Told, settled: Settled) -> Account | None:
    """None while it cannot be drawn up: the producer has told nothing of this life yet."""
    position, published = settled.position, told.published
    if position <= told.acked:
        spooled = told.spooled_records
    elif position.epoch == told.last.epoch:
        # Settled since: everything of earlier lives, and of this one up to the position.
        spooled = max(0, told.last.seq - position.seq)
        published += max(0, position.seq - told.last.seq)
    else:
        return None
    open_records = published - settled.stored - settled.duplicates - settled.rejected - spooled
    # Both sides count the same losses, and neither sees all of them: the producer not those of a restored database,
    # the daemon not those at the end of a life; and some of what the producer cannot read any more was stored before.
    lost = min(max(0, open_records), max(told.lost, settled.missing))
    return Account(published, spooled, lost, open_records - lost)

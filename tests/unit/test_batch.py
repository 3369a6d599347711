"""When a batch is committed, and why."""

from __future__ import annotations

import pytest

from sightlog.protocol.messages import START, Position
from sightlogd.protocol.batch import Batch, BatchLimits, Reason
from sightlogd.protocol.session import Chunk, DeadLetter, Session

SESSION = Session("p", "front", b"route", 1, START, START)


def chunk(records: int = 1, size: int = 10) -> Chunk:
    return Chunk(SESSION, Position(1, 1), [None] * records, [b""] * records, size=size)


def batch(records_max: int = 100, bytes_max: int = 1_000, linger: float = 0.25) -> Batch:
    return Batch(BatchLimits(records_max, bytes_max, linger))


def test_an_empty_batch_is_never_due():
    empty = batch(linger=0)
    empty.flush()
    assert (bool(empty), empty.due(1e9), empty.deadline, empty.full) == (False, None, None, False)


@pytest.mark.parametrize(
    ("records", "size", "flush", "now", "reason"),
    [
        (1, 10, False, 5.0, None),
        (1, 10, False, 5.249, None),
        (1, 10, False, 5.25, Reason.LINGER),
        (1, 10, True, 5.0, Reason.FLUSH),
        (99, 10, False, 5.0, None),
        (100, 10, False, 5.0, Reason.FULL),
        (101, 10, True, 9.0, Reason.FULL),
        (1, 999, False, 5.0, None),
        (1, 1_000, False, 5.0, Reason.FULL),
        (1, 5_000_000, False, 5.0, Reason.FULL),
    ],
)
def test_a_batch_is_due_when_it_is_full_asked_for_or_old_enough(records, size, flush, now, reason):
    some = batch()
    some.add(chunk(records, size), 5.0)
    if flush:
        some.flush()
    assert (some.due(now), some.full) == (reason, reason is Reason.FULL)


def test_a_steady_trickle_does_not_put_the_commit_off():
    some = batch()
    for step in range(10):
        some.add(chunk(), 5.0 + step / 100)
    assert some.deadline == 5.25
    assert some.due(5.25) is Reason.LINGER


def test_linger_0_commits_what_one_wake_up_found():
    some = batch(linger=0)
    some.add(chunk(), 5.0)
    assert some.due(5.0) is Reason.LINGER


def test_dead_letters_are_records_of_the_batch_too():
    some = batch(records_max=3)
    some.add_dead_letter(DeadLetter("p", "malformed", b"x" * 100), 5.0)
    assert (bool(some), some.records, some.size, some.deadline) == (True, 1, 100, 5.25)
    some.add(chunk(2), 5.1)
    assert (some.due(5.1), some.deadline) == (Reason.FULL, 5.25)


def test_a_cleared_batch_begins_anew():
    some = batch()
    some.add(chunk(100, 5_000), 5.0)
    some.add_dead_letter(DeadLetter("p", "malformed", b""), 5.0)
    some.flush()
    some.clear()
    assert (bool(some), some.full, some.records, some.size, some.due(99.0)) == (False, False, 0, 0, None)
    some.add(chunk(), 7.0)
    assert (some.due(7.0), some.deadline) == (None, 7.25)

"""What has waited too long, while the wall clock is set and the daemon is started anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sightlog import Amendment
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlogd.protocol.decoder import decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.service.clock import Outside, Waiting
from sightlogd.store import Store

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
HOUR = 3_600.0


def looked(*settings: tuple[float, timedelta], until: float) -> Outside:
    """Looked at every minute; `settings` are hours of the run and by how much the clock was set then."""
    off, left = timedelta(0), list(settings)
    waiting = Waiting(NOON, 500.0)
    for minute in range(round(until * 60) + 1):
        while left and left[0][0] * 60 <= minute:
            off += left.pop(0)[1]
        wall, now = NOON + timedelta(minutes=minute) + off, 500.0 + minute * 60
        waiting.look(wall, now)
    return waiting.too_old(wall, now, DAY)


def test_nothing_is_too_old_in_the_first_hour():
    assert looked(until=0.9) == Outside()
    assert looked(until=1) == Outside(NOON + timedelta(hours=1) - DAY)


@pytest.mark.parametrize("by", [timedelta(days=7_300), timedelta(days=-7_300), timedelta(minutes=5)])
def test_when_the_clock_was_set_everything_waits_its_full_time_again(by):
    assert looked((2, by), until=25.9) == Outside()
    now = NOON + timedelta(hours=26) + by
    assert looked((2, by), until=26) == Outside(now - DAY, now + timedelta(minutes=1))
    assert looked((2, by), (20, -by), until=43.9) == Outside()


def test_what_came_just_before_a_correction_waits_on():
    by = timedelta(seconds=-30)
    received = NOON + timedelta(hours=26, seconds=-5)
    assert looked((26, by), until=26).after > received


def test_a_clock_that_is_only_corrected_goes_on():
    assert looked((2, timedelta(seconds=40)), until=3).before is not None


def test_what_was_received_in_the_future_goes_too(tmp_path):
    clock = [NOON + timedelta(days=7_300)]
    store = Store(tmp_path, "NORMAL", clock=lambda: clock[0])
    session = Session("p", "camera", b"", 1, START, START)
    for seq, moment in enumerate((clock[0], NOON), 1):
        clock[0] = moment
        packed, _ = encode_record(Amendment(f"e{seq}", person_name="anna"))
        store.write([Chunk(session, Position(1, seq), [decode_record(packed)], [packed])], {}, [])
    assert store.expire_amendments(None, None) == 0
    assert store.expire_amendments(NOON - DAY, None) == 0
    assert store.expire_amendments(NOON - DAY, NOON) == 1
    assert store.expire_amendments(NOON + DAY, None) == 1
    store.close()

"""Which range of time each day has: decided once, whatever zones there are later, and from folders alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightlog.protocol.encoding import format_time
from sightlogd.calendar import BEGINNING, END, DayRange, Days
from sightlogd.dayranges import Folder, can_be, of_folders
from sightlogd.store.opening import create
from sightlogd.store.ranges import Ranges, all_ranges

ZONES = ("UTC", "Europe/Zurich", "Pacific/Kiritimati", "Etc/GMT+12", "America/St_Johns", "Australia/Lord_Howe")
"""14 hours ahead of UTC to 12 behind it, and half hours."""
BEGIN = datetime(2026, 3, 25, tzinfo=UTC)

moments = st.integers(0, 12 * 24 * 60).map(lambda minutes: format_time(BEGIN + timedelta(minutes=minutes)))
batches = st.lists(st.tuples(st.sampled_from(ZONES), st.lists(moments, min_size=1, max_size=4)), max_size=12)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("days") / "events.db"
    create(path, lambda: format_time(BEGIN))
    connection = apsw.Connection(str(path))
    yield connection
    connection.close()


@settings(derandomize=True, max_examples=400, deadline=None)
@given(batches)
def test_a_moment_keeps_its_day_whatever_the_zone_becomes(database, sessions):
    """Each is a life of the daemon in a zone of its own; what it says before the commit is what it does in it."""
    database.execute("BEGIN")
    try:
        decided: dict[str, str] = {}
        for zone, some in sessions:
            ranges = Ranges(database, Days(ZoneInfo(zone)))
            said = {moment: ranges.day_of(moment) for moment in some}
            ranges.cover(some)
            for moment, day in {**said, **decided}.items():
                assert ranges.day_of(moment) == ranges.local(moment)[0] == day
                assert Ranges(database, Days(UTC)).day_of(moment) == day
            decided |= said
        found = all_ranges(database)
        assert [one.day for one in found] == sorted({one.day for one in found})
        assert all(before.after <= behind.first for before, behind in pairwise(found))
        assert all(map(can_be, found))
        assert all(any(one.has(moment) for one in found) for moment in decided)
    finally:
        database.execute("ROLLBACK")


@settings(derandomize=True, max_examples=400, deadline=None)
@given(batches, st.sampled_from(ZONES), st.data())
def test_folders_give_back_the_days_of_their_records(database, sessions, now, data):
    """With what is noted all is as it was; without some of it each record is still of its folder's day."""
    database.execute("BEGIN")
    try:
        decided: dict[str, str] = {}
        for zone, some in sessions:
            ranges = Ranges(database, Days(ZoneInfo(zone)))
            ranges.cover(some)
            decided |= {moment: ranges.day_of(moment) for moment in some}
        found = all_ranges(database)
    finally:
        database.execute("ROLLBACK")
    members = {one.day: sorted(moment for moment in decided if one.has(moment)) for one in found}
    folders = [Folder(one.day, one, members[one.day][0], members[one.day][-1]) for one in found]
    assert of_folders(folders, Days(ZoneInfo(now))) == found
    left = [folder if data.draw(st.booleans()) else folder._replace(noted=None) for folder in folders]
    made = of_folders(left[::-1], Days(ZoneInfo(now)))
    for moment, day in decided.items():
        assert [one.day for one in made if one.has(moment)] == [day]
    assert all(before.after <= behind.first for before, behind in pairwise(made))


def midnight(day: str, hours: int = 0) -> str:
    return format_time(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC) + timedelta(hours=hours))


def test_one_record_with_a_damaged_time_gives_its_day_no_other_days():
    noted = DayRange("2026-11-20", midnight("2026-11-20"), midnight("2026-11-21"), "UTC")
    folders = [
        Folder("2026-11-20", noted, midnight("2026-11-20", 3), midnight("2099-11-20", 3)),
        Folder("2026-11-21", None, midnight("2026-11-21", 4), midnight("2026-11-21", 9)),
        Folder("2026-11-22", None),
    ]
    made = of_folders(folders, Days(UTC))
    assert [one.day for one in made] == ["2026-11-20", "2026-11-21"]
    assert not made[0].has(midnight("2099-11-20", 3))
    assert made[1].has(midnight("2026-11-21", 4))
    assert not folders[0].is_within(made[0])
    assert folders[1].is_within(made[1])
    assert folders[2].is_within(None)


@pytest.mark.parametrize(
    ("first", "after", "sound"),
    [
        (midnight("2026-11-19", 10), midnight("2026-11-20", 10), True),
        (midnight("2026-11-20"), midnight("2026-11-20"), False),
        (midnight("2026-11-21"), midnight("2026-11-20"), False),
        (BEGINNING, midnight("2026-11-21"), False), (midnight("2026-11-20"), END, False),
        (midnight("2026-11-18", 23), midnight("2026-11-21"), False),
    ],
)  # fmt: skip
def test_no_zone_has_such_a_day(first, after, sound):
    assert can_be(DayRange("2026-11-20", first, after, "")) == sound


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
@pytest.mark.parametrize("zone", ZONES)
def test_the_ends_of_time_can_be(day, zone):
    assert can_be(Days(ZoneInfo(zone)).range_of(day))

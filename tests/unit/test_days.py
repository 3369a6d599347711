"""Which day a moment is of, and which moments a day has: the two agree in every zone, over every change of clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightlog.protocol.encoding import format_time
from sightlogd.calendar import Days
from sightlogd.daylogs.days import HeldFolder

ZONES = [
    "UTC",
    "Europe/Zurich",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Beirut",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
]
"""Sao Paulo and Beirut change their clocks at midnight, St John's did so a minute later, Apia left a day out, Lord Howe
changes by half an hour."""


moments = st.integers(157_766_400, 2_145_916_800).map(lambda second: datetime.fromtimestamp(second, UTC))
"""1975 to 2037"""


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.sampled_from(ZONES), moments)
def test_a_moment_is_within_the_range_of_its_own_day(zone, moment):
    days = Days(ZoneInfo(zone))
    text = format_time(moment)
    _, first, after, _ = days.range_of(days.day_of(text))
    assert first <= text < after


@pytest.mark.parametrize("zone", ZONES)
def test_days_follow_each_other_without_gap_or_overlap(zone):
    days = Days(ZoneInfo(zone))
    day = date(2009, 1, 1)
    before = days.range_of(day.isoformat()).after
    while day < date(2013, 1, 1):
        day += timedelta(days=1)
        _, first, after, _ = days.range_of(day.isoformat())
        assert first == before
        assert first <= after
        before = after


def test_local_time_is_the_one_on_the_wall():
    days = Days(ZoneInfo("Europe/Zurich"))
    assert days.local("2025-11-08T13:32:15.999Z") == ("2025-11-08", "2025-11-08 14:32:15")
    assert days.local("2025-11-08T23:00:00.000Z") == ("2025-11-09", "2025-11-09 00:00:00")
    assert days.local("2025-10-26T00:59:59.000Z")[1] == "2025-10-26 02:59:59"
    assert days.local("2025-10-26T01:00:00.000Z")[1] == "2025-10-26 02:00:00"
    assert days.local("1890-01-01T00:00:00.000Z") == ("1890-01-01", "1890-01-01 00:29:46")


def test_an_hour_that_comes_again_behind_midnight_is_of_the_new_day():
    """In Newfoundland, 2010-11-07 00:01 was followed by 2010-11-06 23:01."""
    days = Days(ZoneInfo("America/St_Johns"))
    assert days.local("2010-11-07T02:29:00.000Z") == ("2010-11-06", "2010-11-06 23:59:00")
    assert days.local("2010-11-07T02:30:30.000Z") == ("2010-11-07", "2010-11-07 00:00:30")
    assert days.local("2010-11-07T02:31:00.000Z") == ("2010-11-07", "2010-11-06 23:01:00")
    assert days.day_of("2010-11-07T03:31:00.000Z") == "2010-11-07"


def test_a_day_whose_midnight_no_clock_showed_begins_where_clocks_went_forward():
    """In Toronto, 1919-03-30 23:30 was followed by 1919-03-31 00:30."""
    days = Days(ZoneInfo("America/Toronto"))
    assert days.day_of("1919-03-31T04:29:59.000Z") == "1919-03-30"
    assert days.day_of("1919-03-31T04:30:00.000Z") == "1919-03-31"
    assert days.range_of("1919-03-31").first == days.range_of("1919-03-30").after == "1919-03-31T04:30:00.000Z"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"])
@pytest.mark.parametrize("zone", ["Pacific/Apia", "America/Sao_Paulo"])
def test_the_ends_of_time_have_a_day_too(zone, moment):
    days = Days(ZoneInfo(zone))
    _, first, after, _ = days.range_of(days.day_of(moment))
    assert first <= moment < after


def test_a_folder_that_is_made_anew_is_another_one(tmp_path):
    path = tmp_path / "2026-11-20"
    path.mkdir()
    number = path.stat().st_ino
    held = HeldFolder(path)
    assert held.is_in_place()
    path.rmdir()
    assert not held.is_in_place()
    path.mkdir()
    assert not held.is_in_place()
    assert path.stat().st_ino != number
    held.close()

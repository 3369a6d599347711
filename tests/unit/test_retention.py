"""Which days may go, and when: the rules of the storage budget."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from sightlogd.retention.policy import Day, Level, Plan, Rules, StorageStats, in_order, level_of, may_go, measured, plan
from sightlogd.units import gigabytes

RULES = Rules(min_retention_days=7, share_max=0.5)
TODAY = "2026-11-20"


def before(days: int, day: str = TODAY) -> str:
    return (date.fromisoformat(day) - timedelta(days=days)).isoformat()


EVENTS_A_DAY = 100


def id_of(ago: int) -> int:
    """Of the last event stored so many days ago, where the daemon ran every day."""
    return (1000 - ago) * EVENTS_A_DAY


def ran(*ago: int) -> list[int]:
    """The first ids of the days on which it ran."""
    return [id_of(days) - EVENTS_A_DAY + 1 for days in ago]


EVERY_DAY = ran(*range(400))


def day(ago: int, written_ago: int | None = None, count: int = 10**9, name: str | None = None) -> Day:
    return Day(name or before(ago), count, 100, 0, id_of(ago if written_ago is None else written_ago))


TOMORROW = before(-1)
"""Days behind it are ahead of the clock."""


def gone(
    days: list[Day],
    today: str = TODAY,
    clock_days: list[int] = EVERY_DAY,
    rules: Rules = RULES,
    last_day: str = TOMORROW,
) -> list[str]:
    return [each.name for each in days if may_go(each, today, last_day, clock_days, rules)]


def test_what_is_younger_than_the_retention_stays():
    assert gone([day(ago) for ago in range(12)]) == [before(8), before(9), before(10), before(11)]


def test_today_stays_whatever_the_rules_say():
    rules = Rules(0, 1.0)
    assert gone([day(0), day(1), day(-1)], rules=rules) == [before(1)]


def test_a_day_ahead_of_the_clock_goes_when_no_sensor_has_written_to_it_for_as_many_days():
    days = [day(0, written_ago=ago, name=f"2099-01-0{ago}") for ago in (1, 6, 7, 8, 9)]
    assert gone(days) == ["2099-01-08", "2099-01-09"]
    assert gone([day(-1, written_ago=9), day(-2, written_ago=9)]) == [before(-2)]


def test_days_ahead_of_the_clock_go_before_the_oldest():
    assert in_order([before(3), "2099-02-01", before(-1), "2099-01-01", before(40)], TOMORROW) == [
        "2099-01-01", "2099-02-01", before(40), before(3), before(-1)
    ]  # fmt: skip


@pytest.mark.parametrize("today", ["0001-01-03", "1970-01-01", "2019-06-01"])
def test_a_clock_that_jumped_back_removes_nothing(today):
    assert gone([day(ago) for ago in range(400)], today) == []


@pytest.mark.parametrize("years", [1, 20, 1000])
def test_a_clock_that_jumped_ahead_removes_no_day_of_the_last_week_it_ran(years):
    future = before(-365 * years)
    # Today it began anew under the wrong date: that is one day more than there were.
    assert gone([day(ago) for ago in range(1, 30)], future, [*ran(*range(1, 30)), id_of(0) + 1]) == [
        before(ago) for ago in range(8, 30)
    ]


def test_what_a_clock_of_1970_dated_stays_until_as_many_days_came_after_it():
    """A board without a clock of its own: it starts in 1970, stores, and then learns what time it is."""
    stored_an_hour_ago = day(0, name="1970-01-01")
    assert gone([stored_an_hour_ago], clock_days=[*EVERY_DAY, id_of(0) + 1]) == []
    assert gone([day(8, name="1970-01-01")]) == ["1970-01-01"]


@pytest.mark.parametrize("kept", [1, 2, 7])
def test_one_jump_takes_nothing_off_the_retention(kept):
    """Today it ran until the clock was set: what was stored until then is not even a day old."""
    stored = [day(ago) for ago in range(10)]
    clock_days = [*ran(*range(10)), id_of(0) + 1]
    assert gone(stored, before(-4000), clock_days, Rules(kept, 1.0)) == [before(ago) for ago in range(kept, 10)]


def test_days_on_which_the_daemon_did_not_run_do_not_count():
    holiday = [*ran(0, 1), *ran(*range(60, 90))]
    assert gone([day(61), day(63), day(65), day(66), day(67)], clock_days=holiday) == [before(66), before(67)]


def test_a_day_that_a_sensor_with_a_wrong_clock_still_writes_to_stays():
    days = [day(0, name="1970-01-01"), day(3, name="1970-01-02"), day(9, name="1970-01-03")]
    assert gone(days) == ["1970-01-03"]


def test_as_many_days_go_as_bring_it_below_80_percent_and_no_more():
    days = [day(ago, count=100) for ago in (40, 39, 38, 37)]
    assert plan(days, StorageStats(950, 1000), RULES).days == tuple(days[:2])
    assert plan(days, StorageStats(901, 1000), RULES).days == tuple(days[:2])
    assert plan(days, StorageStats(899, 1000), RULES).days == tuple(days[:1])


def test_more_than_a_share_does_not_go_at_once_and_it_says_how_to_do_it_all_the_same():
    days = [day(ago, count=100) for ago in range(40, 10, -1)]
    refused = plan(days, StorageStats(3_000, 400), RULES)
    assert refused.days == ()
    assert "purge --force" in (refused.refusal or "")
    assert len(plan(days, StorageStats(3_000, 400), Rules(7, 1.0)).days) == 27
    assert plan([], StorageStats(3_000, 400), RULES) == Plan()


def test_files_count_as_bytes_do_where_inodes_are_scarcer():
    assert measured(100, 1000, 5000, 200, 10, 10**6).share == 0.1
    scarce = measured(100, 1000, 5000, 200, 900, 100)
    assert (scarce.limit_files, scarce.is_short_of_files, level_of(scarce)) == (950, True, Level.PURGE)
    assert str(scarce) == "900 files / 950 by the inodes of the disk (94%)"
    assert level_of(measured(100, 1000, 5000, 200, 960, 0)) is Level.OVER
    days = [Day(f"2026-01-0{number}", 10, 1, 0, 1, files=100) for number in range(1, 9)]
    assert [each.name for each in plan(days, scarce, Rules(0, 1.0)).days] == ["2026-01-01", "2026-01-02"]
    assert plan(days, scarce, Rules(0, 0.2)).refusal


@pytest.mark.parametrize(
    ("used", "level"),
    [(0, Level.FINE), (799, Level.FINE), (800, Level.WARN), (900, Level.WARN), (901, Level.PURGE), (1000, Level.PURGE),
     (1001, Level.OVER)],
)  # fmt: skip
def test_the_levels_begin_where_they_are_said_to(used, level):
    assert level_of(StorageStats(used, 1000)) is level


def test_a_disk_that_others_fill_lowers_the_limit():
    assert measured(100, 1000, 5000, 200) == StorageStats(100, 1000)
    assert measured(100, 1000, 300, 200) == StorageStats(100, 200)
    assert measured(100, 1000, 100, 200).is_over_limit
    assert level_of(measured(100, 1000, 0, 200)) is Level.OVER
    assert level_of(measured(100, 1000, 0, 0)) is Level.PURGE


def test_it_reads_as_people_say_it():
    assert str(StorageStats(3_200_000_000, 4_000_000_000)) == "3.2GB / 4GB (80%)"
    assert str(StorageStats(4_100_000_000, 4_000_000_000)) == "4.1GB / 4GB (102%)"
    assert gigabytes(12_300_000) == "12.3MB"
    stats = StorageStats(5, 4)
    assert (stats.is_over_limit, stats.percentage_used) == (True, 125.0)

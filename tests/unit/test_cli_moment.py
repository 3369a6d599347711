"""Times as people type them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sightlog import UsageError
from sightlog.cli.times import parse_moment

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("now", "2026-11-20T10:30:00"),
        ("today", "2026-11-19T23:00:00"),
        ("yesterday", "2026-11-18T23:00:00"),
        ("tomorrow", "2026-11-20T23:00:00"),
        ("-90s", "2026-11-20T10:28:30"),
        ("-30m", "2026-11-20T10:00:00"),
        ("-2h", "2026-11-20T08:30:00"),
        ("-3d", "2026-11-17T10:30:00"),
        ("-1w", "2026-11-13T10:30:00"),
        ("-1h30m", "2026-11-20T09:00:00"),
        ("-2 hours", "2026-11-20T08:30:00"),
        ("2 hours ago", "2026-11-20T08:30:00"),
        ("30 min ago", "2026-11-20T10:00:00"),
        ("30min ago", "2026-11-20T10:00:00"),
        ("1h 30min ago", "2026-11-20T09:00:00"),
        ("1 week ago", "2026-11-13T10:30:00"),
        ("Now", "2026-11-20T10:30:00"),
        ("yesterday 18:00", "2026-11-19T17:00:00"),
        ("today 07:30", "2026-11-20T06:30:00"),
        ("today 23:30:01", "2026-11-20T22:30:01"),
        # It is a Friday, half past eleven here.
        ("friday", "2026-11-19T23:00:00"),
        ("fri 11:30", "2026-11-20T10:30:00"),
        ("fri 11:31", "2026-11-13T10:31:00"),
        ("Tuesday", "2026-11-16T23:00:00"),
        ("tue 18:00", "2026-11-17T17:00:00"),
        ("saturday 00:00", "2026-11-13T23:00:00"),
        ("9:05", "2026-11-20T08:05:00"),
        ("23:59:58", "2026-11-20T22:59:58"),
        ("2026-11-20", "2026-11-19T23:00:00"),
        ("2026-11-20 10:00", "2026-11-20T09:00:00"),
        ("2026-07-01 10:00", "2026-07-01T08:00:00"),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00"),
        ("2026-11-20T10:00:00.500+02:00", "2026-11-20T08:00:00.500000"),
    ],
)
def test_times_as_people_type_them(zurich, text, utc):
    assert parse_moment(text, NOW) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


def test_today_begins_at_local_midnight_when_the_clocks_changed_since(zurich):
    # 2026-10-25 has 25 hours: it began in summer time.
    assert parse_moment("today", datetime(2026, 10, 25, 12, tzinfo=UTC)) == datetime(2026, 10, 24, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "now", "utc"),
    [
        # Summer time ended on Sunday, 2026-10-25, at 01:00 UTC.
        ("sunday", "2026-10-26T12:00", "2026-10-24T22:00"),
        ("yesterday 18:00", "2026-10-26T12:00", "2026-10-25T17:00"),
        ("yesterday 02:30", "2026-10-26T12:00", "2026-10-25T00:30"),  # the first of the two
        ("sat 18:00", "2026-10-26T12:00", "2026-10-24T16:00"),
        ("24 hours ago", "2026-10-25T12:00", "2026-10-24T12:00"),
        ("-1d", "2026-10-25T12:00", "2026-10-24T12:00"),
        # It began on 2026-03-29 at 01:00 UTC: there was no half past two.
        ("yesterday 02:30", "2026-03-30T12:00", "2026-03-29T01:30"),
        ("sunday", "2026-03-30T12:00", "2026-03-28T23:00"),
    ],
)
def test_days_and_hours_hold_across_a_change_of_the_clocks(zurich, text, now, utc):
    found = parse_moment(text, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert found.utcoffset() == found.astimezone().utcoffset(), "shown as the local time that it was"


@pytest.mark.parametrize(
    "text",
    ["yesterday ", "yesterday 25:00", "tues", "tue  18:00", "today noon", "ago", "h ago", "2 years ago", "2h30 ago",
     "-2M", "2 hours  ago", "-2 hours ago", "now 10:00", "18:00 tue", "", " ", "soon",
     "25:00", "10:60", "2026-13-01", "2026-02-30", "-2", "-2y", "2h", "--2h", "-999999999w",
     "0001-01-01T00:00", "2026-11-20 ", "10:00; rm", "-٣d", "tomorrow\n"],
)  # fmt: skip
def test_what_is_not_a_time_is_refused_with_examples(zurich, text):
    with pytest.raises(UsageError, match=r"not a time; give one like .*-2h"):
        parse_moment(text, NOW)

"""A moment as text: the same as the standard library writes, in whatever zone it is given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightlog import InvalidRecord
from sightlog.protocol.encoding import format_time

offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 30), timezones=st.just(UTC) | offsets))  # noqa: DTZ001
def test_a_moment_in_any_zone_is_written_as_utc_with_milliseconds(moment):
    assert format_time(moment) == f"{moment.astimezone(UTC).isoformat(timespec='milliseconds')[:-6]}Z"


def test_a_moment_without_a_zone_is_refused():
    with pytest.raises(InvalidRecord, match="time zone"):
        format_time(datetime(2026, 11, 20))  # noqa: DTZ001

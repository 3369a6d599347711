"""What is ahead of the clock: records of a sensor whose own clock is wrong. No I/O."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from .records import utc_text

_DAY = timedelta(days=1)
_LAST = "9999-12-31T23:59:59.999Z"


def ahead_from(now: datetime, newest_clock_day: str | None) -> str:
    """The stored time from which on a record is more than a day ahead of the clock.

    `newest_clock_day` is the latest day (UTC) on which the daemon has stored something. A clock that is behind it is
    the one that is wrong, as on a Pi that starts in 1970: then that day counts, with the one after it.
    """
    try:
        if newest_clock_day is not None and utc_text(now)[:10] < newest_clock_day:
            return f"{(date.fromisoformat(newest_clock_day) + 2 * _DAY).isoformat()}T00:00:00.000Z"
        return utc_text(now + _DAY)
    except OverflowError:  # the last day there is
        return _LAST

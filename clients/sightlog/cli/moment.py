"""Points in time as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Final

from sightlog.errors import UsageError

FORMS: Final = "2026-11-20, '2026-11-20 10:00', 2026-11-20T10:00:00Z, 10:00, today, yesterday, now, -30m, -2h, -3d"

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ago = re.compile(r"-([0-9]{1,9})([smhdw])").fullmatch
_clock = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?").fullmatch


def is_ago(text: str) -> bool:
    """Whether `text` is a time that looks like an option: `-2h`."""
    return _ago(text) is not None


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """A local datetime, with its offset. `text` is local when it has no zone; a date alone means its midnight.

    `now` has a time zone; None is the clock. Raises UsageError.
    """
    now = (now or datetime.now(UTC)).astimezone()
    try:
        if text == "now":
            return now
        if text in ("today", "yesterday"):
            # Not now's offset: on the other side of a clock change the local one differs.
            return datetime.combine(now.date() - timedelta(days=text == "yesterday"), time.min).astimezone()
        if ago := _ago(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if clock := _clock(text):
            hour, minute, second = (int(part or 0) for part in clock.groups())
            return datetime.combine(now.date(), time(hour, minute, second)).astimezone()
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a time; give one like {FORMS}") from error

"""Points in time as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Final

from sightlog.errors import UsageError

FORMS: Final = """2026-11-20, '2026-11-20 10:00', 2026-11-20T10:00:00Z, 10:00, now, today, tomorrow, 'yesterday 18:00',
tuesday, 'tue 18:00', '2 hours ago', '1h 30min ago', -30m, -2h, -3d"""

_NAMES: Final = {
    "seconds": ("s", "sec", "second", "seconds"),
    "minutes": ("m", "min", "minute", "minutes"),
    "hours": ("h", "hr", "hour", "hours"),
    "days": ("d", "day", "days"),
    "weeks": ("w", "week", "weeks"),
}
_UNITS: Final = {name: unit for unit, names in _NAMES.items() for name in names}
_AMOUNT: Final = rf"([0-9]{{1,9}}) ?({'|'.join(sorted(_UNITS, key=len, reverse=True))})"
_SPAN: Final = f"{_AMOUNT}(?: ?{_AMOUNT})*"
_DAYS: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

# Compiled when a time is given: that takes as long as a query.
_AGO: Final = f"-{_SPAN}|{_SPAN} ago"
_CLOCK: Final = r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?"


def is_ago(text: str) -> bool:
    """Whether `text` is a time that looks like an option: `-2h`."""
    return text.startswith("-") and re.fullmatch(_AGO, text) is not None


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """A local datetime, with its offset. `text` is local when it has no zone; a day alone means its midnight, a
    weekday the latest one that is past, and hours are as long as they last, whatever the clocks do.

    `now` has a time zone; None is the clock. Raises UsageError.
    """
    now = (now or datetime.now(UTC)).astimezone()
    try:
        if text.lower() == "now":
            return now
        if re.fullmatch(_AGO, text):
            # now's offset is not that of then: `astimezone` finds the one that was in force.
            return (now - sum((_length(*amount) for amount in re.findall(_AMOUNT, text)), timedelta())).astimezone()
        if re.fullmatch(_CLOCK, text):
            return _local(datetime.combine(now.date(), _time(text)))
        word, space, clock = text.lower().partition(" ")
        at = _time(clock) if space else time.min
        if word in _DAYS:
            return _local(datetime.combine(now.date() + timedelta(days=_DAYS[word]), at))
        for number, name in enumerate(_WEEKDAYS):
            if word in (name, name[:3]):
                latest = datetime.combine(now.date() - timedelta(days=(now.weekday() - number) % 7), at)
                return _local(latest if _local(latest) <= now else latest - timedelta(days=7))
        return _local(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a time; give one like {FORMS.replace(chr(10), ' ')}") from error


def _length(number: str, unit: str) -> timedelta:
    return timedelta(**{_UNITS[unit]: int(number)})


def _time(clock: str) -> time:
    found = re.fullmatch(_CLOCK, clock)
    if found is None:
        raise ValueError(clock)
    hour, minute, second = (int(part or 0) for part in found.groups())
    return time(hour, minute, second)


def _local(moment: datetime) -> datetime:
    # Not now's offset: on the other side of a clock change the local one differs. `astimezone` alone takes an hour that
    # was left out for one that is an hour earlier.
    return datetime.fromtimestamp(moment.timestamp(), UTC).astimezone()

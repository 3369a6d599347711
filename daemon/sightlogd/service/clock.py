"""Whether what waits has waited as long as the wall clock says. Policy alone: no I/O, no clock.

Somebody may set the wall clock while the daemon runs (a board without a clock of its own starts in 1970), or while it
does not. The first shows in the monotonic clock; the second does not, so some time has to pass after each start.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

SET_SECONDS: Final = 60.0
"""A wall clock that is off by more than this from one look to the next was set."""
AFTER_START: Final = timedelta(hours=1)
"""Before this, nothing is too old: whoever was off as well may still bring what it waits for."""


class Outside(NamedTuple):
    """What is `before` or `after` has waited long enough; None: nothing is that."""

    before: datetime | None = None
    after: datetime | None = None
    """Received in what is the future now: before the clock was set back."""


class Waiting:
    """`now` is of a monotonic clock, in seconds; look often enough to see when the wall clock is set."""

    def __init__(self, wall: datetime, now: float) -> None:
        self._ahead = wall.timestamp() - now
        self._since = now
        self._was_set = False

    def look(self, wall: datetime, now: float) -> None:
        ahead = wall.timestamp() - now
        if abs(ahead - self._ahead) > SET_SECONDS:
            self._since, self._was_set = now, True
        self._ahead = ahead

    def too_old(self, wall: datetime, now: float, most: timedelta) -> Outside:
        """Behind the last `look`."""
        steady = timedelta(seconds=now - self._since)
        if steady >= most:
            return Outside(wall - most, wall + timedelta(seconds=SET_SECONDS))
        return Outside(wall - most) if not self._was_set and steady >= AFTER_START else Outside()

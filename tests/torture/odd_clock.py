"""sightlogd whose wall clock is set from outside, and who does its chores ten times a second.

    python tests/torture/odd_clock.py FILE noticing|believing run --data-dir …

FILE has the seconds by which the clock is off; it is read whenever somebody looks at the clock. The product's own code;
"believing" is without the look for whether the clock was set.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

from sightlogd.__main__ import main
from sightlogd.metrics import report
from sightlogd.service import clock, loop
from sightlogd.store import store

off = Path(sys.argv[1])
time_as_it_is = time.time


class OddClock(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(seconds=float(off.read_text()))


if __name__ == "__main__":
    for module in (loop, report, store):
        module.datetime = OddClock
    time.time = lambda: time_as_it_is() + float(off.read_text())
    loop.CHORES_SECONDS = 0.1
    clock.AFTER_START = timedelta(0)
    if sys.argv[2] == "believing":
        clock.Waiting.look = lambda *_: None
    sys.exit(main(sys.argv[3:]))

"""sightlogd whose start takes SECONDS of processor time, as a migration of a large database on a small board does; ten
looks at it.

python tests/slow_start.py SECONDS run --data-dir …
"""

from __future__ import annotations

import sys
import time
from typing import Any

from sightlogd.__main__ import main
from sightlogd.service import run, watchdog


def slowly(*arguments: Any) -> Any:
    until = time.thread_time() + float(sys.argv[1])
    while time.thread_time() < until:
        pass
    return open_store(*arguments)


if __name__ == "__main__":
    watchdog.LOOK_SECONDS = float(sys.argv[1]) / 10
    open_store, run._open_store = run._open_store, slowly
    sys.exit(main(sys.argv[2:]))

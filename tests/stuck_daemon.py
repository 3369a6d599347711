"""sightlogd whose writer waits for a lock that nobody gives back, with the first batch that it is to write.

    python tests/stuck_daemon.py run --data-dir …

The product's own code; only the store is told to wait.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from sightlogd.__main__ import main
from sightlogd.store import Store


def wait_for_ever(*_: Any) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


if __name__ == "__main__":
    Store.write = wait_for_ever  # type: ignore[assignment, method-assign]
    sys.exit(main())

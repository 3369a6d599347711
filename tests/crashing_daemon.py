"""sightlogd that kills itself with SIGKILL at a chosen point: the product's own code, wrapped from outside.

    python tests/crashing_daemon.py POINT NTH run --data-dir …

POINT is before_commit (rows written, transaction open), after_commit (durable, not acked) or in_start (the WAL
rewritten, the database open, nothing ready); NTH counts how often it has to be reached.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sightlogd.__main__ import main
from sightlogd.store import migrate
from sightlogd.store.rows import Rows
from sightlogd.store.store import Store

left = 0


def then_die(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        global left
        result = function(*arguments, **options)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if __name__ == "__main__":
    point, left = sys.argv[1], int(sys.argv[2])
    if point == "before_commit":
        Rows.write = then_die(Rows.write)
    elif point == "after_commit":
        Store.write = then_die(Store.write)
    elif point == "in_start":
        migrate.check_schema = then_die(migrate.check_schema)
    else:
        sys.exit(f"unknown point {point}")
    sys.exit(main(sys.argv[3:]))

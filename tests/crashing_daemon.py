"""sightlogd that kills itself with SIGKILL at a chosen point: the product's own code, wrapped from outside.

    python tests/crashing_daemon.py POINT NTH run --data-dir …

POINT is before_commit (rows written, transaction open), after_commit (durable, not acked), in_start (the WAL rewritten,
the database open, nothing ready), picture_incoming (a picture waits, its event is not stored), picture_renamed (it is
in its day's folder, the row does not know it) or picture_in_row (the row knows it, the picture still waits); NTH counts
how often it has to be reached.
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
from sightlogd.thumbnails.queue import Incoming

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
    elif point == "picture_incoming":
        Incoming.put = then_die(Incoming.put)
    elif point == "picture_renamed":
        Store.set_thumbnail = then_die(lambda *_: None)
    elif point == "picture_in_row":
        Store.set_thumbnail = then_die(Store.set_thumbnail)
    else:
        sys.exit(f"unknown point {point}")
    sys.exit(main(sys.argv[3:]))

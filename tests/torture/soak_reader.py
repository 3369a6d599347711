"""A reader of the soak: follows the events, and asks as a dashboard does.

    python tests/torture/soak_reader.py DATABASE FOLLOWED

FOLLOWED gets the `id` and name of each event that came by, a line each.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

from sightlog import Reader
from sightlog.errors import DatabaseNotFound


def follow(database: str, followed: str) -> None:
    fd = os.open(followed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Reader(database) as reader:
        for event in reader.follow(after=0):
            os.write(fd, f"{event.id} {event.event_id}\n".encode())


def ask(database: str) -> None:
    with Reader(database) as reader:
        while True:
            events = reader.get_recent_events(limit=20)
            assert all(events[at].recorded_at >= events[at + 1].recorded_at for at in range(len(events) - 1))
            if events:
                reader.get_event(events[-1].event_id)
                reader.get_events_by_camera(events[0].camera_id, limit=10)
            reader.count_events()
            reader.search("door")
            time.sleep(0.5)


def main() -> None:
    database, followed = sys.argv[1:]
    while not os.path.exists(database):
        time.sleep(0.1)
    while True:
        with contextlib.suppress(DatabaseNotFound), Reader(database) as reader:
            reader.last_id()
            break
        time.sleep(0.1)  # it is just being made
    thread = threading.Thread(target=ask, args=(database,), daemon=True)
    thread.start()
    threading.excepthook = lambda arguments: (print(arguments.exc_value, file=sys.stderr), os._exit(1))
    follow(database, followed)


if __name__ == "__main__":
    main()

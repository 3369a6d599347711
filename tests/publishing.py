"""A producer as a process of its own, which a test can kill: publishes an event for each line that it reads.

    python publishing.py ENDPOINT SPOOL_DIR [forked]

Answers each line with "taken" or the error. `forked`: a child is forked first, lives on, and its pid is printed.
"""

from __future__ import annotations

import os
import signal
import sys

from sightlog import Event, Publisher, SightlogError


def main(endpoint: str, spool_dir: str, *options: str) -> None:
    publisher = Publisher(endpoint, "sensor", spool_dir)
    child = 0
    if "forked" in options:
        child = os.fork()
        if child == 0:
            signal.pause()
    print(child or "ready", flush=True)
    for line in sys.stdin:
        try:
            publisher.publish(Event("door", event_id=line.strip()))
        except SightlogError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            print("taken", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`sightlog events`, `tail` and `show`: what the store holds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sightlog.errors import UsageError
from sightlog.records import Event

from .moment import FORMS, parse_moment
from .options import add_camera, add_command, add_output, add_store, database_of, open_reader
from .output import complain, event_details, event_line, event_object, json_line, terminal

if TYPE_CHECKING:
    from .options import Commands

FOUND: Final = 0
NONE: Final = 1
ALL: Final = sys.maxsize
EVENTS_SHOWN: Final = 20
EVENTS_TAILED: Final = 10

_EVENTS: Final = f"""
Prints events in the order they happened, the newest last, one a line with local times: the 20 newest, or with --since
all of them. The event id ends the line where the terminal is wide enough, and always when the output is a file or
a pipe.

times: {FORMS}
A time without a zone is local. --until itself is not included.

examples:
  sightlog events                                   the last 20
  sightlog events -n 5 -r                           the last 5, the newest first
  sightlog events --since today --camera front_door
  sightlog events --since -2h --until -30m
  sightlog events --since yesterday --until today -o json | jq -r .person_name

exit codes: 0 events were found, 1 none were, 2 usage, 74 the database is damaged, 77 not allowed to read it
"""

_TAIL: Final = """
Prints the newest events, the newest last, and with -f goes on printing each event as it is committed, until Ctrl-C
(exit code 130). It goes on while the daemon is stopped or started again.

examples:
  sightlog tail -f
  sightlog tail -n 0 -f --camera front_door         only what comes from now on
  sightlog tail -f -o json | while read -r event; do …; done

exit codes: 0 events were found, 1 none were, 2 usage, 74 the database is damaged, 77 not allowed to read it,
130 ended by Ctrl-C
"""

_SHOW: Final = """
Prints every field of one event, and a line for each detection: label, confidence, and the corners x1, y1, x2, y2 of its
box in pixels. Fields without a value are shown as -.

examples:
  sightlog show 019a9f60-3c1e-7b42-9d0a-5f6b1c2d3e4f
  sightlog show -o json 019a9f60-3c1e-7b42-9d0a-5f6b1c2d3e4f | jq .detections

exit codes: 0 found, 1 there is no such event at this site, 74 the database is damaged, 77 not allowed to read it
"""


def add_parsers(commands: Commands) -> None:
    events = add_command(commands, "events", "list what happened", _EVENTS, _run_events)
    events.add_argument(
        "-n", "--lines", type=_lines, metavar="N", help="at most the N newest, or 'all' (default: 20; all with --since)"
    )
    events.add_argument("-r", "--reverse", action="store_true", help="newest first")
    events.add_argument("-S", "--since", type=parse_moment, metavar="TIME", help="from this time on")
    events.add_argument("-U", "--until", type=parse_moment, metavar="TIME", help="before this time")
    tail = add_command(commands, "tail", "the newest events, and the next ones with -f", _TAIL, _run_tail)
    tail.add_argument("-f", "--follow", action="store_true", help="go on with each event as it is committed")
    tail.add_argument(
        "-n", "--lines", type=_lines, default=EVENTS_TAILED, metavar="N", help="begin with N (default: 10)"
    )
    show = add_command(commands, "show", "everything about one event", _SHOW, _run_show)
    show.add_argument("event_id", metavar="EVENT_ID")
    for command in (events, tail):
        add_camera(command)
    for command in (events, tail, show):
        add_output(command)
        add_store(command)


def _lines(text: str) -> int:
    if text == "all":
        return ALL
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"-n {text}: expected a whole number or 'all'")
    return int(text)


def _print(events: Iterable[Event], options: argparse.Namespace, *, flush: bool = False) -> bool:
    """False when there were none."""
    target = terminal()
    found = False
    for event in events:
        found = True
        print(json_line(event_object(event)) if options.output == "json" else event_line(event, target), flush=flush)
    return found


def _run_events(options: argparse.Namespace) -> int:
    since, until, lines = options.since, options.until, options.lines
    if since is not None and until is not None and since >= until:
        raise UsageError(f"--since {since:%Y-%m-%d %H:%M:%S} is not before --until {until:%Y-%m-%d %H:%M:%S}")
    if lines is None:
        lines = EVENTS_SHOWN if since is None else ALL
    # The last of many are found from the end; all of them are printed as they are read.
    newest_first = options.reverse or lines != ALL
    with open_reader(options) as reader:
        events = reader.find_events(
            start=since, end=until, camera_id=options.camera, newest_first=newest_first, limit=lines
        )
        return FOUND if _print(events if options.reverse == newest_first else reversed(list(events)), options) else NONE


def _run_tail(options: argparse.Namespace) -> int:
    with open_reader(options) as reader:
        # Before the query: what is committed between the two is then in both, and printed once.
        cursor = reader.last_id()
        newest = list(reader.find_events(camera_id=options.camera, newest_first=True, limit=options.lines))
        found = _print(reversed(newest), options, flush=options.follow)
        if not options.follow:
            return FOUND if found else NONE
        printed = {event.id for event in newest}
        coming = (
            event
            for event in reader.follow(cursor)
            if event.id not in printed and options.camera in (None, event.camera_id)
        )
        _print(coming, options, flush=True)
    return FOUND


def _run_show(options: argparse.Namespace) -> int:
    with open_reader(options) as reader:
        event = reader.get_event(options.event_id)
    if event is None:
        complain(
            f"site {options.site} has no event {options.event_id}. `sightlog events` lists them; "
            "--site and --data-dir say where to look"
        )
        return NONE
    if options.output == "json":
        print(json_line(event_object(event)))
        return FOUND
    for line in event_details(event, database_of(options).parent, terminal(), datetime.now(UTC)):
        print(line)
    return FOUND

"""`sightlog events`, `tail` and `show`: what the store holds."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Final

from sightlog.cli.filters import add_filters, filters_of
from sightlog.cli.options import (
    ALL,
    CODES,
    FOUND,
    NONE,
    add_command,
    add_lines,
    add_store,
    add_times,
    database_of,
    none_found,
    open_reader,
    times_of,
)
from sightlog.cli.render.formats import add_output, event_lines
from sightlog.cli.render.objects import event_object, observation_object
from sightlog.cli.render.terminal import complain, end_when_nobody_reads, json_line, print_lines, terminal
from sightlog.cli.render.text import event_details, observation_details
from sightlog.cli.times import FORMS
from sightlog.reader.filters import matches

if TYPE_CHECKING:
    from sightlog.cli.options import Commands

EVENTS_SHOWN: Final = 20
EVENTS_TAILED: Final = 10
AHEAD_COUNTED: Final = 1_000
FORMATS: Final = ("short", "json", "table", "csv", "cat")

_EVENTS: Final = f"""
Prints events in the order they happened, the newest last, one a line: the 20 newest, or with --since all of them.
Several filters are ANDed: --person Anna --label dog are the events with both. The event id ends the line where the
terminal is wide enough, and always when the output is a file or a pipe.

times: {FORMS}
A time without a zone is local. --until itself is not included; without it, events more than a day ahead of the clock
are left out and counted: a sensor's clock was wrong.

json and csv have every field.
csv has detections as JSON in one column, and is safe to open in a spreadsheet: a text that it would take for a formula
(=, +, -, @ first in a cell) has ' before it, controls are escaped. --raw leaves texts as they are stored, as json does.

examples:
  sightlog events                                   the last 20
  sightlog events -n 5 -r                           the last 5, the newest first
  sightlog events --since today --camera front_door -o table
  sightlog events --since 'yesterday 18:00' --until 'today 07:30' --stranger
  sightlog events --since -7d --label person --min-confidence 0.8 --unsent
  sightlog events --since yesterday --until today -o json | jq -r .person_name

exit codes: 0 events were found, 1 none were,
{CODES}
"""

_TAIL: Final = f"""
Prints the newest events, the newest last, and with -f goes on printing each event as it is committed, until Ctrl-C
(exit code 130). It goes on while the daemon is stopped or started again. An event is printed once, as it is when it
is committed: a name or a label that another sensor adds later does not bring it back through --person or --label.

examples:
  sightlog tail -f
  sightlog tail -n 0 -f --camera front_door         only what comes from now on
  sightlog tail -f --type ding -o cat
  sightlog tail -f -o json | while read -r event; do …; done

exit codes: 0 events were found, 1 none were,
{CODES},
130 ended by Ctrl-C
"""

_SHOW: Final = f"""
Prints every field of one event, a line for each detection (label, confidence, and the corners x1, y1, x2, y2 of its box
in pixels), and the observations about it; or every field of one observation. Fields without a value are shown as -.

examples:
  sightlog show 019a9f60-3c1e-7b42-9d0a-5f6b1c2d3e4f
  sightlog show -o json 019a9f60-3c1e-7b42-9d0a-5f6b1c2d3e4f | jq .detections
  sightlog show -o json 019a9f60-3c1e-7b42-9d0a-5f6b1c2d3e4f | jq -r '.observations[].content'

exit codes: 0 found, 1 this site has no such event or observation,
{CODES}
"""


def add_parsers(commands: Commands) -> None:
    events = add_command(commands, "events", "list what happened", _EVENTS, _run_events)
    add_lines(events, "at most the N newest, or 'all' (default: 20; all with --since)", None)
    events.add_argument("-r", "--reverse", action="store_true", help="newest first")
    add_times(events)
    tail = add_command(commands, "tail", "the newest events, and the next ones with -f", _TAIL, _run_tail)
    tail.add_argument("-f", "--follow", action="store_true", help="go on with each event as it is committed")
    add_lines(tail, f"begin with N (default: {EVENTS_TAILED})", EVENTS_TAILED)
    show = add_command(commands, "show", "everything about one event or observation", _SHOW, _run_show)
    show.add_argument("record_id", metavar="ID", help="of an event or an observation")
    for command in (events, tail):
        add_output(command, *FORMATS)
        add_store(command)
        add_filters(command)
    add_output(show, "short", "json")
    add_store(show)


def _run_events(options: argparse.Namespace) -> int:
    since, until = times_of(options)
    query = filters_of(options)
    lines = options.lines
    if lines is None:
        lines = EVENTS_SHOWN if since is None else ALL
    # The last of many are found from the end; all of them are printed as they are read.
    newest_first = options.reverse or lines != ALL
    with open_reader(options) as reader:
        ahead = None if until else reader.ahead_from()
        if since and ahead and since >= ahead:
            ahead = None  # asked for
        end = until or ahead
        events = reader.find_events(start=since, end=end, **query, newest_first=newest_first, limit=lines)
        in_order = events if options.reverse == newest_first else reversed(list(events))
        printed = print_lines(event_lines(in_order, options.output, terminal(), raw=options.raw))
        left_out = sum(1 for _ in reader.find_events(start=ahead, **query, limit=AHEAD_COUNTED)) if ahead else 0
    if left_out:
        count = f"{left_out} or more" if left_out == AHEAD_COUNTED else str(left_out)
        complain(
            f"left out: {count} events more than a day ahead of the clock. Whose clock is wrong? --until 9999-12-31 "
            "shows them too"
        )
    return FOUND if printed else none_found()


def _run_tail(options: argparse.Namespace) -> int:
    filters = filters_of(options)
    with open_reader(options) as reader:
        # Before the query: what is committed between the two is then in both, and printed once.
        cursor = reader.last_id()
        end = reader.ahead_from()
        newest = list(reader.find_events(end=end, **filters, newest_first=True, limit=options.lines))[::-1]
        if not options.follow:
            return (
                FOUND if print_lines(event_lines(newest, options.output, terminal(), raw=options.raw)) else none_found()
            )
        printed = {event.id for event in newest}
        coming = (event for event in reader.follow(cursor) if event.id not in printed and matches(event, filters))
        end_when_nobody_reads()
        lines = event_lines(chain(newest, coming), options.output, terminal(), ahead=len(newest), raw=options.raw)
        print_lines(lines, flush=True)
    return FOUND


def _run_show(options: argparse.Namespace) -> int:
    target, now = terminal(), datetime.now(UTC)
    with open_reader(options) as reader:
        event = reader.get_event(options.record_id)
        about = list(reader.find_observations(event_id=event.event_id)) if event else []
        observation = None if event else reader.get_observation(options.record_id)
    if event is not None:
        if options.output == "json":
            print(json_line({**event_object(event), "observations": list(map(observation_object, about))}))
        else:
            print_lines(event_details(event, about, database_of(options).parent, target, now))
        return FOUND
    if observation is not None:
        if options.output == "json":
            print(json_line(observation_object(observation)))
        else:
            print_lines(observation_details(observation, target, now))
        return FOUND
    complain(
        f"site {options.site} has no event or observation {options.record_id}. `sightlog events` lists events; "
        "--site and --data-dir say where to look"
    )
    return NONE

"""`sightlog search` and `similar`: what was said about something, and whose face or text is like another's."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from sightlog.cli.options import (
    CODES,
    FOUND,
    NONE,
    add_command,
    add_lines,
    add_store,
    add_times,
    none_found,
    open_reader,
    times_of,
)
from sightlog.cli.render.formats import add_output
from sightlog.cli.render.objects import event_object, observation_object
from sightlog.cli.render.terminal import Span, Terminal, complain, json_line, print_lines, terminal, wrap
from sightlog.cli.render.text import event_head, event_says, observation_head, one_line, who_and_door, with_id
from sightlog.cli.times import FORMS
from sightlog.reader.hits import SearchHit, SimilarHit
from sightlog.text import printable

if TYPE_CHECKING:
    from sightlog.cli.options import Commands

HITS: Final = 20
NEIGHBOURS: Final = 5
_BEGIN, _END = "\x02", "\x03"
"""Around hit words on a terminal that shows them bold."""

_SEARCH: Final = f"""
Finds descriptions of events and observations that have all the words, the best first. Case, accents and endings of
English words do not matter. A word that ends in * is a beginning; words in double quotes stand next to each other
(the shell needs quotes around those). Hit words are bold on a terminal, and in [brackets] elsewhere. Of what is in more
than 500 texts, the 500 that were stored last are ranked, or as many as -n says.

times: {FORMS}

examples:
  sightlog search blue shirt
  sightlog search '"blue shirt"' deliver*
  sightlog search dog --since yesterday --camera yard -n 5
  sightlog search chunk -o json | jq -r '.event.event_id'

exit codes: 0 something was found, 1 nothing was,
{CODES}
"""

_SIMILAR: Final = f"""
Finds the events and observations whose embedding is nearest to that of an event's face, the nearest first, the event
itself left out. Only embeddings of the same model and version are compared. The cosine distance is 0 for the same
direction, 1 for nothing in common and 2 for the opposite. EVENT is an id, or the path of the event's picture.

examples:
  sightlog similar --face 019a9f60-3c1e-7b42-9d0a-5f6b1c2d3e4f
  sightlog similar --face events/2026-11-20/019a9f60-3c1e-7b42-9d0a-5f6b1c2d3e4f.jpg -n 20
  sightlog similar --face $id -o json | jq 'select(.distance < 0.4) | .event.person_name'

exit codes: 0 something was found, 1 nothing was, there is no such event, or it has no embedding to compare,
{CODES}
"""


def add_parsers(commands: Commands) -> None:
    search = add_command(commands, "search", "find words in descriptions and observations", _SEARCH, _run_search)
    search.add_argument("words", nargs="+", metavar="WORD", help="all have to be there")
    add_lines(search, f"at most N (default: {HITS})", HITS)
    add_times(search)
    search.add_argument("--camera", dest="camera_id", metavar="ID", help="only this camera's")
    similar = add_command(commands, "similar", "find faces and texts like that of an event", _SIMILAR, _run_similar)
    similar.add_argument("--face", required=True, metavar="EVENT", help="like the face of this event: id or picture")
    add_lines(similar, f"at most N (default: {NEIGHBOURS})", NEIGHBOURS)
    for command in (search, similar):
        add_output(command, "short", "json")
        add_store(command)


def _run_search(options: argparse.Namespace) -> int:
    since, until = times_of(options)
    target = terminal()
    marks = (_BEGIN, _END) if target.colour and options.output != "json" else ("[", "]")
    words = " ".join(options.words)
    with open_reader(options) as reader:
        hits = reader.search(words, options.lines, since, until, options.camera_id, marks=marks)
    if options.output == "json":
        lines = (json_line({"score": hit.score, "excerpt": hit.excerpt, **_records(hit)}) for hit in hits)
    else:
        lines = (line for hit in hits for line in _search_lines(hit, target))
    return FOUND if print_lines(lines) else none_found()


def _run_similar(options: argparse.Namespace) -> int:
    with open_reader(options) as reader:
        picture = PurePath(options.face)
        event = reader.get_event(options.face) or reader.get_event(picture.stem if picture.suffix else picture.name)
        if event is None:
            complain(
                f"site {options.site} has no event {options.face}. `sightlog events` lists them; "
                "--site and --data-dir say where to look"
            )
            return NONE
        if event.embedding is None:
            complain(
                f"event {event.event_id} has no embedding of a face: no sensor sent one with it or amended it. "
                "`sightlog events -n all -o json | jq -r 'select(.embedding) | .event_id'` lists those that have one"
            )
            return NONE
        if not any(event.embedding):
            complain(
                f"the embedding of event {event.event_id} is all zeros: it has no direction that others could be near "
                "to. Give --face another event of this face, and look at what the recogniser sends"
            )
            return NONE
        # One more: the event itself is the nearest of all. Its own model and version, also where it has none.
        model, version = event.embedding_model or "", event.embedding_version or ""
        found = reader.similar(event.embedding, options.lines + 1, model, version=version)
    hits = [hit for hit in found if hit.observation or (hit.event and hit.event.event_id != event.event_id)]
    hits = hits[: options.lines]
    if options.output == "json":
        lines = (json_line({"distance": hit.distance, "metric": hit.metric, **_records(hit)}) for hit in hits)
    else:
        target = terminal()
        lines = (line for hit in hits for line in _similar_lines(hit, target))
    return FOUND if print_lines(lines) else none_found()


def _records(hit: SearchHit | SimilarHit) -> dict[str, Any]:
    return {
        "event": event_object(hit.event) if hit.event else None,
        "observation": observation_object(hit.observation) if hit.observation else None,
    }


def _head(hit: SearchHit | SimilarHit, target: Terminal) -> tuple[list[Span], str, str]:
    """Of what was found: the spans that begin its line, its id, and what it says."""
    if hit.observation is not None:
        spans = observation_head(hit.observation, hit.event, target)
        if hit.event is not None:
            spans += who_and_door(hit.event)
        return spans, hit.observation.observation_id, printable(one_line(hit.observation.content))
    assert hit.event is not None
    return [*event_head(hit.event, target), *who_and_door(hit.event)], hit.event.event_id, event_says(hit.event)


def _search_lines(hit: SearchHit, target: Terminal) -> Iterator[str]:
    spans, record_id, _ = _head(hit, target)
    yield from with_id(spans, record_id, target)
    yield from excerpt_lines(hit.excerpt, target)


def _similar_lines(hit: SimilarHit, target: Terminal) -> Iterator[str]:
    spans, record_id, text = _head(hit, target)
    yield from with_id([(f"{hit.metric} {hit.distance:.4f}  ", "bold"), *spans], record_id, target)
    yield target.render([(f"    {text}", "")])


def excerpt_lines(text: str, target: Terminal) -> Iterator[str]:
    """Indented and wrapped; on a terminal with colours what is between the marks \\x02 and \\x03 is bold."""
    styles: list[str] = []
    plain = style = ""
    for piece in re.split(f"([{_BEGIN}{_END}])", one_line(text)) if target.colour else [one_line(text)]:
        if piece in (_BEGIN, _END):
            style = "bold" if piece == _BEGIN else ""
            continue
        plain += printable(piece)
        styles += [style] * (len(plain) - len(styles))
    at = 0
    indent = "" if target.width is not None and target.width < 20 else "    "
    for line in wrap(plain, None if target.width is None else max(target.width - len(indent), 2)):
        at = plain.index(line, at)  # a space between two lines is left out
        pairs = zip(line, styles[at : at + len(line)], strict=True)
        runs = groupby(pairs, key=lambda pair: pair[1])
        yield target.render([(indent, ""), *(("".join(char for char, _ in run), style) for style, run in runs)])
        at += len(line)

"""`sightlog stats`: how many events, by day, camera, person, label or type."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sightlog.cli.options import CODES, FOUND, NONE, add_command, add_store, add_times, open_reader, times_of
from sightlog.cli.render.formats import add_output
from sightlog.cli.render.terminal import Terminal, cells, cut, json_line, print_lines, terminal
from sightlog.cli.times import FORMS
from sightlog.reader.counts import Counts
from sightlog.text import printable

if TYPE_CHECKING:
    from sightlog.cli.options import Commands

KINDS: Final = ("day", "camera", "person", "label", "type")
USUAL: Final = ("day", "camera", "person")
BAR_WIDEST: Final = 50
BLOCKS: Final = " ▏▎▍▌▋▊▉█"
"""By eighths of a cell."""
_NOBODY: Final = {"person": "(stranger)"}

_TEXT: Final = f"""
Counts events: the days in their order, everything else the most frequent first. Without --by it is days, cameras and
persons, one after the other. Days are local; a day without events is left out. By label, an event counts once for each
label that it has. On a terminal with block characters there are bars; elsewhere numbers alone.

times: {FORMS}

examples:
  sightlog stats --since -14d
  sightlog stats --by person --since monday
  sightlog stats --by label --since yesterday --until today
  sightlog stats --by day -o json | jq -r '[.day, .events] | @tsv'

exit codes: 0 there are events, 1 there are none,
{CODES}
"""


def add_parsers(commands: Commands) -> None:
    parser = add_command(commands, "stats", "how many events, by day, camera, person, label or type", _TEXT, _run)
    parser.add_argument("--by", choices=KINDS, metavar="WHAT", help=", ".join(KINDS))
    add_times(parser)
    add_output(parser, "short", "json")
    add_store(parser)


def _run(options: argparse.Namespace) -> int:
    since, until = times_of(options)
    kinds = USUAL if options.by is None else (options.by,)
    with open_reader(options) as reader:
        found: dict[str, Counts] = {kind: reader.counts(kind, since, until) for kind in kinds}
    lines = _objects(found) if options.output == "json" else _chapters(found, terminal(), has_blocks())
    return FOUND if print_lines(lines) else NONE


def _objects(found: dict[str, Counts]) -> Iterator[str]:
    for kind, counts in found.items():
        yield from (json_line({kind: name, "events": count}) for name, count in counts)


def has_blocks() -> bool:
    """Whether standard output's encoding has the characters that bars are made of."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _chapters(found: dict[str, Counts], target: Terminal, with_bars: bool) -> Iterator[str]:
    """Nothing when nothing was counted."""
    is_first = True
    for kind, counts in found.items():
        if not counts:
            continue
        if len(found) > 1:
            if not is_first:
                yield ""
            yield target.render([(f"by {kind}", "dim")])
            is_first = False
        yield from chart(counts, target, with_bars=with_bars, nobody=_NOBODY.get(kind, "(none)"))


def chart(counts: Counts, target: Terminal, *, with_bars: bool, nobody: str) -> Iterator[str]:
    """A line for each: name, number, and a bar where `with_bars` and the terminal has room for it."""
    names = [nobody if name is None else printable(name) for name, _ in counts]
    number_width = max(len(f"{count:,}") for _, count in counts)
    name_width = max(map(cells, names))
    if target.width is not None:
        # Names get at most half of what the numbers leave; bars get the rest.
        name_width = min(name_width, max((target.width - number_width - 2) // 2, 10))
    room = 0 if target.width is None else min(target.width - name_width - number_width - 4, BAR_WIDEST)
    most = max(count for _, count in counts)
    for name, (_, count) in zip(names, counts, strict=True):
        shown = name if target.width is None else cut(name, name_width)
        padding = " " * (name_width - cells(shown))
        bar = _bar(count / most, room) if with_bars and room > 0 else ""
        yield target.render([(shown + padding, "bold"), (f"  {count:>{number_width},}", ""), (bar, "id")])


def _bar(share: float, width: int) -> str:
    """Never nothing: what there is one of has to be seen beside thousands."""
    eighths = max(round(share * width * 8), 1)
    return f"  {BLOCKS[8] * (eighths // 8)}{BLOCKS[eighths % 8] if eighths % 8 else ''}"

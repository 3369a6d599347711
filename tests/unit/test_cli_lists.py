"""Bars of `stats` and excerpts of `search`, as they are printed."""

from __future__ import annotations

import re

import pytest

from sightlog.cli.commands.search import excerpt_lines
from sightlog.cli.commands.stats import chart
from sightlog.cli.render.terminal import Terminal, cells

COUNTS = [("front_door", 1_234), (None, 617), ("門" * 60, 1), ("\x1b[2J", 0)]


def test_bars_are_as_long_as_the_numbers_say():
    lines = list(chart(COUNTS[:3], Terminal(60), with_bars=True, nobody="(none)"))
    bars = [line.count("█") for line in lines]
    assert bars[0] // 2 == bars[1] > 0
    assert lines[2].endswith("  ▏"), "one beside a thousand is still seen"
    assert lines[1].startswith("(none) ")
    assert [re.search(r"\s([0-9,]+)(?:\s|$)", line)[1] for line in lines] == ["1,234", "617", "1"]
    assert len({cells(line[: line.index("█")]) for line in lines[:2]}) == 1


@pytest.mark.parametrize("width", [1, 10, 20, 40, 80, 300])
@pytest.mark.parametrize("with_bars", [True, False])
def test_charts_fit_and_obey_nobody(width, with_bars):
    for line in chart(COUNTS, Terminal(width), with_bars=with_bars, nobody="(none)"):
        assert cells(line) <= width
        assert line.isprintable()


def test_a_pipe_gets_names_and_numbers_alone():
    lines = list(chart(COUNTS, Terminal(), with_bars=True, nobody="(none)"))
    assert [line.split()[1:] for line in lines] == [["1,234"], ["617"], ["1"], ["0"]]
    assert lines[2].split()[0] == "門" * 60


@pytest.mark.parametrize("width", [3, 20, 80])
def test_hit_words_are_bold_wherever_the_line_ends(width):
    text = "a \x02man\x03 in a \x02blue shirt\x03 \x1b[2J rings\n\n the \x02bell\x03…"
    lines = list(excerpt_lines(text, Terminal(width, colour=True)))
    plain = re.sub(r"\x1b\[[01]m", "", "".join(lines))
    assert plain.isprintable()
    assert "".join(plain.split()) == r"amaninablueshirt\x1b[2Jringsthebell…"
    bold = "".join(re.findall(r"\x1b\[1m(.*?)\x1b\[0m", "".join(lines)))
    assert "".join(bold.split()) == "manblueshirtbell"
    for line in lines:
        assert cells(re.sub(r"\x1b\[[01]m", "", line)) <= width


def test_without_colours_marks_are_text():
    assert list(excerpt_lines("a [man]\x02", Terminal())) == [r"    a [man]\x02"]

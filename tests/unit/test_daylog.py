"""What is torn is cut off, what is whole stays; a line says what an event is, whatever it went through."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sightlog.text import is_harmful
from sightlogd.daylogs import text
from sightlogd.daylogs.lines import AmendmentLine, Box, EventLine, PersonLine, Replay, decode_line, encode_lines
from sightlogd.daylogs.tails import repair, whole_entries, whole_lines

EVENT = EventLine(7, "e", "default", "front_door", "2025-11-08T13:32:15.000Z", "motion")
LINE = encode_lines([EVENT])
ENTRY = text.entry(EVENT, "2025-11-08 14:32:15").encode()


def repaired(path, data: bytes, whole) -> bytes:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDWR)
    try:
        assert repair(fd, whole) == len(data) - path.stat().st_size
    finally:
        os.close(fd)
    return path.read_bytes()


TORN = [b"", b"x", b"\0", b"\0" * 5000, LINE[:-1], LINE[:10], b"\0\0\n", b"\0\n" + LINE]


@pytest.mark.parametrize("torn", TORN)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_torn_line_is_cut_off_and_whole_ones_stay(tmp_path, torn, count):
    assert repaired(tmp_path / "f", LINE * count + torn, whole_lines) == LINE * count


@pytest.mark.parametrize(("torn", "has_lines"), [(b"x", False), (b"\0\0\n", False), (b"a\0b\n" + LINE, True)])
def test_before_whole_lines_are_cut_off_it_is_told(tmp_path, torn, has_lines):
    path, told = tmp_path / "f", []
    path.write_bytes(LINE + torn)
    with path.open("r+b") as file:
        repair(file.fileno(), whole_lines, lambda: told.append(path.stat().st_size))
    assert told == ([len(LINE + torn)] if has_lines else [])


@pytest.mark.parametrize("kept", [b"what is this\n", b'{"kind":"of a newer version"}\n', b"\n"])
def test_a_whole_line_that_is_not_understood_stays(tmp_path, kept):
    assert repaired(tmp_path / "f", LINE + kept + LINE + b"torn", whole_lines) == LINE + kept + LINE


@pytest.mark.parametrize("torn", [b"", b"[2025", b"\0" * 5000, ENTRY[:-1], ENTRY[:-2], b"one line\n"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_torn_entry_is_cut_off_and_whole_ones_stay(tmp_path, torn, count):
    assert repaired(tmp_path / "f", ENTRY * count + torn, whole_entries) == ENTRY * count


def test_a_tail_longer_than_what_is_read_at_once_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("sightlogd.daylogs.tails.TAIL_BYTES", 1000)
    assert repaired(tmp_path / "f", LINE * 50 + b"x" * 5500, whole_lines) == LINE * 50


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
names = st.text(
    st.characters(exclude_categories=["Cs"]).filter(lambda c: not is_harmful(c)),
    min_size=1,
    max_size=20,
)
boxes = st.builds(Box, names, st.floats(0, 1), st.none() | st.tuples(*[st.floats(-1e9, 1e9)] * 4))
fractions = st.floats(0, 1)
events = st.builds(
    EventLine, st.integers(1, 2**63 - 1), st.just("e"), st.just("default"), st.just("door"),
    st.just("2025-11-08T13:32:15.000Z"), st.just("motion"), person_name=st.none() | names,
    motion_confidence=st.none() | fractions, unlock_granted=st.none() | st.booleans(),
    llm_description=st.none() | texts, alert_sent=st.booleans(),
    metadata=st.none() | st.dictionaries(names, names | st.booleans() | st.integers(-9, 9) | fractions, min_size=1),
    detections=st.lists(boxes, max_size=3),
)  # fmt: skip


@settings(derandomize=True, max_examples=300, deadline=None)
@given(events)
def test_a_line_is_one_line_and_reads_back_as_it_was(event):
    line = encode_lines([event])
    assert line.count(b"\n") == 1
    assert decode_line(line) == event


@settings(derandomize=True, max_examples=300, deadline=None)
@given(events, st.booleans())
def test_an_entry_is_one_entry_whatever_is_in_it(event, debug):
    entry = text.entry(event, "2025-11-08 14:32:15", debug=debug)
    assert entry.endswith("\n\n")
    assert "\n\n" not in entry[:-1]
    assert not any(unicodedata.category(character) == "Cc" for character in entry.replace("\n", ""))


def test_lines_add_up_to_what_the_event_is():
    lines = [
        EventLine(None, "e", "default", "door", "t", "motion", stored=False),
        EVENT,
        AmendmentLine("t", "e", "default", person_name="Anna", metadata={"a": 1, "b": 2}, detections=[Box("cat", 0.5)]),
        AmendmentLine("t", "e", "default", person_name="not yet", waiting=True),
        AmendmentLine("t", "e", "default", person_name="not yet", stored=False),
        AmendmentLine("t", "e", "default", metadata={"b": 3}, thumbnail_path="x.jpg", unlock_granted=False),
        AmendmentLine("t", "other", "default", person_name="another's"),
        PersonLine(1, "default", "anna", None, "t"),
    ]
    replay = Replay(lines)
    assert replay.first == {"e": EVENT}
    event = replay.state["e"]
    assert (event.person_name, event.metadata, event.unlock_granted) == ("Anna", {"a": 1, "b": 3}, False)
    assert (event.thumbnail_path, event.detections) == ("x.jpg", [Box("cat", 0.5)])
    assert [line.event_id for line in replay.strangers] == ["other"]


def test_an_amendment_before_its_event_is_part_of_it():
    """A crash took the event's line, then it was amended, then catch-up wrote down what it is."""
    amendment = AmendmentLine("t", "e", "default", detections=[Box("cat", 0.5)])
    replay = Replay([amendment, structs.replace(EVENT, detections=[Box("cat", 0.5)])])
    assert replay.state["e"].detections == [Box("cat", 0.5)]
    assert replay.strangers == []


def test_a_description_with_breaks_and_terminal_codes_is_one_line_without_them():
    event = EventLine(1, "e", "default", "door", "t", "motion", llm_description="a\n\nb\x1b[2J\x9bc\r\td ")
    assert "  - Description: a b [2J c d\n" in text.entry(event, "now")

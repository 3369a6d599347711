"""What the `sightlog` command prints: text on a terminal, lines, tables, JSON and CSV."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from pathlib import Path

import pytest

from sightlog import Detection, Event
from sightlog.cli.render.formats import event_lines
from sightlog.cli.render.objects import event_object
from sightlog.cli.render.table import table
from sightlog.cli.render.terminal import Terminal, age, cells, cut, json_line, size, wrap
from sightlog.cli.render.text import event_details, event_line
from sightlog.protocol.fields import EXPORTED_OF_EVENT
from sightlog.text import printable

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
WHEN = datetime(2026, 11, 20, 10, 0, 1, 234_000, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202egpj.exe \x7f \n\r\t \u2028"


def test_nothing_that_a_terminal_obeys_is_printed_raw():
    shown = printable(HOSTILE)
    assert shown.isprintable()
    assert shown.startswith(r"\x1b]0;owned\x07 \x9b31m \u202egpj.exe \x7f \n\r\t \u2028")
    assert printable("Zoë 門 “ok” \\") == "Zoë 門 “ok” \\"


@pytest.mark.parametrize("output", [Terminal(), Terminal(60), Terminal(400)])
def test_an_event_full_of_controls_stays_on_its_line(output):
    # As a store could hold it that something else than the daemon wrote.
    event = Event(
        HOSTILE, HOSTILE, event_id=HOSTILE, person_name=HOSTILE, llm_description=HOSTILE, recording_id=HOSTILE,
        image_path=HOSTILE, site=HOSTILE, thumbnail_path=HOSTILE, detections=[Detection(HOSTILE, 0.5)],
    )  # fmt: skip
    assert event_line(event, output).isprintable()
    for line in event_details(event, [], Path("/data"), output, NOW):
        assert line.isprintable()
        assert output.width is None or cells(line) <= output.width
    line = json_line(event_object(event))
    assert line.isprintable()
    assert line.isascii()
    assert json.loads(line)["llm_description"] == HOSTILE


@pytest.mark.parametrize(
    ("text", "width", "fitting"),
    [("front", 5, "front"), ("front", 4, "fro…"), ("front", 1, "…"), ("front", 0, ""), ("門門門", 6, "門門門"),
     ("門門門", 5, "門門…"), ("門門門", 4, "門…"), ("e\u0301e\u0301", 2, "e\u0301e\u0301")],
)  # fmt: skip
def test_text_is_cut_by_the_columns_it_takes(text, width, fitting):
    assert cut(text, width) == fitting
    assert cells(fitting) <= width


@pytest.mark.parametrize("width", [2, 7, 20, 80])
@pytest.mark.parametrize("text", ["", "a man\nin blue", "x" * 300, "門 門" * 50, "e\u0301" * 99, " ", "a  b " * 40])
def test_long_text_is_wrapped_and_complete(text, width):
    lines = list(wrap(text, width))
    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert list(wrap(text, None)) == (text.splitlines() or [""])


def test_wrapping_prefers_spaces():
    assert list(wrap("a man in a blue shirt", 10)) == ["a man in a", "blue shirt"]
    assert list(wrap("a man inside", 8)) == ["a man", "inside"]


def test_lines_fit_the_terminal_and_show_ids_whole_or_not_at_all():
    event = Event(
        "front_door", "ding", event_id="019a-whole-id", recorded_at=WHEN, person_name="Anna", face_confidence=0.934,
        unlock_granted=True, door_action="unlocked", llm_description="waves",
        detections=[Detection("dog", 0.4), Detection("person", 0.8), Detection("person", 0.95)],
    )  # fmt: skip
    local = f"{WHEN.astimezone():%Y-%m-%d %H:%M:%S}"
    whole = f"{local} front_door   ding     2 × person 95%  dog 40%  Anna 93%  unlocked  “waves”  019a-whole-id"
    assert event_line(event, Terminal()) == whole
    for width in range(10, len(whole) + 5):
        line = event_line(event, Terminal(width))
        assert cells(line) <= width
        assert line == whole if width >= len(whole) else "019a" not in line
        assert cells(event_line(event, Terminal(width, colour=True))) > cells(line)


def test_colours_only_when_asked_for():
    assert "\x1b" not in event_line(Event("door"), Terminal(80))
    assert "\x1b[1m" in event_line(Event("door"), Terminal(80, colour=True))


def test_a_refused_unlock_is_shown_and_an_unknown_one_is_not():
    assert "unlock refused" in event_line(Event("door", unlock_granted=False), Terminal())
    assert "unlock" not in event_line(Event("door"), Terminal())


def test_show_has_every_field_local_times_and_the_thumbnails_whole_path(zurich):
    event = Event(
        "door", event_id="e1", id=7, recorded_at=WHEN, created_at=WHEN, thumbnail_path="events/2026-11-20/e1.jpg",
        detections=[Detection("person", 0.95, (10, 20, 100, 200.5))],
    )  # fmt: skip
    lines = list(event_details(event, [], Path("/data"), Terminal(), NOW))
    fields = dict(line.split(maxsplit=1) for line in lines[:-2])
    assert fields["recorded_at"] == "2026-11-20 11:00:01.234+01:00 (29 min ago)"
    assert fields["thumbnail_path"] == "/data/events/2026-11-20/e1.jpg"
    assert fields["alert_sent"] == "no"
    assert fields["person_name"] == "-"
    assert set(fields) == set(event_object(event))
    assert lines[-1].split() == ["observations", "0"]
    assert lines[-2].split() == ["person", "0.95", "10,", "20,", "100,", "200.5"]


def test_json_has_every_column_utc_times_and_detections():
    there = timezone(timedelta(hours=5))
    event = Event(
        "door", event_id="e1", recorded_at=WHEN.astimezone(there), detections=[Detection("cat", 0.5, (1, 2, 3, 4))]
    )
    assert json.loads(json_line(event_object(event))) == {
        **dict.fromkeys(EXPORTED_OF_EVENT),
        "event_id": "e1", "site": "default", "camera_id": "door", "recorded_at": "2026-11-20T10:00:01.234Z",
        "event_type": "motion", "alert_sent": False,
        "detections": [{"label": "cat", "confidence": 0.5, "bbox": [1, 2, 3, 4]}],
    }  # fmt: skip


def test_tables_are_in_line_whatever_the_names_are():
    lines = list(table([["name", "stored"], ["門", "7"], ["\x1bcam", "1234"]], Terminal()))
    assert lines == ["name     stored", "門            7", r"\x1bcam    1234"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7_199, "119 min ago"), (7_200, "2 h ago"),
     (172_800, "2 d ago"), (-0.5, "0 s ago"), (-90, "1 min in the future")],
)  # fmt: skip
def test_ages(seconds, said):
    assert age(NOW - timedelta(seconds=seconds), NOW) == said


def test_sizes():
    assert [size(n) for n in (0, 999, 1000, 4_194_304, 5 * 10**9)] == ["0 B", "999 B", "1.0 kB", "4.2 MB", "5.0 GB"]


# -- formats ---------------------------------------------------------------------------------------------------------

WEIRD = Event(
    "door", "ding", event_id="e1", recorded_at=WHEN, person_name='Zoë "Z", 門',
    llm_description='=1+1\nsecond "line", 門', unlock_granted=True, metadata={"n": 1},
    detections=[Detection("a,b", 0.5, (1, 2, 3, 4))], embedding=[0.5, -1.0],
    embedding_model="m",
)  # fmt: skip


def test_csv_is_read_back_whole():
    events = [WEIRD, Event("yard", recorded_at=WHEN)]
    text = "".join(f"{line}\n" for line in event_lines(events, "csv", Terminal(), raw=True))
    assert text.count("\r\n") == 3
    first, second = csv.DictReader(StringIO(text, newline=""))
    assert first == {
        **dict.fromkeys(EXPORTED_OF_EVENT, ""),
        "event_id": "e1", "site": "default", "camera_id": "door", "recorded_at": "2026-11-20T10:00:01.234Z",
        "event_type": "ding", "person_name": WEIRD.person_name, "unlock_granted": "true",
        "llm_description": WEIRD.llm_description, "alert_sent": "false", "metadata": '{"n": 1}',
        "embedding": "[0.5, -1.0]", "embedding_model": "m",
        "detections": '[{"label": "a,b", "confidence": 0.5, "bbox": [1, 2, 3, 4]}]',
    }  # fmt: skip
    assert (second["camera_id"], second["detections"], second["unlock_granted"]) == ("yard", "[]", "")


@pytest.mark.parametrize("form", ["short", "json", "table", "csv", "cat"])
def test_of_no_events_nothing_is_printed(form):
    assert list(event_lines([], form, Terminal(80))) == []


@pytest.mark.parametrize("form", ["short", "json", "table", "csv", "cat"])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_no_format_lets_a_terminal_be_commanded(form, width):
    event = Event(
        HOSTILE, HOSTILE, event_id=HOSTILE, person_name=HOSTILE, llm_description=HOSTILE * 200, door_action=HOSTILE,
        detections=[Detection(HOSTILE, 0.5)],
    )  # fmt: skip
    lines = list(event_lines([event, WEIRD], form, Terminal(width)))
    assert all(line.isprintable() for line in lines)
    if form in ("short", "table"):
        assert max(map(cells, lines)) <= width


def test_cat_is_the_description_or_else_the_headline():
    headline = Event("yard", "motion", person_name="Anna", detections=[Detection("dog", 0.4), Detection("person", 0.9)])
    bare = Event("yard", llm_description=" ")
    assert list(event_lines([WEIRD, headline, bare], "cat", Terminal(20))) == [
        '=1+1 second "line", 門', "yard motion: person 90%, dog 40%, Anna", "yard motion",
    ]  # fmt: skip


# -- tables of events ------------------------------------------------------------------------------------------------


def rows_of(width):
    events = [
        Event(
            "front_door", "ding", event_id="id" + "1" * 34, recorded_at=WHEN, person_name="門門門門門",
            door_action="unlocked", detections=[Detection("person", 0.9), Detection("dog", 0.5)],
            llm_description="a man in blue " * 700,
        ),
        Event("yard", event_id="id" + "2" * 34, recorded_at=WHEN, unlock_granted=False),
    ]  # fmt: skip
    return [event.event_id for event in events], list(event_lines(events, "table", Terminal(width)))


@pytest.mark.parametrize("width", range(5, 200, 3))
def test_a_table_fits_and_its_columns_are_in_line(zurich, width):
    ids, (heading, *rows) = rows_of(width)
    assert len(rows) == 2
    assert max(map(cells, (heading, *rows))) <= width
    assert not any(line.endswith(" ") for line in (heading, *rows))
    for row, event_id in zip(rows, ids, strict=True):
        assert ("id1" in row or "id2" in row) == row.endswith(event_id), "half an id is of no use"
    if width >= 20:
        assert rows[0].startswith("2026-11-20 11:00:01  fr" if width >= 60 else "11-20 11:00  front…"[:18])
    if width >= 100:
        names = ("camera", "type", "seen", "person", "door", "description")
        assert heading.split()[: len(names) + 1] == ["time", *names]
        for name, value in (("camera", "yard"), ("door", "refu")):
            begin = heading.index(name)
            assert any("id1" in row for row in rows) == (width >= 133)
            assert rows[1][begin : begin + 4] == value


def test_a_table_for_a_pipe_is_whole():
    ids, (heading, *rows) = rows_of(None)
    assert heading.split()[-1] == "event"
    assert "a man in blue " * 600 in rows[0]
    assert [row.split()[-1] for row in rows] == ids
    assert not any(line.endswith(" ") for line in (heading, *rows))


def test_a_table_reads_no_further_than_it_was_told_before_its_first_line():
    read = []
    events = (read.append(number) or Event("door") for number in range(9))
    lines = event_lines(events, "table", Terminal(80), ahead=3)
    assert next(lines).startswith("time")
    assert read == [0, 1, 2]
    assert next(event_lines(events, "table", Terminal(80), ahead=0)).startswith("time"), "events are to come"
    assert read == [0, 1, 2]

"""What the `sightlog` command prints: text on a terminal, lines, tables, JSON and CSV."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from sightlog import Detection, Event
from sightlog.cli.output import Terminal, age, cells, cut, json_line, printable, size, wrap
from sightlog.cli.shapes import event_object
from sightlog.cli.short import event_details, event_line
from sightlog.cli.table import table

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
        "id": None, "event_id": "e1", "site": "default", "camera_id": "door",
        "recorded_at": "2026-11-20T10:00:01.234Z", "event_type": "motion", "recording_id": None,
        "motion_confidence": None, "person_name": None, "face_confidence": None, "face_distance": None,
        "unlock_granted": None, "door_action": None, "thumbnail_path": None, "image_path": None,
        "llm_description": None, "alert_sent": False, "created_at": None,
        "metadata": None, "embedding": None, "embedding_model": None, "embedding_version": None,
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

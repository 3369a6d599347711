"""The `sightlog` command without a daemon: times, text on a terminal, shapes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from sightlog import Detection, Event, UsageError
from sightlog.cli import main
from sightlog.cli.moment import parse_moment
from sightlog.cli.output import (
    Terminal,
    age,
    cells,
    cut,
    event_details,
    event_line,
    event_object,
    json_line,
    printable,
    size,
    table,
    wrap,
)
from sightlog.cli.publish import event_from_json, parse_detection
from sightlog.cli.status import daemon_of

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
WHEN = datetime(2026, 11, 20, 10, 0, 1, 234_000, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07 \x9b31m \u202egpj.exe \x7f \n\r\t \u2028"


@pytest.fixture
def zurich(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Zurich")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("now", "2026-11-20T10:30:00"),
        ("today", "2026-11-19T23:00:00"),
        ("yesterday", "2026-11-18T23:00:00"),
        ("-90s", "2026-11-20T10:28:30"),
        ("-30m", "2026-11-20T10:00:00"),
        ("-2h", "2026-11-20T08:30:00"),
        ("-3d", "2026-11-17T10:30:00"),
        ("-1w", "2026-11-13T10:30:00"),
        ("9:05", "2026-11-20T08:05:00"),
        ("23:59:58", "2026-11-20T22:59:58"),
        ("2026-11-20", "2026-11-19T23:00:00"),
        ("2026-11-20 10:00", "2026-11-20T09:00:00"),
        ("2026-07-01 10:00", "2026-07-01T08:00:00"),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00"),
        ("2026-11-20T10:00:00.500+02:00", "2026-11-20T08:00:00.500000"),
    ],
)
def test_times_as_people_type_them(zurich, text, utc):
    assert parse_moment(text, NOW) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


def test_today_begins_at_local_midnight_when_the_clocks_changed_since(zurich):
    # 2026-10-25 has 25 hours: it began in summer time.
    assert parse_moment("today", datetime(2026, 10, 25, 12, tzinfo=UTC)) == datetime(2026, 10, 24, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["", " ", "soon", "25:00", "10:60", "2026-13-01", "2026-02-30", "-2", "-2y", "2h", "--2h", "-999999999w",
     "0001-01-01T00:00", "2026-11-20 ", "10:00; rm", "-٣d", "tomorrow\n"],
)  # fmt: skip
def test_what_is_not_a_time_is_refused_with_examples(zurich, text):
    with pytest.raises(UsageError, match=r"not a time; give one like .*-2h"):
        parse_moment(text, NOW)


@pytest.mark.parametrize("option", ["--since", "-S"])
def test_a_relative_time_may_follow_its_option(option, tmp_path, capsys):
    assert main(["events", option, "-2h", "--data-dir", str(tmp_path)]) == 1
    assert "no database" in capsys.readouterr().err


# -- text ------------------------------------------------------------------------------------------------------------


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
    for line in event_details(event, Path("/data"), output, NOW):
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
    lines = list(event_details(event, Path("/data"), Terminal(), NOW))
    fields = dict(line.split(maxsplit=1) for line in lines[:-1])
    assert fields["recorded_at"] == "2026-11-20 11:00:01.234+01:00 (29 min ago)"
    assert fields["thumbnail_path"] == "/data/events/2026-11-20/e1.jpg"
    assert fields["alert_sent"] == "no"
    assert fields["person_name"] == "-"
    assert set(fields) == set(event_object(event))
    assert lines[-1].split() == ["person", "0.95", "10,", "20,", "100,", "200.5"]


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
            "metadata": None,
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


# -- publish ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "detection"),
    [
        ("person:0.95", Detection("person", 0.95)),
        ("person:0.95:10,20,100,200.5", Detection("person", 0.95, (10, 20, 100, 200.5))),
        ("coco:person:1", Detection("coco:person", 1.0)),
        ("a b:0:-1,0,1,2", Detection("a b", 0.0, (-1, 0, 1, 2))),
    ],
)
def test_detections_on_the_command_line(text, detection):
    assert parse_detection(text) == detection


@pytest.mark.parametrize(
    "text", ["", "person", "person:", ":0.5", "person:x", "person:0.5:1,2,3", "person:0.5:a,b,c,d"]
)
def test_what_is_not_a_detection_is_refused(text):
    with pytest.raises(UsageError, match="expected LABEL:CONF"):
        parse_detection(text)


def test_what_show_prints_can_be_published():
    event = Event(
        "door", "ding", recorded_at=WHEN, person_name="Anna", unlock_granted=False, id=4, thumbnail_path="x.jpg",
        created_at=NOW, detections=[Detection("person", 0.9, [1, 2, 3, 4]), Detection("dog", 0.1)],
    )  # fmt: skip
    again = Event(**event_from_json(json_line(event_object(event))))
    assert again == event
    assert (again.id, again.thumbnail_path, again.created_at) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "one object"),
        ('{"camera": "door"}', "unknown field 'camera'"),
        ('{"thumbnail": "AA=="}', "unknown field 'thumbnail'"),
        ('{"recorded_at": 5}', "recorded_at"),
        ('{"recorded_at": "soon"}', "not a time"),
        ('{"detections": 5}', "detections"),
        ('{"detections": ["person"]}', "detections"),
        ('{"detections": [{"name": "person"}]}', "detections"),
    ],
)
def test_json_that_is_not_an_event_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        event_from_json(text)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage:"),
        (["evnts"], "invalid choice"),
        (["events", "-n", "few"], "whole number"),
        (["events", "-n", "-1"], ""),
        (["events", "--since", "25:00"], "not a time"),
        (["events", "--since", "now", "--until", "-2h"], "is not before"),
        (["events", "--data-dir", "a", "--database", "b"], "not allowed with"),
        (["events", "-o", "xml"], "invalid choice"),
        (["events", "--rev"], "unrecognized"),
        (["publish"], "which camera"),
        (["publish", "--camera", "d", "--timeout", "nan"], "--timeout"),
        (["publish", "--camera", "d", "--thumbnail", "/nowhere.jpg"], "cannot read"),
        (["publish", "--camera", "d", "--thumbnail", "/dev/null"], "not a JPEG, PNG, WebP or BMP"),
        (["publish", "--camera", "d", "--json", "/nowhere.json"], "cannot read"),
    ],
)
def test_a_wrong_call_is_exit_code_2_and_says_what_was_expected(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["events", "tail", "show", "status", "publish"])
def test_help_has_examples_and_exit_codes(command, capsys):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"\nexamples:\n  sightlog {command}" in said
    assert "\nexit codes: " in said
    assert max(map(len, said.splitlines())) <= 120


def test_without_a_lock_file_nobody_runs(tmp_path):
    nobody = {"running": False, "pid": None, "trouble": None}
    assert daemon_of(tmp_path) == nobody
    (tmp_path / "lock").write_text("4711\ncannot write")
    assert daemon_of(tmp_path) == nobody

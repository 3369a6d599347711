"""The `sightlog` command without a daemon: options, publish's arguments, help."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import stored

from sightlog import Detection, Event, Reader, UsageError, writer
from sightlog.cli import main
from sightlog.cli.commands.publish import event_from_json, parse_detection
from sightlog.cli.commands.status import daemon_of
from sightlog.cli.render.objects import event_object
from sightlog.cli.render.terminal import json_line

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
COMMANDS = (
    "events", "tail", "show", "search", "similar", "stats", "export", "status", "publish", "demo", "completion",
)  # fmt: skip
WHEN = datetime(2026, 11, 20, 10, 0, 1, 234_000, tzinfo=UTC)

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
        (["events", "--person", "Anna", "--stranger"], "not allowed with"),
        (["events", "--min-confidence", "0.5"], "Give --label too"),
        (["events", "--label", "dog", "--min-confidence", "1.5"], "from 0 to 1"),
        (["tail", "--label", "dog", "--min-confidence", "nan"], "from 0 to 1"),
        (["tail", "--door", "ajar"], "invalid choice"),
        (["export", "--unlock", "maybe"], "invalid choice"),
        (["export", "--observations", "--unlock", "granted"], "--since and --until only"),
        (["search"], "required"),
        (["search", "x", "-2h"], "unrecognized arguments: -2h"),
        (["search", "x", "-n", "-2h"], "expected one argument"),
        (["show", "e1", "-2h"], "unrecognized arguments: -2h"),
        (["events", "--since"], "expected one argument"),
        (["events", "--since", "--reverse"], "expected one argument"),
        (["search", "dog", "--until", "soon"], "not a time"),
        (["similar"], "required"),
        (["stats", "--by", "colour"], "invalid choice"),
        (["export", "-o", "short"], "invalid choice"),
        (["export", "--force"], "Give --to"),
        (["export", "--observations", "--camera", "door"], "--since and --until only"),
        (["export", "--to", "/nowhere/x.json", "--since", "now", "--until", "-2h"], "is not before"),
        (["export", "--to", "/dev/null", "--force"], "not a file"),
        (["completion", "fish"], "invalid choice"),
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


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_exit_codes(command, capsys):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"\nexamples:\n  sightlog {command}" in said
    assert "\nexit codes: " in said
    assert max(map(len, said.splitlines())) <= 120


def test_without_a_lock_nobody_runs_whatever_the_facts_say(tmp_path):
    nobody = {
        "running": False, "pid": None, "since": None, "trouble": None, "trouble_since": None, "failure": None,
    }  # fmt: skip
    assert daemon_of(tmp_path) == nobody
    gone = writer.Writer(4711, "run", "2026-01-01T00:00:00.000Z", "no room", "2026-01-02T00:00:00.000Z")
    (tmp_path / "writer.json").write_bytes(writer.pack(gone))
    killed = "killed, or the power was cut; before that it could not write: no room"
    assert daemon_of(tmp_path) == {**nobody, "failure": {"exit_code": None, "reason": killed, "at": None}}


@pytest.mark.parametrize(
    "said",
    [
        b"", b"\0" * 4096, b"[]", b'{"pid": 1}',
        b'{"pid": 1, "verb": "run", "since": "today", "trouble": null, "trouble_since": null, "failure": null}',
        b'{"pid": 1, "verb": "run", "since": "2026-01-01T00:00:00.000Z", "trouble": null, "trouble_since": null, '
        b'"failure": {"exit_code": 74, "reason": "x", "at": "2026-01-01"}}',
    ],
    ids=["empty", "zeros", "list", "too little", "no time", "no zone"],
)  # fmt: skip
def test_facts_that_nobody_can_read_say_nothing_of_who_is_gone(said, tmp_path):
    (tmp_path / "writer.json").write_bytes(said)
    assert daemon_of(tmp_path)["failure"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        *(["events", option, "-2h"] for option in ("--since", "-S", "--until", "-U")),
        ["search", "--since", "-2h", "--until", "-1h", "--", "-2h"],
        ["search", "--", "--since", "-2h"],
    ],
    ids=" ".join,
)
def test_a_relative_time_may_follow_its_option(arguments, tmp_path, capsys):
    assert main([arguments[0], "--data-dir", str(tmp_path), *arguments[1:]]) == 1
    assert "no database" in capsys.readouterr().err


def test_a_word_behind_two_dashes_is_left_as_it_is(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Reader, "search", lambda reader, words, *_, **__: asked.append(words) or [])
    stored.write(tmp_path / "events.db")
    for words in (["--", "-2h"], ["x", "--", "--since", "-2h"]):
        assert main(["search", "--data-dir", str(tmp_path), *words]) == 1
    assert asked == ["-2h", "x --since -2h"]

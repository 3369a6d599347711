"""What the reading commands print of every kind of text: filters, formats, terminals, damage."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from datetime import UTC, datetime
from io import StringIO

import pytest
import stored
from commands import SIGHTLOG, environment, event_ids, objects, on_a_terminal, run

from sightlog import Event, Observation, Reader
from sightlog.cli.render.objects import event_object, observation_object
from sightlog.cli.render.terminal import cells
from sightlog.protocol.fields import EXPORTED_OF_EVENT, EXPORTED_OF_OBSERVATION


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--person", "Anna"), "e0 e2"),
        (("--person", "Anna", "--camera", "door"), "e0"),
        (("--stranger",), "e1 e40"),
        (("--label", "dog"), "e0"),
        (("--label", "dog", "--min-confidence", "0.5"), ""),
        (("--label", "person", "--min-confidence", "0.9"), "e0"),
        (("--type", "ding"), "e0"),
        (("--door", "unlocked"), "e2"),
        (("--unlock", "refused"), "e3"),
        (("--unlock", "granted"), ""),
        (("--unsent", "-n", "2", "-r"), "e40 e4"),
        (("--since", "2026-03-01 12:00", "--stranger"), "e1 e40"),
        (("--person", "Anna", "--unsent", "--type", "motion", "-n", "1"), "e2"),
    ],
)
def test_filters_are_anded(home, arguments, expected):
    listed = run(home, "events", "-o", "json", *arguments)
    assert event_ids(listed) == expected.split()
    assert listed.returncode == (0 if expected else 1)
    if "--since" not in arguments and "-r" not in arguments:
        assert event_ids(run(home, "tail", "-o", "json", *arguments)) == expected.split()


def test_json_and_csv_lose_nothing(home):
    with Reader(home / "events.db") as reader:
        whole = [json.loads(json.dumps(event_object(one))) for one in reader.find_events()]
        notes = [json.loads(json.dumps(observation_object(one))) for one in reader.find_observations()]
    assert whole[0]["embedding"] == [1, 0, 0]
    assert objects(run(home, "events", "-o", "json")) == whole
    assert objects(run(home, "export")) == whole
    assert objects(run(home, "export", "--observations")) == notes
    for arguments, fields, expected in (
        (("events", "-o", "csv", "--raw"), (*EXPORTED_OF_EVENT, "detections"), whole),
        (("export", "-o", "csv", "--raw"), (*EXPORTED_OF_EVENT, "detections"), whole),
        (("export", "-o", "csv", "--raw", "--observations"), EXPORTED_OF_OBSERVATION, notes),
    ):
        # A locale that has no 門 is no reason to lose it.
        more = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
        done = subprocess.run([SIGHTLOG, *arguments], capture_output=True, env=environment(home, **more), check=True)
        rows = list(csv.DictReader(StringIO(done.stdout.decode(), newline=""), strict=True))
        assert tuple(rows[0]) == fields
        for row, one in zip(rows, expected, strict=True):
            assert {name: _text(value) for name, value in one.items()} == row


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


COMMANDS = (
    *(("events", "-o", form) for form in ("short", "json", "table", "csv", "cat")),
    ("tail", "-o", "table"), ("show", "e0"), ("show", "e4"), ("show", "o2"), ("search", "gpj"), ("search", "blue"),
    ("search", "fox"), ("similar", "--face", "e0"), ("stats",), ("stats", "--by", "label"), ("export", "-o", "csv"),
)  # fmt: skip


@pytest.mark.parametrize("columns", [1, 20, 80])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_nothing_that_was_stored_commands_a_terminal_or_leaves_its_line(home, arguments, columns):
    code, text = on_a_terminal(home, columns, *arguments, NO_COLOR="1")
    assert code == 0
    lines = text.replace("\r\n", "\n").splitlines()
    assert all(line.isprintable() for line in text.split("\r\n"))
    if not {"json", "csv", "cat"} & set(arguments):
        assert max(map(cells, lines)) <= columns


def test_a_terminal_has_colours(home):
    assert "\x1b[" in on_a_terminal(home, 80, "events").text


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_of_an_empty_store_nothing_is_said(empty, arguments):
    done = run(empty, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert bool(done.stderr) == (arguments[0] in ("show", "similar"))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_is_gone_leaves_no_traceback(home, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [SIGHTLOG, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, env=environment(home), check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_damaged_database_is_told(home, tmp_path):
    whole = (home / "events.db").read_bytes()
    # All but the first page, where the schema is.
    (tmp_path / "events.db").write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    for arguments in COMMANDS:
        done = run(tmp_path, *arguments)
        assert done.returncode == 74, arguments
        assert done.stderr.startswith("sightlog: ")
    target = tmp_path / "out.json"
    assert run(tmp_path, "export", "--to", target).returncode == 74
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"events.db"}, "no half of an export"


# -- show --------------------------------------------------------------------------------------------------------------


def test_show_has_the_observations_too(home):
    shown = run(home, "show", "e0").stdout.splitlines()
    assert shown[-3].split() == ["observations", "1"]
    assert shown[-2].split() == ["2026-03-01", "11:00:00", "vlm", "o1"]
    assert shown[-1].strip() == "the man wears a blue shirt"
    (whole,) = objects(run(home, "show", "e0", "-o", "json"))
    assert [one["observation_id"] for one in whole["observations"]] == ["o1"]


def test_show_of_an_observation(home):
    fields = dict(line.split(maxsplit=1) for line in run(home, "show", "o1").stdout.splitlines())
    assert fields.keys() == set(EXPORTED_OF_OBSERVATION)
    assert fields["content"] == "the man wears a blue shirt"
    assert fields["embedding"].startswith("3 numbers")
    (whole,) = objects(run(home, "show", "o1", "-o", "json"))
    assert (whole["observation_id"], whole["embedding"]) == ("o1", [1, 1, 0])
    assert run(home, "show", "o1", "--site", "elsewhere").returncode == 1


# -- the ends of the calendar ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """The first and the last moment that can be stored."""
    data_dir = tmp_path_factory.mktemp("ends")
    moments = {"first": datetime.min.replace(tzinfo=UTC), "last": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)}
    events = [
        Event("door", event_id=name, recorded_at=moment, llm_description="dog", embedding=[1, 0])
        for name, moment in moments.items()
    ]
    texts = [
        Observation("dog", "vlm", name, [1, 1], observation_id=f"o-{name}", recorded_at=moment)
        for name, moment in moments.items()
    ]
    stored.write(data_dir / "events.db", events, texts)
    return data_dir


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize(
    "arguments",
    [
        *(("events", "--until", "0002-01-01", "-o", form) for form in ("short", "json", "table", "csv", "cat")),
        *(("events", "--since", "9999-12-30", "-o", form) for form in ("short", "json", "table", "csv", "cat")),
        ("tail",), ("show", "first"),
        ("show", "last"), ("show", "o-first"), ("show", "o-last"), ("search", "dog"), ("similar", "--face", "first"),
        ("stats",), ("export",), ("export", "--observations", "-o", "csv"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_first_and_the_last_year_are_shown_in_every_zone(ends, zone, arguments):
    done = run(ends, *arguments, TZ=zone)
    assert (done.returncode, done.stderr) == (0, "")
    assert on_a_terminal(ends, 40, *arguments, TZ=zone).code == 0


def test_where_local_time_has_no_such_day_it_is_utc(ends):
    both = ["0001-01-01 00:00:00", "9999-12-31 23:59:59"]
    spans = [("--until", "0002-01-01"), ("--since", "9999-12-30")]

    def shown_in(zone: str) -> list[str]:
        return [run(ends, "events", *span, "-o", "table", TZ=zone).stdout.splitlines()[1][:19] for span in spans]

    assert shown_in("UTC") == both
    assert shown_in("America/New_York") == [both[0], "9999-12-31 18:59:59"]
    assert shown_in("Pacific/Kiritimati")[1] == both[1]
    shown = run(ends, "show", "first", TZ="America/New_York").stdout
    assert "0001-01-01 00:00:00.000+00:00" in shown


def test_the_status_of_a_store_with_events_of_the_first_and_the_last_year(ends):
    for zone in ("America/New_York", "Pacific/Kiritimati"):
        done = run(ends, "status", TZ=zone)
        assert (done.returncode, done.stderr) == (3, "")
        assert "the newest" in done.stdout

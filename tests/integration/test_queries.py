"""The installed `sightlog` command on databases with every kind of text: finding, counting, exporting, completing."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
import stored
from conftest import wait_for

from sightlog import Detection, Event, Observation, Reader
from sightlog.cli.output import cells
from sightlog.cli.shapes import EVENT_FIELDS, OBSERVATION_FIELDS, event_object, observation_object

SIGHTLOG = str(Path(sys.executable).with_name("sightlog"))
BEGIN = datetime(2026, 3, 1, 10, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07\x1b[2J \u202egpj.exe 門門 é \r\n\t x"
LONG = "the quick brown fox " * 512


def event(number: int, camera: str = "door", **fields: object) -> Event:
    return Event(camera, event_id=f"e{number}", recorded_at=BEGIN + timedelta(hours=number), **fields)


EVENTS = [
    event(0, "door", event_type="ding", person_name="Anna", embedding=[1, 0, 0], embedding_model="face",
          detections=[Detection("person", 0.9), Detection("dog", 0.4)], llm_description="a man in a blue shirt rings"),
    event(1, "yard", llm_description="a blue bird", detections=[Detection("bird", 0.6)], alert_sent=True),
    event(2, "yard", person_name="Anna", embedding=[0.9, 0.1, 0], embedding_model="face", door_action="unlocked",
          thumbnail_path="events/2026-03-01/e2.jpg"),
    event(3, "door", person_name="Ben", embedding=[0, 1, 0], embedding_model="face", unlock_granted=False),
    event(4, "gate", llm_description=HOSTILE, person_name=HOSTILE, image_path=HOSTILE,
          detections=[Detection(HOSTILE, 1)]),
    event(40, "gate", llm_description=LONG, metadata={"frame": 7, "why": "wind"}),
]  # fmt: skip
OBSERVATIONS = [
    Observation("the man wears a blue shirt", "vlm", "e0", [1, 1, 0], "face", observation_id="o1", recorded_at=BEGIN),
    Observation(HOSTILE, "somebody", observation_id="o2", recorded_at=BEGIN + timedelta(days=2)),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data directory; nobody may write to it."""
    data_dir = tmp_path_factory.mktemp("home")
    stored.write(data_dir / "events.db", EVENTS, OBSERVATIONS)
    return data_dir


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("empty")
    stored.write(data_dir / "events.db")
    return data_dir


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "SIGHTLOG_DATA_DIR": str(home), "TZ": "Europe/Zurich", "PYTHONIOENCODING": "utf-8", **more}


def run(home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SIGHTLOG, *map(str, arguments)],
        capture_output=True, encoding="utf-8", timeout=60, env=environment(home, **more), check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


class Screen(NamedTuple):
    code: int
    text: str


def on_a_terminal(home: Path, columns: int, *arguments: object, errors_too: bool = False, **more: str) -> Screen:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [SIGHTLOG, *map(str, arguments)], stdout=subprocess.DEVNULL if errors_too else follower, stderr=follower,
        env=environment(home, TERM="xterm", **more),
    )  # fmt: skip
    os.close(follower)
    said = b""
    try:
        while select.select([leader], [], [], 60)[0] and (data := os.read(leader, 65_536)):
            said += data
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(leader)
    return Screen(process.wait(20), said.decode())


def objects(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def ids(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [one["event_id"] for one in objects(done)]


# -- filters and formats ---------------------------------------------------------------------------------------------


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
        (("--unsent", "-n", "2", "-r"), "e40 e4"),
        (("--since", "2026-03-01 12:00", "--stranger"), "e1 e40"),
        (("--person", "Anna", "--unsent", "--type", "motion", "-n", "1"), "e2"),
    ],
)
def test_filters_are_anded(home, arguments, expected):
    listed = run(home, "events", "-o", "json", *arguments)
    assert ids(listed) == expected.split()
    assert listed.returncode == (0 if expected else 1)
    if "--since" not in arguments and "-r" not in arguments:
        assert ids(run(home, "tail", "-o", "json", *arguments)) == expected.split()


def test_json_and_csv_lose_nothing(home):
    with Reader(home / "events.db") as reader:
        whole = [json.loads(json.dumps(event_object(one))) for one in reader.find_events()]
        notes = [json.loads(json.dumps(observation_object(one))) for one in reader.find_observations()]
    assert whole[0]["embedding"] == [1, 0, 0]
    assert objects(run(home, "events", "-o", "json")) == whole
    assert objects(run(home, "export")) == whole
    assert objects(run(home, "export", "--observations")) == notes
    for arguments, fields, expected in (
        (("events", "-o", "csv"), (*EVENT_FIELDS, "detections"), whole),
        (("export", "-o", "csv"), (*EVENT_FIELDS, "detections"), whole),
        (("export", "-o", "csv", "--observations"), OBSERVATION_FIELDS, notes),
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


@pytest.mark.parametrize("arguments", [("events",), ("show", "e0"), ("export",)], ids=" ".join)
def test_a_closed_standard_output_is_no_traceback(home, arguments):
    done = subprocess.run(
        ["bash", "-c", '"$0" "$@" >&-', SIGHTLOG, *arguments], capture_output=True, env=environment(home), check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


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


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_has_the_observations_too(home):
    shown = run(home, "show", "e0").stdout.splitlines()
    assert shown[-3].split() == ["observations", "1"]
    assert shown[-2].split() == ["2026-03-01", "11:00:00", "vlm", "o1"]
    assert shown[-1].strip() == "the man wears a blue shirt"
    (whole,) = objects(run(home, "show", "e0", "-o", "json"))
    assert [one["observation_id"] for one in whole["observations"]] == ["o1"]


def test_show_of_an_observation(home):
    fields = dict(line.split(maxsplit=1) for line in run(home, "show", "o1").stdout.splitlines())
    assert fields.keys() == set(OBSERVATION_FIELDS)
    assert fields["content"] == "the man wears a blue shirt"
    assert fields["embedding"].startswith("3 numbers")
    (whole,) = objects(run(home, "show", "o1", "-o", "json"))
    assert (whole["observation_id"], whole["embedding"]) == ("o1", [1, 1, 0])
    assert run(home, "show", "o1", "--site", "elsewhere").returncode == 1


# -- search and similar ----------------------------------------------------------------------------------------------


def test_search_finds_events_and_observations(home):
    done = run(home, "search", "blue", "shirt")
    assert done.returncode == 0
    assert "a man in a [blue] [shirt] rings" in done.stdout
    assert "the man wears a [blue] [shirt]" in done.stdout
    heads = [line.split() for line in done.stdout.splitlines() if not line.startswith("    ")]
    assert sorted(heads) == [
        ["2026-03-01", "11:00:00", "door", "ding", "e0"],
        ["2026-03-01", "11:00:00", "door", "observation", "of", "vlm", "o1"],
    ]
    found = objects(run(home, "search", "blue", "shirt", "-o", "json"))
    assert {hit["event"]["event_id"] for hit in found} == {"e0"}
    assert [bool(hit["observation"]) for hit in found].count(True) == 1
    assert [hit["score"] for hit in found] == sorted(hit["score"] for hit in found)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("blue",), 3),
        (("blue", "-n", "1"), 1),
        (("blue", "-n", "0"), 0),
        (("blue", "-n", "all"), 3),
        (("blue", "--camera", "yard"), 1),
        (("blue", "--camera", "door"), 2),
        (("blue", "--since", "2026-03-01 11:30"), 1),
        (("blue", "--until", "2026-03-01 11:30"), 2),
        (("blue", "--site", "elsewhere"), 0),
        (("green",), 0),
        (('"shirt blue"',), 0),
        (('"blue shirt"',), 2),
        (("bl*",), 3),
        (("AND", "NEAR(", '"', "*"), 0),
    ],
)
def test_search_is_narrowed(home, arguments, count):
    done = run(home, "search", *arguments, "-o", "json")
    assert len(done.stdout.splitlines()) == count
    assert (done.returncode, done.stderr) == (0 if count else 1, "")


def test_hit_words_are_bold_on_a_terminal(home):
    assert "\x1b[1mblue\x1b[0m" in on_a_terminal(home, 80, "search", "blue").text
    assert "[blue]" in on_a_terminal(home, 80, "search", "blue", NO_COLOR="1").text
    # For programs they are the same everywhere.
    assert "[blue]" in on_a_terminal(home, 80, "search", "blue", "-o", "json").text


@pytest.mark.parametrize("face", ["e0", "events/2026-03-01/e0.jpg", "/data/events/2026-03-01/e0.jpg", "e0.jpg"])
def test_similar_faces_are_the_nearest_first_without_the_event_itself(home, face):
    found = objects(run(home, "similar", "--face", face, "-o", "json"))
    assert [(hit["observation"] or {}).get("observation_id") or hit["event"]["event_id"] for hit in found] == [
        "e2",
        "o1",
        "e3",
    ]
    assert [hit["distance"] for hit in found] == pytest.approx([0.0061, 0.2929, 1.0], abs=1e-4)
    lines = run(home, "similar", "--face", face, "-n", "2").stdout.splitlines()
    assert lines[0].split() == ["cosine", "0.0061", "2026-03-01", "13:00:00", "yard", "motion", "e2"]
    assert lines[1].strip() == "yard motion: Anna, unlocked"
    assert lines[2].split()[:2] == ["cosine", "0.2929"]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("face", "said"),
    [("e1", "e1 has no embedding"), ("e99", "no event e99"), ("events/2026-03-01/e98.jpg", "no event")],
)
def test_similar_to_nothing_says_what_to_do(home, face, said):
    done = run(home, "similar", "--face", face)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "`sightlog events" in done.stderr


def test_of_many_that_are_the_same_no_more_are_shown_than_asked_for(tmp_path):
    stored.write(tmp_path / "events.db", [event(number, embedding=[1, 2]) for number in range(4)])
    assert len(objects(run(tmp_path, "similar", "--face", "e3", "-n", "1", "-o", "json"))) == 1
    assert len(objects(run(tmp_path, "similar", "--face", "e3", "-n", "all", "-o", "json"))) == 3


# -- stats -----------------------------------------------------------------------------------------------------------


def test_stats_count_days_cameras_and_persons(home):
    assert run(home, "stats").stdout.split("\n\n") == [
        "by day\n2026-03-01  5\n2026-03-03  1",
        "by camera\ndoor  2\ngate  2\nyard  2",
        "by person\n" + "\n".join(run(home, "stats", "--by", "person").stdout.splitlines()) + "\n",
    ]
    persons = {one["person"]: one["events"] for one in objects(run(home, "stats", "--by", "person", "-o", "json"))}
    assert persons == {"Anna": 2, None: 2, "Ben": 1, HOSTILE: 1}
    labels = {one["label"]: one["events"] for one in objects(run(home, "stats", "--by", "label", "-o", "json"))}
    assert labels["dog"] == 1
    days = run(home, "stats", "--by", "day", "--since", "2026-03-02").stdout
    assert days == "2026-03-03  1\n"
    assert run(home, "stats", "--since", "-2h").returncode == 1


def test_bars_where_they_can_be_shown(home):
    assert "█" in on_a_terminal(home, 80, "stats").text
    assert "█" not in run(home, "stats").stdout
    plain = on_a_terminal(home, 80, "stats", "--by", "camera", PYTHONIOENCODING="ascii", NO_COLOR="1").text
    assert plain == run(home, "stats", "--by", "camera").stdout.replace("\n", "\r\n")


# -- export ----------------------------------------------------------------------------------------------------------


def test_an_export_is_complete_or_not_there(home, tmp_path):
    target = tmp_path / "out.json"
    assert run(home, "export", "--person", "nobody", "--to", target).returncode == 1
    assert list(tmp_path.iterdir()) == []
    done = run(home, "export", "--to", target, "--person", "Anna")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [json.loads(line)["event_id"] for line in target.read_text().splitlines()] == ["e0", "e2"]

    again = run(home, "export", "--to", target)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert len(target.read_text().splitlines()) == 2
    assert run(home, "export", "--to", target, "--force", "--person", "nobody").returncode == 1
    assert len(target.read_text().splitlines()) == 2, "nothing replaces nothing"
    assert run(home, "export", "--to", target, "--force").returncode == 0
    assert len(target.read_text().splitlines()) == len(EVENTS)
    assert list(tmp_path.iterdir()) == [target]


def test_an_export_goes_nowhere_by_mistake(home, tmp_path):
    before = (home / "events.db").read_bytes()
    done = run(home, "export", "--to", home / "events.db", "--force")
    assert done.returncode == 2
    assert "the database itself" in done.stderr
    assert (home / "events.db").read_bytes() == before
    assert run(home, "export", "--to", tmp_path).returncode == 2
    absent = run(home, "export", "--to", tmp_path / "no" / "out.json")
    assert absent.returncode == 2
    assert "cannot make" in absent.stderr


def test_a_link_is_followed(home, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "out.json")
    assert run(home, "export", "--to", tmp_path / "link.json").returncode == 0
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "there" / "out.json").read_text().count("\n") == len(EVENTS)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More than an export writes in a moment."""
    data_dir = tmp_path_factory.mktemp("large")
    stored.write(data_dir / "events.db", [event(number, llm_description="x" * 200) for number in range(20_000)])
    return data_dir


def test_ctrl_c_leaves_no_half_of_an_export(large, tmp_path):
    process = subprocess.Popen([SIGHTLOG, "export", "--to", tmp_path / "out.json"], env=environment(large))
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.iterdir()), "it writes")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_meets_damage_is_not_there(large, tmp_path):
    whole = (large / "events.db").read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    damaged = whole[:middle] + b"\xa5" * 4096 * 64 + whole[middle + 4096 * 64 :]
    (tmp_path / "events.db").write_bytes(damaged)
    (tmp_path / "out").mkdir()
    done = run(tmp_path, "export", "--to", tmp_path / "out" / "out.json")
    assert done.returncode == 74
    assert "malformed" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("columns", [20, 80])
def test_progress_is_told_on_a_terminal_and_only_there(large, tmp_path, columns):
    code, text = on_a_terminal(large, columns, "export", "--to", tmp_path / "out.json", errors_too=True)
    assert code == 0
    *_, last = text.removesuffix("\r\n").split("\r")
    assert last.startswith("20,000 of 20,000" if columns == 80 else "20,000 of 20,000 (…")
    assert all(cells(line) < columns for line in text.removesuffix("\r\n").split("\r"))
    code, text = on_a_terminal(large, 80, "export", "--person", "nobody", "--to", tmp_path / "n.json", errors_too=True)
    assert code == 1
    assert "%" not in text, "of how many is not known"
    assert run(large, "export", "--until", "2026-03-01 12:00").stderr == ""


# -- completion ------------------------------------------------------------------------------------------------------

_COMPLETE = """
set -e
complete_line() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=()
    $(complete -p sightlog | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    echo "${{COMPREPLY[*]}}"
}}
source {script}
complete_line sightlog sea
complete_line sightlog events --str
complete_line sightlog events -o ''
complete_line sightlog export --to {directory}/
"""


def test_bash_completes_commands_options_formats_and_files(tmp_path):
    script = run(tmp_path, "completion", "bash")
    assert script.returncode == 0, script.stderr
    (tmp_path / "script").write_text(script.stdout)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "november.csv").touch()
    done = subprocess.run(
        ["bash", "--norc", "-c", _COMPLETE.format(script=tmp_path / "script", directory=tmp_path / "files")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "search", "--stranger", "short json table csv cat", f"{tmp_path}/files/november.csv",
    ]  # fmt: skip


def test_zsh_gets_a_script_too(tmp_path):
    done = run(tmp_path, "completion", "zsh")
    assert done.returncode == 0
    assert done.stdout.startswith("#compdef sightlog")
    assert "--min-confidence" in done.stdout


def test_without_shtab_it_says_what_to_install(tmp_path):
    script = (
        "import sys; sys.modules['shtab'] = None; from sightlog.cli import main; sys.exit(main(['completion', 'bash']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "sightlog[completion]"' in done.stderr

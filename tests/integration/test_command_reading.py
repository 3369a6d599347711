"""`sightlog events`, `tail` and `show` beside a daemon, and what they say of a store that cannot be read."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from commands import SIGHTLOG, environment, ids, on_a_terminal, run
from conftest import AS_NOBODY, open_to_all

from sightlog import Event, Reader
from sightlog.cli import main
from sightlog.cli.render.terminal import cells


def test_events_are_the_last_twenty_in_order(filled):
    done = run(filled, "events")
    assert done.returncode == 0
    assert ids(done.stdout) == [f"e{n:02}" for n in range(10, 30)]
    assert done.stdout.startswith("2026-03-01 11:10:00 cam0"), "local time"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-n", "3"), [27, 28, 29]),
        (("-n", "3", "-r"), [29, 28, 27]),
        (("-n", "0"), []),
        (("-n", "all"), list(range(30))),
        (("-n", "2", "--camera", "cam0"), [26, 28]),
        (("--since", "2026-03-01"), list(range(30))),
        (("--since", "2026-03-01 11:05", "--until", "2026-03-01T10:08:00Z"), [5, 6, 7]),
        (("--since", "2026-03-01 11:05", "--until", "2026-03-01 11:08", "-r"), [7, 6, 5]),
        (("--until", "2026-03-01 11:02"), [0, 1]),
        (("--since", "2026-03-01 11:05", "-n", "1"), [29]),
        (("--site", "elsewhere"), []),
        (("--camera", "cam7"), []),
        (("--since", "-2h"), []),
    ],
)
def test_events_are_chosen_by_number_time_camera_and_site(filled, arguments, expected):
    done = run(filled, "events", *arguments)
    assert ids(done.stdout) == [f"e{n:02}" for n in expected]
    assert done.returncode == (0 if expected else 1)


def test_more_events_than_a_page_come_once_each_in_order(daemon):
    with daemon.publisher() as publisher:
        moment = Event("x").recorded_at
        # Many at one moment: pages have to end between events of the same time.
        publisher.insert_events(Event("cam", event_id=f"e{n:04}", recorded_at=moment) for n in range(1_234))
    everything = [f"e{n:04}" for n in range(1_234)]
    assert ids(run(daemon, "events", "-n", "all").stdout) == everything
    assert ids(run(daemon, "events", "-n", "all", "-r").stdout) == everything[::-1]
    assert ids(run(daemon, "events", "-n", "1001").stdout) == everything[-1001:]
    assert ids(run(daemon, "events", "--since", moment.isoformat(), "-n", "all").stdout) == everything
    assert run(daemon, "events", "--until", moment.isoformat()).returncode == 1


def test_json_lines_are_the_whole_event(daemon):
    said = run(
        daemon, "publish", "--camera", "door", "--detection", "person:0.95:1,2,3,4", "--at", "2026-03-01 11:00",
        "--event-id", "e1",
    )  # fmt: skip
    assert said.stdout == "e1 stored\n"
    (line,) = run(daemon, "events", "-o", "json").stdout.splitlines()
    event = json.loads(line)
    assert event["recorded_at"] == "2026-03-01T10:00:00.000Z"
    assert event["detections"] == [{"label": "person", "confidence": 0.95, "bbox": [1, 2, 3, 4]}]
    assert json.loads(run(daemon, "show", "e1", "-o", "json").stdout) == {**event, "observations": []}
    with sqlite3.connect(daemon.database) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(events)")}
    connection.close()
    embedding = {"embedding", "embedding_model", "embedding_version"}
    assert set(event) == columns | embedding | {"detections"}


@pytest.fixture
def tail(filled):
    process = subprocess.Popen(
        [SIGHTLOG, "tail", "-f", "-n", "2", "--camera", "cam1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(filled),
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def test_tail_follows_what_is_committed_until_ctrl_c(filled, tail):
    assert ids(tail.stdout.readline() + tail.stdout.readline()) == ["e27", "e29"]
    run(filled, "publish", "--camera", "cam0", "--event-id", "not-mine")
    # Its own clock says long ago: what counts is that it comes now.
    run(filled, "publish", "--camera", "cam1", "--event-id", "late", "--at", "2020-01-01")
    assert ids(tail.stdout.readline()) == ["late"]
    filled.kill()
    filled.start()
    run(filled, "publish", "--camera", "cam1", "--event-id", "after-restart")
    assert ids(tail.stdout.readline()) == ["after-restart"]
    tail.send_signal(signal.SIGINT)
    rest, errors = tail.communicate(timeout=20)
    assert (tail.returncode, rest, errors) == (130, "", "")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("table", ["time                 camera", "2026-03-01 11:29:00  cam1 ", "2020-01-01 00:00:00  gate "]),
        ("csv", ["id,event_id,site,", "30,e29,default,cam1,", "32,mine,default,gate,"]),
        ("cat", ["cam1 motion", "gate motion: dog 50%"]),
    ],
)
def test_tail_prints_each_event_at_once_in_any_format(filled, form, expected):
    command = [SIGHTLOG, "tail", "-f", "-n", "1", "-o", form, "--stranger"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(filled)) as process:
        try:
            *before, last = expected
            assert [process.stdout.readline()[: len(line)] for line in before] == before
            run(filled, "publish", "--camera", "gate", "--event-id", "not-mine", "--person", "Anna")
            run(
                filled,
                "publish",
                "--camera",
                "gate",
                "--event-id",
                "mine",
                "--at",
                "2020-01-01",
                "--detection",
                "dog:0.5",
            )
            assert process.stdout.readline()[: len(last)] == last
        finally:
            process.kill()


def test_an_event_committed_while_tail_starts_is_printed_once(filled, monkeypatch, capsys):
    # Follows what is in the newest ones already, as when they were committed behind the cursor.
    monkeypatch.setattr(Reader, "follow", lambda reader, after: reader.find_events())
    assert main(["tail", "-f", "-n", "20", "--data-dir", str(filled.data_dir)]) == 0
    assert sorted(ids(capsys.readouterr().out)) == [f"e{n:02}" for n in range(30)]


def test_tail_without_f_ends(filled):
    assert ids(run(filled, "tail", "-n", "1").stdout) == ["e29"]
    assert len(run(filled, "tail").stdout.splitlines()) == 10


def test_show_says_when_there_is_no_such_event(filled):
    done = run(filled, "show", "e99")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no event or observation e99" in done.stderr
    assert run(filled, "show", "e01", "--site", "elsewhere").returncode == 1


def test_head_ends_a_long_listing_without_a_traceback(filled):
    with filled.publisher() as publisher:
        publisher.insert_events(Event("cam", llm_description="x" * 500) for _ in range(500))
    script = f"{SIGHTLOG} events -n all | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment(filled), check=True
    )
    first, code = done.stdout.splitlines()
    assert first.split()[-1] == "e00"
    assert done.stderr == ""
    assert code == "141"


def test_on_a_terminal_lines_have_colours_and_its_width_and_no_controls_of_strangers(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", event_id="e1", llm_description="\x1b[2J门 " * 50))
    assert "\x1b[" in on_a_terminal(daemon, 60, "events").text
    for command in (("events",), ("show", "e1"), ("status",)):
        code, plain = on_a_terminal(daemon, 60, *command, NO_COLOR="1")
        assert code == 0
        assert "\x1b" not in plain
        assert max(map(cells, plain.splitlines())) <= 60
    assert r"\x1b[2J门" in on_a_terminal(daemon, 60, "show", "e1", NO_COLOR="1").text
    assert "\x1b" not in on_a_terminal(daemon, 60, "events", TERM="dumb").text


# -- a store that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("events",), ("tail", "-f"), ("show", "e1")])
def test_without_a_database_it_says_where_it_looked(idle_daemon, command):
    done = run(idle_daemon, *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(idle_daemon.database) in done.stderr
    assert done.stderr.startswith("sightlog: ")


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(b"no database at all" * 100, 74, "not a database"), (b"", 74, "is empty"), (None, 78, "not one of")],
)
def test_another_file_in_its_place_is_told(tmp_path, idle_daemon, content, code, said):
    file = tmp_path / "other.db"
    if content is None:
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE events (x)")
        connection.close()
    else:
        file.write_bytes(content)
    for command in (("events",), ("status",), ("tail", "-f")):
        done = run(idle_daemon, *command, "--database", file)
        assert done.returncode == code
        assert said in done.stderr
    assert content is None or file.read_bytes() == content


def test_an_empty_schema_table_is_no_traceback(filled, tmp_path):
    filled.stop()
    with sqlite3.connect(filled.database) as connection:
        connection.execute("DELETE FROM schema_version")
    connection.close()
    assert run(filled, "events").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")
@pytest.mark.parametrize("forbidden", ["directory", "file"])
@pytest.mark.parametrize("command", ["events", "status"])
def test_who_may_not_read_is_told_so(filled, tmp_path, forbidden, command):
    open_to_all(tmp_path)
    filled.data_dir.chmod(0o700 if forbidden == "directory" else 0o755)
    filled.database.chmod(0o600)
    script = f"import sightlog.cli; sightlog.cli.parser()\n{AS_NOBODY}\nsys.exit(sightlog.cli.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, command], capture_output=True, text=True, env=environment(filled), check=False
    )
    assert (done.returncode, done.stdout) == (77, ""), done.stderr
    assert done.stderr.startswith("sightlog: cannot ")


def test_following_ends_when_nobody_reads_any_more_and_not_with_the_next_event(filled):
    command = [SIGHTLOG, "tail", "-f", "-n", "1", "--data-dir", str(filled.data_dir)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(filled)
    )
    with process:
        assert "e29" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == ""


def test_a_person_is_told_that_nothing_was_found(filled):
    code, shown = on_a_terminal(filled, 80, "events", "--camera", "cam7")
    assert (code, "nothing found" in shown) == (1, True)
    assert run(filled, "events", "--camera", "cam7").stderr == ""

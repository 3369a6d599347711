"""The installed `sightlog` command against a real daemon."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import AS_NOBODY, Daemon, open_to_all, wait_for
from pictures import jpeg

from sightlog import Event, Reader
from sightlog.cli import main
from sightlog.cli.output import cells

SIGHTLOG = str(Path(sys.executable).with_name("sightlog"))
JPEG = jpeg()


def environment(daemon: Daemon, **more: str) -> dict[str, str]:
    # Buffered as for users: flushing is part of what is tested.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {
        **inherited,
        "SIGHTLOG_DATA_DIR": str(daemon.data_dir),
        "SIGHTLOG_ENDPOINT": daemon.endpoint,
        "SIGHTLOG_SPOOL_DIR": str(daemon.home / "spool"),
        "TZ": "Europe/Zurich",
        **more,
    }


def run(daemon: Daemon, *arguments: object, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SIGHTLOG, *map(str, arguments)],
        input=given, capture_output=True, text=True, timeout=60, env=environment(daemon, **more), check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def ids(output: str) -> list[str]:
    return [line.split()[-1] for line in output.splitlines()]


@pytest.fixture
def filled(daemon):
    """Thirty events, a minute apart, of two cameras: e00 is the oldest."""
    with daemon.publisher() as publisher:
        base = Event("x").recorded_at.replace(year=2026, month=3, day=1, hour=10, minute=0, second=0, microsecond=0)
        publisher.insert_events(
            Event(f"cam{n % 2}", event_id=f"e{n:02}", recorded_at=base.replace(minute=n)) for n in range(30)
        )
    return daemon


# -- reading ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "arguments", [("events",), ("tail", "-f"), ("show", "e01", "-o", "json"), ("status",), ("--help",)]
)
def test_a_reader_that_is_gone_leaves_no_traceback(filled, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [SIGHTLOG, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, env=environment(filled),
        check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_under_the_output_is_told(filled):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [SIGHTLOG, "events"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment(filled), check=False
        )
    assert done.returncode == 74
    assert done.stderr == "sightlog: cannot write the output: No space left on device\n"


def on_a_terminal(daemon: Daemon, columns: int, *arguments: str, **more: str) -> str:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [SIGHTLOG, *arguments], stdout=follower, env=environment(daemon, **{"TERM": "xterm", **more})
    )
    os.close(follower)
    said = b""
    try:
        while select.select([leader], [], [], 30)[0] and (data := os.read(leader, 65_536)):
            said += data
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(leader)
    assert process.wait(20) == 0
    return said.decode()


def test_on_a_terminal_lines_have_colours_and_its_width_and_no_controls_of_strangers(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", event_id="e1", llm_description="\x1b[2J门 " * 50))
    assert "\x1b[" in on_a_terminal(daemon, 60, "events")
    for command in (("events",), ("show", "e1"), ("status",)):
        plain = on_a_terminal(daemon, 60, *command, NO_COLOR="1")
        assert "\x1b" not in plain
        assert max(map(cells, plain.splitlines())) <= 60
    assert r"\x1b[2J门" in on_a_terminal(daemon, 60, "show", "e1", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(daemon, 60, "events", TERM="dumb")


# -- a store that cannot be read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("events",), ("tail", "-f"), ("show", "e1")])
def test_without_a_database_it_says_where_it_looked(idle_daemon, command):
    done = run(idle_daemon, *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(idle_daemon.database) in done.stderr
    assert done.stderr.startswith("sightlog: ")


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(b"no database at all" * 100, 74, "not a database"), (b"", 78, "not one of sightlog's"), (None, 78, "not one of")],
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


# -- publish ---------------------------------------------------------------------------------------------------------


def test_publish_carries_every_option(daemon, tmp_path):
    picture = tmp_path / "door.jpg"
    picture.write_bytes(JPEG)
    done = run(
        daemon, "publish", "--camera", "door", "--type", "ding", "--site", "house", "--event-id", "e1",
        "--at", "2026-03-01T10:00:00.125Z", "--detection", "person:0.95:10,20,100,200", "--detection", "dog:0.4",
        "--person", "Zoë", "--description", "waves", "--thumbnail", picture, "--producer", "hook",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "e1 stored\n", "")
    with daemon.reader("house") as reader:
        event = reader.get_event("e1")
        assert reader.producers()[0]["name"] == "hook"
    assert (event.camera_id, event.event_type, event.person_name, event.llm_description) == (
        "door", "ding", "Zoë", "waves",
    )  # fmt: skip
    assert event.recorded_at.isoformat() == "2026-03-01T10:00:00.125000+00:00"
    assert [(d.label, d.confidence, d.bbox) for d in event.detections] == [
        ("person", 0.95, (10, 20, 100, 200)),
        ("dog", 0.4, None),
    ]
    shown = run(daemon, "show", "e1", "--site", "house").stdout
    path = next(line.split()[1] for line in shown.splitlines() if line.startswith("thumbnail_path"))
    assert Path(path).read_bytes() == JPEG


def test_publish_again_is_a_duplicate_and_no_error(daemon):
    arguments = ("publish", "--camera", "door", "--event-id", "e1")
    assert run(daemon, *arguments).stdout == "e1 stored\n"
    again = run(daemon, *arguments)
    assert (again.returncode, again.stdout) == (0, "e1 duplicate\n")
    assert "already" in again.stderr


def test_what_show_prints_is_published_elsewhere(daemon):
    run(daemon, "publish", "--camera", "door", "--event-id", "e1", "--detection", "dog:0.5", "--person", "Anna")
    shown = run(daemon, "show", "e1", "-o", "json").stdout
    copied = run(daemon, "publish", "--json", "-", "--event-id", "e2", "--site", "backup", given=shown)
    assert copied.stdout == "e2 stored\n"
    assert ids(run(daemon, "events", "--site", "backup").stdout) == ["e2"]
    original, copy = daemon.reader().get_event("e1"), daemon.reader("backup").get_event("e2")
    assert (copy.recorded_at, copy.detections, copy.person_name) == (
        original.recorded_at, original.detections, "Anna",
    )  # fmt: skip


def test_a_record_that_breaks_a_limit_is_refused_before_it_is_spooled(daemon):
    done = run(daemon, "publish", "--camera", "../../etc", "--event-id", "e1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "camera_id" in done.stderr
    assert run(daemon, "events").returncode == 1


def test_without_a_daemon_an_event_waits_in_the_spool_for_the_next_publish(idle_daemon):
    done = run(idle_daemon, "publish", "--camera", "door", "--event-id", "e1", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (75, "e1 spooled\n")
    assert "do not publish it again" in done.stderr
    idle_daemon.start()
    assert run(idle_daemon, "publish", "--camera", "door", "--event-id", "e2").stdout == "e2 stored\n"
    assert sorted(ids(run(idle_daemon, "events").stdout)) == ["e1", "e2"]


def test_two_at_once_both_get_through(daemon):
    processes = [
        subprocess.Popen([SIGHTLOG, "publish", "--camera", "door", "--timeout", "60"], env=environment(daemon))
        for _ in range(4)
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(run(daemon, "events").stdout.splitlines()) == 4


def test_a_spool_in_use_for_too_long_is_told(daemon):
    with daemon.publisher("cli"):
        done = run(daemon, "publish", "--camera", "door", "--timeout", "0.1")
    assert (done.returncode, done.stdout) == (75, "")
    assert "was not published" in done.stderr


# -- status ----------------------------------------------------------------------------------------------------------


def test_status_before_during_and_after_the_daemons_life(idle_daemon):
    never = run(idle_daemon, "status")
    assert never.returncode == 3
    assert "sightlogd is not running" in never.stdout
    assert "makes it at its first start" in never.stdout
    assert json.loads(run(idle_daemon, "status", "-o", "json").stdout)["database"] is None

    daemon = idle_daemon.start(config="[metrics]\nmetrics_interval = 1\n")
    for event_id in ("e1", "e1", "e2"):
        run(daemon, "publish", "--camera", "door", "--event-id", event_id)
    with daemon.publisher("faces") as publisher:
        publisher.add_person("Anna").wait(20)
        assert publisher.add_person("Anna").wait(20) == "rejected"
        publisher.amend("not-yet", alert_sent=True).wait(20)

    def accounts():
        producers = json.loads(run(daemon, "status", "-o", "json").stdout)["producers"]
        return all(producer["account"] for producer in producers)

    wait_for(accounts, "a snapshot has what both told")
    running = run(daemon, "status")
    assert running.returncode == 0
    assert f"sightlogd is running (process {daemon.process.pid})" in running.stdout
    assert max(map(len, running.stdout.splitlines()[:6])) <= 80
    table = {line.split()[0]: line.split()[1:8] for line in running.stdout.splitlines() if line.split()[7:]}
    heading = ["published", "stored", "dupl.", "rejected", "spool", "lost", "off"]
    assert table["producer"] == heading
    assert table["cli"] == ["3", "2", "1", "0", "0", "0", "0"]
    assert table["faces"] == ["3", "2", "0", "1", "0", "0", "0"]
    assert "1 duplicate, 1 rejected" in running.stdout
    assert "faces  rejected: constraint: site default has a person named 'Anna' already" in running.stdout
    assert "1 wait for their event" in running.stdout

    daemon.kill()
    stopped = run(daemon, "status", "-o", "json")
    assert stopped.returncode == 3
    status = json.loads(stopped.stdout)
    assert status["daemon"] == {"running": False, "pid": None, "trouble": None}
    assert status["database"]["path"] == str(daemon.database)
    assert status["database"]["bytes"] == daemon.database.stat().st_size > 0
    assert status["database"]["wal_bytes"] == Path(f"{daemon.database}-wal").stat().st_size > 0
    assert status["database"]["schema_version"] == 3
    assert status["events"] == 2
    assert status["newest_event"]["event_id"] == "e2"
    assert status["dead_letters"]["counts"] == {"duplicate": 1, "rejected": 1}
    assert [letter["status"] for letter in status["dead_letters"]["latest"]] == ["rejected", "duplicate"]
    assert status["pending_amendments"] == 1
    assert ids(run(daemon, "events").stdout) == ["e1", "e2"]


def test_somebody_else_who_asks_is_not_taken_for_the_daemon(daemon):
    daemon.stop()
    with open(daemon.data_dir / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert run(daemon, "status").returncode == 3


def test_asking_for_the_status_never_keeps_the_daemon_from_starting(idle_daemon):
    idle_daemon.start()
    idle_daemon.stop()
    askers = [
        subprocess.Popen([SIGHTLOG, "status"], stdout=subprocess.DEVNULL, env=environment(idle_daemon))
        for _ in range(8)
    ]
    idle_daemon.start()
    assert all(process.wait(20) in (0, 3) for process in askers)


# -- start-up --------------------------------------------------------------------------------------------------------


def test_reading_imports_neither_zmq_nor_asyncio(filled):
    script = (
        "import sys; from sightlog.cli import main; code = main(['events']); "
        "sys.exit(code or str({'zmq', 'asyncio', 'logging', 'sightlog.publisher'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(filled), check=False
    )
    assert done.stderr.strip() == ""


def test_the_package_gives_every_name_it_promises():
    script = (
        "import sightlog, sys; assert 'zmq' not in sys.modules; "
        "missing = [name for name in sightlog.__all__ if name not in dir(sightlog)]; assert not missing, missing; "
        "from sightlog import *; Publisher, Reader, Receipt, BatchReceipt, InsertResult; "
        "assert not hasattr(sightlog, 'Publishr')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_follow_and_its_cursor_read_by_id(filled):
    """By the site's index they would read the whole site at every commit."""
    with Reader(filled.database) as reader:
        statements: list[str] = []
        reader._connection.set_trace_callback(statements.append)
        events = reader.follow(after=28)
        assert next(events).event_id == "e28"
        reader._connection.set_trace_callback(None)
        query = next(statement for statement in statements if "id > 28" in statement)
        plan = reader._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert any("INTEGER PRIMARY KEY" in row["detail"] for row in plan), [row["detail"] for row in plan]


@pytest.mark.parametrize("command", [(), ("run",), ("check-config",), ("purge",), ("rebuild",)])
def test_the_daemons_help_is_shown(command):
    done = subprocess.run(
        [Path(sys.executable).with_name("sightlogd"), *command, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: sightlogd")

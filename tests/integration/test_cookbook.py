"""Every snippet of clients/README.md about reading, run on the database of a real daemon."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, NamedTuple

import pytest
from conftest import Daemon, wait_for

from sightlog import Detection, Event, Observation, Publisher
from sightlog.adapters import Face

README = Path(__file__).parents[2] / "clients" / "README.md"
CHAPTERS = ("Reading", "Cookbook for readers")
QUERIES = 10
DINGS = 3


class Snippet(NamedTuple):
    language: str
    line: int
    code: str


def snippets() -> list[Snippet]:
    found: list[Snippet] = []
    chapter, language, code = "", None, []
    for number, line in enumerate(README.read_text(encoding="utf-8").splitlines(), 1):
        if language is not None and line == "```":
            if chapter in CHAPTERS:
                found.append(Snippet(language, number - len(code), "\n".join(code)))
            language, code = None, []
        elif language is not None:
            code.append(line)
        elif line.startswith("```"):
            language = line.removeprefix("```")
        elif line.startswith("## "):
            chapter = line.removeprefix("## ")
    return found


def of(language: str, *, bot: bool = False) -> list[Snippet]:
    return [
        snippet for snippet in snippets() if snippet.language == language and ("mark_alert_sent" in snippet.code) is bot
    ]


def by_line(snippet: Snippet) -> str:
    return f"line {snippet.line}"


class House(NamedTuple):
    """A daemon that has something for every snippet to find."""

    daemon: Daemon
    asked_about: str
    """An event with observations."""

    def run(self, *command: str, work: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command], cwd=work, env=self.environment(), capture_output=True, text=True, timeout=60, check=False
        )

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SIGHTLOG_DATA_DIR": str(self.daemon.data_dir),
            "SIGHTLOG_ENDPOINT": self.daemon.endpoint,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def at_home(self, code: str) -> str:
        """With the paths of this house instead of those of an installed one."""
        places = {"/var/lib/sightlog": self.daemon.data_dir, "/var": self.daemon.home}
        return re.sub("/var/lib/sightlog|/var", lambda place: str(places[place[0]]), code)


def fill(publisher: Publisher) -> str:
    """A week of events; returns the id of one that was looked at closely."""
    now = datetime.now(UTC)
    person, dog = Detection("person", 0.9, (10, 20, 110, 220)), Detection("dog", 0.85, (5, 5, 50, 50))
    events = [
        Event("front_door" if number % 2 else "yard", recorded_at=now - timedelta(hours=3 * number), detections=found)
        for number, found in enumerate([[person], [person, dog], []] * 16)
    ]
    publisher.insert_events([*events, Event("front_door", recorded_at=datetime(2026, 11, 20, 10, 15, tzinfo=UTC))])
    publisher.insert_events([Event("front_door", "ding") for _ in range(DINGS)])
    publisher.add_person("anna", "Anna B.")
    for place, event in enumerate(events[:4]):
        face = Face("anna", 0.3, "cosine", embedding=[1.0, place / 10, 0.0], embedding_model="buffalo_l")
        publisher.amend(event.event_id, **face.fields())
    seen = events[1].event_id
    publisher.amend(
        seen, unlock_granted=True, door_action="unlocked", llm_description="Anna in a blue jacket takes the parcel."
    )
    publisher.publish(Observation("A blue jacket, and a parcel.", "llava-1.6", seen))
    publisher.publish(Observation("A courier in a blue jacket.", "llava-1.6", seen, [0.0, 1.0], "clip-vit-b32"))
    assert publisher.flush(timeout=30)
    return seen


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    daemon = Daemon(tmp_path_factory.mktemp("house")).start()
    try:
        with daemon.publisher() as publisher:
            yield House(daemon, fill(publisher))
    finally:
        daemon.end()


@pytest.fixture
def connection(house: House) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{house.daemon.database}?mode=ro", uri=True)) as opened:
        yield opened


def test_no_snippet_is_left_out():
    assert {snippet.language for snippet in snippets()} == {"sql", "python", "sh", "mermaid"}
    assert len(of("sql")) == QUERIES
    assert len(of("python", bot=True)) == 1


@pytest.mark.parametrize("snippet", of("sql"), ids=by_line)
def test_a_query_finds_something_by_an_index(house, connection, snippet):
    names = {"event_id": house.asked_about} if ":event_id" in snippet.code else {}
    assert connection.execute(snippet.code, names).fetchall()
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {snippet.code}", names)]
    assert not [step for step in plan if step.startswith("SCAN") and not step.startswith("SCAN texts_index VIRTUAL")]
    assert not [step for step in plan if "ORDER BY" in step and "bm25" not in snippet.code]


@pytest.mark.parametrize("snippet", of("python"), ids=by_line)
def test_a_python_snippet_runs(house, tmp_path, snippet):
    done = house.run(sys.executable, "-W", "error", "-c", house.at_home(snippet.code), work=tmp_path)
    assert done.returncode == 0, done.stderr
    # What it prints in its loops is there only if there was something to go through.
    assert all(line.strip() for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) >= snippet.code.count("print(")


@pytest.mark.parametrize("snippet", of("sh"), ids=by_line)
def test_the_commands_run(house, tmp_path, snippet):
    done = house.run("bash", "-euxc", house.at_home(snippet.code), work=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "events.json").read_text()
    assert (tmp_path / "observations.csv").read_text()


def test_the_table_names_every_table_and_column(connection):
    text = README.read_text(encoding="utf-8").partition("### The schema\n")[2].partition("### Ten queries")[0]
    listed: dict[str, set[str]] = {}
    for table, columns in re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE):
        listed[table] = set(re.findall(r"`(\w+)`", columns))
    listed["events_with_objects"] |= listed["events"]
    listed["events_with_objects"].remove("events")
    own = set(re.findall(r"`(\w+)`", text.rpartition("\n|")[2].partition("\n\n")[2]))
    there = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
        if not name.startswith(("sqlite_", "texts_index_"))
    }
    assert listed.keys() | own == there
    for table, columns in listed.items():
        assert columns == {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}, table


DIES_BEFORE_THE_MARK = f"""
import os
from sightlog import Publisher
Publisher.mark_alert_sent = lambda *_: os.kill(os.getpid(), {int(signal.SIGKILL)})
"""


def test_the_bot_sends_every_ding_once_and_again_only_after_a_crash_in_between(house, tmp_path):
    code = house.at_home(of("python", bot=True)[0].code)
    reader = house.daemon.reader()
    cursor = house.daemon.home / "lib" / "alert-bot" / "cursor"
    cursor.parent.mkdir(parents=True)
    dings = [Event("front_door", "ding") for _ in range(DINGS)]
    expected = [ding.event_id for ding in dings]

    def start(code: str, sent: IO[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", code]
        return subprocess.Popen(
            command, stdout=sent, stderr=subprocess.PIPE, text=True, env=house.environment(), cwd=tmp_path
        )

    with open(tmp_path / "sent", "w+") as sent, house.daemon.publisher("bell") as bell:
        # Its first life ever, which ends at the first ding it sees.
        first = start(DIES_BEFORE_THE_MARK + code, sent)
        try:
            wait_for(lambda: first.poll() is not None or cursor.exists(), "the place where it begins is kept")
            assert first.poll() is None, first.stderr.read()
            bell.insert_event(dings[0])
            assert first.wait(30) == -signal.SIGKILL, first.stderr.read()
        finally:
            first.kill()
            first.communicate()
        assert not reader.get_event(expected[0]).alert_sent
        bell.insert_events(dings[1:])

        second = start(code, sent)
        try:
            wait_for(
                lambda: second.poll() is not None or all(reader.get_event(ding).alert_sent for ding in expected),
                "all dings are marked",
            )
            wait_for(lambda: second.poll() is not None or int(cursor.read_text()) == reader.last_id(), "it is through")
            assert second.poll() is None, second.stderr.read()
        finally:
            second.kill()
            second.communicate()
    assert [line.split()[2] for line in (tmp_path / "sent").read_text().splitlines()] == [expected[0], *expected]

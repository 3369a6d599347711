"""Each operation on the disk fails, once or from then on: no false ack, nothing damaged, and work resumes by itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import daylogs
import ledger
import made_up
import pytest
import stored
from faults import HALF, NONE, WHOLE
from lab import often

from sightlog import Event

EVENTS = 4
"""Of each producer."""
PRODUCER_IDS = [str(uuid.UUID(int=number)) for number in (1, 2)]
OLD = datetime.now(UTC) - timedelta(days=40)
SERVERS = 2
FULL, IO = "full", "io"


class Yard:
    """Processes that fork a life each time they are asked to."""

    def __init__(self) -> None:
        command = [sys.executable, Path(__file__).with_name("lives.py")]
        path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._all = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            for _ in range(SERVERS)
        ]
        for server in self._all:
            self._free.put(server)

    def ask(self, home: Path, work: str = "live", **request: Any) -> dict[str, Any]:
        server = self._free.get()
        try:
            request = {"work": work, "home": str(home), "roots": ["data"], "events": EVENTS, **request}
            print(json.dumps(request), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())
        finally:
            self._free.put(server)

    def close(self) -> None:
        for server in self._all:
            server.stdin.close()
            server.wait(30)
            server.stdout.close()


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    yard = Yard()
    yield yard
    yard.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: what an fsync costs is nothing to this."""
    if os.access("/dev/shm", os.W_OK):
        with tempfile.TemporaryDirectory(prefix="sightlog-faults-", dir="/dev/shm") as directory:
            yield Path(directory)
    else:
        yield tmp_path


@dataclass
class Scene:
    """What the store is like before, and what is done in a life."""

    prepare: Callable[[Yard, Path], None]
    request: dict[str, Any] = field(default_factory=dict)
    duplicates: int = 0
    purged: str | None = None
    migrates: bool = False


def nothing(_yard: Yard, home: Path) -> None:
    (home / "data").mkdir(parents=True)


def some_days(_yard: Yard, home: Path) -> None:
    """A database with an old day, whose lines the daemon has still to write."""
    nothing(_yard, home)
    events = [
        Event("yard", event_id=f"old-{n}", recorded_at=OLD + timedelta(seconds=n), llm_description="long ago")
        for n in range(3)
    ]
    stored.write(home / "data/events.db", events)


def whole_store(yard: Yard, home: Path) -> None:
    some_days(yard, home)
    assert (result := yard.ask(home, events=0))["code"] == 0, result


def killed(yard: Yard, home: Path) -> None:
    """A WAL that was not checkpointed, and logs that nobody marked; all of it acked."""
    some_days(yard, home)
    assert (result := yard.ask(home, die=True))["code"] == 9, result
    (home / "data/control.sock").unlink()
    # As after a power cut that took the last lines of the logs.
    for log in home.glob("data/events/*/events.*"):
        os.truncate(log, log.stat().st_size // 2)


def older_schema(_yard: Yard, home: Path) -> None:
    nothing(_yard, home)
    stored.write(home / "data/events.db", made_up.EVENTS)
    (home / "data/ballast").write_bytes(bytes(8 << 20))


SCENES = {
    "commit": Scene(whole_store),
    "record by record": Scene(whole_store, {"bad": True}, duplicates=EVENTS),
    "checkpoint": Scene(whole_store, {"checkpoint": 4}),
    "removal of a day": Scene(whole_store, {"purge": OLD.astimezone().date().isoformat()}, purged="old-"),
    "recovery": Scene(killed),
    "first start": Scene(nothing),
    "migration": Scene(older_schema, {"later": True}, migrates=True),
}


def judge(result: dict[str, Any], fault: dict[str, Any]) -> None:
    assert "crash" not in result, result["crash"]
    assert "died" not in result, result
    # SQLite calls it a lack of permission when a file cannot be opened.
    assert result["code"] in ((0, 74, 77) if not result["ready"] else (0, 74)), result
    assert not result["acked_after_failed_fsync"], "acked on a page cache that lost something"
    if result["code"] == 0:
        assert result["acked"], "it did not go on when the disk was well again"
    if fault["error"] == FULL and result["ready"]:
        assert result["code"] == 0, "a full disk is nothing to stop for"


def check(yard: Yard, home: Path, scene: Scene) -> None:
    """Everything that was published is there once and whole, in the database, the logs and the day folders."""
    database = home / "data/events.db"
    with closing(sqlite3.connect(database)) as connection:
        dead_letters = connection.execute("SELECT count(*) FROM dead_letters WHERE producer_id IN (?, ?)", PRODUCER_IDS)
        assert dead_letters.fetchone()[0] == scene.duplicates
        connection.execute("DELETE FROM dead_letters")
        connection.commit()
        pictures = dict(connection.execute("SELECT event_id, thumbnail_path FROM events WHERE site = 'default'"))
        if scene.migrates:
            made_up.check(connection)
        if scene.purged:
            assert not [event_id for event_id in pictures if event_id.startswith(scene.purged)]
            assert not list((home / "data/events/trash").iterdir())
    ledger.check(database, {name: home / f"{name}.ledger" for name in ("camera", "detector")}, delivered=True)
    assert all(ledger.acked(path) == ledger.published(path) for path in home.glob("*.ledger"))
    for path in home.glob("*.ledger"):
        for number, event_id in enumerate(ledger.published(path)):
            assert (pictures[event_id] is not None) == (number % 3 > 0), f"the picture of event {number}"
            assert number % 3 == 0 or (home / "data" / pictures[event_id]).read_bytes().endswith(b"\xff\xd9")
    assert not list((home / "data/events/incoming").glob("*"))
    assert daylogs.are_marked(database)
    daylogs.assert_the_view_names_the_lines(home / "data")
    assert (result := yard.ask(home, "rebuild", roots=[]))["code"] == 0, result
    made, original = daylogs.rows(home / "new.db"), daylogs.rows(database)
    for table in made:
        if not (scene.purged and table in ("cameras", "clock_days")):
            assert made[table] == original[table], table


def live_on(yard: Yard, home: Path, scene: Scene, fault: dict[str, Any], control: str | None) -> None:
    """From the fault to the end."""
    request = {**scene.request, **({"control": control} if control else {})}
    result = yard.ask(home, **request, fault=fault, killed=bool(control or fault["nth"] % 2))
    judge(result, fault)
    if result["code"] and fault["lasting"]:
        # Started again on the disk as it is.
        again = {**fault, "nth": 1}
        judge(yard.ask(home, **request, fault=again), again)
    result = yard.ask(home, **request)
    judge(result, {"error": IO})
    assert result["code"] == 0, "it did not start again when the disk was well"
    check(yard, home, scene)


def draw(choose: random.Random, operation: str) -> dict[str, Any]:
    """One way in which this operation fails."""
    done = choose.choice((NONE, HALF, WHOLE) if " write " in operation else (NONE, WHOLE))
    return {"lasting": choose.random() < 0.4, "done": done}


@dataclass
class Sweep:
    """`attempt` is made in copies of the `template` with a `fault` at each of the operations, or at `most` of them."""

    template: Path
    fault: dict[str, Any]
    recorded: list[str]
    attempt: Callable[[Path, dict[str, Any]], None]
    tried: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, choose: random.Random, most: int) -> None:
        numbers = sorted(choose.sample(range(1, len(self.recorded) + 1), min(most, len(self.recorded))))
        faults = [{**draw(choose, self.recorded[n - 1]), **self.fault, "nth": n} for n in numbers]
        with ThreadPoolExecutor(SERVERS) as pool:
            self.wrong += filter(None, pool.map(self._try, faults))
        self.tried += len(faults)

    def _try(self, fault: dict[str, Any]) -> str | None:
        home = self.template.with_name(f"{fault['error']}-{fault['nth']}")
        shutil.copytree(self.template, home)
        try:
            self.attempt(home, fault)
        except (AssertionError, sqlite3.Error) as wrong:
            log = home / "daemon.log"
            said = log.read_text()[-1_500:] if log.exists() else ""
            return f"{fault}, {self.recorded[fault['nth'] - 1]}: {wrong}\n{said}"
        finally:
            shutil.rmtree(home)
        return None

    def assert_nothing_went_wrong(self) -> None:
        assert not self.wrong, f"{len(self.wrong)} of {self.tried}:\n\n" + "\n\n".join(self.wrong[:8])


def record(yard: Yard, template: Path, **request: Any) -> list[str]:
    """What is done when nothing fails."""
    home = template.with_name(f"recorded-{request['fault']['error']}")
    shutil.copytree(template, home)
    result = yard.ask(home, **request)
    assert result["code"] == 0, result
    return result["operations"]


def sweep_of(yard: Yard, place: Path, name: str, fault: dict[str, Any], control: str | None = None) -> Sweep:
    scene, template = SCENES[name], place / "template"
    scene.prepare(yard, template)
    operations = record(yard, template, **scene.request, fault=fault)
    check(yard, place / f"recorded-{fault['error']}", scene)
    return Sweep(template, fault, operations, lambda home, fault: live_on(yard, home, scene, fault, control))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("error", [FULL, IO])
@pytest.mark.parametrize("name", SCENES)
def test_whatever_fails_nothing_is_acked_that_is_not_stored_and_work_goes_on(yard, place, attack, name, error):
    what = "the disk is full at" if error == FULL else "an I/O error at"
    attack.on("P5", f"{what} one operation, or from it on: {name}", "operations")
    sweep = sweep_of(yard, place, name, {"error": error})
    sweep.run(attack.random(), often(3, 40))
    attack.runs = sweep.tried
    attack.note = f"of {len(sweep.recorded)}"
    sweep.assert_nothing_went_wrong()


def test_a_commit_that_is_refused_and_took_effect_is_stored_once_and_logged(yard, place, attack):
    attack.on("P3, P5", "a COMMIT takes effect and is refused: its file may not be looked at", "commits")
    scene = SCENES["commit"]
    scene.prepare(yard, place / "template")
    for nth in range(1, often(5, 9)):
        home = place / str(nth)
        shutil.copytree(place / "template", home)
        result = yard.ask(home, forbidden=nth)
        judge(result, {"error": FULL})
        check(yard, home, scene)
        attack.runs += 1


@pytest.mark.parametrize("only", ["system list", "sqlite size events.db"])
def test_a_disk_that_cannot_be_read_from_some_moment_on_is_told_and_no_traceback(yard, place, attack, only):
    attack.on("P5", f"an I/O error at every operation behind one: {only}", "operations")
    sweep = sweep_of(yard, place, "commit", {"error": IO, "only": only, "lasting": True})
    del sweep.recorded[often(5, 100) :]
    sweep.run(attack.random(), len(sweep.recorded))
    attack.runs = sweep.tried
    sweep.assert_nothing_went_wrong()


@pytest.mark.parametrize(
    ("control", "error", "only"),
    [
        ("acks although writing failed", FULL, "sqlite write events.db-wal"),
        ("goes on after a failed fsync", IO, "sqlite sync events.db-wal"),
        ("remembers the position", IO, "sqlite sync events.db-wal"),
        ("forgets pictures that failed", FULL, ".jpg"),
        ("does not notice what the logs miss", FULL, "system write events."),
    ],
)
def test_a_protection_switched_off_is_seen(yard, place, attack, control, error, only):
    attack.without("P5", f"the daemon {control}", "operations")
    sweep = sweep_of(yard, place, "commit", {"error": error, "only": only}, control)
    del sweep.recorded[often(5, 20) :]
    sweep.run(attack.random(), len(sweep.recorded))
    attack.runs, attack.caught = sweep.tried, len(sweep.wrong)
    assert sweep.wrong


# -- backups ---------------------------------------------------------------------------------------------------------


def backed_up(yard: Yard, home: Path) -> None:
    """A store, a backup of it, and what came since."""
    whole_store(yard, home)
    assert yard.ask(home)["code"] == 0
    assert yard.ask(home, "backup")["code"] == 0
    shutil.copy(home / "data/events.db", home / "then.db")
    assert yard.ask(home, events=EVENTS + 2)["code"] == 0
    (home / "restored").mkdir()  # as an owner does


def restored(yard: Yard, home: Path, to: str) -> dict[str, Any]:
    result = yard.ask(home, "restore", roots=[], to=to)
    assert result["code"] == 0, result
    return daylogs.rows(home / to / "events.db")


def back_up(yard: Yard, home: Path, fault: dict[str, Any]) -> None:
    result = yard.ask(home, "backup", roots=["data", "backup"], fault=fault)
    assert "crash" not in result, result["crash"]
    assert result["code"] in (0, 28, 74, 77), result
    now = daylogs.rows(home / "data/events.db")
    # Until a new backup is complete the one before is as it was.
    assert restored(yard, home, "first") in ([now] if result["code"] == 0 else [now, daylogs.rows(home / "then.db")])
    again = yard.ask(home, "backup")
    assert again["code"] == 0, again
    assert restored(yard, home, "second") == now


def put_back(yard: Yard, home: Path, fault: dict[str, Any]) -> None:
    result = yard.ask(home, "restore", roots=["restored", "backup"], fault=fault)
    assert "crash" not in result, result["crash"]
    assert result["code"] in (0, 28, 74, 77), result
    then = daylogs.rows(home / "then.db")
    if result["code"] and not (home / "restored/events.db").exists():
        assert restored(yard, home, "restored") == then
    assert daylogs.rows(home / "restored/events.db") == then


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("work", "attempt", "error", "only"),
    [
        ("backup", back_up, FULL, ""),
        ("backup", back_up, IO, ""),
        ("backup", back_up, IO, "system rename"),  # in which the new one takes the place of the former
        ("restore", put_back, FULL, ""),
        ("restore", put_back, IO, ""),
    ],
)
def test_a_backup_or_restore_that_fails_leaves_what_was_there_and_succeeds_next_time(
    yard, place, attack, work, attempt, error, only
):
    what = "the disk is full at" if error == FULL else "an I/O error at"
    attack.on("P5, P8", f"{what} one {only or 'operation'}, or from it on: {work}", "operations")
    template, fault = place / "template", {"error": error, **({"only": only, "done": NONE} if only else {})}
    backed_up(yard, template)
    operations = record(yard, template, work=work, roots=["data", "backup", "restored"], fault=fault)
    sweep = Sweep(template, fault, operations, lambda home, fault: attempt(yard, home, fault))
    sweep.run(attack.random(), often(3, 40))
    attack.runs = sweep.tried
    attack.note = f"of {len(operations)}"
    sweep.assert_nothing_went_wrong()


# -- the spool -------------------------------------------------------------------------------------------------------


def spool_on(yard: Yard, home: Path, fault: dict[str, Any]) -> None:
    for request in ({"fault": fault, "die": bool(fault["nth"] % 2)}, {}, {"events": 0}):
        result = yard.ask(home, "spool", **{"roots": ["spool"], "events": 30, **request})
        assert "crash" not in result, result["crash"]
        assert result["as_told"], "what was accepted, or what was refused, is not as it was told"
        assert result["lost"] == 0
    assert not list((home / "spool").glob("*.damaged"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("error", [FULL, IO])
def test_a_spool_whose_disk_fails_has_what_it_accepted_and_nothing_else(yard, place, attack, error):
    what = "the disk is full at" if error == FULL else "an I/O error at"
    attack.on("P2", f"{what} one operation, or from it on: the spool", "operations")
    template = place / "template"
    nothing(yard, template)
    operations = record(yard, template, work="spool", roots=["spool"], events=30, fault={"error": error})
    sweep = Sweep(template, {"error": error}, operations, lambda home, fault: spool_on(yard, home, fault))
    sweep.run(attack.random(), often(10, 200))
    attack.runs = sweep.tried
    attack.note = f"of {len(operations)}"
    sweep.assert_nothing_went_wrong()

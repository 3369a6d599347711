"""What the daemon takes beside the throughput: processor, wake-ups and memory; and what it takes to start a client."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import bench
import results
from served import served

sys.path.insert(0, str(Path(__file__).parents[1]))

import generated

SENSORS = 3
RATE = 50
"""Records a second, of all sensors."""
SAMPLE_SECONDS = 0.25
LINES = 20
# What `sightlog events -n 20` reads: the events, and the detections of each.
QUERY = f"""
WITH newest AS (SELECT * FROM events WHERE site = 'home' ORDER BY recorded_at DESC, id DESC LIMIT {LINES})
SELECT newest.*, label, confidence, bbox_x1, bbox_y1, bbox_x2, bbox_y2 FROM newest
LEFT JOIN detections ON detections.event_id = newest.id ORDER BY newest.recorded_at, newest.id, position"""


def measure(book: results.Book) -> None:
    with bench.home() as home:
        resting(book, home)
    with bench.home() as home:
        working(book, home)
    with bench.home() as home:
        full(book, home)
    importing(book)
    with bench.home() as home:
        command(book, home)


class Running(Protocol):
    """A daemon."""

    path: Path
    endpoint: str


# -- the daemon ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sensors(daemon: Running, rate: str, *, is_killed: bool = False) -> Iterator[list[int]]:
    """Connected producers that work until the block ends; the list has then how many events of each were acked.

    `is_killed`: their daemon will be gone by then, and what they have is of no interest.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("steady.py")), daemon.endpoint,
             str(daemon.path / "spools"), f"sensor-{number}", rate],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(SENSORS)
    ]  # fmt: skip
    acked: list[int] = []
    try:
        for process in processes:
            _heard(process, "connected")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        yield acked
        for process in processes if not is_killed else ():
            assert process.stdin is not None
            process.stdin.close()
        acked += [int(_heard(process)) for process in processes if not is_killed]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _heard(process: subprocess.Popen[str], expected: str = "") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line or (expected and line != expected):
        raise RuntimeError(f"a producer said {line!r}")
    return line


def switches(pid: int) -> dict[str, int]:
    """How often each thread of a process and its children gave the processor up by itself: to wait, and be woken."""
    found = {}
    for each in bench.family(pid):
        for task in Path(f"/proc/{each}/task").iterdir():
            status = (task / "status").read_text()
            name = status.split("\n", 1)[0].removeprefix("Name:").strip()
            found[f"{name}/{task.name}"] = bench.number_after("voluntary_ctxt_switches", status)
    return found


def resting(book: results.Book, home: Path) -> None:
    """Idle, under a service manager: first alone, then with producers that are connected and say nothing."""
    seconds = 4.0 if book.quick else 20.0
    with served(home / "idle") as daemon:
        daemon.resolve()
        for who in ("0 producers", f"{SENSORS} idle producers"):
            name = f"wake-ups, {who}"
            with sensors(daemon, "0") if who[0] != "0" else contextlib.nullcontext():
                for _ in range(1 if book.quick else 2):
                    before, began = switches(daemon.pid), time.monotonic()
                    time.sleep(seconds)
                    after, took = switches(daemon.pid), time.monotonic() - began
                    woken = {key: (count - before.get(key, 0)) / took for key, count in after.items()}
                    book.value(name, "1/s", sum(woken.values()), target="<= 2")
                    book.value(f"memory, {who}", "MiB (PSS)", bench.memory(daemon.pid) / 2**20, target="<= 35")
                threads = sorted(((rate, key.partition("/")[0]) for key, rate in woken.items() if rate), reverse=True)
                book.note(name, "by thread: " + (", ".join(f"{key} {rate:.2f}" for rate, key in threads) or "none"))


def working(book: results.Book, home: Path) -> None:
    seconds = 5.0 if book.quick else 20.0
    name = f"processor, {RATE} records/s from {SENSORS} producers"
    with bench.daemon(home / "steady") as daemon:
        with sensors(daemon, str(RATE / SENSORS)) as acked:
            time.sleep(1.0)
            for _ in range(1 if book.quick else 3):
                before, began = daemon.spent(), time.monotonic()
                time.sleep(seconds)
                spent, took = daemon.spent().since(before), time.monotonic() - began
                book.value(name, "% of a core", 100 * spent.cpu_seconds / took, target="<= 1")
        bench.check(name, daemon.stored(), sum(acked))


def full(book: results.Book, home: Path) -> None:
    seconds = 4.0 if book.quick else 20.0
    name = f"memory, {SENSORS} producers as fast as they can"
    with bench.daemon(home / "full") as daemon:
        with sensors(daemon, "full") as acked:
            for _ in range(1 if book.quick else 3):
                most, ends = 0, time.monotonic() + seconds / 3
                while time.monotonic() < ends:
                    most = max(most, daemon.memory())
                    time.sleep(SAMPLE_SECONDS)
                book.value(name, "MiB (PSS)", most / 2**20, target="<= 64")
        bench.check(name, daemon.stored(), sum(acked))
        book.note(name, f"the most of each third; {sum(acked):,} events stored meanwhile")


# -- clients ---------------------------------------------------------------------------------------------------------


def wall_ms(command: Sequence[str | Path]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())
    return (time.perf_counter() - began) * 1000


def _environment() -> dict[str, str]:
    """Without what makes Python's start another one than a user's."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def importing(book: results.Book) -> None:
    bare = [sys.executable, "-c", "pass"]
    imports = {
        "import sightlog": [sys.executable, "-c", "import sightlog"],
        "import Reader": [sys.executable, "-c", "from sightlog import Reader"],
        "import Publisher": [sys.executable, "-c", "from sightlog import Publisher"],
    }
    for _ in range(3 if book.quick else 30):
        floor = wall_ms(bare)
        book.value("start of Python alone", "ms", floor)
        for name, whole in imports.items():
            book.value(
                f"{name}, above that",
                "ms",
                wall_ms(whole) - floor,
                target="<= 50" if name == "import sightlog" else None,
            )
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import sightlog"], check=True, capture_output=True, text=True,
        env=_environment(),
    ).stderr  # fmt: skip
    whole_us = re.search(r"\| *(\d+) \| sightlog$", told, re.MULTILINE)
    assert whole_us is not None, told
    book.value("import sightlog, by -X importtime", "ms", int(whole_us[1]) / 1000)


def command(book: results.Book, home: Path) -> None:
    """`sightlog events -n 20` beside SQLite's own shell with the same query, in turns, and what Python alone takes."""
    path = home / "events.db"
    name = f"sightlog events -n {LINES}, to sqlite3's shell"
    shell = shutil.which("sqlite3")
    if shell is None:
        book.missing(name, "ratio", "there is no sqlite3 here (Debian's package sqlite3)", target="<= 3")
        return
    shape = generated.Shape(events=20_000 if book.quick else 1_000_000, described=0.0, observed=0.0)
    generated.write(path, shape)
    ours = [
        Path(sys.executable).with_name("sightlog"),
        "events",
        "-n",
        str(LINES),
        "--database",
        path,
        "--site",
        "home",
    ]
    theirs = [shell, "-readonly", path, QUERY]
    printed = subprocess.run(ours, check=True, capture_output=True, text=True, env=_environment()).stdout
    bench.check(name, len(printed.splitlines()), LINES)
    answered = subprocess.run(theirs, check=True, capture_output=True, text=True).stdout
    bench.check("sqlite3's shell", len({line.partition("|")[0] for line in answered.splitlines()}), LINES)
    rows = f"{shape.events:,} events"
    for _ in range(3 if book.quick else 25):
        peer = wall_ms(theirs)
        mine = wall_ms(ours)
        floor = wall_ms([sys.executable, "-c", "pass"])
        book.value(name, "ratio", mine / peer, target="<= 3", note=rows)
        book.value("Python that does nothing (python -c pass), to sqlite3's shell", "ratio", floor / peer)
        book.value(f"sightlog events -n {LINES}", "ms", mine)
        book.value("sqlite3's shell, the same query", "ms", peer)
        book.value("python -c pass", "ms", floor)
        book.value("python -I -S -c pass", "ms", wall_ms([sys.executable, "-I", "-S", "-c", "pass"]))

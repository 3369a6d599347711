"""sightlogd verify reads a day in parts: it finds the same wherever they end, and its memory is that of a part."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import apsw
import daylogs
import generated
import pytest
from conftest import wait_for
from pictures import jpeg

from sightlog import Detection, Event, Observation
from sightlogd.__main__ import main
from sightlogd.daylogs.lines import DayLine, encode_lines
from sightlogd.daylogs.reconcile import line_of_observation, line_of_row
from sightlogd.recovery import audit
from sightlogd.store import log_marks, ranges

AT = datetime.now(UTC).replace(hour=12) - timedelta(days=2)
DAY = f"{AT:%Y-%m-%d}"
COUNT = 11
# What it takes by itself is 35 MB; a day's events all in memory were 2 kB each.
EVENTS, MEMORY_MAX = 80_000, 100_000_000
MEASURED = """
import sys
from sightlogd.__main__ import main
code = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.fixture
def stopped(daemon):
    """Eleven events, each with a picture, an amendment and an observation; their lines are in three blocks."""
    ids = [f"e{number:02}" for number in range(COUNT)]
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", event_id=key, recorded_at=AT, thumbnail=jpeg()) for key in ids])
        for key in ids:
            publisher.amend(key, person_name="Anna", detections=[Detection("hat", 0.5)])
        for key in ids:
            publisher.publish(Observation("a hat", "llm", key, observation_id=f"o{key}", recorded_at=AT))
        publisher.flush(20)
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 3 * COUNT, "all is logged")
    assert daemon.stop() == 0
    return daemon


def _damage(stopped, key: str, kind: str) -> str:
    """Returns what has to be said."""
    folder = stopped.data_dir / "events" / DAY
    log = folder / "events.json"
    lines = log.read_text().splitlines(keepends=True)
    at = {word: next(n for n, line in enumerate(lines) if f'"{word}"' in line and f'"{key}"' in line)
          for word in ("event", "amendment", "observation")}  # fmt: skip
    said = f"event {key}: no line of it in"
    if kind == "picture":
        (folder / f"{key}.jpg").unlink()
        said = f"{key}.jpg: event {key} has it, and the file is not there"
    elif kind == "stray":
        stray = folder / f"stray-{key}.jpg"
        stray.write_bytes(jpeg())
        os.utime(stray, (AT.timestamp(), AT.timestamp()))
        said = f"stray-{key}.jpg: neither a row nor a line knows it"
    elif kind in ("row", "observation_row"):
        table, column = ("events", "event_id") if kind == "row" else ("observations", "observation_id")
        value = key if kind == "row" else f"o{key}"
        with contextlib.closing(sqlite3.connect(stopped.database)) as connection, connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (value,))
        said = f"has {table[:-1]} {value}, and no row of it is there"
    else:
        if kind == "event":
            del lines[at["event"]]
        elif kind == "amendment":
            del lines[at["amendment"]]
            said = f"event {key}: not as it is in"
        elif kind == "observation":
            del lines[at["observation"]]
            said = f"observation o{key}: no line of it in"
        else:
            lines[at["event"]] = "x" * 5_000_000 + "\n"  # longer than what is read at once
            said = f"line {at['event'] + 1} cannot be read"
        log.write_text("".join(lines))
    return said


@pytest.mark.parametrize(
    "kind",
    ["picture", "stray", "row", "observation_row", "event", "amendment", "observation", "line"],
)
def test_each_kind_of_damage_is_found_wherever_the_parts_end(stopped, kind, monkeypatch, capsys):
    keys = ["e00", "e04", "e05", "e10"]
    said = [_damage(stopped, key, kind) for key in keys]
    found = {}
    for size in (1, 2, 5, 500):
        monkeypatch.setattr(audit, "PAGE", size)
        code = main(["verify", "--data-dir", str(stopped.data_dir)])
        assert code == (0 if kind == "stray" else 74)
        found[size] = sorted(capsys.readouterr().out.splitlines())
        for text in said:
            assert len([line for line in found[size] if text in line]) == 1, (size, text, found[size])
    assert found[1] == found[2] == found[5] == found[500]
    assert len(found[500]) <= 2 * len(keys) + 3


@pytest.mark.timeout(120)
def test_memory_is_that_of_a_part_whatever_a_day_has(tmp_path):
    generated.write(tmp_path / "events.db", generated.Shape(events=EVENTS, days=1))
    day = tmp_path / "events" / f"{generated.BEGIN:%Y-%m-%d}"
    day.mkdir(parents=True)
    with contextlib.closing(apsw.Connection(str(tmp_path / "events.db"))) as connection:
        last = connection.execute("SELECT max(seq) FROM sqlite_sequence").get
        with (day / "events.json").open("wb") as log:
            for start in range(0, last + 1, 1_000):
                rows = log_marks.events(connection, range(start, start + 1_000))
                log.write(encode_lines([line_of_row(row) for row in rows]))
            log.write(encode_lines([DayLine(*ranges.all_ranges(connection)[0])]))
            observations = log_marks.observations(connection, 0, last, last)
            log.write(encode_lines([line_of_observation(row) for row in observations]))
        connection.execute("UPDATE day_log_marks SET last_id = ? WHERE kind = 'event'", (last,))
    command = [sys.executable, "-c", MEASURED, "verify", "--data-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-2]) * 1024 < MEMORY_MAX

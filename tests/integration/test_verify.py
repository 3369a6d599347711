"""sightlogd verify: finds damage while the daemon runs or not, changes nothing, and says nothing of what is sound."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import small_file_system
from test_daylogs import publish_a_bit_of_everything

from sightlog import Event, Observation


def verify(daemon) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("sightlogd"), "verify", "--data-dir", daemon.data_dir]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def change(daemon, *statements: str) -> None:
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_sound_database_is_sound_while_the_daemon_runs_and_when_it_is_stopped(daemon):
    publish_a_bit_of_everything(daemon)
    while_it_runs = verify(daemon)
    assert (while_it_runs.returncode, while_it_runs.stderr) == (0, "")
    assert "no damage found" in while_it_runs.stdout
    daemon.kill()
    assert verify(daemon).returncode == 0


def test_an_event_that_search_would_not_find_is_damage(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", llm_description="a brown package"))
    change(daemon, "DELETE FROM texts_index_data WHERE id > 10")
    found = verify(daemon)
    assert found.returncode == 74
    assert "texts_index" in found.stdout or "index of texts" in found.stdout
    assert "rebuild --from-logs" in found.stdout


def test_a_text_that_is_not_what_its_entry_was_made_of_is_damage(daemon):
    with daemon.publisher() as publisher:
        publisher.publish(Observation("a brown package", "llm")).wait(10)
    change(daemon, "UPDATE observations SET content = 'a brown parcel'")
    found = verify(daemon)
    assert found.returncode == 74
    assert "'packag'" in found.stdout or "'parcel'" in found.stdout


def test_a_row_that_refers_to_nothing_is_damage(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    change(daemon, "INSERT INTO detections VALUES (77, 0, 'person', 0.5, NULL, NULL, NULL, NULL)")
    found = verify(daemon)
    assert (found.returncode, "detections" in found.stdout) == (74, True)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_page_that_was_overwritten_is_damage_and_no_traceback(daemon, share):
    publish_a_bit_of_everything(daemon)
    daemon.stop()
    size = daemon.database.stat().st_size
    with daemon.database.open("r+b") as file:
        file.seek(int(size * share) // 4096 * 4096)
        file.write(b"\xa5" * 4096 * 3)
    before = daemon.database.read_bytes()
    found = verify(daemon)
    assert found.returncode in (74, 78)
    assert "Traceback" not in found.stderr
    assert daemon.database.read_bytes() == before


def test_without_a_database_it_says_where_it_looked(tmp_path):
    command = [Path(sys.executable).with_name("sightlogd"), "verify", "--data-dir", tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 78
    assert str(tmp_path) in found.stderr


def test_no_room_for_looking_is_not_damage(daemon, tmp_path):
    """What it makes anew to compare with is too large for the temporary directory."""
    choose = random.Random(1)
    words = [f"word{number}" for number in range(8_000)]
    with daemon.publisher() as publisher:
        for _ in range(4):
            texts = [Observation(" ".join(choose.choices(words, k=4_000)), "llm") for _ in range(100)]
            publisher.publish_many(texts).wait(30)
    tiny = tmp_path / "tiny"
    with small_file_system(tiny, "200k"):
        command = [Path(sys.executable).with_name("sightlogd"), "verify", "--data-dir", daemon.data_dir]
        environment = {**os.environ, "SQLITE_TMPDIR": str(tiny)}
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (found.returncode, found.stdout) == (28, "")
    assert "SQLITE_TMPDIR" in found.stderr
    assert verify(daemon).returncode == 0

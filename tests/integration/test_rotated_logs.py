"""events.log rotated by the real logrotate: no entry is written twice, none is lost, whatever the rotation does."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from conftest import Daemon, wait_for

from sightlog import Event, Observation

LOGROTATE = shutil.which("logrotate") or "/usr/sbin/logrotate"
pytestmark = pytest.mark.skipif(not Path(LOGROTATE).exists(), reason="needs logrotate")
WAYS = {
    "create": "create 0644",
    "nocreate": "nocreate",
    "compress": "create 0644\n compress",
    "dateext": "create 0644\n dateext\n dateformat -%Y%m%d-%s",
    "copytruncate": "copytruncate",
    "copytruncate and compress": "copytruncate\n compress",
}


def rotate(daemon: Daemon, way: str) -> None:
    conf = daemon.home / "logrotate.conf"
    conf.write_text(f"{daemon.data_dir}/events/*/events.log {{\n rotate 9\n missingok\n {way}\n}}\n")
    conf.chmod(0o644)
    subprocess.run([LOGROTATE, "-f", "-s", daemon.home / "logrotate.state", conf], check=True, capture_output=True)


def entries(daemon: Daemon) -> Counter[str]:
    """Descriptions and observations, by how often they are in what is there of all events.log."""
    text = ""
    for file in [*daemon.data_dir.glob("events/*/events.log*"), *daemon.home.glob("old/*")]:
        text += gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    return Counter(word for word in text.split() if word.startswith("word-"))


def all_logged(daemon: Daemon) -> bool:
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    try:
        (found,) = connection.execute(
            "SELECT (SELECT last_id FROM day_log_marks WHERE kind = 'event') >= (SELECT max(id) FROM events)"
        ).fetchone()
        return bool(found)
    finally:
        connection.close()


def publish(daemon: Daemon, first: int, count: int) -> None:
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", llm_description=f"word-{n}") for n in range(first, first + count)])
        publisher.publish_many([Observation(f"word-o{first}", "me")]).wait(20)


def expected(count: int, firsts: tuple[int, ...]) -> Counter[str]:
    return Counter([f"word-{n}" for n in range(count)] + [f"word-o{first}" for first in firsts])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_rotated_log_is_not_written_again(daemon, way, end):
    publish(daemon, 0, 200)
    wait_for(lambda: sum(entries(daemon).values()) == 201, "all entries are there")
    rotate(daemon, WAYS[way])
    publish(daemon, 200, 10)
    wait_for(lambda: sum(entries(daemon).values()) >= 212, "the later ones too")
    daemon.kill() if end == "killed" else daemon.stop()
    daemon.start()
    wait_for(lambda: all_logged(daemon), "the logs are compared")
    publish(daemon, 210, 1)
    wait_for(lambda: entries(daemon)["word-210"] and entries(daemon)["word-o210"], "it goes on")
    assert entries(daemon) == expected(211, (0, 200, 210))


def test_a_log_that_was_moved_elsewhere_is_not_written_again(daemon):
    """`olddir`: nothing of it is beside the new one."""
    (daemon.home / "old").mkdir(mode=0o700)
    publish(daemon, 0, 50)
    wait_for(lambda: sum(entries(daemon).values()) == 51, "all entries are there")
    rotate(daemon, f"create 0644\n olddir {daemon.home}/old")
    publish(daemon, 50, 5)
    assert daemon.stop() == 0
    daemon.start()
    wait_for(lambda: all_logged(daemon), "the logs are compared")
    assert entries(daemon) == expected(55, (0, 50))


@pytest.mark.parametrize("stranger", ["link", "pipe", "directory", "garbage.gz", "bomb.gz"])
def test_what_only_has_such_a_name_hurts_nobody(daemon, stranger, tmp_path):
    publish(daemon, 0, 5)
    wait_for(lambda: sum(entries(daemon).values()) == 6, "all entries are there")
    daemon.kill()
    (log,) = daemon.data_dir.glob("events/*/events.log")
    odd = log.with_name(f"events.log.1{Path(stranger).suffix}")
    match stranger:
        case "link":
            odd.symlink_to("/dev/zero")
        case "pipe":
            subprocess.run(["mkfifo", odd], check=True)
        case "directory":
            odd.mkdir()
        case "garbage.gz":
            odd.write_bytes(b"\x1f\x8b\x08 no gzip")
        case "bomb.gz":
            with gzip.open(odd, "wb", 1) as file:
                for _ in range(200):
                    file.write(bytes(1 << 20))
    log.unlink()
    daemon.start()
    wait_for(lambda: log.exists() and log.read_text().count("word-") == 6, "its entries are written again")
    wait_for(lambda: all_logged(daemon), "the logs are compared")
    assert (odd.exists() or odd.is_symlink()) and daemon.process.poll() is None  # noqa: PT018

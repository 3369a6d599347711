"""Hostile pictures through a real daemon with its decoder: events stored, pictures made or dropped, all counted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings

import pytest
from conftest import wait_for
from hostile_pictures import Pictures, bomb
from lab import often
from PIL import Image
from test_hostile_socket import resident

from sightlog import Event
from sightlogd.thumbnails.reencode import MEMORY_BYTES_MAX

PICTURES = often(90, 1_000)
WAITING_MAX = 100
GROWTH_BYTES_MAX = 64 << 20


def counts(daemon) -> tuple[int, int, int]:
    lines = (daemon.data_dir / "metrics" / "metrics.json").read_bytes().split(b"\n")[:-1]
    last = json.loads(lines[-1])
    return last["thumbnails_stored"], last["thumbnails_reencoded"], last["thumbnails_dropped"]


def waiting(daemon) -> int:
    return len(os.listdir(daemon.data_dir / "events" / "incoming"))


@pytest.mark.timeout(180 + PICTURES // 5)
def test_hostile_pictures_cost_no_event_and_are_made_or_dropped_and_counted(idle_daemon, attack):
    attack.on("P4, P7", "truncated, lying, packed and double pictures to a daemon with its decoder", "pictures")
    daemon = idle_daemon
    daemon.start(config="[metrics]\nmetrics_interval = 1\n[storage]\nkeep_free_gb = 0.0\n")
    hostile = Pictures(attack.random())
    sent: list[str] = []
    before = resident(daemon.process.pid)
    with daemon.publisher() as publisher:
        while len(sent) < PICTURES:
            some = [Event("door", event_id=f"p{len(sent) + n}", thumbnail=hostile.next()) for n in range(30)]
            assert publisher.insert_events(some, timeout=60).stored == len(some)
            sent += [event.event_id for event in some]
            wait_for(lambda: waiting(daemon) < WAITING_MAX, "pictures are worked off", 120)
    wait_for(lambda: waiting(daemon) == 0, "no picture waits", 120)
    wait_for(lambda: sum(counts(daemon)) == len(sent), f"all are counted: {counts(daemon)} of {len(sent)}")
    stored, made, dropped = counts(daemon)
    grown = resident(daemon.process.pid, "VmHWM") - before
    assert grown < GROWTH_BYTES_MAX
    files = {path.stem: path for path in daemon.data_dir.glob("events/*/*.jpg")}
    assert len(files) == stored + made
    events = {event.event_id: event.thumbnail_path for event in daemon.reader().get_recent_events(limit=len(sent) + 1)}
    assert set(events) == set(sent)
    assert {event_id for event_id, path in events.items() if path} == set(files)
    for path in files.values():
        assert path.stat().st_size <= 131_072
        data = path.read_bytes()
        assert data[:2] == b"\xff\xd8"
        assert data[-2:] == b"\xff\xd9"
        assert max(opened_size(data)) <= 640
    assert daemon.stop() == 0
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert "no thumbnail for event" in log
    attack.runs = len(sent)
    attack.note = f"{stored} kept, {made} made, {dropped} dropped; memory grew by {grown >> 20} MB"
    assert min(stored, made, dropped) > 0


def opened_size(data: bytes) -> tuple[int, int]:
    """What its header says: pixels that a flipped bit spoilt are still a JPEG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its metadata
        with Image.open(io.BytesIO(data)) as image:
            return image.size


DECODE = """
import resource, sys
from PIL import Image
from sightlogd.thumbnails import reencode
if sys.argv[1] == "confined":
    reencode.confine(1 << 20)
else:
    Image.MAX_IMAGE_PIXELS = None
try:
    reencode.reencode(sys.stdin.buffer.read(), 640, 131_072)
except Exception as error:
    print(type(error).__name__, end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def decoded(how: str, data: bytes) -> tuple[str, int]:
    """The outcome, and the most memory it took."""
    done = subprocess.run([sys.executable, "-c", DECODE, how], input=data, capture_output=True, timeout=120, check=True)
    outcome, _, most = done.stdout.decode().rpartition(" ")
    return outcome, int(most)


@pytest.mark.timeout(180)
def test_a_decoder_without_limits_lets_a_bomb_through(attack):
    attack.without("P7", "the limits of the decoder", "bombs")
    data = bomb(18_000)
    assert len(data) < 200_000
    outcome, most = decoded("confined", data)
    assert outcome == "DecompressionBombError"
    assert most < MEMORY_BYTES_MAX
    outcome, most = decoded("free", data)
    attack.runs, attack.caught = 1, int(outcome == "" and most > MEMORY_BYTES_MAX)
    attack.note = f"{most >> 20} MB"
    assert attack.caught

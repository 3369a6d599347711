"""What a daemon and its commands hold in memory, whatever they are sent and find: below the unit's MemoryHigh."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import daylogs
import pytest
import zmq
from conftest import wait_for
from lab import often
from overload import resident

from sightlog import Event
from sightlog.protocol import messages
from sightlog.protocol.messages import Position, SpoolReport

MB = 1 << 20
UNIT = Path(__file__).parents[2] / "systemd/sightlogd.service"
MEMORY_HIGH = int(re.search(r"^MemoryHigh=(\d+)M$", UNIT.read_text(), re.MULTILINE)[1]) * MB
SECONDS = often(3, 20)
TAIL_BYTES = often(400, 1_000) * MB

FLOOD = """
import sys, time, zmq
endpoint, connections, frames, seconds = sys.argv[1], *map(int, sys.argv[2:])
context, message = zmq.Context(), [b"x" * (4 << 20)] * frames
dealers = [context.socket(zmq.DEALER) for _ in range(connections)]
for dealer in dealers:
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.SNDHWM, 1)
    dealer.connect(endpoint)
until = time.monotonic() + seconds
while time.monotonic() < until:
    for dealer in dealers:
        try:
            dealer.send_multipart(message, zmq.NOBLOCK)
        except zmq.Again:
            pass
        while dealer.poll(0):
            dealer.recv_multipart()
    time.sleep(0.001)
context.destroy(linger=0)
"""


@contextmanager
def peak_of(pid: int) -> Iterator[list[int]]:
    """Its item is the most that it was."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            most[0] = max(most[0], resident(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("connections", "frames"), [(8, 2), (8, 66), (40, 2)])
def test_malformed_messages_of_megabytes_do_not_fill_the_memory(daemon, attack, connections, frames):
    attack.on("P4, P7", f"{connections} connections, malformed messages of {frames} × 4 MiB", "seconds")
    attack.runs = SECONDS
    command = [sys.executable, "-c", FLOOD, daemon.endpoint, str(connections), str(frames), str(SECONDS)]
    with daemon.publisher("honest") as honest, peak_of(daemon.process.pid) as most:
        flood = subprocess.Popen(command)
        while flood.poll() is None:
            assert honest.insert_event(Event("door"), 60)
        # Whoever is told to be too much, is told so once: work goes on as before.
        assert honest.insert_event(Event("door"), 20)
    attack.note = f"{most[0] / MB:.0f} MB at most"
    assert most[0] < MEMORY_HIGH
    wait_for(lambda: resident(daemon.process.pid) < MEMORY_HIGH // 2, "it is given back")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


def test_what_was_dropped_is_told(daemon):
    command = [sys.executable, "-c", FLOOD, daemon.endpoint, "40", "4", "60"]
    with daemon.publisher("honest") as honest:
        flood = subprocess.Popen(command)
        try:
            wait_for(
                lambda: honest.insert_event(Event("door"), 60)
                and any("too much memory" in line["event"] for line in daemon.logged()),
                "the log says so", 60,
            )  # fmt: skip
        finally:
            flood.kill()
            flood.wait()
        published = honest.published
    assert daemon.stop() == 0
    text = (daemon.data_dir / "metrics/sightlog.prom").read_text()
    assert int(re.search(r"^sightlog_connections_dropped_total (\d+)$", text, re.MULTILINE)[1]) > 0
    assert daemon.reader().count_events() == published


def test_telemetry_of_many_identities_is_not_kept_whole(daemon, attack):
    """All they told was kept, of 4,096 of them: 16 names with 100 times each, and 50 kB in memory."""
    attack.on("P7", "telemetry of many identities, as much as a message may have", "identities")
    attack.runs = count = 4_500
    context = zmq.Context()
    times = {f"model-{number}": [number + 0.5] * 100 for number in range(16)}
    totals = {"frames_processed": 1}
    before = resident(daemon.process.pid)
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RCVTIMEO, 20_000)
    dealer.connect(daemon.endpoint)
    try:
        for number in range(count):
            dealer.send_multipart(messages.hello(f"p{number}", f"camera-{number}", 1, Position(1, 1)))
            dealer.recv_multipart()
            told = SpoolReport(Position(1, 0), Position(0, 0), 0, 0, 0, 0)
            dealer.send_multipart(messages.telemetry(told, totals, times))
        dealer.send_multipart(messages.ping(0, 0, flush=False))
        dealer.recv_multipart()
    finally:
        dealer.close()
        context.term()
    grown = resident(daemon.process.pid) - before
    attack.note = f"{grown / MB:.0f} MB more"
    assert grown < 48 * MB


@pytest.mark.timeout(120)
def test_a_message_of_more_bytes_than_any_may_have_is_malformed(daemon):
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RCVTIMEO, 20_000)
    dealer.connect(daemon.endpoint)
    try:
        dealer.send_multipart(messages.hello("p", "peer", 1, Position(1, 1)))
        dealer.recv_multipart()
        dealer.send_multipart(messages.records(Position(1, 1), [b"x"] * 5, [b"x" * (4 << 20)] * 5, flush=True))
        reply = messages.decode_reply(dealer.recv_multipart())
        assert isinstance(reply, messages.Refused)
        assert "more bytes than any may have" in reply.reason
    finally:
        dealer.close()
        context.term()


# -- what is found on the disk ---------------------------------------------------------------------------------------


def measured(*command: str | Path) -> tuple[subprocess.CompletedProcess[str], int]:
    """And the most memory it had."""
    code = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print('most', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=110, check=False
    )
    return done, int(re.search(r"^most (\d+)$", done.stdout, re.MULTILINE)[1]) * 1024


def sparse(log: Path, before: bytes, behind: bytes) -> None:
    """Zeros, which take no room on the disk."""
    with log.open("ab") as file:
        file.write(before)
        file.truncate(file.tell() + TAIL_BYTES)
    with log.open("ab") as file:
        file.write(behind)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("behind", [b"", b"\n", b"\n{}\n"], ids=["torn", "a line", "a line and one more"])
@pytest.mark.parametrize("before", [b"", b"x"], ids=["zeros", "text and zeros"])
def test_a_line_of_gigabytes_is_read_in_parts(daemon, tmp_path, attack, before, behind):
    attack.on("P7", "a line of a gigabyte in a day log: rebuild, verify, start", "programs")
    attack.runs = 3
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door", event_id="e1"))
    assert daemon.stop() == 0
    (log,) = daemon.data_dir.glob("events/*/events.json")
    sparse(log, before, behind)
    sightlogd, new = Path(sys.executable).with_name("sightlogd"), tmp_path / "new.db"
    rebuilt, most = measured(sightlogd, "rebuild", "--from-logs", "--data-dir", daemon.data_dir, "--output", new)
    assert most < 128 * MB
    assert rebuilt.returncode in (0, 74), rebuilt.stderr
    assert len(daylogs.rows(new)["events"]) == 1
    checked, most = measured(sightlogd, "verify", "--data-dir", daemon.data_dir)
    assert most < 128 * MB
    assert checked.returncode in (0, 74), checked.stderr
    daemon.start()
    high = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{daemon.process.pid}/status").read_text(), re.MULTILINE)
    assert int(high[1]) * 1024 < 128 * MB
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
    log.unlink()


def test_a_directory_in_place_of_the_only_log_is_no_traceback(daemon, tmp_path):
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
    assert daemon.stop() == 0
    (log,) = daemon.data_dir.glob("events/*/events.json")
    log.unlink()
    log.mkdir()
    done = daylogs.rebuild(daemon.data_dir, tmp_path / "new.db")
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert "no line of sightlog's" in done.stderr

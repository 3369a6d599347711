"""A sensor's words on their way to people: on a real daemon's log, dead letters, status, metrics, day logs and CSV."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from commands import SIGHTLOG, environment, run
from test_bad_input import EVENT, Peer

from sightlog import Event, Observation
from sightlog.protocol import messages
from sightlog.text import is_harmful

CODES = "\x1b[2J\x1b]0;owned\x07 \x7f \x9b31m \u202egpj.exe \u2066x\u2069 \u2028 \U000e0041"
SIGHTLOGD = str(Path(sys.executable).with_name("sightlogd"))


def test_what_strangers_send_reaches_nobody_as_it_is(idle_daemon):
    daemon = idle_daemon.start(env={"SIGHTLOG_LOG": "debug"})
    peer = Peer(daemon)
    try:
        assert isinstance(peer.hello(), messages.Welcome)
        ack = peer.send(msgpack.packb({**EVENT, CODES: 1}), msgpack.packb({**EVENT, "person_name": f"a{CODES}"}))
        assert len(ack.exceptions) == 2
        assert not any(is_harmful(reason) for _, _, reason in ack.exceptions)
        refused = peer.ask([msgpack.packb({"kind": CODES})])
        assert isinstance(refused, messages.Refused)
        assert not is_harmful(str(refused))
    finally:
        peer.close()
    with daemon.publisher() as publisher:
        assert publisher.insert_events([Event("door", event_id="e1", llm_description=f"=1 {CODES}")]).stored == 1
        assert publisher.publish_many([Observation(f"@x {CODES}", "me", "e1")]).wait(20).stored == 1
    dead_letters = daemon.reader().dead_letters()
    assert len(dead_letters) == 3
    assert not any(is_harmful(dead_letter["reason"]) for dead_letter in dead_letters)
    for arguments in (("status",), ("events", "-o", "csv"), ("export", "-o", "csv"), ("tail", "-o", "csv"),
                      ("export", "--observations", "-o", "csv"), ("events",), ("search", "owned")):  # fmt: skip
        said = run(daemon, *arguments).stdout
        assert said, arguments
        assert not is_harmful(said.replace("\n", "").replace("\r", "")), arguments
    raw = subprocess.run([SIGHTLOG, "export", "-o", "csv", "--raw"], capture_output=True, env=environment(daemon))
    assert f"=1 {CODES}".encode() in raw.stdout
    assert daemon.stop() == 0
    for file in (*daemon.data_dir.glob("events/*/events.*"), daemon.log):
        text = file.read_text(encoding="utf-8")
        assert "owned" in text or file == daemon.log
        assert not is_harmful(text.replace("\n", "")), file


@pytest.mark.timeout(120)
def test_no_program_opens_or_removes_what_a_sensor_calls_its_image(daemon, tmp_path):
    bait = tmp_path / "bait"
    os.mkfifo(bait)  # whoever opens it to read waits for ever
    (daemon.data_dir / "events" / "bait").mkdir(parents=True)
    above = os.path.relpath(bait, daemon.data_dir)
    words = [
        str(bait),
        above,
        f"events/{os.path.relpath(bait, daemon.data_dir / 'events')}",
        "/etc/passwd",
        "events.db",
    ]
    with daemon.publisher() as publisher:
        publisher.insert_events([Event("door", event_id=f"e{n}", image_path=word) for n, word in enumerate(words)])
    for arguments in (
        ("events",),
        ("show", "e0"),
        ("show", "e1", "-o", "json"),
        ("export",),
        ("similar", "--face", "e0"),
    ):
        assert run(daemon, *arguments).returncode in (0, 1)
    backup = tmp_path / "backup"
    for arguments in (("verify",), ("backup", str(backup)), ("purge", "--before", "2100-01-01")):
        done = subprocess.run(
            [SIGHTLOGD, *arguments, "--data-dir", daemon.data_dir], capture_output=True, timeout=60, text=True
        )
        assert done.returncode in (0, 2, 75, 78), done.stderr
    assert not [path for path in backup.rglob("*") if path.is_fifo() or path.name == "passwd"]
    assert daemon.stop() == 0
    assert bait.is_fifo()
    assert Path("/etc/passwd").exists()

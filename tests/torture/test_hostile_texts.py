"""Names and texts that are SQL, paths or terminal codes: stored as they are or refused, and shown harmlessly."""

from __future__ import annotations

import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
import unicodedata

import commands
import msgpack
import pytest
import verbs
import zmq
from conftest import Daemon, wait_for
from lab import LONG
from mutations import NASTY_TEXTS
from stage import GOOD

from sightlog import Detection, Event, InvalidRecord, Observation, Person
from sightlog.protocol import messages
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import Position
from sightlog.text import is_harmful

SQL = [text for text in NASTY_TEXTS if any(sign in text for sign in "'\";%{$`")] + [
    "Robert'); DROP TABLE events;--", "'||(SELECT writefile('/tmp/owned',1))||'",
    "\\'; ATTACH DATABASE '/tmp/x' AS x; --", 'a" OR "1"="1', "* NEAR(a b) OR content:x -y ^z", '"unbalanced',
    "AND OR NOT", "content:", "(", "a*b**", "x\u00a0y",
]  # fmt: skip
"""And what FTS5 takes for an expression."""
TERMINAL = [
    "\x9b2J\x9b31m", "\x90+q\x9c", "\u202eevil\u202c", "\u2066x\u2069", "\u2028line", "\u2029", "\u200e\u200f",
    "\u00ad", "\x85next", "\ufff9\ufffb", "\U000e0041\U000e007f", "e\u0301", "門",
]  # fmt: skip
"""What no terminal should obey. Names have the least harmful of it only; texts all."""
TEXTS = [text for text in SQL + TERMINAL if not re.search(r"[\x00-\x1f\x7f]", text)]
NAMES = [text for text in TEXTS if not is_harmful(text)]
HARMFUL = [text for text in TEXTS if is_harmful(text)]
PATHS = [
    "../x", "..", ".", "/etc/passwd", "a/b", "a\\b", "\0", "a\0b", "a\nb", "a\rb", "\x1b[2J", "", " ", "a b",
    "~", "-rf", ".hidden", "a" * 129, "x" * 5_000, "é", "a\u0301", "․․/x", "．．", "\u2215etc", "%2e%2e%2f",
    "CON", "nul.jpg/", "a;b", "$(id)", "a\u202eb", "events.json", "events.db", "lock",
]  # fmt: skip
FIELDS = ("event_id", "site", "camera_id", "event_type", "recording_id")
OWN = re.compile(r"\x1b\[[\d;]*m")
"""What the commands themselves say to a terminal."""


def assert_harmless(text: str) -> None:
    left = OWN.sub("", text).replace("\r\n", "\n")
    bad = {char for char in left if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") and char != "\n"}
    assert not bad, f"{bad!r} in {left[:500]!r}"


@pytest.fixture
def filled(daemon: Daemon) -> Daemon:
    """With all of NAMES in every text that takes them, and HARMFUL in descriptions and observations."""
    with daemon.publisher() as publisher:
        events = [
            Event(
                "door", event_id=f"n{n}", person_name=text, image_path=text, llm_description=f"blue {text}",
                detections=[Detection(text, 0.5)], metadata={text: text}, embedding=[1, n], embedding_model=text,
                embedding_version=text,
            )
            for n, text in enumerate(NAMES)
        ]  # fmt: skip
        assert publisher.insert_events(events).stored == len(NAMES)
        described = [Event("door", event_id=f"h{n}", llm_description=f"blue {text}") for n, text in enumerate(HARMFUL)]
        assert publisher.insert_events(described).stored == len(HARMFUL)
        harmful = [Observation(f"blue {text}", "me", f"h{n}") for n, text in enumerate(HARMFUL)]
        assert publisher.publish_many(harmful).wait(20).stored == len(HARMFUL)
        texts = [
            Observation(f"blue {text}", text, f"n{n}", [1, n], text, text, {text: text}, observation_id=f"o{n}")
            for n, text in enumerate(NAMES)
        ]
        assert publisher.publish_many(texts).wait(20).stored == len(NAMES)
        assert publisher.publish_many([Person(text, text) for text in NAMES]).wait(20).stored == len(NAMES)
    return daemon


def schema(daemon: Daemon) -> list[tuple]:
    connection = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    found = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return found


def test_sql_in_every_text_is_text(filled, tmp_path, attack):
    attack.on("P3, P4", "SQL, FTS5 and shell in every text field, and as words to search", "texts")
    before = schema(filled)
    reader = filled.reader()
    for n, text in enumerate(NAMES):
        event = reader.get_event(f"n{n}")
        assert (event.person_name, event.image_path, event.llm_description) == (text, text, f"blue {text}")
        assert (event.detections[0].label, event.metadata, event.embedding_model) == (text, {text: text}, text)
        assert [event.event_id for event in reader.find_events(person=text)] == [f"n{n}"]
        attack.runs += 12
    assert [reader.get_event(f"h{n}").llm_description for n in range(len(HARMFUL))] == [f"blue {t}" for t in HARMFUL]
    assert reader.count_events() == len(TEXTS)
    jobs: list[tuple[object, ...]] = []
    for text in [*SQL, *TERMINAL, *(NASTY_TEXTS if LONG else [])]:
        if "\0" in text:
            continue  # no argument of a command
        place = ("--data-dir", filled.data_dir)
        jobs += [("sightlog", "search", *place, "--", text), ("sightlog", "show", *place, "--", text)]
        jobs.append(("sightlog", "events", f"--person={text}", f"--camera={text}", *place))
    for done in verbs.run(jobs):
        verbs.assert_explained(done)
        assert done.code in (0, 1, 2), done
        attack.runs += 1
    assert schema(filled) == before


def test_ids_with_path_characters_are_refused_and_nothing_is_written_elsewhere(daemon, attack):
    attack.on("P4", "ids with path characters in every field that is an id", "records")
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RCVTIMEO, 20_000)
    dealer.connect(daemon.endpoint)
    dealer.send_multipart(messages.hello("paths", "paths", 1, Position(1, 1)))
    assert isinstance(messages.decode_reply(dealer.recv_multipart()), messages.Welcome)
    packed = [
        msgpack.packb({**GOOD, "event_id": f"good-{number}-{field}", field: path})
        for number, path in enumerate(PATHS)
        for field in FIELDS
    ]
    image = b"\xff\xd8 no picture, and it must not be written anywhere \xff\xd9"
    outside = sorted(path for path in daemon.home.rglob("*") if not path.is_relative_to(daemon.data_dir))
    resolved: dict[int, str] = {}
    for start in range(0, len(packed), 50):
        some = packed[start : start + 50]
        dealer.send_multipart(messages.records(Position(1, start + 1), some, [image] * len(some), flush=True))
        ack = messages.decode_reply(dealer.recv_multipart())
        assert ack.last == (1, start + len(some))
        resolved |= {seq: reason for seq, status, reason in ack.exceptions if status == "rejected"}
    context.destroy(linger=0)
    sound = [n for n, path in enumerate(PATHS) if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}", path)]
    expected = {n * len(FIELDS) + m + 1 for n in range(len(PATHS)) if n not in sound for m in range(len(FIELDS))}
    assert set(resolved) == expected
    assert all(resolved.values())
    assert sorted(p for p in daemon.home.rglob("*") if not p.is_relative_to(daemon.data_dir)) == outside
    for path in daemon.data_dir.glob("events/*/*"):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,131}", path.name), path
    for path in (path for n, path in enumerate(PATHS) if n not in sound):
        for field in FIELDS:
            with pytest.raises(InvalidRecord):  # a client says so before anything is sent
                encode_record(Event(**{"camera_id": "door", field: path}))
    attack.runs = len(packed)


SHOWING = (
    ("events", "-n", "all"), ("events", "-o", "csv", "-n", "all"), ("tail", "-n", "all"), ("show", "n3"),
    ("show", "o3"), ("show", "h0"),
    ("show", "h2"), ("search", "-n", "100", "blue"), ("similar", "--face", "n3", "-n", "50"), ("status",), ("stats",),
    ("stats", "--by", "label"), ("events", "-o", "json"), ("export",), ("export", "--observations"), ("show",
    "\x1b[2J\x9b"), ("events", "--person", "\x1b[2J\x9b"), ("search", "\x9bx"), ("events", "--site",
    "\x1b[2J"), ("stats", "--by", "\x1b]0;x\x07"),
)  # fmt: skip


@pytest.mark.timeout(180)
def test_no_control_character_of_a_record_reaches_a_terminal(filled, attack):
    attack.on("P4", "names with terminal codes, shown by every command on a terminal", "commands")
    bad = {"kind": "event", "\x1b[2J\x9b\u202e": 1}
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(filled.endpoint)
    dealer.send_multipart(messages.hello("codes", "codes", 1, Position(1, 1)))
    dealer.recv_multipart()
    dealer.send_multipart(messages.records(Position(1, 1), [msgpack.packb({**GOOD, **bad})] * 3, [b""] * 3, flush=True))
    assert len(messages.decode_reply(dealer.recv_multipart()).exceptions) == 3
    context.destroy(linger=0)
    for columns in (200, 60) if LONG else (100,):
        for arguments in SHOWING:
            for errors_too in (False, True) if LONG else ("\x1b" in arguments[-1] or "\x9b" in arguments[-1],):
                screen = commands.on_a_terminal(filled, columns, *arguments, errors_too=errors_too)
                # export says how far it is, always in the same line.
                assert_harmless(screen.text.replace("\r", "") if arguments[0] == "export" else screen.text)
                assert "Traceback" not in screen.text
                attack.runs += 1
    log = next(filled.data_dir.glob("events/*/events.log"))
    text = log.read_text(encoding="utf-8")
    assert not is_harmful(text.replace("\n", ""))
    lines = next(filled.data_dir.glob("events/*/events.json")).read_text(encoding="utf-8")
    assert not is_harmful(lines.replace("\n", ""))


def test_what_strangers_send_reaches_no_terminal_that_a_daemon_runs_on(idle_daemon, attack):
    attack.on("P4", "messages with terminal codes to a daemon that runs on a terminal", "messages")
    leader, follower = pty.openpty()
    daemon = idle_daemon
    command = [sys.executable, "-m", "sightlogd", "run", "--data-dir", daemon.data_dir, "--endpoint", daemon.endpoint]
    process = subprocess.Popen(command, stderr=follower, stdout=follower)
    os.close(follower)
    said = b""

    def heard(*words: bytes) -> bool:
        nonlocal said
        while select.select([leader], [], [], 0.02)[0]:
            said += os.read(leader, 65_536)
        return all(word in said for word in words)

    try:
        wait_for(lambda: heard(b"ready"), "ready")
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(daemon.endpoint)
        dealer.send_multipart([msgpack.packb({"kind": "\x1b[2J\x1b]0;owned\x07\x9b31m"})])
        assert isinstance(messages.decode_reply(dealer.recv_multipart()), messages.Refused)
        dealer.send_multipart(messages.hello("codes", "codes", 1, Position(1, 1)))
        dealer.recv_multipart()
        bad = msgpack.packb({**GOOD, "event_id": "e", "\x1b[2J\x9b\u202eowned": 1})
        dealer.send_multipart(messages.records(Position(1, 1), [bad], [b""], flush=True))
        dealer.recv_multipart()
        context.destroy(linger=0)
        wait_for(lambda: heard(b"malformed message", b"rejected 1 records"), "both are told")
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert_harmless(said.decode())
    attack.runs = 2

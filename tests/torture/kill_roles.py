"""What the processes of the kill machine run: the product's own main(), publishers and readers, with fuses in them."""

from __future__ import annotations

import itertools
import os
import pwd
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fuses
import kill_sabotage
import made_up
import zmq
from fuses import Fuse
from kill_books import RECORDS, Cursor, Lives, event_id, group, picture

import sightlog.spool.spool
from sightlog import Amendment, Detection, Event, Observation, Publisher, Reader
from sightlog.reader import rows
from sightlogd.__main__ import main
from sightlogd.backups import io
from sightlogd.daylogs import reconcile
from sightlogd.retention import purge
from sightlogd.service import background
from sightlogd.store import store
from sightlogd.thumbnails.pipeline import Thumbnails

AHEAD_MAX = 30
"""Events published and not acked."""
IN_A_HURRY = "import os; os.nice = lambda _: 0; from sightlogd.thumbnails import reencode; reencode.main()"


def _make_things_happen_often() -> None:
    """What is rare in a house happens in each short life: by sizes and periods, not by other code."""
    store.WAL_PAGES_CHECKPOINT = 40
    background.ROUND_SECONDS = 0.04
    reconcile.PAGE_EVENTS = 20
    reconcile.MARK_EVENTS = 30
    sightlog.spool.spool.SEGMENT_REUSE_BYTES = 4_096
    sightlog.reader.reader._PAGE_ROWS = 50
    io.sync = lambda _directory: None  # syncfs waits for whatever else the machine writes; SIGKILL does not ask for it

    decoder = Thumbnails._decoder

    def in_a_hurry(thumbnails: Thumbnails) -> list[str]:
        """With nice 19 it would hardly run beside all that is killed and started here."""
        python, option, *_, incoming, target, pixels, size = decoder(thumbnails)
        return [python, option, "-c", IN_A_HURRY, incoming, target, pixels, size]

    Thumbnails._decoder = in_a_hurry


def _reconnect_soon() -> None:
    set_option = zmq.Socket.setsockopt

    def wrapped(socket: Any, option: int, value: Any) -> None:
        set_option(socket, option, {zmq.RECONNECT_IVL: 3, zmq.RECONNECT_IVL_MAX: 12}.get(option, value))

    zmq.Socket.setsockopt = wrapped


def _arm(fuse: Sequence[Any] | None) -> None:
    if fuse is not None:
        fuses.arm(Fuse(*fuse))


def command(arguments: Sequence[str], fuse: Sequence[Any] | None, purges: str, sabotage: str | None) -> int:
    """`sightlogd` with these arguments."""
    made_up.become_later()
    _make_things_happen_often()
    if sabotage:
        kill_sabotage.apply(sabotage)

    def noted(begin: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(data_dir: Path, day: str, of: Any, *rest: Any) -> Any:
            with open(purges, "a") as ledger:
                ledger.write(f"{day} {of.last_id()}\n")
            return begin(data_dir, day, of, *rest)

        return wrapped

    purge.begin = noted(purge.begin)
    _arm(fuse)
    return main(arguments)


def producer(
    name: str, endpoint: str, home: str, session: int, settings: dict[str, Any], fuse: Sequence[Any] | None
) -> int:
    """Publishes groups of records; notes what publish() returned for and what is acked."""
    _make_things_happen_often()
    _reconnect_soon()
    if settings["sabotage"]:
        kill_sabotage.apply(settings["sabotage"])
    sessions = Lives(Path(home, f"{name}.ledger"))
    noon = datetime.fromisoformat(f"{settings['day']}T12:00:00+00:00")
    waiting: deque[Any] = deque()
    published = acked = 0
    _arm(fuse)

    def note_acks() -> None:
        nonlocal acked
        while waiting and waiting[0].settled:
            receipt = waiting.popleft()
            status = receipt.wait(0)
            assert status == "stored", f"{name}, life {session}, record {acked + 1}: {status}, {receipt.reason}"
            acked += 1
            sessions.note_acked(session, acked)

    with Publisher(endpoint, name, Path(home, "spool"), spool_bytes_max=4 * 1024 * 1024) as publisher:
        for n in itertools.count(1) if settings["count"] is None else range(1, settings["count"] + 1):
            at = noon + timedelta(milliseconds=n)
            for record in _records(name, session, n, at, encoded_too=settings["encoded_too"]):
                waiting.append(publisher.publish(record))
                published += 1
                sessions.note_published(session, published)
            note_acks()
            while len(waiting) > AHEAD_MAX * RECORDS:
                time.sleep(0.001)
                note_acks()
            time.sleep(settings["pause"])
        assert publisher.flush(60), "not delivered within 60 s"
        while waiting:
            time.sleep(0.001)
            note_acks()
    return 0


def _records(name: str, session: int, n: int, at: datetime, *, encoded_too: bool) -> list[Any]:
    key = event_id(name, session, n)
    event = Event(
        name,
        event_id=key,
        recorded_at=at,
        detections=[Detection("person", 0.5, (1, 2, 3, 4)), Detection("dog", 0.25)],
        llm_description="as it was",
        thumbnail=picture(n, encoded_too=encoded_too),
    )
    amendment = Amendment(
        key,
        person_name=name,
        detections=[Detection("face", 0.5)],
        llm_description="amended",
        embedding=[0.5, 0.25],
        embedding_model="face",
    )
    observation = Observation(f"{name} was there", "llm", key, recorded_at=at)
    by_letter = {"e": event, "a": amendment, "o": observation}
    return [by_letter[dead_letter] for dead_letter in group(n)]


class _Slow:
    """A connection of a slow machine: much is committed between two queries."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, *arguments: Any) -> Any:
        time.sleep(0.005)
        return self._connection.execute(*arguments)


def reader(database: str, ledger: str, names: Sequence[str], purges: bool, sabotage: str | None) -> int:
    """Follows for ever, as nobody if it may; ends with an exit code as soon as something is wrong."""
    cursor = Cursor(Path(ledger))
    made_up.become_later()
    if sabotage:
        kill_sabotage.apply(sabotage)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(pwd.getpwnam("nobody").pw_gid)
        os.setuid(pwd.getpwnam("nobody").pw_uid)
    _make_things_happen_often()
    read = rows.events
    rows.events = lambda connection, *arguments: read(_Slow(connection), *arguments)
    last, count = cursor.read()
    # Of a life that goes on with the cursor of the one before, the first event of each may be any.
    at_last = dict.fromkeys(names, (0, 0)) if last == 0 else {}
    for event in Reader(database).follow(after=last, poll_seconds=0.005):
        assert (event.id or 0) > last, f"{event.id} behind {last}"
        last = event.id or 0
        if event.camera_id in names:
            session, n = map(int, event.event_id.split("-")[1:])
            before = at_last.get(event.camera_id, (session, n - 1))
            assert (session, n) > before, f"{event.event_id} behind {before}: twice, or not in order"
            assert purges or n == 1 or (session, n - 1) == before, (
                f"{event.event_id} behind {before}: something is missing"
            )
            at_last[event.camera_id] = session, n
            amended = event.person_name == event.camera_id
            expected = (3, True, "amended") if amended else (2, False, "as it was")
            found = len(event.detections), event.embedding is not None, event.llm_description
            assert found == expected, f"{event.event_id} is torn: {event}"
            count += 1
        cursor.note(last, count)
    return 0

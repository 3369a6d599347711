"""The same events into what people use instead, and into sightlog: as many producers, in the same round.

A peer that takes an event at a time stands against `publish()` of one after the other, with the acks awaited at the
end; the peer's producer awaits each one, or at the end too where its client can. One that takes batches stands against
`publish_many()`. Payloads and rows are made before the clock starts; for sightlog that is the Event objects alone, and
encoding and spooling them is within.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import bench
import ingest
import peer_files as files
import peer_servers as servers
import results

ROUNDS = 3
SINGLES, PUBLISHED, BATCHED = 4_800, 19_200, 48_000
"""Events of a peer that takes them one by one, of publish(), and of everybody that takes batches."""
QUICK_PRODUCERS = (1,)
"""Every peer knows that many."""
ONE_BY_ONE, BATCHES = ">= 10", ">= 3"
WEAK = "not durable: "


class Peer(NamedTuple):
    name: str
    opened: Callable[[Path], AbstractContextManager[str]]
    """Makes it ready in a folder and says where it is."""
    work: bench.Work
    stored: Callable[[str], int]
    producers: tuple[int, ...] = ingest.PRODUCERS
    target: str | None = ONE_BY_ONE
    batches: bool = False
    """The producer hands over 1,000 events at once."""
    package: str = "sqlite3"
    """What it takes to be measured."""
    program: str | None = None
    note: str = ""

    def missing(self) -> str | None:
        if util.find_spec(self.package) is None:
            return f"the Python package {self.package} is not installed"
        if self.program is not None and program(self.program) is None:
            return f"{self.program} is not installed"
        return None


REDIS = {"stored": servers.stream_length, "package": "redis", "program": "redis-server"}
POSTGRESQL = {"stored": servers.postgresql_rows, "package": "psycopg", "program": "postgres"}
PEERS = (
    Peer("SQLite written by every process, a commit an event", files.database, files.direct, files.rows_in),
    Peer("aiosqlite, a commit an event", files.database, files.with_aiosqlite, files.rows_in, (1,),
         package="aiosqlite"),
    Peer("SqliteQueueDatabase", files.database, files.with_queue_database, files.rows_in, (1,), package="peewee",
         note="an event is two commits, for it has no transactions"),
    Peer("Redis Streams, fsync always, an XADD an event", servers.redis_always, servers.xadd_one_by_one, **REDIS),
    Peer("Redis Streams, fsync always, pipelines of 1,000", servers.redis_always, servers.xadd_in_batches,
         target=BATCHES, batches=True, **REDIS),
    Peer("Redis Streams, fsync every second, an XADD an event", servers.redis_everysec, servers.xadd_one_by_one,
         target=None, note=f"{WEAK}a power cut takes the last second", **REDIS),
    Peer("PostgreSQL, a commit an event", servers.postgresql, servers.insert_one_by_one, **POSTGRESQL),
    Peer("PostgreSQL, COPY of 1,000", servers.postgresql, servers.copy_in_batches, target=BATCHES, batches=True,
         **POSTGRESQL),
    Peer("mosquitto, QoS 1, persistence", servers.mosquitto, servers.publish_qos1, servers.received,
         target=None, package="paho", program="mosquitto",
         note=f"{WEAK}acks come from memory, the file is saved every second without an fsync a message"),
)  # fmt: skip


def measure(book: results.Book) -> None:
    book.about["peers"] = versions()
    for turn in range(1 if book.quick else ROUNDS):
        for producers in QUICK_PRODUCERS if book.quick else ingest.PRODUCERS:
            bench.say(f"peers, round {turn + 1}, {ingest.counted(producers)}")
            one_round(book, producers)


def one_round(book: results.Book, producers: int) -> None:
    ours = {}
    for way, count in (("publish", PUBLISHED), ("publish_many", BATCHED)):
        ours[way] = ingest.published(way, producers, count // (10 if book.quick else 1)).speed
        book.value(f"sightlog, {way}, {ingest.counted(producers)}", "events/s", ours[way])
    for peer in PEERS:
        if producers not in peer.producers:
            continue
        name = f"{peer.name}, {ingest.counted(producers)}"
        way = "publish_many" if peer.batches else "publish"
        ratio = f"sightlog {way} / {name}"
        try:
            speed, locked = speed_of(peer, producers, quick=book.quick)
        except Exception as error:  # noqa: BLE001 - a peer that does not run is one that was not measured
            bench.say(f"{name}: {error}")
            book.missing(name, "events/s", str(error).strip().splitlines()[-1])
            book.missing(ratio, "ratio", "the peer was not", peer.target)
            continue
        book.value(name, "events/s", speed, note=peer.note)
        if peer.work is files.direct:
            book.value(f"{name}: database is locked", "errors a run", locked)
        book.value(ratio, "ratio", ours[way] / speed, peer.target)


def speed_of(peer: Peer, producers: int, *, quick: bool) -> tuple[float, int]:
    if why := peer.missing():
        raise RuntimeError(why)
    count = (BATCHED if peer.batches else SINGLES) // (10 if quick else 1)
    with bench.home() as home, peer.opened(home) as address:
        turns = bench.together(producers, peer.work, address, count // producers)
        bench.check(peer.name, peer.stored(address), count)
    return count / bench.took(turns), sum(turn.found for turn in turns)


def program(name: str) -> str | None:
    return servers.postgresql_program(name) if name == "postgres" else shutil.which(name)


def versions() -> str:
    found = []
    for package in ("redis", "psycopg", "paho-mqtt", "aiosqlite", "peewee"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    for name, flag in (("redis-server", "--version"), ("postgres", "--version"), ("mosquitto", "-h")):
        if path := program(name):
            said = subprocess.run([path, flag], capture_output=True, text=True).stdout
            found.append(" ".join(said.partition("\n")[0].split()[:3]))
    return ", ".join(found)

"""Peers that are servers, each an instance of its own in a private folder, reached over a local socket."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import bench

from sightlog.protocol.encoding import encode_record

BATCH = 1_000
START_SECONDS = 20.0
QUIET_SECONDS = 1.0
STREAM = "events"
MOSQUITTO = """listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {home}/
autosave_interval 1
max_queued_messages 0
max_inflight_messages 0
"""
SCHEMA = """
CREATE TABLE events (
    id bigint PRIMARY KEY, event_id text NOT NULL UNIQUE, site text NOT NULL, camera_id text NOT NULL,
    recorded_at text NOT NULL CHECK (length(recorded_at) = 24), event_type text NOT NULL, recording_id text,
    motion_confidence double precision CHECK (motion_confidence BETWEEN 0 AND 1), person_name text,
    face_confidence double precision CHECK (face_confidence BETWEEN 0 AND 1),
    face_distance double precision CHECK (face_distance >= 0), unlock_granted boolean,
    door_action text CHECK (door_action IN ('unlocked', 'locked', 'none')), thumbnail_path text, image_path text,
    llm_description text, alert_sent boolean NOT NULL DEFAULT false, created_at text NOT NULL, metadata jsonb
);
CREATE INDEX events_by_time ON events (site, recorded_at);
CREATE INDEX events_by_camera ON events (site, camera_id, recorded_at);
CREATE INDEX events_by_person ON events (site, person_name, recorded_at) WHERE person_name IS NOT NULL;
CREATE INDEX events_by_type ON events (site, event_type, recorded_at) WHERE event_type <> 'motion';
CREATE TABLE detections (
    event_id bigint NOT NULL REFERENCES events (id) ON DELETE CASCADE, position integer NOT NULL, label text NOT NULL,
    confidence double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    bbox_x1 double precision, bbox_y1 double precision, bbox_x2 double precision, bbox_y2 double precision,
    PRIMARY KEY (event_id, position)
);
"""


@contextmanager
def served(command: bench.Argv, log: Path, ready: Callable[[], bool], user: str | None = None) -> Iterator[None]:
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, user=user, cwd="/")
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def payloads(count: int) -> list[bytes]:
    """The same events, as sightlog's client encodes them; made before the clock starts."""
    return [encode_record(event)[0] for event in bench.events(count)]


# -- Redis -----------------------------------------------------------------------------------------------------------


@contextmanager
def redis(home: Path, appendfsync: str) -> Iterator[str]:
    path = home / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", path, "--dir", home, "--save", "",
               "--appendonly", "yes", "--appendfsync", appendfsync]  # fmt: skip
    with served(command, home / "redis.log", path.exists):
        yield str(path)


redis_always, redis_everysec = partial(redis, appendfsync="always"), partial(redis, appendfsync="everysec")


def stream_length(address: str) -> int:
    import redis as client

    with client.Redis(unix_socket_path=address) as connection:
        return int(connection.xlen(STREAM))


def xadd_one_by_one(_: int, address: str, count: int) -> Generator[int, None, None]:
    import redis as client

    events = payloads(count)
    with client.Redis(unix_socket_path=address) as connection:
        connection.ping()
        yield 0
        for event in events:
            connection.xadd(STREAM, {"event": event})
        yield 0


def xadd_in_batches(_: int, address: str, count: int) -> Generator[int, None, None]:
    import redis as client

    events = payloads(count)
    with client.Redis(unix_socket_path=address) as connection:
        connection.ping()
        yield 0
        for start in range(0, count, BATCH):
            pipeline = connection.pipeline(transaction=False)
            for event in events[start : start + BATCH]:
                pipeline.xadd(STREAM, {"event": event})
            pipeline.execute()
        yield 0


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


def postgresql_program(name: str) -> str | None:
    """Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def unprivileged() -> str | None:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"


@contextmanager
def postgresql(home: Path) -> Iterator[str]:
    import psycopg

    initdb, server = postgresql_program("initdb"), postgresql_program("postgres")
    assert initdb is not None
    assert server is not None
    user, data = unprivileged(), home / "postgresql"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
    subprocess.run(
        [initdb, "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"],
        user=user, cwd="/", check=True, capture_output=True,
    )  # fmt: skip
    address = f"host={data} user=bench dbname=postgres"

    def ready() -> bool:
        try:
            psycopg.connect(address).close()
        except psycopg.OperationalError:
            return False
        return True

    settings = ("listen_addresses=", f"unix_socket_directories={data}", "fsync=on", "synchronous_commit=on")
    command = [server, "-D", data, *(part for setting in settings for part in ("-c", setting))]
    with served(command, home / "postgresql.log", ready, user):
        with psycopg.connect(address) as connection:
            connection.execute(SCHEMA)
        yield address


def postgresql_rows(address: str) -> int:
    import psycopg

    with psycopg.connect(address) as connection:
        events, detections = (
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # type: ignore[index]
            for table in ("events", "detections")
        )
    bench.check("detections", detections, len(bench.DETECTIONS) * events)
    return int(events)


def insert_one_by_one(number: int, address: str, count: int) -> Generator[int, None, None]:
    """A transaction an event, all of it in one round trip."""
    import psycopg

    event_sql, detection_sql = bench.EVENTS_SQL.replace("?", "%s"), bench.DETECTIONS_SQL.replace("?", "%s")
    events = bench.prepared(count, 1, 1 + number * count)
    with psycopg.connect(address, autocommit=True) as connection:
        yield 0
        for found, boxes in events:
            with connection.pipeline(), connection.transaction():
                connection.execute(event_sql, found[0])
                for box in boxes:
                    connection.execute(detection_sql, box)
        yield 0


def copy_in_batches(number: int, address: str, count: int) -> Generator[int, None, None]:
    import psycopg

    batches = bench.prepared(count, BATCH, 1 + number * count)
    with psycopg.connect(address, autocommit=True) as connection, connection.cursor() as cursor:
        yield 0
        for found, boxes in batches:
            with connection.transaction():
                for table, rows in (("events", found), ("detections", boxes)):
                    with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                        for row in rows:
                            copy.write_row(row)
        yield 0


# -- mosquitto -------------------------------------------------------------------------------------------------------


@contextmanager
def mosquitto(home: Path) -> Iterator[str]:
    """With a subscriber whose session is kept while it is away: without one, nothing is stored."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (home / "mosquitto.conf").write_text(
        MOSQUITTO.format(port=port, home=home) + ("user root\n" if os.geteuid() == 0 else "")
    )

    def ready() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    with served(["mosquitto", "-c", home / "mosquitto.conf"], home / "mosquitto.log", ready):
        received(str(port))
        yield str(port)


def received(address: str) -> int:
    """Messages kept for the subscriber, taken by it now."""
    from paho.mqtt import client as mqtt

    seen, subscribed, last = 0, threading.Event(), time.monotonic()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="reader", clean_session=False)

    def on_message(*_: object) -> None:
        nonlocal seen, last
        seen, last = seen + 1, time.monotonic()

    client.on_connect = lambda *_: client.subscribe(STREAM, qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    client.connect("127.0.0.1", int(address))
    client.loop_start()
    if not subscribed.wait(START_SECONDS):
        raise RuntimeError("mosquitto does not answer a subscriber")
    while time.monotonic() - last < QUIET_SECONDS:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    return seen


def publish_qos1(number: int, address: str, count: int) -> Generator[int, None, None]:
    """All of them sent without waiting in between, then every PUBACK awaited."""
    from paho.mqtt import client as mqtt

    events = payloads(count)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"producer{number}")
    client.max_inflight_messages_set(BATCH)
    client.connect("127.0.0.1", int(address))
    client.loop_start()
    while not client.is_connected():
        time.sleep(0.01)
    yield 0
    asked = [client.publish(STREAM, event, qos=1) for event in events]
    for message in asked:
        message.wait_for_publish(60)
        if not message.is_published():
            raise RuntimeError("no PUBACK")
    yield 0
    client.disconnect()
    client.loop_stop()

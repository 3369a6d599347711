"""Producers on other machines: who comes in by tcp, who does not, and what either notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import threading
import time

import pytest
import zmq
from conftest import wait_for
from pictures import jpeg
from remote import Remote

import sightlogd.transport.local
import sightlogd.transport.remote
from sightlog import AccessDenied, Event, Publisher, UsageError
from sightlog.protocol import keyfile, messages
from sightlogd.logs import Warnings
from sightlogd.transport.keys import Keys

SOON = 10.0
"""What is known at the first handshake takes milliseconds; this is for a machine with a lot to do."""


@pytest.fixture
def remote(idle_daemon):
    return Remote(idle_daemon)


@pytest.fixture
def open_remote(remote):
    """Running, with the key of `front` allowed."""
    remote.front = remote.new("front")
    remote.daemon.start()
    return remote


def denied(publisher, event) -> str:
    """What it is told, long before its patience ends."""
    with pytest.raises(AccessDenied) as told:
        publisher.insert_event(event, timeout=60)
    assert not publisher.connected
    return str(told.value)


def test_a_key_that_is_allowed_brings_records_and_pictures(open_remote):
    with open_remote.publisher("front", open_remote.front) as publisher:
        assert publisher.insert_event(Event("gate", event_id="e1", thumbnail=jpeg()), SOON)
        assert publisher.connected
    with open_remote.daemon.reader() as reader:
        path = reader.get_event("e1").thumbnail_path
    assert (open_remote.daemon.data_dir / path).read_bytes() == jpeg()


def test_a_key_that_is_not_allowed_is_told_so_and_its_records_come_once_it_is(open_remote, caplog):
    file = open_remote.new("yard")
    open_remote.keys("revoke", "yard")
    key = keyfile.read(file, secret=True)
    with open_remote.publisher("yard", file) as publisher:
        text = denied(publisher, Event("yard", event_id="e1"))
        assert re.search(rf"does not allow the key yard \({re.escape(key.public)}\)", text)
        assert f"sightlogd keys allow yard '{key.public}'" in text
        # Whoever comes later is told at once, and publishing goes on.
        receipt = publisher.publish(Event("yard", event_id="e2"))
        with pytest.raises(AccessDenied):
            receipt.wait(60)
        with pytest.raises(AccessDenied):
            publisher.flush(60)
        with pytest.raises(AccessDenied):
            publisher.insert_events([Event("yard", event_id="e3")], 60)

        async def wait():
            await receipt

        with pytest.raises(AccessDenied):
            asyncio.run(wait())
        assert publisher.spooled == 3
        assert open_remote.keys("allow", "yard", key.public) == "yard is allowed from now on\n"
        wait_for(lambda: publisher.spooled == 0, "all was delivered once the key is allowed", 30)
        assert receipt.wait(SOON) == "stored"
        assert publisher.connected
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 1, "said once, however often it is tried"
    with open_remote.daemon.reader() as reader:
        assert {event.event_id for event in reader.get_recent_events()} == {"e1", "e2", "e3"}
    refused = [line["event"] for line in open_remote.daemon.logged() if "refused a producer" in line["event"]]
    assert key.public in refused[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "localhost", "[::]"])
def test_addresses_to_listen_on(remote, host):
    file = remote.new("front")
    config = f'[remote]\nlisten = "tcp://{host}:{remote.port}"\nkeys_dir = "{remote.keys_dir}"\n'
    remote.daemon.settings = ""
    remote.daemon.start(config=config)
    with remote.publisher("front", file) as publisher:
        assert publisher.insert_event(Event("gate"), SOON)


def test_an_address_of_another_machine_is_trouble_that_may_pass(remote):
    """At boot the network may come after the daemon."""
    remote.new("front")
    remote.daemon.settings = f'[remote]\nlisten = "tcp://192.0.2.1:5570"\nkeys_dir = "{remote.keys_dir}"\n'
    remote.daemon.start(wait=False)
    assert remote.daemon.process.wait(30) == 74
    assert "cannot listen on tcp://192.0.2.1:5570" in remote.daemon.logged()[-1]["event"]


def test_an_empty_list_allows_nobody(remote):
    file = remote.new("front")
    (remote.keys_dir / "allowed" / "front.key").unlink()
    (remote.keys_dir / "allowed").rmdir()
    remote.daemon.start()
    with remote.publisher("front", file) as publisher:
        assert "does not allow the key front" in denied(publisher, Event("gate"))


def test_a_revoked_key_is_out_at_once_and_the_others_go_on_with_nothing_lost_or_doubled(open_remote):
    """Two producers by tcp and one by the local socket stream; one of them is revoked meanwhile."""
    yard = open_remote.new("yard")
    published, stopped, enough = {"front": 1, "yard": 1, "local": 1}, set(), threading.Event()

    def stream(publisher, name):
        while not enough.is_set():
            for _ in range(10):
                publisher.publish(Event("gate", event_id=f"{name}-{published[name]:05}"))
                published[name] += 1
            try:
                publisher.flush(SOON)
            except AccessDenied:
                stopped.add(name)

    with (
        open_remote.publisher("front", open_remote.front) as front,
        open_remote.publisher("yard", yard) as revoked,
        open_remote.daemon.publisher("local") as local,
    ):
        publishers = {"front": front, "yard": revoked, "local": local}
        for name, publisher in publishers.items():
            assert publisher.insert_event(Event("gate", event_id=f"{name}-00000"), SOON)
        threads = [threading.Thread(target=stream, args=(publisher, name)) for name, publisher in publishers.items()]
        for thread in threads:
            thread.start()
        try:
            said = open_remote.keys("revoke", "yard")
            assert "not allowed any more" in said
            assert "connections from other machines were dropped" in said
            wait_for(lambda: stopped, "the revoked one was told while it streamed")
            assert not revoked.connected
            before = dict(published)
            for name in published:
                wait_for(lambda name=name: published[name] > before[name], f"{name} goes on publishing")
        finally:
            enough.set()
            for thread in threads:
                thread.join()
        assert front.flush(30)
        assert local.flush(30)
        spooled = revoked.spooled
        assert spooled >= 10
    assert stopped == {"yard"}, "who is allowed is never told otherwise"
    with open_remote.daemon.reader() as reader:
        yards = [event.event_id for event in reader.find_events(limit=1_000_000) if event.event_id.startswith("yard-")]
    # Of what was on its way when the connection was dropped some may be stored, and its ack lost.
    assert published["yard"] - spooled <= len(yards) < published["yard"]
    open_remote.keys("allow", "yard", yard)
    with open_remote.publisher("yard", yard) as again:
        assert again.flush(30)
    with open_remote.daemon.reader() as reader:
        found = [event.event_id for event in reader.find_events(limit=1_000_000)]
        accounts = {producer["name"]: producer for producer in reader.producers()}
    assert sorted(found) == sorted(f"{name}-{number:05}" for name in published for number in range(published[name]))
    assert all(account["duplicates"] == account["rejected"] == 0 for account in accounts.values())


def test_a_reload_finds_keys_that_somebody_took_away_by_hand(open_remote):
    with open_remote.publisher("front", open_remote.front) as publisher:
        publisher.insert_event(Event("gate"), SOON)
        (open_remote.keys_dir / "allowed" / "front.key").unlink()
        publisher.insert_event(Event("gate"), SOON)  # who is in stays in, until somebody says so
        open_remote.daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not publisher.connected, "it is out")
        with pytest.raises(AccessDenied):
            publisher.insert_event(Event("gate"), SOON)


def test_a_restart_lets_in_who_was_in(open_remote):
    with open_remote.publisher("front", open_remote.front) as publisher:
        publisher.insert_event(Event("gate"), SOON)
        for end in (open_remote.daemon.stop, open_remote.daemon.kill):
            end()
            receipt = publisher.publish(Event("gate"))
            open_remote.daemon.start()
            assert receipt.wait(30) == "stored"


def test_a_file_for_another_daemon_is_told_apart_from_a_key_that_is_not_allowed(open_remote, tmp_path):
    text = open_remote.front.read_text()
    public, _ = zmq.curve_keypair()
    open_remote.front.write_text(re.sub(r'server-key = ".*"', lambda _: f'server-key = "{public.decode()}"', text))
    with open_remote.publisher("front", open_remote.front) as publisher:
        assert "not the daemon that the key file of front was made for" in denied(publisher, Event("gate"))


@pytest.fixture
def hanging_up(remote):
    """It accepts and hangs up, as a tunnel does whose other end is down."""
    with socket.create_server(("127.0.0.1", remote.port)) as server:

        def hang_up():
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield remote
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_something_else_that_listens_there_is_no_sightlogd(hanging_up):
    with hanging_up.publisher("front", hanging_up.new("front")) as publisher:
        assert "what listens there takes no keys" in denied(publisher, Event("gate"))
    with Publisher(hanging_up.endpoint, "bare", hanging_up.daemon.home / "spool") as publisher:
        assert "or it is not sightlogd that listens" in denied(publisher, Event("gate"))


def test_who_has_no_key_where_one_is_wanted_is_told_so(open_remote):
    """By loopback no key is asked for beforehand: it may be a tunnel."""
    spool = open_remote.daemon.home / "spool"
    with Publisher(open_remote.endpoint, "bare", spool) as publisher:
        text = denied(publisher, Event("gate", event_id="e1"))
    assert "wants a key" in text
    assert "sightlogd keys new NAME" in text
    with Publisher(open_remote.endpoint, "bare", spool, key_file=open_remote.front) as publisher:
        assert publisher.flush(SOON)
    with open_remote.daemon.reader() as reader:
        assert reader.get_event("e1")


def test_without_a_key_a_daemon_that_comes_back_is_no_denial(remote, caplog):
    (remote.daemon.home / "config.toml").write_text("")
    remote.daemon.settings = ""
    with Publisher(remote.endpoint, "local", remote.daemon.home / "spool") as publisher:
        for end in (remote.daemon.stop, remote.daemon.kill):
            receipt = publisher.publish(Event("gate"))
            remote.daemon.start("--endpoint", remote.endpoint)
            assert receipt.wait(30) == "stored"
            end()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_key_where_none_is_taken_is_told_so(remote):
    """The local endpoint may be tcp on loopback, without keys."""
    file = remote.new("front")
    (remote.daemon.home / "config.toml").write_text("")
    remote.daemon.settings = ""
    remote.daemon.start("--endpoint", remote.endpoint)
    with remote.publisher("front", file) as publisher:
        assert "takes no keys" in denied(publisher, Event("gate"))
    with Publisher(remote.endpoint, "local", remote.daemon.home / "spool") as publisher:
        assert publisher.insert_event(Event("gate"), SOON)


def test_without_a_key_nothing_comes_in(open_remote):
    with Publisher(open_remote.endpoint, "bare", open_remote.daemon.home / "spool") as bare:
        receipt = bare.publish(Event("gate", event_id="bare"))
        with open_remote.publisher("front", open_remote.front) as publisher:
            for _ in range(20):
                publisher.insert_event(Event("gate"), SOON)
        assert receipt.status is None
        assert not bare.connected
    with open_remote.daemon.reader() as reader:
        assert reader.get_event("bare") is None
        assert [producer["name"] for producer in reader.producers()] == ["front"]


def test_two_producers_share_a_key(open_remote):
    with (
        open_remote.publisher("front", open_remote.front) as one,
        open_remote.publisher("porch", open_remote.front) as other,
    ):
        for number in range(20):
            assert one.insert_event(Event("gate", event_id=f"front-{number}"), SOON)
            assert other.insert_event(Event("porch", event_id=f"porch-{number}"), SOON)
    with open_remote.daemon.reader() as reader:
        assert {(p["name"], p["stored"]) for p in reader.producers()} == {("front", 20), ("porch", 20)}


def test_routes_of_the_two_sockets_are_not_mixed_up(open_remote):
    """A routing id is a producer's own to choose: the same one on both sockets is two producers."""
    key = keyfile.read(open_remote.front, secret=True)
    context = zmq.Context()
    sockets = []
    for endpoint in (open_remote.daemon.endpoint, open_remote.endpoint):
        peer = context.socket(zmq.DEALER)
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.ROUTING_ID, b"same")
        if endpoint.startswith("tcp"):
            peer.curve_serverkey, peer.curve_publickey = key.server.encode(), key.public.encode()
            peer.curve_secretkey = key.secret.encode()
        peer.connect(endpoint)
        sockets.append(peer)
    try:
        epoch = time.time_ns() // 1_000_000
        for name, peer in zip(("local", "remote"), sockets, strict=True):
            peer.send_multipart(messages.hello(f"{name:x<32}", name, epoch, messages.Position(epoch, 1)))
            assert peer.poll(SOON * 1000)
            assert isinstance(messages.decode_reply(peer.recv_multipart()), messages.Welcome)
        for peer in sockets:
            peer.send_multipart(messages.ping(0, 0, flush=False))
        for peer in sockets:
            assert peer.poll(SOON * 1000)
            assert isinstance(messages.decode_reply(peer.recv_multipart()), messages.Pong)
            assert not peer.poll(0)
    finally:
        context.destroy(linger=0)


GARBAGE = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\nHost: camera\r\n\r\n",
    "half a greeting": b"\xff\0\0\0\0\0\0\0\1\x7f\3",
    "a greeting and noise": b"\xff" + bytes(8) + b"\x7f\3\1CURVE" + bytes(47) + os.urandom(4_096),
    "an old protocol": b"\x01\x00" * 2_000,
}


@pytest.mark.parametrize("said", GARBAGE)
def test_strangers_harm_nobody(open_remote, said):
    strangers = [socket.create_connection(("127.0.0.1", open_remote.port)) for _ in range(50)]
    try:
        for stranger in strangers:
            stranger.sendall(GARBAGE[said])
        with (
            open_remote.publisher("front", open_remote.front) as publisher,
            open_remote.daemon.publisher("local") as local,
        ):
            assert publisher.insert_event(Event("gate"), SOON)
            assert local.insert_event(Event("gate"), SOON)
        assert open_remote.daemon.process.poll() is None
    finally:
        for stranger in strangers:
            stranger.close()


def test_strangers_in_masses_leave_descriptors_for_everybody_else(open_remote):
    pid = open_remote.daemon.process.pid
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (400, 400))
    with (
        open_remote.publisher("front", open_remote.front) as publisher,
        contextlib.ExitStack() as strangers,
    ):
        assert publisher.insert_event(Event("gate"), SOON)
        for _ in range(300):
            strangers.enter_context(socket.create_connection(("127.0.0.1", open_remote.port)))
        wait_for(
            lambda: any("let in from other machines" in line["event"] for line in open_remote.daemon.logged()),
            "the daemon saw it",
        )
        assert len(os.listdir(f"/proc/{pid}/fd")) < 200
        with open_remote.daemon.publisher("local") as local:  # who comes from this machine comes in
            assert local.insert_event(Event("gate"), SOON)
        assert publisher.insert_event(Event("gate"), SOON)
        # Strangers that say nothing are out after a while, and whoever waits behind them is in.
        with open_remote.publisher("side", open_remote.front) as late:
            assert late.insert_event(Event("gate"), 60)
    assert open_remote.daemon.stop() == 0


def test_who_says_nothing_is_dropped(remote, monkeypatch):
    monkeypatch.setattr(sightlogd.transport.local, "HANDSHAKE_MS", 200)
    remote.new("front")
    door = sightlogd.transport.remote.Remote(remote.endpoint, Keys(remote.keys_dir), Warnings())
    try:
        with socket.create_connection(("127.0.0.1", remote.port), timeout=SOON) as stranger:
            door.gate.admit()
            while stranger.recv(4_096):  # the daemon's greeting, and then the end
                pass
    finally:
        door.close()


def test_a_directory_that_cannot_be_read_lets_nobody_in_and_says_why(open_remote):
    """Not even root can list a file."""
    allowed = open_remote.keys_dir / "allowed"
    allowed.rename(open_remote.keys_dir / "aside")
    allowed.write_text("")
    with open_remote.publisher("front", open_remote.front) as publisher:
        assert "cannot check keys now" in denied(publisher, Event("gate"))
        assert any("cannot read the allowed keys" in line["event"] for line in open_remote.daemon.logged())
        allowed.unlink()
        (open_remote.keys_dir / "aside").rename(allowed)
        wait_for(lambda: publisher.spooled == 0, "it came in when they could be read", 30)


def test_a_key_is_needed_for_another_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SIGHTLOG_KEY_FILE", raising=False)
    for endpoint in ("tcp://192.0.2.1:5570", "tcp://sightlog.example:5570", "tcp://[2001:db8::1]:5570"):
        with pytest.raises(UsageError, match=r"only with a key.* `sightlogd keys new NAME`"):
            Publisher(endpoint, "front", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_may_name_the_file(open_remote, monkeypatch):
    monkeypatch.setenv("SIGHTLOG_KEY_FILE", str(open_remote.front))
    with Publisher(open_remote.endpoint, "front", open_remote.daemon.home / "spool") as publisher:
        assert publisher.insert_event(Event("gate"), SOON)
    with open_remote.daemon.publisher("local") as publisher:  # ipc needs none, and takes none
        assert publisher.insert_event(Event("gate"), SOON)

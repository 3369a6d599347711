"""Thousands of worlds in which producers, network, daemon and store fail by chance; and that loss would be seen.

A world that breaks a promise names the command that repeats it.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import world
from lab import often
from msgspec import structs
from network import Clock
from sides import Daemon, Lost, Sensor

from sightlog.protocol import messages
from sightlog.protocol.messages import Position
from sightlog.publisher.delivery import Delivery
from sightlog.spool.spool import Spool
from sightlogd.protocol.session import Answer, Chunk, Session, Sessions

WORLDS = often(500, 10_000)
CONTROL_WORLDS_MAX = 400
CAUGHT_ENOUGH = often(1, 20)
FOR_COPIES = {"copied spool": 0.3, "producer": 0.2, "cut": 0.3, "restore": 0.0}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Producers tell what happens to them, and here much does."""
    for name in ("sightlog.publisher", "sightlog.spool"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@pytest.mark.timeout(60 + WORLDS)
@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("ordered", "simulated worlds: connections that break and come late, kills, refused commits, copied spools, "
         "older databases, clocks set by years, flipped bits"),
        ("wild", "the same, and within a connection messages are lost, repeated and overtaken"),
    ],
    ids=["ordered", "wild"],
)  # fmt: skip
def test_everything_published_is_stored_once_in_order_whatever_fails(mode, what, attack):
    attack.on("P1, P2, P3", what, "worlds")
    seeds = attack.random()
    happened: Counter[str] = Counter()
    for _ in range(WORLDS):
        happened.update(world.run(seeds.getrandbits(48), wild=mode == "wild").happened)
        attack.runs += 1
    assert all(happened[fault] for fault in world.ODDS), f"never happened: {world.ODDS.keys() - happened.keys()}"
    attack.note = ", ".join(f"{count:,} × {fault}" for fault, count in sorted(happened.items()))


# -- controls --------------------------------------------------------------------------------------------------------


def stored_twice(monkeypatch) -> None:
    as_it_is = Sessions._records

    def records(self, route, header, frames):
        session = self._by_route.get(route)
        if session is not None and header.first[0] == session.received.epoch:
            first = min(header.first, (session.received.epoch, session.received.seq + 1))
            if first == tuple(header.first):  # resent: taken for new
                header = structs.replace(header, first=(session.received.epoch, session.received.seq + 1))
        return as_it_is(self, route, header, frames)

    monkeypatch.setattr(Sessions, "_records", records)


def gap_unnoticed(monkeypatch) -> None:
    as_it_is = Sessions._records

    def records(self, route, header, frames):
        session = self._by_route.get(route)
        if session is not None and Position(*header.first) > session.received:
            session.received = Position(header.first[0], header.first[1] - 1)
        return as_it_is(self, route, header, frames)

    monkeypatch.setattr(Sessions, "_records", records)


def nobody_fenced(monkeypatch) -> None:
    hello_as_it_is, attach_as_it_is = Sessions._hello, Sessions._attach

    def hello(self, route, hello):
        session = self._by_producer.get(hello.producer_id)
        newest = session.epoch if session else self._stored_of(hello.producer_id).epoch
        return hello_as_it_is(self, route, structs.replace(hello, epoch=max(hello.epoch, newest)))

    def attach(self, session, route, hello):
        attach_as_it_is(self, session, route, hello)
        for fenced in [route for route, held in self._by_route.items() if held is None]:
            del self._by_route[fenced]

    monkeypatch.setattr(Sessions, "_hello", hello)
    monkeypatch.setattr(Sessions, "_attach", attach)
    monkeypatch.setattr(Sessions, "_telemetry", lambda *_: Answer())  # it has the epoch too
    copies_unnoticed(monkeypatch)


def copies_unnoticed(monkeypatch) -> None:
    monkeypatch.setattr(Spool, "is_foreign", lambda *_: False)


def welcome_without_exceptions(monkeypatch) -> None:
    as_it_is = messages.welcome
    monkeypatch.setattr(messages, "welcome", lambda last, _exceptions, limits: as_it_is(last, (), limits))


def refused_is_believed(monkeypatch) -> None:
    def rewind(_self: Sessions, session: Session) -> None:
        session.received = session.taken = session.stored

    monkeypatch.setattr(Sessions, "rewind", rewind)


class HastyDaemon(Daemon):
    def take(self, chunk: Chunk) -> None:
        super().take(chunk)
        self.send(chunk.session.route, messages.ack(chunk.last, ()))


class HastyDelivery(Delivery):
    """Drops what it sent, not what was acked."""

    def send(self, now: float) -> bool:
        stuck = super().send(now)
        self._spool.drop_through(self._link.sent)
        return stuck


class HastySensor(Sensor):
    make_delivery = HastyDelivery


def nothing(_monkeypatch: Any) -> None:
    pass


CONTROLS = {
    "dedupe": ("dedupe by position", "ordered", stored_twice, {}),
    "early acks": ("ack only after COMMIT", "ordered", nothing, {"daemon": HastyDaemon}),
    "gaps": ("the look for gaps", "wild", gap_unnoticed, {}),
    "fencing": ("fencing of copied spools", "ordered", nobody_fenced, {}),
    "copies": ("the look for a copy's records in a welcome", "ordered", copies_unnoticed, {"odds": FOR_COPIES}),
    "welcome": ("exceptions repeated by the welcome", "ordered", welcome_without_exceptions, {}),
    "refused": ("a hello after a refused commit, which may have taken effect", "ordered", refused_is_believed, {}),
    "spool": ("spool kept until the ack", "ordered", nothing, {"sensor": HastySensor}),
}


@pytest.mark.timeout(60 + CONTROL_WORLDS_MAX)
@pytest.mark.parametrize(("protection", "mode", "switch_off", "options"), CONTROLS.values(), ids=CONTROLS)
def test_what_each_protection_prevents_is_seen_without_it(
    protection: str,
    mode: str,
    switch_off: Callable[[Any], None],
    options: dict[str, Any],
    attack,
    monkeypatch,
):
    attack.without("P1, P2, P3", protection, "worlds")
    switch_off(monkeypatch)
    seeds = attack.random(protection)
    while attack.caught < CAUGHT_ENOUGH and attack.runs < CONTROL_WORLDS_MAX:
        attack.runs += 1
        try:
            world.run(seeds.getrandbits(48), wild=mode == "wild", **options)
        except Lost as lost:
            attack.caught += 1
            attack.note = str(lost)[:80]
    assert attack.caught


# -- one by one ------------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_world():
    def told(seed: int) -> tuple[Any, ...]:
        done = world.run(seed, wild=True)
        return dict(done.happened), done.clock.now, dict(done.published), list(done.store.events)

    assert told(7) == told(7)
    assert told(7) != told(8)


@pytest.mark.parametrize("stuck", [False, True])
def test_a_new_try_to_connect_is_not_overslept(stuck):
    draw, clock = random.Random(0), Clock()
    with world.simulated(clock, draw) as directory:
        made = world.World(draw, directory, clock, wild=False)
        made.run()
        sensor = made.sensors[0]
        assert sensor._delivery.due_at(clock.now, stuck=stuck) > clock.now + 0.1, "nothing to do for long"
        sensor.dealer.retry_at = clock.now + 0.05
        assert sensor._delivery.due_at(clock.now, stuck=stuck) <= clock.now + 0.05
        for sensor in made.sensors:
            sensor.close()

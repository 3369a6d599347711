"""Sessions over a store that is a dict: what is answered, what goes into a batch, what may be acked."""

from __future__ import annotations

from collections import defaultdict

import msgpack
import pytest

from sightlog import Event
from sightlog.protocol import encoding, messages
from sightlog.protocol.limits import FRAMES_MAX
from sightlog.protocol.messages import START, Ack, Busy, Limits, Pong, Position, Refused, Resync, SpoolReport, Welcome
from sightlogd.protocol import session as session_module
from sightlogd.protocol.decoder import EventRecord, Refusal
from sightlogd.protocol.session import UNKNOWN, Sessions
from sightlogd.store import Store

LIMITS = Limits(window_records=100, window_bytes=1 << 20)
A, B, C = b"\0route-a", b"\0route-b", b"\0route-c"


class House:
    """Sessions, a store, and the batch in between."""

    def __init__(self) -> None:
        self.stored: dict[str, Position] = {}
        self.exceptions: defaultdict[str, list[tuple[int, int, str, str]]] = defaultdict(list)
        self.batch = []
        self.known = 0
        self.sessions = Sessions(
            lambda producer: self.stored.get(producer, START), self._exceptions_of, LIMITS, lambda: self.known
        )

    def _exceptions_of(self, producer: str, first: Position, last: Position) -> list[tuple[int, str, str]]:
        return [
            (seq, status, reason)
            for epoch, seq, status, reason in self.exceptions[producer]
            if first <= (epoch, seq) <= last and epoch == last.epoch
        ]

    def receive(self, route: bytes, frames: list[bytes]):
        """The reply as a client reads it, or None; what is new goes into the batch."""
        self.answer = self.sessions.receive(route, frames)
        if self.answer.chunk:
            self.batch.append(self.answer.chunk)
        return messages.decode_reply(self.answer.reply) if self.answer.reply else None

    def hello(self, route: bytes, epoch: int = 1, first: tuple[int, int] = (1, 1), producer: str = "p", name="front"):
        return self.receive(route, messages.hello(producer, name, epoch, Position(*first)))

    def send(self, route: bytes, seq: int, count: int = 1, *, epoch: int = 1, flush: bool = False, images=()):
        images = list(images) or [b""] * count
        return self.receive(route, messages.records(Position(epoch, seq), events(count), images, flush=flush))

    def ping(self, route: bytes, *, flush: bool = False):
        return self.receive(route, messages.ping(3, 400, flush=flush))

    def commit(self) -> dict[str, Position]:
        """What each producer would be acked."""
        acks = {}
        for chunk in self.batch:
            self.stored[chunk.session.producer_id] = chunk.last
            self.sessions.resolve(chunk.session, chunk.last)
            acks[chunk.session.producer_id] = chunk.session.stored
        self.batch.clear()
        return acks

    def batched(self) -> list[tuple[Position, int]]:
        return [(chunk.first, len(chunk.records)) for chunk in self.batch]


@pytest.fixture
def house() -> House:
    return House()


EVENT = encoding.encode_record(Event("front_door", event_id="e"))[0]


def events(count: int) -> list[bytes]:
    return [EVENT] * count


# -- hello -----------------------------------------------------------------------------------------------------------


def test_an_unknown_producer_is_welcomed_at_the_start(house):
    assert house.hello(A) == Welcome(START, [], LIMITS)
    assert house.send(A, 1, 3) is None
    assert house.batched() == [((1, 1), 3)]
    assert house.commit() == {"p": (1, 3)}


def test_many_producers_share_what_few_have_as_windows(house):
    windows = [
        house.hello(b"\0%d" % number, producer=f"p{number}", name=f"front{number}").limits.window_bytes
        for number in range(1_000)
    ]
    whole = LIMITS.window_bytes
    assert windows[: session_module.WHOLE_WINDOWS] == [whole] * session_module.WHOLE_WINDOWS
    assert windows[2 * session_module.WHOLE_WINDOWS - 1] == whole // 2
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] == session_module.WINDOW_BYTES_MIN
    assert sum(windows) < 48 << 20


def test_a_known_producer_is_welcomed_where_the_store_has_it(house):
    house.stored["p"] = Position(1, 7)
    assert house.hello(A, epoch=1, first=(1, 5)).last == (1, 7)
    house.send(A, 8)
    assert (house.batched(), house.batch[0].session.missing) == ([((1, 8), 1)], 0)


def test_another_protocol_is_refused_and_leaves_no_session(house):
    frame = msgpack.packb(
        {"kind": "hello", "protocol": 2, "producer_id": "p", "name": "n", "epoch": 1, "first": [1, 1]}
    )
    reply = house.receive(A, [frame])
    assert (reply.code, "protocol 1" in reply.reason) == ("protocol", True)
    assert len(house.sessions) == 0
    assert house.send(A, 1) == Resync(None)


def test_a_hello_that_begins_in_the_future_is_malformed(house):
    assert house.hello(A, epoch=1, first=(2, 1)).code == "malformed"
    assert len(house.sessions) == 0


@pytest.mark.parametrize("message", ["records", "ping"])
def test_a_connection_that_said_no_hello_is_asked_for_one(house, message):
    assert (house.send(A, 1) if message == "records" else house.ping(A)) == Resync(None)
    assert house.batched() == []


# -- resending and gaps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seq", "count", "taken"),
    [(1, 5, None), (3, 3, None), (1, 6, ((1, 6), 1)), (4, 10, ((1, 6), 8)), (6, 1, ((1, 6), 1))],
)
def test_what_was_received_already_is_skipped(house, seq, count, taken):
    house.hello(A)
    house.send(A, 1, 5)
    assert house.send(A, seq, count) is None
    assert house.batched()[1:] == ([taken] if taken else [])


def test_what_is_stored_already_is_acked_at_once(house):
    house.hello(A)
    house.send(A, 1, 5)
    house.commit()
    assert house.send(A, 2, 3) == Ack((1, 5), [])
    assert house.batched() == []


def test_resent_records_that_somebody_waits_for_hurry_the_batch_they_are_in(house):
    house.hello(A)
    house.send(A, 1, 5)
    assert house.send(A, 1, 5, flush=True) is None
    assert house.answer.flush


def test_a_gap_is_answered_by_resync_once(house):
    house.hello(A)
    house.send(A, 1, 2)
    assert house.send(A, 5) == Resync((1, 2))
    assert house.send(A, 6) is None
    assert house.send(A, 7, flush=True) is None
    assert house.send(A, 3, 4) is None
    assert house.send(A, 9) == Resync((1, 6))  # the next gap is told again
    assert house.batched() == [((1, 1), 2), ((1, 3), 4)]


def test_a_gap_is_told_again_after_a_hello(house):
    house.hello(A)
    assert house.send(A, 5) == Resync((1, 0))
    house.hello(A)
    assert house.send(A, 5) == Resync((1, 0))


def test_records_of_another_epoch_than_announced_are_a_gap(house):
    house.hello(A, epoch=2, first=(1, 1))
    house.send(A, 1, 2, epoch=1)
    assert house.send(A, 1, epoch=2) == Resync((1, 2))
    house.hello(A, epoch=2, first=(2, 1))
    assert house.send(A, 1, epoch=2) is None
    assert house.batched() == [((1, 1), 2), ((2, 1), 1)]


def test_the_images_of_skipped_records_are_skipped_with_them(house):
    house.hello(A)
    house.send(A, 1, 2)
    house.send(A, 1, 5, images=[b"1", b"", b"3", b"", b"5"])
    chunk = house.batch[-1]
    assert (chunk.first, chunk.images) == ((1, 3), {0: b"3", 2: b"5"})


def test_as_many_images_as_a_message_has_frames_for_are_taken(house):
    house.hello(A)
    house.send(A, 1, FRAMES_MAX - 2, images=[b"i%d" % n for n in range(FRAMES_MAX - 2)])
    assert house.batch[0].images == {n: b"i%d" % n for n in range(FRAMES_MAX - 2)}


def test_more_images_than_a_message_has_frames_for_are_malformed(house):
    house.hello(A)
    assert house.send(A, 1, FRAMES_MAX - 1, images=[b"i"] * (FRAMES_MAX - 1)).code == "malformed"


# -- connections and lives -------------------------------------------------------------------------------------------


def test_a_reconnect_of_the_same_life_goes_on_and_its_old_connection_is_forgotten(house):
    house.hello(A)
    house.send(A, 1, 3)
    assert house.hello(B, first=(1, 1)).last == START  # in the batch is not stored
    assert house.send(B, 1, 5) is None
    assert house.batched() == [((1, 1), 3), ((1, 4), 2)]
    assert house.commit() == {"p": (1, 5)}
    assert house.sessions.receive(A, messages.ping(0, 0, flush=False)).reply == messages.resync(None)
    assert house.batch == []


def test_of_two_processes_with_one_id_the_newer_wins_and_the_older_is_told(house):
    house.hello(A, epoch=1)
    house.send(A, 1, 2)
    house.hello(B, epoch=2, first=(2, 1))
    for told in (house.send(A, 3), house.ping(A), house.hello(A, epoch=1), house.hello(C, epoch=1)):
        assert (told.code, "newer process" in told.reason) == ("fenced", True)
    assert house.send(B, 1, epoch=2) is None
    assert house.batched() == [((1, 1), 2), ((2, 1), 1)]


def test_an_older_life_is_fenced_by_what_the_store_remembers(house):
    house.stored["p"] = Position(5, 1)
    assert house.hello(A, epoch=4, first=(4, 1)).code == "fenced"
    assert house.hello(B, epoch=5, first=(5, 2)).last == (5, 1)


def test_a_newer_life_first_sends_what_an_older_one_left(house):
    house.stored["p"] = Position(1, 3)
    assert house.hello(A, epoch=9, first=(1, 1)).last == (1, 3)
    house.send(A, 4, 2, epoch=1)
    house.commit()
    assert house.hello(A, epoch=9, first=(4, 1)).last == (1, 5)
    house.send(A, 1, 2, epoch=4)
    house.commit()
    house.hello(A, epoch=9, first=(9, 1))
    house.send(A, 1, 1, epoch=9)
    assert house.commit() == {"p": (9, 1)}
    assert house.hello(B, epoch=8, first=(8, 1)).code == "fenced"


def test_leftovers_that_an_older_connection_brought_into_the_batch_are_not_taken_twice(house):
    house.hello(A, epoch=1)
    house.send(A, 1, 3)
    house.hello(B, epoch=2, first=(1, 1))
    assert house.send(B, 1, 4, epoch=1) is None
    assert house.batched() == [((1, 1), 3), ((1, 4), 1)]


# -- exceptions and missing records ----------------------------------------------------------------------------------


def test_exceptions_are_told_again_after_a_lost_ack(house):
    house.hello(A)
    house.send(A, 1, 4)
    house.commit()
    house.exceptions["p"] = [(1, 2, messages.REJECTED, "bad"), (1, 4, messages.DUPLICATE, "there")]
    again = [(2, messages.REJECTED, "bad"), (4, messages.DUPLICATE, "there")]
    assert house.send(A, 1, 4) == Ack((1, 4), again)
    assert house.hello(B, first=(1, 1)).exceptions == again
    assert house.hello(B, first=(1, 3)).exceptions == again[1:]
    assert house.hello(B, first=(1, 5)).exceptions == []


def test_missing_records_are_counted_once(house):
    house.stored["p"] = Position(1, 5)
    house.hello(A, first=(1, 9))
    assert "3 records before 1/9" in house.answer.warning
    for _ in range(3):
        house.hello(A, first=(1, 9))
        assert house.answer.warning is None
    house.send(A, 9)
    assert house.batch[0].session.missing == 3
    house.commit()
    house.send(A, 10)
    assert house.batch[0].session.missing == 0


@pytest.mark.parametrize(
    ("stored", "first", "missing"),
    [
        (START, (1, 1), 0),
        (START, (1, 50), 0),  # a store that never heard of this producer
        ((1, 5), (1, 6), 0),
        ((1, 5), (1, 2), 0),
        ((1, 5), (2, 1), 0),  # a new life
        ((1, 5), (2, 4), 3),
    ],
)
def test_only_records_that_nobody_has_are_missing(house, stored, first, missing):
    house.stored["p"] = Position(*stored)
    house.hello(A, epoch=first[0], first=first)
    house.send(A, max(first[1], stored[1] + 1) if first[0] == stored[0] else first[1], epoch=first[0])
    assert house.batch[0].session.missing == missing


def test_no_hello_can_make_the_daemon_stop_over_its_count_of_missing_records(tmp_path):
    store = Store(tmp_path)
    house = House()
    house.sessions = Sessions(store.stored_of, store.exceptions_of, LIMITS, lambda: 0)
    for epoch in range(1, 5):
        house.hello(A, epoch=epoch, first=(epoch, 2**63 - 2000))
        house.send(A, 2**63 - 2000, epoch=epoch)
        store.write(house.batch, {}, [])
        house.commit()
    assert store.stored_of("p") == (4, 2**63 - 2000)
    store.close()


# -- bad messages ----------------------------------------------------------------------------------------------------


def header(**changes) -> bytes:
    return msgpack.packb({"kind": "records", "first": [1, 1], "flush": False, "images": [], **changes})


BODY = msgpack.packb(events(2))
MALFORMED = {
    "no frames": [],
    "an empty frame": [b""],
    "not msgpack": [b"\xc1"],
    "half a header": [header()[:-3], BODY],
    "unknown kind": [header(kind="order"), BODY],
    "no body": [header()],
    "an empty body": [header(), b""],
    "a body without records": [header(), msgpack.packb([])],
    "too many records": [header(), msgpack.packb([b""] * 1001)],
    "records that are text": [header(), msgpack.packb(["record"])],
    "a frame too many": [header(), BODY, b"image"],
    "an image too few": [header(images=[0, 1]), BODY, b"image"],
    "an image for no record": [header(images=[2]), BODY, b"image"],
    "two images for one record": [header(images=[1, 1]), BODY, b"image", b"image"],
    "a negative image": [header(images=[-1]), BODY, b"image"],
    "seq 0": [header(first=[1, 0]), BODY],
    "seq too large": [header(first=[1, 2**63 - 1]), BODY],
    "epoch too large": [header(first=[2**63, 1]), BODY],
    "a ping with a body": [messages.ping(0, 0, flush=False)[0], b""],
    "a hello with a body": [messages.hello("p", "n", 1, Position(1, 1))[0], b""],
    "a message of the daemon": messages.pong(),
}


@pytest.mark.parametrize("frames", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_told_and_kept_and_the_session_goes_on(house, frames):
    house.hello(A)
    house.hello(B, producer="neighbour")
    house.send(A, 1, 2)
    reply = house.receive(A, frames)
    assert isinstance(reply, Refused)
    assert reply.code == "malformed"
    assert house.answer.dead_letter.producer_id == "p"
    assert reply.reason in house.answer.dead_letter.reason
    assert house.send(A, 3) is None
    assert house.send(B, 1) is None
    assert house.commit() == {"p": (1, 3), "neighbour": (1, 1)}


def test_a_malformed_message_of_a_stranger_belongs_to_nobody(house):
    assert house.receive(A, [b"\xc1garbage"]).code == "malformed"
    assert house.answer.dead_letter.producer_id == UNKNOWN
    assert house.answer.dead_letter.message == b"\xc1garbage"


def test_a_bad_record_is_refused_in_its_place_and_its_neighbours_are_taken(house):
    house.hello(A)
    house.receive(A, messages.records(Position(1, 1), [EVENT, b"garbage", EVENT], [b""] * 3, flush=False))
    assert [type(record) for record in house.batch[0].records] == [EventRecord, Refusal, EventRecord]
    assert house.batch[0].packed[1] == b"garbage"
    assert house.commit() == {"p": (1, 3)}


# -- busy, forgetting, bounds ----------------------------------------------------------------------------------------


def test_after_busy_everything_not_stored_is_taken_again(house):
    house.hello(A)
    house.send(A, 1, 3)
    house.commit()
    house.send(A, 4, 3)
    house.sessions.rewind(house.batch.pop().session)
    assert isinstance(house.send(A, 7), Resync)
    assert house.hello(A, first=(1, 4)).last == (1, 3)
    assert house.send(A, 4, 4) is None
    assert house.batched() == [((1, 4), 4)]


@pytest.mark.parametrize("seq", [1, 2, 4, 9], ids=["all of it", "a part of it", "what comes behind", "a gap"])
def test_a_commit_that_failed_but_took_effect_is_told_with_its_exceptions(house, seq):
    house.hello(A)
    house.send(A, 1, 3)
    session = house.batch.pop().session
    house.stored["p"], house.exceptions["p"] = Position(1, 3), [(1, 2, messages.REJECTED, "bad")]
    house.sessions.rewind(session)
    # The producer sends again what it has no ack of. Of a resync it only takes where to go on, unless it is to greet.
    reply = house.send(A, seq, 5)
    if reply == Resync(None):
        reply = house.hello(A, first=(1, 1))
    assert (reply.last, reply.exceptions) == ((1, 3), [(2, messages.REJECTED, "bad")])


def test_missing_records_are_counted_after_busy_too(house):
    house.stored["p"] = Position(1, 5)
    house.hello(A, first=(1, 9))
    house.send(A, 9)
    house.sessions.rewind(house.batch.pop().session)
    assert isinstance(house.send(A, 9), Resync)
    house.hello(A, first=(1, 9))
    house.send(A, 9)
    assert house.batch[0].session.missing == 3


def test_a_forgotten_connection_is_asked_for_a_hello(house):
    house.hello(A)
    house.send(A, 1)
    house.commit()
    house.sessions.forget(A)
    house.sessions.forget(A)
    assert len(house.sessions) == 0
    assert house.send(A, 2) == Resync(None)
    assert house.hello(A, first=(1, 2)).last == (1, 1)


def test_a_connection_forgotten_with_records_in_the_batch_does_not_get_them_twice(house):
    house.hello(A)
    house.send(A, 1, 3)
    house.sessions.forget(A)
    house.hello(B)
    assert house.send(B, 1, 4) is None
    assert house.batched() == [((1, 1), 3), ((1, 4), 1)]
    assert house.commit() == {"p": (1, 4)}


def test_a_connection_forgotten_with_records_in_the_batch_is_not_remembered_for_ever(house):
    house.hello(A)
    house.send(A, 1, 3)
    house.sessions.forget(A)
    house.commit()
    assert len(house.sessions) == 0


@pytest.fixture
def sessions_max(monkeypatch) -> int:
    monkeypatch.setattr(session_module, "SESSIONS_MAX", 50)
    return 50


def test_beyond_the_bound_the_connection_unheard_for_the_longest_has_to_say_hello_again(house, sessions_max):
    for number in range(sessions_max):
        house.hello(b"%d" % number, producer=f"p{number}")
        house.send(b"%d" % number, 1)
    house.commit()
    house.ping(b"0")
    house.send(b"1", 2)
    house.commit()
    house.hello(A, producer="late")
    assert house.ping(b"2") == Resync(None)
    assert house.ping(b"0") == house.ping(b"1") == house.ping(A) == Pong()
    assert len(house.sessions) == sessions_max


@pytest.mark.parametrize("records", [0, 1])
@pytest.mark.parametrize("routes", [1, 500])
def test_a_stranger_with_many_names_cannot_make_the_daemon_remember_them_all(house, sessions_max, routes, records):
    for number in range(500):
        route = b"%d" % (number % routes)
        house.hello(route, producer=f"p{number}")
        for _ in range(records):
            house.send(route, 1)
        house.commit()
    assert len(house.sessions) <= sessions_max


def test_fenced_connections_are_bounded_too(house, sessions_max):
    for epoch in range(1, 500):
        house.hello(b"%d" % epoch, epoch=epoch, first=(epoch, 1))
    assert house.ping(b"1") == Resync(None)
    assert house.ping(b"498").code == "fenced"


# -- ping and replies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", [False, True])
def test_a_ping_tells_the_depth_of_the_spool_and_may_hurry_the_batch(house, flush):
    house.hello(A)
    house.send(A, 1)
    assert house.ping(A, flush=flush) == Pong()
    session = house.batch[0].session
    assert (session.spooled_records, session.spooled_bytes, house.answer.flush) == (3, 400, flush)


# -- telemetry -------------------------------------------------------------------------------------------------------


def telemetry(house, route, epoch=1):
    told = SpoolReport(Position(epoch, 7), Position(epoch, 4), 107, 0, 3, 400)
    return house.receive(route, messages.telemetry(told, {"frames_processed": 30}, {"hog": [12.5]}))


def test_telemetry_is_passed_on_with_who_told_it_and_gets_no_answer(house):
    house.hello(A, name="camera")
    assert telemetry(house, A) is None
    said = house.answer.reported
    assert (said.producer_id, said.name, said.telemetry.frames_processed) == ("p", "camera", 30)
    assert said.telemetry.report == SpoolReport(Position(1, 7), Position(1, 4), 107, 0, 3, 400)


def test_telemetry_without_a_hello_is_ignored_and_asks_for_one(house):
    assert telemetry(house, A) == Resync(None)
    assert house.answer.reported is None


def test_telemetry_of_a_fenced_or_of_another_life_is_not_counted(house):
    house.hello(A, epoch=1)
    assert telemetry(house, A, epoch=2).code == "malformed"
    house.hello(B, epoch=2, first=(2, 1))
    assert telemetry(house, A, epoch=1).code == "fenced"
    assert house.answer.reported is None


def test_records_received_again_are_counted_as_resent(house):
    house.hello(A)
    house.send(A, 1, 3)
    assert house.answer.resent == 0
    house.send(A, 2, 3)
    assert house.answer.resent == 2
    house.commit()
    house.send(A, 1, 4)
    assert house.answer.resent == 4


def test_busy_is_what_the_client_reads():
    assert messages.decode_reply(messages.busy("storage_full: no room", 1.5)) == Busy("storage_full: no room", 1.5)


def test_a_life_that_has_more_to_send_than_the_one_before_announced_is_heard(house):
    """An older database was restored, and the producer started anew before it sent anything: its spool has more."""
    house.stored["p"] = Position(1, 5)
    house.hello(A, epoch=2, first=(1, 9))
    assert house.hello(B, epoch=3, first=(1, 4)).last == Position(1, 5)
    assert house.send(B, 6, 4) is None
    assert (house.batched(), house.batch[0].session.missing) == ([((1, 6), 4)], 0)
    assert house.commit() == {"p": Position(1, 9)}


def test_the_same_among_records_that_wait_for_their_commit(house):
    house.hello(A)
    house.send(A, 1, 5)
    house.hello(A, first=(1, 9))
    house.hello(A, first=(1, 6))
    house.send(A, 6)
    assert [chunk.last.seq for chunk in house.batch] == [5, 6]
    assert house.batch[0].session.missing == 0


def test_a_store_that_knows_as_many_producers_as_it_may_takes_no_new_one_and_goes_on_with_the_others():
    house = House()
    house.known, house.stored["known"] = session_module.PRODUCERS_MAX, Position(1, 7)
    reply = house.hello(A, producer="new", name="camera")
    assert isinstance(reply, Busy)
    assert "10,000 producers" in reply.reason
    assert "spool_dir" in reply.reason
    assert house.answer.warning == reply.reason
    assert house.send(A, 1) == Resync(None)  # nobody has said hello there
    assert house.hello(B, producer="known", first=(1, 8)).last == Position(1, 7)
    house.send(B, 8)
    assert house.commit() == {"known": Position(1, 8)}
    house.known -= 1
    assert isinstance(house.hello(A, producer="new"), Welcome)


def test_producers_that_have_nothing_stored_yet_count_too():
    house = House()
    house.known = session_module.PRODUCERS_MAX - 2
    assert isinstance(house.hello(A, producer="a"), Welcome)
    assert isinstance(house.hello(B, producer="b"), Welcome)
    assert isinstance(house.hello(C, producer="c"), Busy)
    assert isinstance(house.hello(A, producer="a"), Welcome)  # it comes again

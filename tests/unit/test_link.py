"""The producer's state machine as stories: what happened, and what it wants to do then."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sightlog import ProtocolError
from sightlog.protocol.limits import MESSAGE_BYTES_MAX, MESSAGE_RECORDS_MAX
from sightlog.protocol.messages import START, Ack, Busy, Limits, Pong, Position, Refused, Resync, Welcome
from sightlog.publisher.session import BUSY_PAUSE_MAX, IDLE, MALFORMED_PAUSE, SILENCE_MAX, SILENCE_MIN, Link, Phase

LIMITS = Limits(window_records=10, window_bytes=1_000, message_records_max=4, message_bytes_max=500)
HELLO, PING, NOTHING = "hello", "ping", "nothing"


def at(seq: int, epoch: int = 1) -> Position:
    return Position(epoch, seq)


def welcome(seq: int = 0, epoch: int = 1, limits: Limits = LIMITS) -> Welcome:
    return Welcome(at(seq, epoch) if seq else START, [], limits)


FIRST = at(1)


def open_link(first: Position = FIRST, last: Position = START, limits: Limits = LIMITS) -> Link:
    """Greeted and welcomed at time 0."""
    link = Link()
    link.greeted(first, 0.0)
    link.receive(Welcome(last, [], limits), 0.0)
    return link


def send(link: Link, *seqs: int, size: int = 10, now: float = 0.0, epoch: int = 1) -> None:
    """Messages that end at `seqs`, each beginning behind the last."""
    for seq in seqs:
        assert link.continues(at(link.sent.seq + 1, epoch))
        link.transmitted(at(seq, epoch), seq - link.sent.seq, size, now)


def wants(link: Link, now: float) -> str:
    return HELLO if link.hello_due(now) else PING if link.ping_due(now) else NOTHING


def wishes(link: Link, until: float, step: float = 0.05) -> list[float]:
    """When it asked something up to `until`, with nobody answering."""
    asked = []
    for now in (round(number * step, 3) for number in range(round(until / step) + 1)):
        want = wants(link, now)
        if want == HELLO:
            link.greeted(at(1), now)
        elif want == PING:
            link.pinged(now)
        if want != NOTHING:
            asked.append(now)
    return asked


# -- window ----------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_welcome():
    link = Link()
    assert (wants(link, 0.0), link.room(0.0)) == (HELLO, (0, 0))
    link.greeted(at(1), 0.0)
    assert (wants(link, 0.0), link.room(0.0), link.phase) == (NOTHING, (0, 0), Phase.GREETING)
    link.receive(welcome(), 0.1)
    assert (wants(link, 0.1), link.room(0.1), link.phase) == (NOTHING, (4, 500), Phase.OPEN)


@pytest.mark.parametrize(
    ("sent", "size", "acked", "room"),
    [
        ((), 0, 0, (4, 500)),
        ((4,), 100, 0, (4, 500)),
        ((4, 8), 100, 0, (2, 500)),
        ((4, 8, 10), 100, 0, (0, 0)),
        ((4, 8, 10), 100, 3, (0, 0)),  # a message counts until all of it is acked
        ((4, 8, 10), 100, 4, (4, 500)),
        ((4, 8, 10), 100, 8, (4, 500)),
        ((4, 8, 10), 100, 10, (4, 500)),
        ((1, 2), 400, 0, (4, 200)),
        ((1,), 1_000, 0, (0, 0)),
        ((1,), 5_000, 0, (0, 0)),  # one record larger than the window
        ((1,), 5_000, 1, (4, 500)),
    ],
)
def test_no_more_is_in_flight_than_the_window_holds(sent, size, acked, room):
    link = open_link()
    send(link, *sent, size=size)
    if acked:
        link.receive(Ack(at(acked), []), 0.0)
    assert link.room(0.0) == room


@pytest.mark.parametrize(
    ("sent", "records", "size", "fills"),
    [((), 4, 100, False), ((), 10, 100, True), ((4, 8), 1, 100, False), ((4, 8), 2, 100, True), ((4,), 1, 990, True)],
)
def test_the_message_behind_which_nothing_fits_is_known(sent, records, size, fills):
    link = open_link()
    send(link, *sent)
    assert link.fills(records, size) is fills


def test_a_daemon_that_tells_wider_limits_is_believed_at_the_next_welcome():
    link = open_link(limits=Limits(2, 100, 2, 100))
    assert link.room(0.0) == (2, 100)
    link.receive(Resync(None), 0.0)
    link.receive(welcome(limits=Limits(50, MESSAGE_BYTES_MAX)), 0.0)
    assert link.room(0.0) == (50, MESSAGE_BYTES_MAX)


def test_a_daemon_that_tells_more_than_this_client_sends_gets_no_more():
    link = open_link(limits=Limits(2**40, 2**40, 2**40, 2**40))
    assert link.room(0.0) == (MESSAGE_RECORDS_MAX, MESSAGE_BYTES_MAX)


# -- asking again ----------------------------------------------------------------------------------------------------


def test_a_hello_is_repeated_ever_more_rarely():
    asked = wishes(Link(), 30.0)
    pauses = [round(after - before, 2) for before, after in pairwise(asked)]
    assert pauses[:7] == [SILENCE_MIN, 0.5, 1.0, 2.0, 4.0, SILENCE_MAX, SILENCE_MAX]


def test_silence_about_records_in_flight_is_asked_about_ever_more_rarely():
    link = open_link()
    send(link, 4)
    asked = wishes(link, 15.0)
    pauses = [round(after - before, 2) for before, after in pairwise([0.0, *asked])]
    assert pauses[:6] == [SILENCE_MIN, 0.5, 1.0, 2.0, 4.0, SILENCE_MAX]


@pytest.mark.parametrize("answer", [Pong(), Ack(at(2), [])])
def test_any_answer_ends_the_silence_and_what_is_still_in_flight_begins_a_new_one(answer):
    link = open_link()
    send(link, 2, 4)
    wishes(link, 5.0)
    link.receive(answer, 5.0)
    assert wants(link, 5.0 + SILENCE_MIN - 0.01) == NOTHING
    assert wants(link, 5.0 + SILENCE_MIN) == PING


def test_an_idle_link_shows_now_and_then_that_it_is_alive():
    link = open_link()
    send(link, 4)
    link.receive(Ack(at(4), []), 1.0)
    assert wants(link, 1.0 + IDLE - 0.1) == NOTHING
    assert wants(link, 1.0 + IDLE) == PING


@pytest.mark.parametrize(
    ("story", "deadline"),
    [
        ([], 0.0),  # hello is due now
        ([("greeted",)], SILENCE_MIN),
        ([("greeted",), welcome()], IDLE),
        ([("greeted",), welcome(), ("sent", 4)], SILENCE_MIN),
        ([("greeted",), welcome(), ("sent", 4), Ack(at(4), [])], IDLE),
        ([("greeted",), welcome(), ("sent", 4), Busy("full", 3.0)], 3.0),
        ([("greeted",), welcome(), Busy("full", 60.0)], 60.0),
        ([("greeted",), welcome(), Refused("malformed", "")], MALFORMED_PAUSE),
        ([("greeted",), welcome(), Refused("fenced", "")], IDLE),
    ],
)
def test_the_next_look_is_when_something_may_be_due(story, deadline):
    link = Link()
    for happened in story:
        if happened == ("greeted",):
            link.greeted(at(1), 0.0)
        elif isinstance(happened, tuple) and happened[0] == "sent":
            send(link, happened[1])
        else:
            link.receive(happened, 0.0)
    assert link.deadline(0.0) == deadline


# -- welcome ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "acked", "sent"),
    [
        (at(1), START, START, at(0)),
        (at(1), at(5), at(5), at(5)),  # the ack was lost
        (at(6), at(5), at(5), at(5)),
        (at(9), at(5), at(5), at(8)),  # 6 to 8 cannot be read back
        (at(1, 2), at(5), at(5), at(0, 2)),  # a new life with nothing left of the old one
        (at(3), at(5, 1), at(5), at(5)),
    ],
)
def test_records_go_on_behind_what_is_stored_or_where_they_begin(first, last, acked, sent):
    link = open_link(first, last)
    assert (link.acked, link.sent) == (acked, sent)
    assert link.continues(Position(sent.epoch, sent.seq + 1))
    assert link.phase is Phase.OPEN


def test_a_second_welcome_changes_nothing_that_was_sent_meanwhile():
    link = open_link()
    send(link, 4, 6)
    link.receive(welcome(), 0.1)
    assert (link.sent, link.acked, link.room(0.1)) == (at(6), START, (4, 500))


# -- busy and resync -------------------------------------------------------------------------------------------------


def test_busy_takes_back_what_is_in_flight_and_pauses():
    link = open_link()
    send(link, 4, 8)
    link.receive(Ack(at(4), []), 1.0)
    link.receive(Busy("storage_full: no room", 2.0), 1.0)
    assert (link.sent, link.phase) == (at(4), Phase.GREETING)
    assert (link.room(2.9), wants(link, 2.9)) == ((0, 0), NOTHING)
    assert wants(link, 3.0) == HELLO


@pytest.mark.parametrize(
    ("last", "sent", "want"),
    [
        (at(4), at(4), NOTHING),
        (at(5), at(5), NOTHING),  # received and not stored yet: not sent again
        (at(8), at(8), NOTHING),
        (at(3), at(4), HELLO),  # behind what was acked: that is another database
        (at(4, 0), at(4), HELLO),
        (at(9, 2), at(4), HELLO),
        (None, at(4), HELLO),
    ],
)
def test_resync_goes_on_behind_what_was_received_or_greets_anew(last, sent, want):
    link = open_link()
    send(link, 4, 8)
    link.receive(Ack(at(4), []), 0.0)
    link.receive(Resync(last), 0.0)
    assert (link.sent, link.acked, wants(link, 0.0)) == (sent, at(4), want)
    assert link.room(0.0) == ((0, 0) if want == HELLO else (4, 500))


def test_a_resync_never_skips_records_that_were_not_sent():
    link = open_link()
    send(link, 4)
    link.receive(Resync(at(9)), 0.0)
    assert link.sent <= at(4)


def test_a_hello_after_busy_waits_for_the_pause_too():
    link = open_link()
    link.receive(Busy("full", 2.0), 0.0)
    link.receive(Resync(None), 0.0)
    assert (wants(link, 1.9), wants(link, 2.0)) == (NOTHING, HELLO)


# -- gaps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [at(9), at(1, 2)], ids=["records that cannot be read back", "a new life"])
def test_behind_a_gap_the_daemon_is_greeted_once_all_before_it_is_acked(behind):
    link = open_link()
    send(link, 4, 6)
    for acked in (None, at(4)):
        if acked:
            link.receive(Ack(acked, []), 0.0)
        assert not link.continues(behind)
        assert (link.phase, wants(link, 0.0)) == (Phase.OPEN, NOTHING)
    link.receive(Ack(at(6), []), 0.0)
    assert not link.continues(behind)
    assert (link.phase, wants(link, 0.0)) == (Phase.GREETING, HELLO)
    link.greeted(behind, 0.0)
    link.receive(welcome(6), 0.0)
    assert link.continues(behind)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "phase"), [("fenced", Phase.FENCED), ("protocol", Phase.REFUSED)])
def test_a_refusal_ends_this_life(code, phase):
    link = open_link()
    send(link, 4)
    link.receive(Refused(code, "because"), 0.0)
    assert (link.phase, link.refusal) == (phase, "because")
    assert (link.room(100.0), wants(link, 100.0)) == ((0, 0), NOTHING)


@pytest.mark.parametrize(
    "late", [Resync(None), Resync(at(2)), Refused("malformed", ""), Busy("", 1), Pong(), welcome()]
)
@pytest.mark.parametrize(("code", "phase"), [("fenced", Phase.FENCED), ("protocol", Phase.REFUSED)])
def test_an_answer_that_comes_after_the_end_brings_nothing_back(code, phase, late):
    link = open_link()
    send(link, 4)
    link.receive(Refused(code, "because"), 0.0)
    link.receive(late, 0.0)
    assert (link.phase, wants(link, 100.0), link.refusal) == (phase, NOTHING, "because")


def test_an_ack_that_comes_after_the_end_still_counts():
    link = open_link()
    send(link, 4)
    link.receive(Refused("fenced", ""), 0.0)
    link.receive(Ack(at(4), []), 0.0)
    assert link.acked == at(4)


def test_after_a_malformed_message_it_pauses_and_greets_anew():
    link = open_link()
    send(link, 4)
    link.receive(Refused("malformed", "body"), 1.0)
    assert (link.phase, link.sent, link.room(1.0)) == (Phase.GREETING, START, (0, 0))
    assert (wants(link, 1.0 + MALFORMED_PAUSE - 0.1), wants(link, 1.0 + MALFORMED_PAUSE)) == (NOTHING, HELLO)


def test_after_an_answer_that_cannot_be_read_it_pauses_and_greets_anew():
    link = open_link()
    send(link, 4)
    link.unreadable(1.0)
    assert (link.phase, link.sent) == (Phase.GREETING, START)
    assert (wants(link, 1.0 + MALFORMED_PAUSE - 0.1), wants(link, 1.0 + MALFORMED_PAUSE)) == (NOTHING, HELLO)


def test_no_daemon_makes_it_wait_for_years():
    link = open_link()
    link.receive(Busy("no room", 2**63 / 1000), 0.0)
    assert wants(link, BUSY_PAUSE_MAX) == HELLO


# -- acks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acks", "acked"),
    [([4], 4), ([2, 4], 4), ([4, 2], 4), ([8], 8), ([1], 1), ([8, 8, 3], 8)],
)
def test_what_is_acked_only_grows(acks, acked):
    link = open_link()
    send(link, 4, 8)
    for seq in acks:
        link.receive(Ack(at(seq), []), 0.0)
    assert link.acked == at(acked)
    assert link.sent == at(8)


@pytest.mark.parametrize(
    ("reply", "is_believed"),
    [
        (Ack(at(8), []), True),
        (Ack(at(9), []), False),
        (Ack(at(1, epoch=2), []), False),
        (welcome(8), True),
        (welcome(9), False),
        (welcome(1, epoch=2), False),
        (Resync(at(99)), True),  # it settles nothing
    ],
)
def test_only_what_was_sent_can_be_settled_also_when_it_has_to_be_sent_again(reply, is_believed):
    link = open_link()
    send(link, 4, 8)
    link.receive(Resync(at(4)), 0.0)
    if is_believed:
        link.check(reply, 1)
    else:
        with pytest.raises(ProtocolError, match="what was sent ends at 1/8"):
            link.check(reply, 1)


def test_of_earlier_lives_a_daemon_may_know_more_than_the_spool():
    link = Link()
    link.greeted(at(3), 0.0)
    link.check(welcome(500, epoch=2), 3)
    with pytest.raises(ProtocolError):
        link.check(welcome(1, epoch=3), 3)


def test_a_welcome_that_comes_late_settles_as_an_ack_does():
    """The ack was lost with a connection, and a hello was asked twice."""
    link = open_link()
    send(link, 4)
    link.receive(welcome(4), 0.1)
    assert link.acked == at(4)
    assert wants(link, 0.1 + SILENCE_MAX) == NOTHING

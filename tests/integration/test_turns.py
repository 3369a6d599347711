"""A caller that waits uses the socket itself. Whoever comes, goes, dies or forks meanwhile: nobody is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import linecache
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import wait_for

import sightlog
from sightlog import AckTimeout, Event, PublisherClosed
from sightlog.delivery import Delivery
from sightlog.link import Link
from sightlog.spool import Spool
from sightlog.wire import Position

LINES = 500
"""Of the client's code, one wait has fewer."""
OURS = str(Path(sightlog.__file__).parent)


class Interrupted(BaseException):
    """What a signal's handler raises."""


class Alarm(TimeoutError):
    """The same, and an OSError."""


async def settled(receipt):
    return await receipt


def in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def drive_until(publisher, over: threading.Event) -> threading.Thread:
    """A caller that has the turn and waits for what no ack brings."""

    def work() -> None:
        while not over.is_set() and not publisher._driver.closing:  # the thread may have the turn at first
            publisher._driver.drive(over.is_set, None)

    thread = in_thread(work)
    wait_for(lambda: any(turn.is_waiting for turn in publisher._driver._holder.values()), "it has the turn")
    return thread


def end(publisher, over: threading.Event, thread: threading.Thread) -> None:
    over.set()
    publisher._waker.wake()
    thread.join(10)
    assert not thread.is_alive()


def test_a_caller_that_waits_sends_and_hears_itself(daemon):
    with daemon.publisher() as publisher:
        assert publisher.flush(10)
        senders: list[int] = []
        send = publisher._connection.send

        def sending(frames):
            senders.append(threading.get_ident())
            return send(frames)

        publisher._connection.send = sending
        for _ in range(50):
            assert publisher.insert_event(Event("door"))
        assert senders.count(threading.get_ident()) > 25, "now and then the thread has something to do, too"


@pytest.mark.parametrize("callers", [2, 12])
def test_callers_that_wait_at_once_all_get_their_acks(daemon, callers):
    with daemon.publisher() as publisher:
        stored: list[bool] = []

        def work() -> None:
            for _ in range(100):
                stored.append(publisher.insert_event(Event("door"), timeout=15))

        threads = [in_thread(work) for _ in range(callers)]
        for thread in threads:
            thread.join(60)
        assert stored == [True] * 100 * callers
    assert daemon.reader().count_events() == 100 * callers


def test_who_publishes_while_another_has_the_turn_is_sent_by_it(daemon):
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
        over = threading.Event()
        driving = drive_until(publisher, over)
        for urgent in (True, False, True, False):
            receipt = publisher.publish(Event("door"), urgent=urgent)
            wait_for(lambda receipt=receipt: receipt.settled, "it is acked")
        assert publisher.insert_event(Event("door"), timeout=10)
        assert driving.is_alive()
        end(publisher, over, driving)


def test_the_thread_goes_on_where_a_caller_leaves(daemon):
    with daemon.publisher() as publisher:
        for _ in range(100):
            assert publisher.insert_event(Event("door"))
            receipt = publisher.publish(Event("door"), urgent=True)
            wait_for(lambda receipt=receipt: receipt.settled, "it is acked")


def test_what_was_published_when_a_caller_gives_up_is_sent_by_the_thread(idle_daemon):
    with idle_daemon.publisher() as publisher:
        waiting = publisher.publish(Event("first"))
        said: list[str] = []
        over = threading.Event()
        driving = drive_until(publisher, over)
        waiter = in_thread(lambda: said.append(waiting.wait(20)))
        with pytest.raises(AckTimeout):
            publisher.insert_event(Event("second"), timeout=0.2)  # another has the turn, and he is not kept by that
        end(publisher, over, driving)
        with pytest.raises(AckTimeout):
            publisher.insert_event(Event("third"), timeout=0.2)
        idle_daemon.start()
        waiter.join(20)
        assert said == ["stored"]
        assert publisher.flush(10)
    assert idle_daemon.reader().count_events() == 3


@pytest.mark.parametrize("record", ["new", "known"])
@pytest.mark.timeout(120)
def test_an_exception_at_any_line_of_a_wait_costs_nothing(daemon, record):
    """A handler may raise between any two steps: the record is settled all the same, as what it is, and once."""
    with daemon.publisher() as publisher:
        known = Event("known")
        assert publisher.insert_event(known)
        interrupted, where = 0, "nothing"
        lines = range(1, LINES, 2)
        for left in lines:
            receipt = publisher._spool_one(Event("door") if record == "new" else known, urgent=True)

            def trace(frame, event, _argument):
                nonlocal left, interrupted, where
                if not frame.f_code.co_filename.startswith(OURS):
                    return None
                # A trace comes between the end of a block and what `with` does there, where a signal cannot.
                code = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
                if event == "line" and not code.lstrip().startswith("with "):
                    left -= 1
                    if left == 0:
                        interrupted, where = interrupted + 1, f"{frame.f_code.co_name}: {code.strip()}"
                        sys.settrace(None)
                        raise Interrupted
                return trace

            sys.settrace(trace)
            try:
                receipt.wait(20)
            except Interrupted:
                pass
            finally:
                sys.settrace(None)
            assert receipt.wait(20) == ("stored" if record == "new" else "duplicate"), where
            another = publisher.publish(Event("door"), urgent=True)
            wait_for(lambda another=another: another.settled, f"the thread goes on after {where}")
        assert publisher.flush(10)
        assert publisher.spooled == publisher.lost == 0
        assert len(lines) // 2 < interrupted < len(lines), "from the first line to the last"
    assert daemon.reader().count_events() == 1 + len(lines) * (2 if record == "new" else 1)


@pytest.fixture
def on_signal():
    """What the handler of SIGUSR1 does."""
    work = []
    before = signal.signal(signal.SIGUSR1, lambda *_: work[0]())
    yield work
    signal.signal(signal.SIGUSR1, before)


def interrupt_when_waiting(publisher) -> None:
    def work() -> None:
        wait_for(lambda: any(turn.is_waiting for turn in publisher._driver._holder.values()), "it waits")
        os.kill(os.getpid(), signal.SIGUSR1)

    in_thread(work)


def test_the_handler_of_a_signal_may_publish_and_wait_in_the_middle_of_a_wait(idle_daemon, on_signal):
    with idle_daemon.publisher() as publisher:
        inner: list[bool] = []

        def handler() -> None:
            idle_daemon.start()
            inner.append(publisher.insert_event(Event("inner"), timeout=10))

        on_signal.append(handler)
        interrupt_when_waiting(publisher)
        assert publisher.insert_event(Event("outer"), timeout=20)
        assert inner == [True]


def test_the_handler_of_a_signal_may_close_in_the_middle_of_a_wait(idle_daemon, on_signal):
    publisher = idle_daemon.publisher()
    on_signal.append(lambda: publisher.close(timeout=0))
    interrupt_when_waiting(publisher)
    with pytest.raises(PublisherClosed):
        publisher.insert_event(Event("door"), timeout=20)
    assert not publisher._thread.is_alive()


def test_a_close_waits_for_no_caller(idle_daemon):
    publisher = idle_daemon.publisher()
    over = threading.Event()
    driving = drive_until(publisher, over)
    publisher.close(timeout=0)
    driving.join(10)
    assert not driving.is_alive()
    assert not publisher._thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12: what the test is about
def test_a_forked_child_that_waits_is_refused_and_leaves_the_parents_turn_alone(idle_daemon):
    with idle_daemon.publisher() as publisher:
        receipt = publisher.publish(Event("parent"))
        over = threading.Event()
        driving = drive_until(publisher, over)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                receipt.wait(5)
            except PublisherClosed as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        end(publisher, over, driving)
        idle_daemon.start()
        assert receipt.wait(20) == "stored"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("does", ["telemetry", "await"])
def test_a_forked_child_wakes_nobody_in_the_parent(idle_daemon, does):
    """What a child writes to the parent's pipe is not known there, and would keep it readable for good."""
    with idle_daemon.publisher() as publisher:
        receipt = publisher.publish(Event("parent"))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                if does == "telemetry":
                    publisher.telemetry(frames_processed=1)
                else:
                    asyncio.run(asyncio.wait_for(settled(receipt), 2))
            except PublisherClosed as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("error", [Alarm, Interrupted])
def test_the_exception_of_a_signals_handler_ends_a_wait_whatever_it_is(idle_daemon, on_signal, error):
    def handler() -> None:
        raise error

    with idle_daemon.publisher() as publisher:
        on_signal.append(handler)
        interrupt_when_waiting(publisher)
        with pytest.raises(error):
            publisher.insert_event(Event("door"), timeout=5)
        idle_daemon.start()
        assert publisher.flush(20)
    assert idle_daemon.reader().count_events() == 1


def test_a_disk_that_drops_nothing_keeps_no_ack_from_anybody(daemon):
    publisher = daemon.publisher()

    def drop_through(_acked):
        raise OSError(errno.EROFS, "Read-only file system")

    publisher._spool.drop_through = drop_through
    for _ in range(3):
        assert publisher.insert_event(Event("door"), timeout=5)
    closing = in_thread(lambda: publisher.close(timeout=0))
    closing.join(10)
    assert not closing.is_alive()
    assert daemon.reader().count_events() == 3


def raising_once(method):
    """The signal comes just before that, and to the main thread."""
    raised = []

    def work(*arguments):
        if not raised and threading.current_thread() is threading.main_thread():
            raised.append(True)
            raise Interrupted
        return method(*arguments)

    return work


def test_an_exception_between_two_connections_costs_nothing(daemon):
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
        connection, delivery = publisher._connection, publisher._delivery
        connection._open = raising_once(connection._open)
        delivery.send = raising_once(delivery.send)
        over = threading.Event()
        for _ in range(20):
            with contextlib.suppress(Interrupted):
                publisher._driver.drive(over.is_set, 0.0)
            if connection._socket is None:
                break
        assert publisher.insert_event(Event("door"), timeout=5)


def test_an_exception_before_the_book_knows_of_a_denial_takes_it_from_nobody():
    told: list[str] = []
    connection = SimpleNamespace(denied="not on the list", attend=lambda _now: None)
    book = SimpleNamespace(deny=raising_once(told.append), admit=raising_once(lambda: told.append("admitted")))
    delivery = Delivery("sensor", None, Link(), book, None, connection)
    for connection.denied in ("not on the list", None):
        with pytest.raises(Interrupted):
            delivery.attend(0.0)
        delivery.attend(0.0)
        delivery.attend(0.0)
    assert told == ["not on the list", "admitted"]


def test_an_exception_in_an_fsync_leaves_it_to_be_done(tmp_path, monkeypatch):
    spool = Spool(tmp_path, "sensor", 1 << 20)
    spool.append([(b"record", b"")])
    since = spool.unsynced_since
    monkeypatch.setattr(os, "fdatasync", raising_once(os.fdatasync))
    with pytest.raises(Interrupted):
        spool.sync()
    assert spool.unsynced_since == since
    spool.sync()
    assert spool.unsynced_since is None
    spool.close()


def test_who_leaves_by_an_exception_is_not_taken_over_any_more(idle_daemon):
    with idle_daemon.publisher() as publisher:
        seen = []
        due_at = publisher._delivery.due_at

        def looking(now, *, stuck):
            seen.extend(turn.is_waiting for turn in publisher._driver._holder.values())
            return due_at(now, stuck=stuck)

        def wait(_seconds):
            publisher._delivery.due_at = looking
            raise Interrupted

        publisher._connection.wait = wait
        while not seen:  # the thread may have the turn at first
            with contextlib.suppress(Interrupted):
                publisher._driver.drive(lambda: False, None)
        assert not any(seen)


@pytest.mark.parametrize("call", ["write", "close"])
def test_an_exception_while_a_record_is_spooled_costs_none_of_those_behind_it(tmp_path, monkeypatch, call):
    spool = Spool(tmp_path, "sensor", 1 << 20)
    spool.append([(b"first", b"")])
    if call == "close":
        spool.segment_bytes_max = 1  # the next begins a segment
    real, left = getattr(os, call), [1]

    def raising(*arguments):
        result = real(*arguments)
        if left and left.pop():
            raise Interrupted
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, call, raising)
        with pytest.raises(Interrupted):
            spool.append([(b"torn away", b"")])
    assert spool.append([(b"second", b"")]).seq == 2
    read = []
    while (chunk := spool.read_after(Position(spool.epoch, len(read)), 10, 1 << 20)) is not None:
        read += chunk.records
    assert read == [b"first", b"second"]
    spool.close()

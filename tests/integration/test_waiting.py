"""Callers wait while the publisher's thread sends and hears. Whoever comes, goes, is torn away or forks: nobody is
forgotten."""

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

import pytest
from conftest import wait_for

import sightlog
from sightlog import AckTimeout, Event, PublisherClosed
from sightlog.protocol.messages import START, Position
from sightlog.spool.spool import Spool

OURS = str(Path(sightlog.__file__).parent)


class Interrupted(BaseException):
    """What a signal's handler raises."""


class Alarm(TimeoutError):
    """The same, and an OSError."""


async def resolved(receipt):
    return await receipt


def in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def is_waiting(thread: threading.Thread) -> bool:
    """Whether it is in a wait for an ack."""
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code.co_name == "wait_until" and frame.f_code.co_filename.startswith(OURS):
            return True
        frame = frame.f_back
    return False


def once_the_main_thread_waits(work) -> None:
    def when_it_waits() -> None:
        wait_for(lambda: is_waiting(threading.main_thread()), "it waits")
        work()

    in_thread(when_it_waits)


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


def test_what_is_published_while_another_waits_is_acked_too(daemon):
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
        daemon.process.send_signal(signal.SIGSTOP)
        stored: list[bool] = []
        waiting = in_thread(lambda: stored.append(publisher.insert_event(Event("door"), timeout=20)))
        wait_for(lambda: is_waiting(waiting), "it waits")
        receipts = [publisher.publish(Event("door"), urgent=urgent) for urgent in (True, False, True, False)]
        daemon.process.send_signal(signal.SIGCONT)
        for receipt in receipts:
            wait_for(lambda receipt=receipt: receipt.settled, "it is acked")
        waiting.join(20)
        assert stored == [True]


def test_an_urgent_record_is_acked_though_nobody_waits(daemon):
    with daemon.publisher() as publisher:
        for _ in range(100):
            receipt = publisher.publish(Event("door"), urgent=True)
            wait_for(lambda receipt=receipt: receipt.settled, "it is acked")


def test_what_was_published_when_a_caller_gives_up_is_sent_all_the_same(idle_daemon):
    with idle_daemon.publisher() as publisher:
        waiting = publisher.publish(Event("first"))
        said: list[str] = []
        waiter = in_thread(lambda: said.append(waiting.wait(20)))
        for name in ("second", "third"):
            with pytest.raises(AckTimeout):
                publisher.insert_event(Event(name), timeout=0.2)
        idle_daemon.start()
        waiter.join(20)
        assert said == ["stored"]
        assert publisher.flush(10)
    assert idle_daemon.reader().count_events() == 3


@pytest.mark.parametrize("record", ["new", "known"])
def test_an_exception_at_any_line_of_a_wait_costs_nothing(daemon, record):
    """A signal may raise between any two steps: the record is settled all the same, as what it is, and once."""
    with daemon.publisher() as publisher:
        known = Event("known")
        assert publisher.insert_event(known)
        waits, interrupted = 0, True
        while interrupted:
            waits, interrupted, left = waits + 1, "", waits + 1
            receipt = publisher.publish(Event("door") if record == "new" else known)

            def trace(frame, event, _argument):
                nonlocal left, interrupted
                if not frame.f_code.co_filename.startswith(OURS):
                    return None
                # A trace comes between the end of a block and what `with` does there, where a signal cannot.
                code = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
                if event == "line" and not code.lstrip().startswith("with "):
                    left -= 1
                    if left == 0:
                        interrupted = f"{frame.f_code.co_name}: {code.strip()}"
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
            assert receipt.wait(20) == ("stored" if record == "new" else "duplicate"), interrupted
            another = publisher.publish(Event("door"), urgent=True)
            wait_for(lambda another=another: another.settled, f"the thread goes on after {interrupted}")
        assert publisher.flush(10)
        assert publisher.spooled == publisher.lost == 0
        assert waits > 10, "from the first line to the last"
    assert daemon.reader().count_events() == 1 + waits * (2 if record == "new" else 1)


@pytest.mark.parametrize("error", [Alarm, Interrupted])
def test_the_exception_of_a_signals_handler_ends_a_wait_whatever_it_is(idle_daemon, error):
    def handler(*_) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with idle_daemon.publisher() as publisher:
            once_the_main_thread_waits(lambda: os.kill(os.getpid(), signal.SIGUSR1))
            with pytest.raises(error):
                publisher.insert_event(Event("door"), timeout=20)
            idle_daemon.start()
            assert publisher.flush(20)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert idle_daemon.reader().count_events() == 1


def test_a_close_ends_the_wait_of_a_caller(idle_daemon):
    publisher = idle_daemon.publisher()
    once_the_main_thread_waits(lambda: publisher.close(timeout=0))
    with pytest.raises(PublisherClosed, match="The record is in the spool"):
        publisher.insert_event(Event("door"), timeout=20)
    wait_for(lambda: not publisher._thread.is_alive(), "its thread has ended")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12: what the test is about
@pytest.mark.parametrize("does", ["wait", "telemetry", "await", "publish", "flush"])
def test_a_forked_child_is_refused_and_leaves_the_parent_alone(idle_daemon, does):
    """Also while the parent's threads have locks: in the child nobody would ever release them."""
    with idle_daemon.publisher() as publisher:
        receipt = publisher.publish(Event("parent"))
        calls = {
            "wait": lambda: receipt.wait(5),
            "telemetry": lambda: publisher.telemetry(frames_processed=1),
            "await": lambda: asyncio.run(asyncio.wait_for(resolved(receipt), 2)),
            "publish": lambda: publisher.publish(Event("child")),
            "flush": lambda: publisher.flush(5),
        }
        with publisher._lock, publisher._book.changing():
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    signal.alarm(20)
                    calls[does]()
                except PublisherClosed as error:
                    code = 0 if "fork" in str(error) else 2
                finally:
                    os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        idle_daemon.start()
        assert receipt.wait(20) == "stored"


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


@pytest.mark.parametrize("call", ["write", "open"])
def test_an_exception_while_a_record_is_spooled_costs_none_of_those_behind_it(tmp_path, monkeypatch, call):
    spool = Spool(tmp_path, "sensor", 1 << 20)
    spool.append([(b"first", b"")])
    if call == "open":
        spool.segment_bytes_max = 1  # the next begins a segment
    real, left = getattr(os, call), [1]

    def raising(*arguments):
        result = real(*arguments)
        if left and left.pop():
            raise Interrupted
        return result

    with monkeypatch.context() as patch, contextlib.closing(spool):
        patch.setattr(os, call, raising)
        with pytest.raises(Interrupted):
            spool.append([(b"torn away", b"")])
        assert spool.append([(b"second", b"")]).seq == 2
        read, after = [], START
        while (chunk := spool.read_after(after, 10, 1 << 20)) is not None:
            read += chunk.records
            after = Position(spool.epoch, len(read))
        assert read == [b"first", b"second"]

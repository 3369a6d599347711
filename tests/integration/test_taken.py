"""An error tells truly whether the record was taken: what a call said is compared with what the next life finds."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import msgpack
import pytest
from conftest import small_file_system, wait_for

from sightlog import (
    AckTimeout,
    Amendment,
    Event,
    InvalidRecord,
    Person,
    ProducerFenced,
    ProtocolError,
    Publisher,
    PublisherClosed,
    SightlogError,
    SpoolFull,
)
from sightlog.errors import NOT_TAKEN
from sightlog.protocol.messages import START, Position
from sightlog.spool.spool import Spool

CALLS: dict[str, Callable[[Publisher], object]] = {
    "publish": lambda publisher: publisher.publish(Event("door")),
    "publish urgent": lambda publisher: publisher.publish(Event("door"), urgent=True),
    "publish_many": lambda publisher: publisher.publish_many([Event("door"), Event("door")]),
    "insert_event": lambda publisher: publisher.insert_event(Event("door"), timeout=0.1),
    "insert_events": lambda publisher: publisher.insert_events([Event("door"), Event("door")], timeout=0.1),
    "amend": lambda publisher: publisher.amend("e1", person_name="anna"),
    "mark_alert_sent": lambda publisher: publisher.mark_alert_sent("e1"),
    "add_person": lambda publisher: publisher.add_person("anna"),
    "telemetry": lambda publisher: publisher.telemetry(frames_processed=1),
}


def find(daemon, name: str = "sensor") -> tuple[int, list[str]]:
    """What the next life begins with: how many records were published, and what is left of them."""
    with closing(Spool(daemon.home / "spool" / name, name, 1 << 30)) as spool:
        published, found, after = spool.published, [], START
        while (chunk := spool.read_after(after, 1_000, 1 << 30)) is not None:
            found += [msgpack.unpackb(record).get("event_id", "") for record in chunk.records]
            after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
    return published, found


@contextmanager
def closed(daemon) -> Iterator[Publisher]:
    publisher = daemon.publisher()
    publisher.publish(Event("door", event_id="before"))
    publisher.close(timeout=0)
    yield publisher


@contextmanager
def fenced(daemon) -> Iterator[Publisher]:
    daemon.start()
    spool = daemon.home / "spool"
    with daemon.publisher() as first:
        first.insert_event(Event("door"))
    shutil.copytree(spool, daemon.home / "copy")
    with daemon.publisher() as older:
        older.insert_event(Event("door"))
        with Publisher(daemon.endpoint, "sensor", daemon.home / "copy") as newer:
            newer.insert_event(Event("door"))
        daemon.process.send_signal(signal.SIGSTOP)
        receipt = older.publish(Event("door", event_id="before"), urgent=True)
        daemon.process.send_signal(signal.SIGCONT)
        with pytest.raises(ProducerFenced, match="The record is in the spool, and is sent under a new producer id"):
            receipt.wait(20)
        yield older


@contextmanager
def failed(daemon) -> Iterator[Publisher]:
    publisher = daemon.publisher()
    receipt = publisher.publish(Event("door", event_id="before"))

    def send(_now: float) -> bool:
        raise RuntimeError("a defect")

    publisher._delivery.send = send
    with pytest.raises(ProtocolError, match=r"a defect.*The record is in the spool"):
        receipt.wait(20)
    yield publisher
    publisher.close()


@contextmanager
def full(daemon) -> Iterator[Publisher]:
    with daemon.publisher(spool_bytes_max=2_000) as publisher:
        publisher.publish(Event("door", event_id="before", thumbnail=b"x" * 1_700))
        with suppress(SpoolFull):
            while True:
                publisher.add_person("a")
        yield publisher
        publisher.close(timeout=0)


ENDINGS = {
    closed: PublisherClosed,
    fenced: ProducerFenced,
    failed: ProtocolError,
    full: SpoolFull,
}


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_a_call_that_takes_nothing_says_so_and_the_next_life_finds_nothing_of_it(idle_daemon, ending):
    with ending(idle_daemon) as publisher:
        published = publisher.published
        for name, call in CALLS.items():
            if name == "telemetry" and ending is full:
                continue  # it takes no room
            errors = []
            for _ in range(2):
                with pytest.raises(ENDINGS[ending]) as caught:
                    call(publisher)
                errors.append(caught.value)
                assert NOT_TAKEN in str(caught.value), name
                assert "The record is in the spool" not in str(caught.value), name
            assert errors[0] is not errors[1], "it would collect the tracebacks of all calls"
        assert publisher.published == published
    in_all, found = find(idle_daemon)
    # A new identity begins with what is left, acked records that were not deleted yet included.
    assert in_all == (len(found) if ending is fenced else published)
    assert [event_id for event_id in found if event_id][-1] == "before"
    assert ending is fenced or found.count("before") == len([event_id for event_id in found if event_id])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_forked_childs_call_takes_nothing_and_says_so(idle_daemon, name):
    with idle_daemon.publisher() as publisher:
        publisher.publish(Event("door", event_id="before"))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                CALLS[name](publisher)
            except PublisherClosed as error:
                code = 0 if NOT_TAKEN in str(error) and "fork" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        publisher.close(timeout=0)
    assert find(idle_daemon) == (1, ["before"])


@pytest.mark.parametrize("name", ["publish", "publish_many", "insert_event"])
def test_what_is_published_while_another_thread_closes_is_taken_or_refused(idle_daemon, name):
    publisher = idle_daemon.publisher()
    taken: list[str] = []
    refused: list[str] = []

    def work() -> None:
        while not refused:
            event = Event("door")
            try:
                if name == "publish_many":
                    publisher.publish_many([event])
                elif name == "publish":
                    publisher.publish(event)
                else:
                    publisher.insert_event(event, timeout=0.001)
                taken.append(event.event_id)
            except AckTimeout:
                taken.append(event.event_id)
            except PublisherClosed as error:
                (refused if NOT_TAKEN in str(error) else taken).append(event.event_id)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(taken) > 20, "they publish")
    publisher.close(timeout=0.05)
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    published, found = find(idle_daemon)
    assert (published, sorted(found)) == (len(taken), sorted(taken))


def test_a_disk_that_is_full_in_the_middle_of_a_list_takes_none_of_it(idle_daemon, tmp_path):
    small = tmp_path / "spool"
    with small_file_system(small, "512k"), idle_daemon.publisher() as publisher:
        publisher.publish(Event("door", event_id="before"))
        with pytest.raises(SpoolFull, match=NOT_TAKEN):
            publisher.publish_many([Event("door", thumbnail=b"x" * 50_000) for _ in range(20)])
        publisher.publish(Event("door", event_id="behind"))
        publisher.close(timeout=0)
        assert find(idle_daemon) == (2, ["before", "behind"])


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [Event("not an id"), Amendment("e1"), Person("anna\n"), "no record"])
def test_a_bad_record_in_a_list_takes_none_of_it_and_is_named(idle_daemon, bad, place):
    with idle_daemon.publisher() as publisher:
        records: list = [Event("door"), Event("door")]
        records.insert(place, bad)
        with pytest.raises(InvalidRecord, match=rf"^record {place}: .*{NOT_TAKEN}"):
            publisher.publish_many(records)
        with pytest.raises(InvalidRecord, match=NOT_TAKEN):
            publisher.publish(bad)
        publisher.publish(Event("door", event_id="behind"))
        publisher.close(timeout=0)
    assert find(idle_daemon) == (1, ["behind"])


def test_whatever_a_call_raises_in_the_middle_published_and_the_next_life_agree(idle_daemon, monkeypatch):
    """Ctrl-C may come when the record is written already: both are possible, but everybody says the same."""
    with idle_daemon.publisher() as publisher:
        for name in ("write", "open", "getpid", "ftruncate"):
            for behind in (True, False):
                real, left = getattr(os, name), [True]

                def interrupted(*arguments, real=real, left=left, behind=behind):
                    is_mine = threading.current_thread() is threading.main_thread() and left and left.pop()
                    if is_mine and not behind:
                        raise KeyboardInterrupt
                    result = real(*arguments)
                    if is_mine:
                        raise KeyboardInterrupt
                    return result

                with monkeypatch.context() as patch:
                    patch.setattr(os, name, interrupted)
                    with suppress(KeyboardInterrupt):
                        publisher.publish_many([Event("door"), Event("door")])
                publisher.publish(Event("door"))
        published = publisher.published
        publisher.close(timeout=0)
    found = find(idle_daemon)
    assert (found[0], len(found[1])) == (published, published)


def test_a_write_that_the_disk_cut_short_and_kept_is_not_sent(idle_daemon, monkeypatch):
    """What was refused to its publisher stays refused, though the disk would not take it back."""
    with idle_daemon.publisher() as publisher:
        publisher.publish(Event("door", event_id="before"))
        real = os.write

        def short(fd, data):
            if len(data) < 1_000:
                return real(fd, data)
            real(fd, data[: len(data) - 100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def stuck(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", short)
            patch.setattr(os, "ftruncate", stuck)
            with pytest.raises(SpoolFull, match=NOT_TAKEN):
                publisher.publish_many([Event("door", llm_description="x" * 900) for _ in range(3)])
        publisher.publish(Event("door", event_id="behind"))
        publisher.close(timeout=0)
    assert find(idle_daemon) == (2, ["before", "behind"])


def test_an_error_of_a_wait_says_that_the_record_is_in_the_spool(idle_daemon):
    publisher = idle_daemon.publisher()
    receipts = [publisher.publish(Event("door", event_id=f"e{n}")) for n in range(3)]
    with pytest.raises(AckTimeout, match="The record is in the spool"):
        receipts[0].wait(0.01)
    publisher.close(timeout=0)
    errors: list[SightlogError] = []
    for receipt in receipts:
        with pytest.raises(PublisherClosed, match="The record is in the spool") as caught:
            receipt.wait(1)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert find(idle_daemon) == (3, ["e0", "e1", "e2"])

"""An empty spool and settled receipts are one moment for whoever waits, also where the publisher's thread is slow."""

from __future__ import annotations

import threading

from sightlog import Event


def test_after_a_flush_all_receipts_are_settled(daemon):
    with daemon.publisher() as publisher:
        asked, resolve = threading.Event(), publisher._book.resolve

        def slowly(*arguments):
            asked.wait(0.5)  # until somebody else looks
            resolve(*arguments)

        publisher._book.resolve = slowly
        receipt = publisher.publish(Event("door"), urgent=True)
        while publisher.spooled:
            pass
        assert receipt.status is None
        assert publisher.flush(20)
        assert receipt.status == "stored"
        asked.set()


def test_a_spool_that_cannot_give_room_back_keeps_no_receipt_waiting(daemon):
    with daemon.publisher() as publisher:
        drop_through = publisher._spool.drop_through

        def failing(acked):
            publisher._spool.drop_through = drop_through
            raise OSError(5, "Input/output error")

        assert publisher.insert_event(Event("door"))
        publisher._spool.drop_through = failing
        assert publisher.publish(Event("door"), urgent=True).wait(10) == "stored"

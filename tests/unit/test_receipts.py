"""Receipts tell what the daemon said, also when the next thing happens before whoever waits is awake."""

from __future__ import annotations

import asyncio

import pytest

from sightlog.errors import AccessDenied, DatabaseWriteError
from sightlog.protocol.messages import REJECTED, STORED, Position
from sightlog.publisher.receipts import InsertResult, ReceiptBook

FIRST, SECOND = Position(1, 1), Position(1, 2)


def unasked(*_):
    """Nobody has to be told that somebody waits."""


async def turns():
    """Enough turns of the loop for what was called from outside to arrive."""
    for _ in range(10):
        await asyncio.sleep(0)


async def resolved(receipt):
    return await receipt


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_let_in_again_before_the_loop_resumes_is_no_ack(kind):
    book = ReceiptBook(unasked)
    receipt = book.single(FIRST) if kind == "single" else book.batch(FIRST, FIRST)

    async def wait():
        task = asyncio.create_task(resolved(receipt))
        await turns()
        for _ in range(2):
            book.deny("its key is not allowed")
            book.admit()
            await turns()
        assert not task.done(), "nothing was acked"
        with book.changing():
            book.resolve(FIRST, [(1, REJECTED, "too large")])
        return await task

    assert asyncio.run(wait()) == (REJECTED if kind == "single" else InsertResult(0, 0, 1, {0: "too large"}))


def test_who_awaits_is_told_that_it_is_denied():
    book = ReceiptBook(unasked)
    receipt = book.single(FIRST)

    async def wait():
        task = asyncio.create_task(resolved(receipt))
        await turns()
        book.deny("its key is not allowed")
        await task

    with pytest.raises(AccessDenied, match="its key is not allowed"):
        asyncio.run(wait())
    with pytest.raises(AccessDenied, match="its key is not allowed"):
        asyncio.run(resolved(receipt))
    book.admit()
    with book.changing():
        book.resolve(FIRST, [])
    assert asyncio.run(resolved(receipt)) == STORED


class Overtaken(ReceiptBook):
    """An ack of the record before comes between the end of the wait and what is made of it."""

    def wait_until(self, done, position, timeout):
        ended = super().wait_until(done, position, timeout)
        with self.changing():
            self.resolve(FIRST, [])
        return ended


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_an_ack_of_the_record_before_does_not_hide_that_the_daemon_is_busy(kind):
    book = Overtaken(unasked)
    receipt = book.single(SECOND) if kind == "single" else book.batch(SECOND, SECOND)
    book.busy("the disk is full")
    with pytest.raises(DatabaseWriteError, match="the disk is full"):
        receipt._wait_resolved(10, busy_raises=True)
    assert not receipt.settled

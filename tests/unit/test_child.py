"""The decoder as the daemon sees it: killed when it stands still, not when other programs have the processor."""

from __future__ import annotations

import select
import sys
import time

from sightlogd.thumbnails import worker
from sightlogd.thumbnails.worker import Answer, Child, Outcome

SPINS = """
import time
print("ready", flush=True)
input()
until = time.thread_time() + {}
while time.thread_time() < until:
    pass
print("ok", flush=True)
input()
"""
SLEEPS = "import time; print('ready', flush=True); input(); time.sleep(60)"


def answer_of(program: str, image_seconds: float) -> Answer:
    """What becomes of one request."""
    decoder = Child([sys.executable, "-c", program], image_seconds)
    try:
        decoder.start(time.monotonic())
        while not decoder.idle:
            assert decoder.step(time.monotonic()) is None
            select.select([decoder], [], [], 1.0)
        decoder.ask("e1", time.monotonic())
        while (answer := decoder.step(time.monotonic())) is None:
            select.select([decoder], [], [], max(0.0, min(1.0, decoder.deadline - time.monotonic())))
        return answer
    finally:
        decoder.close()


def test_a_decoder_that_wants_to_go_on_is_given_time(monkeypatch):
    monkeypatch.setattr(worker, "STARVED_TIMES", 1_000)  # however busy this machine is
    assert answer_of(SPINS.format(0.5), 0.05) == Answer(Outcome.DONE, "")


def test_a_decoder_that_sleeps_is_killed():
    assert answer_of(SLEEPS, 0.2) == Answer(Outcome.BROKEN, "the decoder took longer than 0.2 s")


def test_a_decoder_that_runs_for_ever_is_killed_in_the_end(monkeypatch):
    monkeypatch.setattr(worker, "STARVED_TIMES", 3)
    assert answer_of(SPINS.format(3600), 0.1) == Answer(Outcome.BROKEN, "the decoder took longer than 0.1 s")

"""A million mutated messages: refused with a reason, counted, and nobody beside them hurt."""

from __future__ import annotations

import shutil

import corpus as recorded
import pytest
from lab import often
from stage import Hostile, Stage

from sightlogd.protocol.session import Answer, Sessions

FRAMES = often(18_000, 1_000_000)
ROUND = 20_000
GROWTH_BYTES_MAX = 64 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return recorded.record(tmp_path_factory.mktemp("corpus"))


@pytest.mark.timeout(120 + FRAMES // 1_500)
def test_mutated_messages_are_refused_with_a_reason_and_good_records_among_them_stored(corpus, tmp_path, attack):
    attack.on("P3, P4, P7", "mutated messages to sessions, batch and store, good records among them", "messages")
    before, most = 0, 0
    for number in range(-(-FRAMES // ROUND)):
        stage = Stage(tmp_path / "data")
        hostile = Hostile(stage, corpus, attack.random(number))
        hostile.run(min(ROUND, FRAMES - attack.runs))
        stage.end()
        assert stage.unexplained == []
        assert len(stage.expected) > hostile.sent // 2
        attack.runs += hostile.sent
        shutil.rmtree(tmp_path / "data")
        most = max(most, resident())
        before = before or most
    assert most - before < GROWTH_BYTES_MAX
    attack.note = f"memory grew by {(most - before) >> 20} MB"


class Swallowing(Sessions):
    """Drops what it cannot take apart, and says nothing."""

    def receive(self, route: bytes, frames: list[bytes]) -> Answer:
        answer = super().receive(route, frames)
        return Answer() if answer.dead_letter else answer


def test_a_message_dropped_without_a_word_is_noticed(corpus, tmp_path, attack):
    attack.without("P4", "a refusal is told and kept", "messages")
    stage = Stage(tmp_path / "data", Swallowing)
    hostile = Hostile(stage, corpus, attack.random())
    hostile.run(500)
    attack.runs, attack.caught = hostile.sent, len(stage.unexplained)
    assert attack.caught > 50
    stage.end()

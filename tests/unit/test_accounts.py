"""The account of a producer at a position of the store, whenever the producer spoke."""

from __future__ import annotations

import pytest

from sightlog.protocol.accounts import Account, Resolved, account
from sightlog.protocol.messages import START, Position, SpoolReport

THIS, EARLIER, OLDEST = 700, 600, 500


def told(seq: int, acked: Position, published: int, spooled: int, lost: int = 0) -> SpoolReport:
    return SpoolReport(Position(THIS, seq), acked, published, lost, spooled, 0)


@pytest.mark.parametrize(
    ("said", "resolved", "found"),
    [
        pytest.param(
            told(10, Position(THIS, 7), 110, 3), Resolved(Position(THIS, 7), 100, 4, 3, 0), Account(110, 3, 0, 0),
            id="the store stands where the producer said",
        ),
        pytest.param(
            told(10, Position(THIS, 7), 110, 3), Resolved(Position(THIS, 9), 102, 4, 3, 0), Account(110, 1, 0, 0),
            id="two more are settled since",
        ),
        pytest.param(
            told(10, Position(THIS, 7), 110, 3), Resolved(Position(THIS, 14), 107, 4, 3, 0), Account(114, 0, 0, 0),
            id="more are settled than it had published then",
        ),
        pytest.param(
            told(2, Position(EARLIER, 5), 17, 12), Resolved(Position(THIS, 1), 16, 0, 0, 0), Account(17, 1, 0, 0),
            id="the earlier life is settled since",
        ),
        pytest.param(
            told(2, Position(EARLIER, 5), 17, 12), Resolved(Position(EARLIER, 8), 8, 0, 0, 0), None,
            id="the earlier life is being settled",
        ),
        pytest.param(
            told(4, START, 4, 4), Resolved(START, 0, 0, 0, 0), Account(4, 4, 0, 0), id="nothing is settled at all"
        ),
        pytest.param(
            told(10, Position(THIS, 10), 10, 0), Resolved(Position(THIS, 6), 6, 0, 0, 0), Account(10, 0, 0, 4),
            id="an older database was restored",
        ),
        pytest.param(
            told(11, Position(THIS, 11), 11, 0), Resolved(Position(THIS, 11), 7, 0, 0, 4), Account(11, 0, 4, 0),
            id="and the daemon has noticed",
        ),
        pytest.param(
            told(0, Position(OLDEST, 9), 10, 0, lost=1), Resolved(Position(OLDEST, 9), 9, 0, 0, 0),
            Account(10, 0, 1, 0),
            id="the producer alone knows what it lost at the end of a life",
        ),
        pytest.param(
            told(0, Position(EARLIER, 9), 9, 0, lost=1), Resolved(Position(EARLIER, 9), 9, 0, 0, 0),
            Account(9, 0, 0, 0),
            id="what it cannot read any more was stored before",
        ),
        pytest.param(
            told(9, Position(THIS, 9), 9, 0, lost=1), Resolved(Position(THIS, 9), 5, 0, 0, 1), Account(9, 0, 1, 3),
            id="more is gone than anybody declared",
        ),
        pytest.param(
            told(9, Position(THIS, 9), 9, 0), Resolved(Position(THIS, 9), 11, 0, 0, 0), Account(9, 0, 0, -2),
            id="more is stored than was published: a copied spool",
        ),
        pytest.param(
            SpoolReport(Position(OLDEST, 9), Position(OLDEST, 9), 9, 0, 0, 0), Resolved(Position(THIS, 3), 12, 0, 0, 0),
            None,
            id="it has told nothing of this life",
        ),
    ],
)  # fmt: skip
def test_the_account(said, resolved, found):
    assert account(said, resolved) == found

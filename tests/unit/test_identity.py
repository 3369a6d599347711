"""What a spool carries over from life to life: its identity, what was published, what was lost."""

from __future__ import annotations

import json

import pytest

from sightlog import SpoolDamaged
from sightlog.protocol.messages import START, Position
from sightlog.spool.spool import SEGMENT_REUSE_BYTES, Spool

BIG = (b"x" * (SEGMENT_REUSE_BYTES + 1), b"")
SMALL = (b"small", b"")


@pytest.fixture
def open_spool(tmp_path):
    opened = []

    def opener() -> Spool:
        opened.append(Spool(tmp_path / "door", "door", 10_000_000))
        return opened[-1]

    yield opener
    for spool in opened:
        spool.close()


def killed(spool: Spool) -> None:
    """As SIGKILL leaves it: the kernel closes what is open, and nothing else happens."""
    spool.let_go()


def identity(spool: Spool) -> dict:
    return json.loads((spool.directory / "identity.json").read_bytes())


@pytest.mark.parametrize("record", [SMALL, BIG], ids=["in one segment", "in given-back segments"])
@pytest.mark.parametrize("acked", [0, 2, 5])
@pytest.mark.parametrize("end", [killed, Spool.close])
def test_every_life_adds_what_it_published_however_it_ends(open_spool, record, acked, end):
    total = 0
    for count in (5, 3, 4):
        spool = open_spool()
        assert spool.published == total
        for seq in range(1, count + 1):
            spool.append([record])
            if seq <= acked:
                spool.drop_through(Position(spool.epoch, seq))
        total += count
        assert spool.published == total
        end(spool)
    assert open_spool().published == total


def test_a_life_that_publishes_nothing_adds_nothing(open_spool):
    for end in (killed, Spool.close, killed):
        spool = open_spool()
        assert spool.published == 0
        end(spool)


def test_the_file_that_keeps_the_count_is_empty_and_goes_with_the_next_life(open_spool):
    spool = open_spool()
    spool.drop_through(spool.append([BIG, BIG]))
    (kept,) = spool.directory.glob("*.spool")
    assert (kept.name, kept.stat().st_size, spool.size) == (f"{spool.epoch:015d}-{3:012d}.spool", 0, 0)
    spool.append([SMALL])
    assert spool.published == 3
    spool.drop_through(Position(spool.epoch, 3))
    killed(spool)
    again = open_spool()
    assert (again.published, again.depth(START)) == (3, 1)  # its ack was not written down
    again.drop_through(Position(spool.epoch, 3))
    assert (list(again.directory.glob("*.spool")), again.size) == ([], 0)


def test_a_directory_that_takes_no_new_file_keeps_the_old_one_instead(open_spool, monkeypatch):
    spool = open_spool()
    last = spool.append([BIG])
    monkeypatch.setattr(spool, "_begin_segment", lambda: (_ for _ in ()).throw(OSError(28, "No space left")))
    spool.drop_through(last)
    killed(spool)
    assert open_spool().published == 1


@pytest.mark.parametrize("lacks", ["format", "producer_id", "epoch", "published", "lost", "fenced", "epochs_before"])
def test_an_identity_that_lacks_something_is_told(open_spool, lacks):
    first = open_spool()
    first.append([SMALL])
    first.close()
    rest = {key: value for key, value in identity(first).items() if key != lacks}
    (first.directory / "identity.json").write_text(json.dumps(rest))
    with pytest.raises(SpoolDamaged, match=f"KeyError\\('{lacks}'\\)"):
        open_spool()


@pytest.mark.parametrize(
    "wrong", [{"published": None}, {"published": -1}, {"published": "5"}, {"lost": {"a": -1}}, {"lost": [1]}]
)
def test_an_identity_with_a_count_that_is_none_is_told(open_spool, wrong):
    first = open_spool()
    first.close()
    (first.directory / "identity.json").write_text(json.dumps({**identity(first), **wrong}))
    with pytest.raises(SpoolDamaged, match="Move it away"):
        open_spool()


def test_a_new_identity_begins_with_what_it_takes_along(open_spool):
    first = open_spool()
    first.append([SMALL] * 4)
    first.fence()
    killed(first)
    second = open_spool()
    assert (second.published, second.depth(START)) == (4, 4)
    assert second.producer_id != first.producer_id


def test_a_loss_is_counted_once_however_often_the_damaged_file_is_read(open_spool):
    first = open_spool()
    first.append([SMALL] * 3)
    killed(first)
    (path,) = first.directory.glob("*.spool")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for _ in range(3):
        spool = open_spool()
        assert (spool.published, spool.lost) == (3, 1)
        killed(spool)
    spool = open_spool()
    spool.drop_through(Position(first.epoch, 3))
    assert [p.suffix for p in spool.directory.glob("*-*")] == [".damaged"]
    spool.close()
    for _ in range(2):
        spool = open_spool()
        assert (spool.published, spool.lost, identity(spool)["lost"]) == (3, 1, {"": 1})
        spool.close()

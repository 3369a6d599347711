"""A spool whose files are removed, replaced or linked elsewhere under a running producer, or are not what they seem."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgpack
import publishing
import pytest
from conftest import wait_for

from sightlog import Event, SpoolDamaged, SpoolFormatUnknown, SpoolInUse
from sightlog.errors import NOT_TAKEN
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlog.spool.spool import Spool


class Producer:
    """`publishing` as a process."""

    def __init__(self, endpoint: str, spool_dir: Path, *options: str) -> None:
        command = [sys.executable, publishing.__file__, endpoint, str(spool_dir), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.first_line = self.process.stdout.readline().strip()

    def publish(self, event_id: str) -> str:
        print(event_id, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "sensor"


@pytest.fixture
def producer(idle_daemon, spool_dir: Path) -> Iterator[Producer]:
    """With three records in its spool, and no daemon."""
    producer = Producer(idle_daemon.endpoint, spool_dir.parent)
    for name in ("a0", "a1", "a2"):
        assert producer.publish(name) == "taken"
    yield producer
    producer.kill()


def find(spool_dir: Path) -> tuple[int, int, list[str]]:
    """What the next life begins with: how many were published and lost, and what is left."""
    with closing(Spool(spool_dir, "sensor", 1 << 30)) as spool:
        found, after = [], START
        while (chunk := spool.read_after(after, 1_000, 1 << 30)) is not None:
            found += [msgpack.unpackb(record)["event_id"] for record in chunk.records]
            after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
        return spool.published, spool.lost, found


def tree(directory: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in directory.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def remove_all(directory: Path) -> None:
    shutil.rmtree(directory)


def remove_above(directory: Path) -> None:
    shutil.rmtree(directory.parent)


def remove_files(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def remove_lock(directory: Path) -> None:
    (directory / "lock").unlink()


def remove_identity(directory: Path) -> None:
    (directory / "identity.json").unlink()


def remove_segments(directory: Path) -> None:
    for path in directory.glob("*.spool"):
        path.unlink()


def move_away(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def replace_by_an_empty_one(directory: Path) -> None:
    move_away(directory)
    directory.mkdir()


def replace_by_a_copy(directory: Path) -> None:
    move_away(directory)
    shutil.copytree(directory.with_name("elsewhere"), directory)


def replace_by_a_link(directory: Path) -> None:
    """Of the segment, to where it is now: the next life follows none."""
    (path,) = directory.glob("*.spool")
    path.rename(directory.with_name("elsewhere"))
    path.symlink_to(directory.with_name("elsewhere"))


def replace_by_another_file(directory: Path) -> None:
    (path,) = directory.glob("*.spool")
    path.unlink()
    path.write_bytes(b"of somebody else")


REMOVALS = [
    remove_all,
    remove_above,
    remove_files,
    remove_lock,
    remove_identity,
    remove_segments,
    move_away,
    replace_by_an_empty_one,
    replace_by_a_copy,
    replace_by_a_link,
    replace_by_another_file,
]


def is_whole(directory: Path, records: int) -> bool:
    """Whether a copy of it has all that the next life needs."""
    copy = directory.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        shutil.copytree(directory, copy, symlinks=True)
        return (copy / "identity.json").exists() and (copy / "lock").exists() and len(find(copy)[2]) == records
    except OSError:  # while it is being made
        return False


@pytest.mark.parametrize("remove", REMOVALS, ids=lambda remove: remove.__name__)
def test_files_that_are_removed_under_a_producer_are_made_anew_and_a_kill_costs_nothing(producer, spool_dir, remove):
    remove(spool_dir)
    assert producer.publish("b0") == "taken"
    wait_for(lambda: is_whole(spool_dir, 4), "all four records are in files again")
    assert producer.publish("b1") == "taken"
    with pytest.raises(SpoolInUse, match=f"in use by process {producer.process.pid}"):
        Spool(spool_dir, "sensor", 1 << 20)
    producer.kill()
    assert find(spool_dir) == (5, 0, ["a0", "a1", "a2", "b0", "b1"])


@pytest.mark.parametrize("remove", [remove_lock, remove_files], ids=lambda remove: remove.__name__)
def test_nobody_else_gets_the_spool_before_that_is_noticed(producer, spool_dir, remove):
    remove(spool_dir)
    with pytest.raises(SpoolInUse):
        Spool(spool_dir, "sensor", 1 << 20)


@pytest.mark.parametrize("is_still_there", [True, False])
def test_who_took_the_name_of_a_removed_spool_keeps_it_and_the_older_one_refuses(producer, spool_dir, is_still_there):
    shutil.rmtree(spool_dir)
    second = Spool(spool_dir, "sensor", 1 << 20)
    second.append([(msgpack.packb({"event_id": "second"}), b"")])
    if not is_still_there:
        second.close()
    before = tree(spool_dir)
    said = ""
    number = 0

    def refuses() -> bool:
        nonlocal said, number
        number += 1
        said = producer.publish(f"b{number}")
        return said != "taken"

    wait_for(refuses, "publish() raises")
    assert said.startswith("SpoolInUse: ")
    assert said.endswith(NOT_TAKEN)
    producer.kill()
    assert {name: kept for name, kept in tree(spool_dir).items() if name != "lock"} == {
        name: kept for name, kept in before.items() if name != "lock"
    }
    second.close()
    assert find(spool_dir) == (1, 0, ["second"])


def test_what_cannot_be_made_anew_is_refused_until_it_can(producer, spool_dir):
    shutil.rmtree(spool_dir.parent)
    spool_dir.parent.write_text("in the way")
    taken, number = ["a0", "a1", "a2"], 0

    def refuses() -> str:
        nonlocal number
        number += 1
        said = producer.publish(f"b{number}")
        if said == "taken":
            taken.append(f"b{number}")
        return said if said != "taken" else ""

    said = wait_for(refuses, "publish() raises")
    assert said.startswith("SpoolFull: ")
    assert "removed" in said
    assert said.endswith(NOT_TAKEN)
    spool_dir.parent.unlink()
    assert producer.publish("behind") == "taken"
    producer.kill()
    assert find(spool_dir) == (len(taken) + 1, 0, [*taken, "behind"])


def test_what_nobody_held_open_is_lost_and_told_and_holds_up_nothing(idle_daemon, spool_dir):
    """Of the lives before this one the first segment is open, because it is sent first; the second is not."""
    for session in range(2):
        with closing(Spool(spool_dir, "sensor", 1 << 20)) as earlier:
            earlier.append([encode_record(Event("door", event_id=f"life{session}-{n}")) for n in range(3)])
    with idle_daemon.publisher() as publisher:
        wait_for(lambda: publisher._spool._segments[0].fd >= 0, "it is about to be sent")
        for path in spool_dir.glob("*.spool"):
            path.unlink()
        receipt = publisher.publish(Event("door", event_id="new"))
        wait_for(lambda: publisher.lost, "it is noticed")
        idle_daemon.start()
        assert receipt.wait(20) == "stored"
        assert publisher.flush(10)
        assert (publisher.published, publisher.lost, publisher.spooled) == (7, 3, 0)
    stored = {event.event_id for event in idle_daemon.reader().get_recent_events()}
    assert stored == {"life0-0", "life0-1", "life0-2", "new"}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_spool_of_a_killed_parent(idle_daemon, spool_dir):
    producer = Producer(idle_daemon.endpoint, spool_dir.parent, "forked")
    child = int(producer.first_line)
    try:
        assert producer.publish("a0") == "taken"
        with pytest.raises(SpoolInUse):
            Spool(spool_dir, "sensor", 1 << 20)
        producer.kill()
        os.kill(child, 0)  # it lives on
        assert find(spool_dir) == (1, 0, ["a0"])
    finally:
        os.kill(child, signal.SIGKILL)


# -- what is not what it seems ---------------------------------------------------------------------------------------


def left(spool_dir: Path) -> Path:
    """Three records that an earlier life left; returns their segment."""
    with closing(Spool(spool_dir, "sensor", 1 << 20)) as spool:
        spool.append([(msgpack.packb({"event_id": f"a{n}"}), b"") for n in range(3)])
    (path,) = spool_dir.glob("*.spool")
    return path


def of_another_format(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\xf1SL\x01", b"\xf1SL\x02"))


def one_more_of_another_format(path: Path) -> None:
    epoch, _, seq = path.stem.partition("-")
    path.with_name(f"{int(epoch) + 1:015d}-{seq}.spool").write_bytes(b"\xf1SL\x07 and whatever that format has")


def identity_of_another_format(path: Path) -> None:
    identity = path.parent / "identity.json"
    identity.write_text(identity.read_text().replace('"format": 1', '"format": 2'))


@pytest.mark.parametrize(
    "change", [of_another_format, one_more_of_another_format, identity_of_another_format], ids=lambda it: it.__name__
)
@pytest.mark.parametrize("has_lock", [True, False])
def test_a_spool_of_an_unknown_format_is_left_untouched(spool_dir, idle_daemon, change, has_lock):
    change(left(spool_dir))
    if not has_lock:
        (spool_dir / "lock").unlink()
    before = tree(spool_dir)
    with pytest.raises(SpoolFormatUnknown, match="Nothing was changed"):
        idle_daemon.publisher()
    assert tree(spool_dir) == before


def test_a_damaged_first_byte_is_damage_and_no_other_format(spool_dir):
    path = left(spool_dir)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert find(spool_dir) == (3, 1, ["a1", "a2"])


@pytest.mark.parametrize("name", ["lock", "identity.json.tmp"])
def test_a_link_in_a_spool_is_not_followed(spool_dir, tmp_path, name):
    left(spool_dir)
    target = tmp_path / "precious"
    target.write_text("of somebody else")
    (spool_dir / name).unlink(missing_ok=True)
    (spool_dir / name).symlink_to(target)
    if name == "lock":
        with pytest.raises(SpoolDamaged, match="lock"):
            Spool(spool_dir, "sensor", 1 << 20)
    else:
        assert find(spool_dir)[2] == ["a0", "a1", "a2"]
    assert target.read_text() == "of somebody else"


def test_a_linked_identity_is_refused_and_stays(spool_dir, tmp_path):
    left(spool_dir)
    (spool_dir / "identity.json").rename(tmp_path / "identity")
    (spool_dir / "identity.json").symlink_to(tmp_path / "identity")
    before = (tmp_path / "identity").read_bytes()
    with pytest.raises(SpoolDamaged, match=r"identity\.json"):
        Spool(spool_dir, "sensor", 1 << 20)
    assert (tmp_path / "identity").read_bytes() == before


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_only_has_the_name_of_a_segment_is_left_alone(spool_dir, tmp_path, kind):
    path = left(spool_dir)
    odd = path.with_name(f"{1:015d}-{1:012d}.spool")
    target = tmp_path / "precious"
    target.write_text("of somebody else")
    if kind == "link":
        odd.symlink_to(target)
    elif kind == "directory":
        odd.mkdir()
    else:
        os.mkfifo(odd)
    assert find(spool_dir) == (3, 0, ["a0", "a1", "a2"])
    assert os.path.lexists(odd)
    assert target.read_text() == "of somebody else"


@pytest.mark.parametrize("name", ["lock", "identity.json"])
def test_a_fifo_in_the_place_of_a_file_does_not_hang(spool_dir, name):
    left(spool_dir)
    (spool_dir / name).unlink()
    os.mkfifo(spool_dir / name)
    with pytest.raises(SpoolDamaged, match="not a regular file"):
        Spool(spool_dir, "sensor", 1 << 20)

"""The spool on real files: what survives, what is lost and told, and where it says no."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sightlog.errors import SpoolDamaged, SpoolFull, SpoolInUse
from sightlog.protocol.limits import FRAMES_MAX, IMAGE_BYTES_MAX, RECORD_BYTES_MAX
from sightlog.protocol.messages import START, Position
from sightlog.spool import segment as segment_file
from sightlog.spool.spool import SEGMENT_REUSE_BYTES, Spool

ROOMY = 64 * 1024 * 1024
ENTRY_BYTES = segment_file._HEAD.size
"""What an entry takes beside its record and image."""


@pytest.fixture
def open_spool(tmp_path, monkeypatch):
    """Opens a life of the spool in `tmp_path / "spool"`, ended with the test if not before."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # thousands of lives; nobody pulls the plug here
    sessions = []

    def begin(bytes_max: int = ROOMY, directory: Path = tmp_path / "spool") -> Spool:
        sessions.append(Spool(directory, "front", bytes_max))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def read_all(spool: Spool, after: Position = START, records_max: int = 1000, bytes_max: int = 1 << 20) -> list:
    """(position, record, image) of everything behind `after`, read as the publisher does: chunk by chunk."""
    found = []
    while (chunk := spool.read_after(after, records_max, bytes_max)) is not None:
        assert chunk.first > after
        for index, record in enumerate(chunk.records):
            after = Position(chunk.first.epoch, chunk.first.seq + index)
            found.append((after, record, chunk.images[index]))
    return found


def contents(spool: Spool) -> list[bytes]:
    return [record for _, record, _ in read_all(spool)]


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.spool")) + sum(
        path.stat().st_size for path in directory.glob("*.damaged")
    )


def segment_in(directory: Path) -> Path:
    (path,) = directory.glob("*.spool")
    return path


# -- append, read, drop ----------------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back_in_order_with_its_image(open_spool):
    spool = open_spool()
    assert spool.append([(b"one", b"jpeg")]) == Position(spool.epoch, 1)
    assert spool.append([(b"two", b""), (b"three", b"")]) == Position(spool.epoch, 3)
    assert read_all(spool) == [
        (Position(spool.epoch, 1), b"one", b"jpeg"),
        (Position(spool.epoch, 2), b"two", b""),
        (Position(spool.epoch, 3), b"three", b""),
    ]
    assert (spool.depth(START), spool.lost, spool.size) == (3, 0, on_disk(spool.directory))


def test_reading_goes_on_behind_any_position(open_spool):
    spool = open_spool()
    spool.append([(b"%d" % seq, b"") for seq in range(1, 6)])
    for seq in (4, 0, 5, 2, 2, 1):  # back and forth: a resync may ask for anything
        rest = read_all(spool, Position(spool.epoch, seq))
        assert [position.seq for position, _, _ in rest] == list(range(seq + 1, 6))


@pytest.mark.parametrize(("acked", "left"), [(0, 5), (1, 4), (4, 1), (5, 0)])
def test_what_is_acked_is_not_counted_any_more(open_spool, acked, left):
    spool = open_spool()
    spool.append([(b"%d" % seq, b"") for seq in range(5)])
    spool.drop_through(Position(spool.epoch, acked))
    assert spool.depth(Position(spool.epoch, acked)) == left
    assert spool.first_after(Position(spool.epoch, acked)) == Position(spool.epoch, acked + 1)


def test_segments_whose_records_are_all_acked_leave_the_disk(open_spool):
    spool = open_spool(bytes_max=16 * 4096)
    for _ in range(30):
        spool.append([(b"x" * 1000, b"")])
    files = len(list(spool.directory.glob("*.spool")))
    assert files > 4
    spool.drop_through(Position(spool.epoch, 20))
    assert len(list(spool.directory.glob("*.spool"))) < files
    assert [position.seq for position, _, _ in read_all(spool, Position(spool.epoch, 20))] == list(range(21, 31))
    assert spool.size == on_disk(spool.directory)


def test_a_large_active_segment_is_given_back_and_writing_goes_on(open_spool):
    spool = open_spool()
    spool.append([(b"x" * SEGMENT_REUSE_BYTES, b"")])
    spool.drop_through(Position(spool.epoch, 1))
    assert (on_disk(spool.directory), spool.size) == (0, 0)
    assert spool.append([(b"next", b"")]) == Position(spool.epoch, 2)
    assert read_all(spool, Position(spool.epoch, 1)) == [(Position(spool.epoch, 2), b"next", b"")]


def test_an_ack_behind_everything_empties_the_spool_and_seqs_go_on(open_spool):
    spool = open_spool()
    spool.append([(b"one", b"")])
    spool.drop_through(Position(spool.epoch, 1))
    spool.drop_through(START)  # an old ack changes nothing
    assert (spool.depth(Position(spool.epoch, 1)), read_all(spool, Position(spool.epoch, 1))) == (0, [])
    assert spool.append([(b"two", b"")]).seq == 2


# -- lives -----------------------------------------------------------------------------------------------------------


def test_records_survive_reopening_and_come_before_those_of_the_new_life(open_spool):
    first = open_spool()
    first.append([(b"old", b"")])
    first.close()
    second = open_spool()
    second.append([(b"new", b"")])
    assert (second.producer_id, second.epoch > first.epoch) == (first.producer_id, True)
    assert read_all(second) == [(Position(first.epoch, 1), b"old", b""), (Position(second.epoch, 1), b"new", b"")]
    assert second.depth(START) == 2
    second.drop_through(Position(first.epoch, 1))
    assert (second.depth(Position(first.epoch, 1)), second.first_after(START)) == (1, Position(second.epoch, 1))


CHILD = """
import os, signal, sys
from sightlog.spool.spool import Spool
spool = Spool(sys.argv[1], "front", 1 << 20)
for seq in range(1, 101):
    spool.append([(b"%d" % seq, b"")])
print("ready", flush=True)
"""


def test_records_survive_sigkill_the_moment_append_returned(open_spool, tmp_path):
    command = [sys.executable, "-c", CHILD + "os.kill(os.getpid(), signal.SIGKILL)", str(tmp_path / "spool")]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=False).returncode == -signal.SIGKILL
    assert contents(open_spool()) == [b"%d" % seq for seq in range(1, 101)]


def test_a_spool_in_use_by_another_process_names_it_and_is_free_after_its_death(open_spool, tmp_path):
    command = [sys.executable, "-c", CHILD + "sys.stdin.read()", str(tmp_path / "spool")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(SpoolInUse, match=rf"in use by process {other.pid}\b"):
            open_spool()
        other.kill()
    assert len(contents(open_spool())) == 100


def test_the_epoch_grows_even_when_the_clock_went_back(open_spool, monkeypatch):
    epochs = []
    for clock in (1_800_000_000_000, 1_700_000_000_000, 0, 1_800_000_000_000, 1_900_000_000_000):
        monkeypatch.setattr("time.time_ns", lambda milliseconds=clock: milliseconds * 1_000_000)
        session = open_spool()
        epochs.append(session.epoch)
        session.close()
    assert epochs[0] == 1_800_000_000_000
    assert epochs[-1] == 1_900_000_000_000
    assert epochs == sorted(set(epochs))


def test_the_epoch_grows_beyond_the_segments_when_the_identity_was_lost(open_spool, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    first = open_spool()
    first.append([(b"old", b"")])
    first.close()
    (first.directory / "identity.json").unlink()
    monkeypatch.setattr("time.time_ns", lambda: 0)
    second = open_spool()
    assert second.producer_id != first.producer_id
    assert second.epoch > first.epoch
    assert contents(second) == [b"old"]


def test_a_fenced_identity_gets_a_new_producer_id_and_takes_the_leftovers_along(open_spool):
    first = open_spool()
    first.append([(b"old", b"")])
    first.fence()
    first.close()
    second = open_spool()
    assert second.producer_id != first.producer_id
    assert second.epoch > first.epoch
    assert contents(second) == [b"old"]
    second.close()
    assert open_spool().producer_id == second.producer_id  # once is enough


def test_what_a_copy_of_the_spool_published_is_not_taken_for_its_own(open_spool):
    """The card was cloned, and the daemon knows the clone's life: it settles nothing that is left here."""
    first = open_spool()
    first.append([(b"left", b"")])
    first.close()
    second = open_spool()
    between = Position(second.epoch - 1, 7) if second.epoch > first.epoch + 1 else Position(second.epoch + 1, 7)
    second.append([(b"more", b"")])
    own = [START, Position(first.epoch, 1), Position(second.epoch, 1)]
    assert not any(second.is_foreign(resolved, START) for resolved in own)
    assert second.is_foreign(between, START)
    acked = Position(second.epoch, 1)
    second.drop_through(acked)
    assert not second.is_foreign(between, acked), "nothing is left that it could settle"


IDENTITIES = {
    "empty": b"",
    "zeros": b"\0" * 80,
    "cut": b'{"producer_id": "0193',
    "not utf-8": b"\xff\xfe{}",
    "a list": b"[]",
    "a number": b"7",
    "no epoch": b'{"producer_id": "01934b6e-0000-7000-8000-000000000000"}',
    "no id": b'{"epoch": 5}',
    "epoch is a word": b'{"epoch": "five", "producer_id": "01934b6e-0000-7000-8000-000000000000"}',
    "epoch is infinite": b'{"epoch": 1e999, "producer_id": "01934b6e-0000-7000-8000-000000000000"}',
    "epoch is too large for the wire": b'{"epoch": 9223372036854775808, '
    b'"producer_id": "01934b6e-0000-7000-8000-000000000000"}',
    "id is not a uuid": b'{"epoch": 5, "producer_id": "front"}',
    "id is a number": b'{"epoch": 5, "producer_id": 5}',
    "nested deeply": b"[" * 100_000,
}


@pytest.mark.parametrize("text", IDENTITIES.values(), ids=IDENTITIES.keys())
def test_a_corrupted_identity_is_told_and_moved_away_nothing_is_lost(open_spool, text):
    first = open_spool()
    first.append([(b"kept", b"")])
    first.close()
    path = first.directory / "identity.json"
    path.write_bytes(text)
    for _ in range(2):  # the failed attempt must not hold the lock
        with pytest.raises(SpoolDamaged, match=r"identity\.json.*[Mm]ove it away"):
            open_spool()
    assert path.read_bytes() == text
    path.unlink()
    assert contents(open_spool()) == [b"kept"]


def test_a_directory_that_cannot_be_used_is_told_and_works_once_it_is_mended(open_spool, tmp_path):
    identity = tmp_path / "spool" / "identity.json"
    identity.mkdir(parents=True)
    with pytest.raises(SpoolDamaged, match=r"cannot use the spool directory .*: Is a directory"):
        open_spool()
    identity.rmdir()
    assert contents(open_spool()) == []


# -- damage ----------------------------------------------------------------------------------------------------------

THREE = [(b"first record", b""), (b"second", b"\xff\xd8 image \xff\xd9"), (b"third record", b"")]


@pytest.fixture
def three(open_spool, tmp_path) -> tuple[str, bytes]:
    """Name and bytes of a segment with the records of THREE."""
    spool = open_spool(directory=tmp_path / "original")
    spool.append(THREE)
    spool.close()
    path = segment_in(spool.directory)
    return path.name, path.read_bytes()


def reopen_with(open_spool, tmp_path: Path, name: str, data: bytes) -> Spool:
    directory = tmp_path / "copy"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / name).write_bytes(data)
    return open_spool(directory=directory)


def entry_ends() -> list[int]:
    ends = [0]
    for record, image in THREE:
        ends.append(ends[-1] + ENTRY_BYTES + len(record) + len(image))
    return ends


def test_a_torn_tail_costs_only_the_record_that_was_being_written(open_spool, tmp_path, three):
    name, data = three
    ends = entry_ends()
    assert len(data) == ends[-1]
    for cut in range(len(data) + 1):
        spool = reopen_with(open_spool, tmp_path, name, data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        assert contents(spool) == [record for record, _ in THREE[:whole]], cut
        assert spool.lost == 0, cut
        assert spool.append([(b"next", b"")]) == Position(spool.epoch, 1), cut
        assert contents(spool)[-1] == b"next", cut
        spool.drop_through(Position(spool.epoch, 1))
        assert not list(spool.directory.glob("*.damaged")), cut
        spool.close()


def test_a_torn_tail_does_not_take_up_room_for_ever(open_spool, tmp_path, three):
    name, data = three
    for cut in (0, 1, 20, entry_ends()[1] + 1, len(data) - 1):
        spool = reopen_with(open_spool, tmp_path, name, data[:cut])
        assert spool.size == on_disk(spool.directory), cut
        spool.append([(b"x" * SEGMENT_REUSE_BYTES, b"")])
        spool.drop_through(Position(spool.epoch, 1))
        assert (spool.size, on_disk(spool.directory)) == (0, 0), cut
        spool.close()


def flips(data: bytes):
    for offset in range(len(data)):
        for bit in range(8):
            yield offset, data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


def test_a_flipped_bit_never_gives_a_wrong_record_and_costs_only_the_one_it_hit(open_spool, tmp_path, three):
    name, data = three
    epoch = int(name.split("-")[0])
    written = [(Position(epoch, index + 1), *pair) for index, pair in enumerate(THREE)]
    for offset, flipped in flips(data):
        hit = sum(end <= offset for end in entry_ends()[1:])
        spool = reopen_with(open_spool, tmp_path, name, flipped)
        assert read_all(spool) == written[:hit] + written[hit + 1 :], offset
        spool.close()


@pytest.mark.parametrize("hit", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_flipped_bit_is_counted_as_lost_and_the_file_is_kept(open_spool, tmp_path, three, hit):
    name, data = three
    start, end = entry_ends()[hit : hit + 2]
    for offset, flipped in flips(data):
        if start <= offset < end:
            spool = reopen_with(open_spool, tmp_path, name, flipped)
            told = spool.lost
            spool.append([(b"next", b"")])
            spool.drop_through(Position(spool.epoch, 1))
            kept = [path.read_bytes() for path in spool.directory.glob("*.damaged")]
            spool.close()
            assert (told, kept) == (1, [flipped]), offset - start


def test_damage_before_a_large_record_does_not_cost_the_large_one(open_spool):
    first = open_spool()
    first.append([(b"damaged", b"\xd8" * (3 << 20))])
    first.append([(b"whole", b"\xd8" * IMAGE_BYTES_MAX)])
    first.close()
    path = segment_in(first.directory)
    with open(path, "r+b") as file:
        file.seek(1 << 20)
        file.write(b"!")
    second = open_spool()
    assert contents(second) == [b"whole"]
    assert second.lost == 1


def test_garbage_of_any_length_in_the_middle_costs_one_record(open_spool, tmp_path, three):
    name, data = three
    start, end = entry_ends()[1:3]
    for garbage in (b"", segment_file.MARKER, b"\0" * 5, os.urandom(3000), segment_file.MARKER * 100, b"\0" * 300_000):
        spool = reopen_with(open_spool, tmp_path, name, data[:start] + garbage + data[end:])
        assert (contents(spool), spool.lost) == ([b"first record", b"third record"], 1)
        spool.close()


def test_a_block_written_over_another_one_of_its_file_hides_nothing_and_is_counted(open_spool, tmp_path):
    spool = open_spool()
    spool.append([(b"%d" % n * 100, b"") for n in range(8)])
    spool.close()
    path = segment_in(spool.directory)
    data, size = bytearray(path.read_bytes()), path.stat().st_size // 8
    data[10 : 10 + size + 20] = data[5 * size : 6 * size + 20]  # a whole entry of later, within the first and second
    spool = reopen_with(open_spool, tmp_path, path.name, bytes(data))
    assert (contents(spool), spool.lost) == ([b"%d" % n * 100 for n in range(2, 8)], 2)


def test_an_entry_of_another_life_inside_an_image_or_on_a_reused_block_is_not_taken_for_one(open_spool):
    first = open_spool()
    first.append([(b"phantom", b"")] * 3)
    first.close()
    stale = segment_in(first.directory).read_bytes()
    segment_in(first.directory).unlink()
    second = open_spool()
    second.append([(b"damaged", b"." + stale + b"."), (b"whole", b"")])
    second.close()
    path = segment_in(first.directory)
    data = path.read_bytes()
    path.write_bytes(data[:ENTRY_BYTES] + b"D" + data[ENTRY_BYTES + 1 :])
    assert contents(open_spool()) == [b"whole"]


def test_a_damaged_file_counts_against_the_bound_and_is_not_read_again(open_spool, tmp_path, three):
    name, data = three
    spool = reopen_with(open_spool, tmp_path, name, b"?" + data[1:])
    last = spool.append([(b"x" * SEGMENT_REUSE_BYTES, b"")])
    spool.drop_through(last)
    assert spool.size == on_disk(spool.directory) == len(data)
    spool.close()
    again = open_spool(directory=spool.directory)
    assert (contents(again), again.size, again.lost) == ([], len(data), 1)


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_the_spool_is_full_exactly_at_its_bound(open_spool):
    room = 3 * (ENTRY_BYTES + 10)
    spool = open_spool(bytes_max=room)
    for _ in range(3):
        spool.append([(b"0123456789", b"")])
    assert spool.size == room
    with pytest.raises(SpoolFull, match=f"holds {room} of at most {room} bytes"):
        spool.append([(b"", b"")])


def test_several_records_that_do_not_all_fit_are_not_appended_at_all(open_spool):
    spool = open_spool(bytes_max=3 * (ENTRY_BYTES + 10) - 1)
    spool.append([(b"0123456789", b"")])
    with pytest.raises(SpoolFull):
        spool.append([(b"0123456789", b"")] * 2)
    assert (contents(spool), spool.size) == ([b"0123456789"], on_disk(spool.directory))
    assert spool.append([(b"012345678", b"")]).seq == 2  # the refused ones used up no seq


def test_a_full_spool_takes_records_again_after_an_ack(open_spool):
    spool = open_spool(bytes_max=SEGMENT_REUSE_BYTES * 2)
    while True:
        try:
            last = spool.append([(b"x" * 1000, b"")])
        except SpoolFull:
            break
    spool.drop_through(last)
    assert spool.append([(b"x" * 1000, b"")]).seq == last.seq + 1


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount(8): only a real file system can be really full")
    if (tried := subprocess.run(command, capture_output=True, text=True, check=False)).returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {tried.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def fill(spool: Spool, size: int) -> list[bytes]:
    accepted: list[bytes] = []
    while True:
        record = b"%06d" % len(accepted) + b"x" * size
        try:
            spool.append([(record, b"")])
        except SpoolFull:
            return accepted
        accepted.append(record)


@pytest.mark.parametrize("size", [100, 5_000, 30_000])
def test_a_full_disk_refuses_a_record_and_harms_none(open_spool, tiny_disk, size):
    spool = open_spool(directory=tiny_disk / "spool")
    accepted = fill(spool, size)
    with pytest.raises(SpoolFull, match="No space left on device"):
        spool.append([(b"y" * 60_000, b"")])
    assert contents(spool) == accepted
    assert (spool.size, spool.next_position.seq) == (on_disk(spool.directory), len(accepted) + 1)
    spool.close()
    subprocess.run(["mount", "-o", "remount,size=128k", str(tiny_disk)], check=True)
    again = open_spool(directory=tiny_disk / "spool")
    assert (contents(again), again.lost) == (accepted, 0)


def test_a_life_that_found_the_disk_full_can_begin_once_there_is_room(open_spool, tiny_disk):
    spool = open_spool(directory=tiny_disk / "spool")
    accepted = fill(spool, 100)
    spool.close()
    with pytest.raises(SpoolDamaged, match="No space left on device"):
        open_spool(directory=tiny_disk / "spool")
    subprocess.run(["mount", "-o", "remount,size=128k", str(tiny_disk)], check=True)
    assert contents(open_spool(directory=tiny_disk / "spool")) == accepted


def test_a_disk_without_inodes_refuses_a_record_until_there_is_one(open_spool, tiny_disk):
    spool = open_spool(directory=tiny_disk / "spool")
    subprocess.run(["mount", "-o", "remount,nr_inodes=4", str(tiny_disk)], check=True)
    with pytest.raises(SpoolFull, match="No space left on device"):
        spool.append([(b"first", b"")])
    subprocess.run(["mount", "-o", "remount,nr_inodes=20", str(tiny_disk)], check=True)
    assert spool.append([(b"first", b"")]).seq == 1
    assert contents(spool) == [b"first"]


def test_a_disk_that_has_room_again_takes_the_next_record_behind_the_last(open_spool, tiny_disk):
    spool = open_spool(directory=tiny_disk / "spool")
    spool.append([(b"first", b"")])
    reserve = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        reserve.write_bytes(b"\0" * 70_000)
    with pytest.raises(SpoolFull, match="No space left on device"):
        spool.append([(b"x" * 10_000, b"")])
    reserve.unlink()
    assert spool.append([(b"second", b"")]).seq == 2
    assert contents(spool) == [b"first", b"second"]


# -- chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records_max", "bytes_max", "sizes"),
    [
        (1000, 1 << 20, [7]),
        (3, 1 << 20, [3, 3, 1]),
        (1, 1 << 20, [1] * 7),
        (1000, 200, [2, 2, 2, 1]),
        (1000, 199, [1] * 7),
        (1000, 1, [1] * 7),  # always one, however large
    ],
)
def test_a_chunk_keeps_within_the_limits_it_is_given(open_spool, records_max, bytes_max, sizes):
    spool = open_spool()
    for seq in range(7):
        spool.append([(b"%040d" % seq, b"%060d" % seq)])
    after, found = START, []
    while (chunk := spool.read_after(after, records_max, bytes_max)) is not None:
        assert chunk.bytes == sum(map(len, chunk.records + chunk.images))
        after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
        found.append(len(chunk.records))
    assert found == sizes


def test_a_chunk_has_no_more_images_than_a_message_has_frames_for(open_spool):
    spool = open_spool()
    for _ in range(200):
        spool.append([(b"record", b"small thumbnail")])
    chunk = spool.read_after(START, 1000, 1 << 20)
    assert sum(map(bool, chunk.images)) <= FRAMES_MAX - 2
    assert len(read_all(spool)) == 200


def test_a_chunk_is_of_one_life(open_spool):
    for _ in range(3):
        session = open_spool()
        session.append([(b"a", b""), (b"b", b"")])
        session.close()
    spool = open_spool()
    after, epochs = START, []
    while (chunk := spool.read_after(after, 1000, 1 << 20)) is not None:
        assert (chunk.first.seq, len(chunk.records)) == (1, 2)
        epochs.append(chunk.first.epoch)
        after = Position(chunk.first.epoch, 2)
    assert epochs == sorted(set(epochs))
    assert len(epochs) == 3


def test_records_larger_than_a_read_are_read_back(open_spool):
    sizes = [(10, 0), (RECORD_BYTES_MAX, IMAGE_BYTES_MAX), (10, 300_000), (RECORD_BYTES_MAX, 0), (1, 0)]
    pairs = [(b"r" * record, b"i" * image) for record, image in sizes]
    first = open_spool()
    for pair in pairs:
        first.append([pair])
    assert [(record, image) for _, record, image in read_all(first)] == pairs
    first.close()
    second = open_spool()
    assert [(record, image) for _, record, image in read_all(second)] == pairs
    assert second.lost == 0


# -- threads and syncing ---------------------------------------------------------------------------------------------


def test_a_reader_racing_a_writer_sees_every_record_once_in_order(open_spool):
    spool = open_spool(bytes_max=1 << 20)  # segments of 64 KiB: the race crosses many of them
    total = 8_000
    failed = []

    def write() -> None:
        seq = 0
        try:
            while seq < total:
                some = [(b"%08d" % number, b"i" * (number % 50)) for number in range(seq, min(seq + 7, total))]
                try:
                    spool.append(some)
                except SpoolFull:
                    continue
                seq += len(some)
        except BaseException as error:
            failed.append(error)
            raise

    writer = threading.Thread(target=write)
    writer.start()
    after, expected = START, 0
    while expected < total and not failed:
        chunk = spool.read_after(after, 100, 4096)
        if chunk is None:
            continue
        for record in chunk.records:
            assert record == b"%08d" % expected
            expected += 1
        after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
        if expected % 3 == 0:
            spool.drop_through(after)
    writer.join()
    spool.drop_through(after)
    assert (failed, expected, spool.depth(after)) == ([], total, 0)
    assert spool.size == on_disk(spool.directory)


class Racing(list):
    """Segments; whoever looks for the one behind the first is overtaken by a writer."""

    def __init__(self, segments, write) -> None:
        super().__init__(segments)
        self._write = write

    def _overtake(self) -> None:
        write, self._write = self._write, None
        if write is not None:
            write()

    def index(self, *arguments):
        self._overtake()
        return super().index(*arguments)

    def __iter__(self):
        self._overtake()
        return super().__iter__()


def test_a_writer_that_goes_on_to_the_next_segment_meanwhile_leaves_nothing_out(open_spool):
    spool = open_spool(bytes_max=1 << 20)
    spool.append([(b"one", b"")])
    read = spool.read_after(START, 10, 1 << 20)

    def write() -> None:
        before = len(spool._segments)
        while len(spool._segments) == before:
            spool.append([(b"two", b"x" * 4_096)])

    spool._segments = spool._playback._segments = Racing(spool._segments, write)
    chunk = spool.read_after(read.first, 10, 1 << 20)
    assert chunk.first == Position(spool.epoch, 2)


def test_a_segment_deleted_while_the_next_one_is_looked_for_is_behind_the_reader(open_spool):
    spool = open_spool(bytes_max=1 << 20)
    before = len(spool._segments)
    while len(spool._segments) < before + 2:
        spool.append([(b"some", b"x" * 4_096)])
    first_segment = spool._segments[0]
    after = START
    while after < first_segment.last:
        after = spool.read_after(after, 1, 1 << 20).first
    spool._segments = spool._playback._segments = Racing(spool._segments, lambda: spool.drop_through(after))
    assert spool.read_after(after, 1, 1 << 20).first == Position(spool.epoch, after.seq + 1)


def test_only_records_without_an_ack_ask_to_be_synced(open_spool):
    spool = open_spool()
    assert spool.unsynced_since is None
    spool.append([(b"one", b""), (b"two", b"")])
    since = spool.unsynced_since
    assert since is not None
    spool.append([(b"three", b"")])
    assert spool.unsynced_since == since  # the oldest counts
    spool.drop_through(Position(spool.epoch, 1))
    assert spool.unsynced_since >= since
    spool.drop_through(Position(spool.epoch, 3))
    assert spool.unsynced_since is None
    spool.append([(b"four", b"")])
    spool.sync()
    assert spool.unsynced_since is None


def test_the_identity_file_is_complete_at_any_time(open_spool, monkeypatch):
    session = open_spool()
    before = (session.directory / "identity.json").read_bytes()
    session.close()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SpoolDamaged, match="No space left on device"):
        open_spool()
    assert (session.directory / "identity.json").read_bytes() == before
    assert json.loads(before)["producer_id"] == session.producer_id


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("before", [0, 2])
def test_what_cannot_be_taken_back_is_neither_written_behind_nor_sent(tmp_path, monkeypatch, before, at_once):
    write = os.write

    def half(fd, data):
        write(fd, data[: len(data) // 2])
        raise OSError(errno.EIO, "Input/output error")

    def nothing(*_):
        raise OSError(errno.EIO, "Input/output error")

    spool = Spool(tmp_path / "spool", "camera", 1_000_000)
    for number in range(before):
        spool.append([(b"record %d" % number, b"")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        patch.setattr(os, "ftruncate", nothing)
        for _ in range(2):
            with pytest.raises(SpoolFull, match="Input/output error"):
                spool.append([(b"refused", b"")] * at_once)
    for number in range(before, before + 2):
        spool.append([(b"record %d" % number, b"")])
    expected = [b"record %d" % number for number in range(before + 2)]
    for session in range(2):
        found, after = [], START
        while (chunk := spool.read_after(after, 100, 1_000_000)) is not None:
            found += chunk.records
            after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
        assert found == expected
        assert spool.lost == 0
        spool.close()
        if session == 0:
            spool = Spool(tmp_path / "spool", "camera", 1_000_000)
    assert not list((tmp_path / "spool").glob("*.damaged"))

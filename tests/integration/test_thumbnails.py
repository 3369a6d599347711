"""Pictures, from publish() to the day's folder: kept, re-encoded, broken, hostile; and a decoder that dies or hangs."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgpack
import pytest
import zmq
from conftest import SMALL_DISK, Daemon, fill_the_disk, small_file_system, wait_for
from pictures import BLUE, RED, bomb, encoded, is_near, jpeg, jpeg_of, noise, opened, png, slow_png

from sightlog import Event
from sightlog.protocol import messages
from sightlog.protocol.encoding import encode_record
from sightlog.protocol.messages import START, Position
from sightlogd.daylogs.writer import DayLogs
from sightlogd.metrics.metrics import PictureCounts
from sightlogd.protocol.decoder import decode_record
from sightlogd.protocol.session import Chunk, Session
from sightlogd.store import Store
from sightlogd.thumbnails import queue
from sightlogd.thumbnails.formats import PictureLimits, check
from sightlogd.thumbnails.pipeline import Thumbnails
from sightlogd.thumbnails.reencode import MEMORY_BYTES_MAX

LIMITS = PictureLimits(640, 131_072)
CRASHING = str(Path(__file__).parents[1] / "crashing_daemon.py")
IMPATIENT = str(Path(__file__).parents[1] / "impatient_daemon.py")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def insert(daemon: Daemon, image: bytes, **fields: object) -> Event:
    event = Event("front_door", thumbnail=image, **fields)
    with daemon.publisher() as publisher:
        assert publisher.insert_event(event)
    return event


def path_of(daemon: Daemon, event: Event) -> str | None:
    with daemon.reader() as reader:
        return reader.get_event(event.event_id).thumbnail_path


def picture_of(daemon: Daemon, event: Event) -> bytes:
    """Once the row has it: acceptable, in its place, and nothing left behind."""
    path = wait_for(lambda: path_of(daemon, event), "the thumbnail", timeout=60)
    assert path == f"events/{event.recorded_at.astimezone().date()}/{event.event_id}.jpg"
    data = (daemon.data_dir / path).read_bytes()
    check(data, LIMITS)
    wait_for(lambda: event.event_id not in waiting(daemon), "incoming is empty")
    return data


def waiting(daemon: Daemon) -> list[str]:
    directory = daemon.data_dir / "events" / "incoming"
    return sorted(os.listdir(directory)) if directory.exists() else []


def why_dropped(daemon: Daemon, event: Event) -> str:
    """The reason in the log; the event is there without a picture, and no file is."""
    prefix = f"no thumbnail for event {event.event_id}: "
    line = wait_for(
        lambda: next((line for line in daemon.logged() if line["event"].startswith(prefix)), None), "the reason is told"
    )
    wait_for(lambda: event.event_id not in waiting(daemon), "the picture is removed")
    assert path_of(daemon, event) is None
    assert not list(daemon.data_dir.glob(f"events/*/{event.event_id}*"))
    assert line["level"] == "warning"
    return line["event"].removeprefix(prefix)


def decoders(daemon: Daemon) -> list[int]:
    pid = daemon.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def decoder(daemon: Daemon) -> int:
    return wait_for(lambda: decoders(daemon), "the decoder runs")[0]


def idle_decoder(daemon: Daemon) -> int:
    """One that has shown that it works."""
    picture_of(daemon, insert(daemon, png()))
    return decoder(daemon)


# -- what becomes of a picture ---------------------------------------------------------------------------------------


def test_an_acceptable_jpeg_is_kept_byte_for_byte_before_the_ack_and_nothing_is_started(daemon):
    for image in (jpeg(), jpeg_of(131_072), jpeg(size=(640, 480), progressive=True)):
        event = insert(daemon, image)
        path = path_of(daemon, event)
        assert (daemon.data_dir / path).read_bytes() == image
        assert (daemon.data_dir / path).stat().st_mode & 0o777 == 0o640
    assert decoders(daemon) == []
    assert waiting(daemon) == []


@pytest.mark.parametrize(
    "image",
    [
        png(),
        encoded(noise((1_000, 1_100)), "PNG"),
        jpeg(size=(4_608, 2_592)),
        jpeg(size=(641, 10)),
        jpeg_of(131_073),
        jpeg_of(4 * 1024 * 1024),
        encoded(noise((1_000, 900)), "JPEG", quality=95),
        encoded(noise((800, 600)), "WEBP"),
        jpeg() + b"\0",
    ],
    ids=["PNG", "noisy PNG", "12 MP", "too wide", "too many bytes", "4 MiB", "noisy JPEG", "WebP", "padded"],
)
def test_any_other_picture_becomes_a_jpeg_within_the_limits(daemon, image):
    event = insert(daemon, image)
    data = picture_of(daemon, event)
    assert data != image
    assert opened(data).quantization == opened(jpeg(quality=85)).quantization
    assert waiting(daemon) == []


def test_the_limits_of_the_configuration_hold(idle_daemon):
    idle_daemon.start(config="[files]\nthumbnail_pixels_max = 100\nthumbnail_bytes_max = 5000\n")
    event = insert(idle_daemon, encoded(noise((300, 200)), "PNG"))
    check(picture_of(idle_daemon, event), PictureLimits(100, 5_000))


def test_two_cameras_in_the_same_millisecond_have_a_picture_each(daemon):
    now = datetime.now(UTC)
    colours = {"left": RED, "right": BLUE}
    with daemon.publisher("left") as left, daemon.publisher("right") as right:
        sent = []
        for publisher in (left, right):
            colour = colours[publisher.producer]
            for image in (png(colour=colour), encoded(opened(png(colour=colour)), "JPEG")):
                event = Event(publisher.producer, recorded_at=now, thumbnail=image)
                sent.append((event, publisher.publish(event, urgent=True)))
        assert {receipt.wait(10) for _, receipt in sent} == {"stored"}
    for event, _ in sent:
        assert is_near(opened(picture_of(daemon, event)), (9, 9), colours[event.camera_id])


HOSTILE = {
    "noise": (os.urandom(4 * 1024 * 1024), "not a picture"),
    "text": (b"<svg/>", "not a picture"),
    "a GIF": (encoded(opened(png()), "GIF"), "not a picture"),
    "noise after a PNG's first bytes": (png()[:33] + os.urandom(4 * 1024 * 1024 - 33), "Error: "),
    "a broken JPEG": (b"\xff\xd8\xff\xe0 a picture \xff\xd9", "Truncated"),
    "a truncated PNG": (encoded(noise((200, 200)), "PNG")[:50_000], "truncated"),
    "a truncated JPEG": (encoded(noise((1_000, 900)), "JPEG")[:-5_000], "truncated"),
    "a decompression bomb": (bomb(), "2500000000 pixels"),
    "too many pixels": (jpeg(size=(24_001, 1_000)), "24001000 pixels"),
}


@pytest.mark.parametrize(("image", "why"), HOSTILE.values(), ids=HOSTILE)
def test_a_broken_or_hostile_picture_costs_the_picture_and_never_the_event(daemon, image, why):
    assert why in why_dropped(daemon, insert(daemon, image))
    picture_of(daemon, insert(daemon, png()))
    assert daemon.process.poll() is None


def test_a_duplicates_picture_never_replaces_the_first_ones(daemon):
    first = insert(daemon, png(colour=RED))
    again = Event("front_door", event_id=first.event_id, thumbnail=png(colour=BLUE))
    with daemon.publisher("other") as publisher:
        assert publisher.insert_event(again) is False
        assert is_near(opened(picture_of(daemon, first)), (9, 9), RED)
        assert publisher.insert_event(again) is False
        other = insert(daemon, png())
    picture_of(daemon, other)
    assert is_near(opened(picture_of(daemon, first)), (9, 9), RED)


@pytest.mark.parametrize(
    "event_id", ["..", ".", "...", ".hidden", "../../etc/x", "a/../../x", "/etc/x", "a\0b", "-rf", ""]
)
def test_a_name_never_leaves_the_data_directory(daemon, event_id):
    """A client that does not check: the daemon has to."""
    record = msgpack.unpackb(encode_record(Event("front_door"))[0])
    body = msgpack.packb([msgpack.packb({**record, "event_id": event_id})])
    wait_for((daemon.data_dir / "metrics" / "sightlog.prom").exists, "what the daemon makes for itself is there")
    wait_for((daemon.data_dir / "ballast").exists, "all of it")
    before = set(daemon.home.rglob("*"))
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        dealer.connect(daemon.endpoint)
        hello = {"kind": "hello", "protocol": 1, "producer_id": "p", "name": "p", "epoch": 1, "first": [1, 1]}
        dealer.send_multipart([msgpack.packb(hello)])
        assert msgpack.unpackb(dealer.recv_multipart()[0])["kind"] == "welcome"
        for number, image in enumerate((jpeg(), png()), 1):
            header = {"kind": "records", "first": [1, number], "flush": True, "images": [0]}
            dealer.send_multipart([msgpack.packb(header), body, image])
            ack = msgpack.unpackb(dealer.recv_multipart()[0])
            assert ack["exceptions"][0][:2] == [number, messages.REJECTED]
    finally:
        dealer.close(linger=0)
        context.term()
    assert set(daemon.home.rglob("*")) == before


@pytest.mark.parametrize("event_id", ["a..b", "a.tmp", "_..", "x" * 128, "a:b", "CON", ".jpg"[1:]])
def test_an_odd_name_is_one_file_in_its_days_folder(daemon, event_id):
    kept, made = insert(daemon, jpeg(), event_id=event_id), insert(daemon, png(), event_id=event_id[:-1] + "Z")
    for event in (kept, made):
        picture_of(daemon, event)
    day = daemon.data_dir / "events" / str(kept.recorded_at.astimezone().date())
    assert sorted(path.name for path in day.glob("*.jpg")) == sorted(f"{event.event_id}.jpg" for event in (kept, made))


# -- the decoder -----------------------------------------------------------------------------------------------------


def test_the_decoder_has_limits_no_descriptors_of_the_daemon_and_ends_when_it_is_idle(daemon):
    pid = idle_decoder(daemon)
    limits = {
        line[:26].strip(): line[26:].split()[:2] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    }
    assert limits["Max address space"] == [str(MEMORY_BYTES_MAX)] * 2
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == ["131072"] * 2
    assert int(limits["Max cpu time"][0]) < 60
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    assert {os.readlink(fd).partition(":")[0] for fd in Path(f"/proc/{pid}/fd").iterdir()} == {"pipe", "/dev/null"}
    assert len(os.listdir(f"/proc/{pid}/fd")) == 3
    wait_for(lambda: not decoders(daemon), "the idle decoder ends", timeout=30)
    assert not any("decoder" in line["event"] for line in daemon.logged())
    picture_of(daemon, insert(daemon, png()))


def test_a_decoder_killed_mid_image_costs_that_picture_and_the_next_has_a_fresh_one(daemon):
    pid = idle_decoder(daemon)
    began = ticks(pid)
    event = insert(daemon, slow_png())
    wait_for(lambda: ticks(pid) - began > 0.1 * TICKS_A_SECOND, "it is in the middle of the picture")
    os.kill(pid, signal.SIGKILL)
    assert why_dropped(daemon, event) == "the decoder was killed by SIGKILL"
    picture_of(daemon, insert(daemon, png()))
    assert decoder(daemon) != pid


def ticks(pid: int) -> int:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_decoder_killed_between_two_pictures_costs_none(daemon):
    pid = idle_decoder(daemon)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not decoders(daemon), "the daemon has noticed")
    picture_of(daemon, insert(daemon, png()))


def test_a_decoder_that_takes_too_long_is_killed_and_the_next_picture_has_a_fresh_one(idle_daemon):
    daemon = idle_daemon.start(program=[IMPATIENT, "1.0", ""])
    pid = idle_decoder(daemon)
    os.kill(pid, signal.SIGSTOP)
    assert why_dropped(daemon, insert(daemon, png())) == "the decoder took longer than 1 s"
    picture_of(daemon, insert(daemon, png()))
    assert decoder(daemon) != pid


def test_nobody_waits_for_a_decoder_that_stands_still(daemon):
    pid = idle_decoder(daemon)
    os.kill(pid, signal.SIGSTOP)
    stuck = insert(daemon, png())
    with daemon.publisher("other") as other:
        for _ in range(200):
            assert other.insert_event(Event("garage", thumbnail=jpeg()))
            assert other.insert_event(Event("garage"))
        assert other.insert_event(Event("garage", thumbnail=png()))
    assert path_of(daemon, stuck) is None
    assert opened((daemon.data_dir / "events" / "incoming" / stuck.event_id).read_bytes()).format == "PNG"
    assert decoders(daemon) == [pid]
    os.kill(pid, signal.SIGCONT)
    picture_of(daemon, stuck)


LYING = {
    "no file": "print('ok', flush=True)",
    "another's file": "import os; os.symlink('/etc/hostname', target); print('ok', flush=True)",
    "a pipe": "import os; os.mkfifo(target); print('ok', flush=True)",
    "no JPEG": "open(target, 'w').write('hello'); print('ok', flush=True)",
    "too much": "print('ok\\n' * 9, flush=True)",
    "endless": "[print('x' * 99, end='', flush=True) for _ in iter(int, 1)]",
    "nonsense": "print('fine', flush=True)",
    "its end": "import os; os.close(1)",
}


@pytest.mark.parametrize("lie", LYING.values(), ids=LYING)
def test_a_decoder_that_lies_costs_the_picture_only(idle_daemon, tmp_path, lie):
    script = tmp_path / "decoder.py"
    target = idle_daemon.data_dir / "events" / "incoming" / ".jpg"
    script.write_text(f"target = {str(target)!r}; print('ready', flush=True); input()\n{lie}\ninput()\n")
    daemon = idle_daemon.start(program=[IMPATIENT, "5.0", f"{sys.executable} {script}"])
    assert why_dropped(daemon, insert(daemon, png())) in (
        "the decoder made no file",
        "not a JPEG",
        "the decoder said more than it was asked",
        "the decoder said what it was not asked",
        "the decoder ended with exit code 0",
        "the decoder was killed by SIGKILL",
    )
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("garage"))


def test_what_a_decoder_left_of_one_picture_is_not_taken_for_the_next(idle_daemon, tmp_path):
    target = idle_daemon.data_dir / "events" / "incoming" / ".jpg"
    (tmp_path / "first.jpg").write_bytes(jpeg())
    script = tmp_path / "decoder.py"
    script.write_text(
        "import shutil\nprint('ready', flush=True)\n"
        f"input(); shutil.copy({str(tmp_path / 'first.jpg')!r}, {str(target)!r}); print('no reason', flush=True)\n"
        "input(); print('ok', flush=True); input()\n"
    )
    daemon = idle_daemon.start(program=[IMPATIENT, "5.0", f"{sys.executable} {script}"])
    assert why_dropped(daemon, insert(daemon, png(colour=RED))) == "reason"
    # Warnings of one kind are told once in ten seconds: that this one is dropped shows in its file.
    second = insert(daemon, png(colour=BLUE))
    wait_for(lambda: second.event_id not in waiting(daemon), "the second is settled")
    assert path_of(daemon, second) is None


@pytest.mark.parametrize("command", ["/nowhere/decoder", "/bin/false"])
def test_a_decoder_that_cannot_start_is_told_and_the_pictures_wait_for_one_that_can(idle_daemon, command):
    daemon = idle_daemon.start(program=[IMPATIENT, "5.0", command])
    event = insert(daemon, png())
    wait_for(lambda: any("decoder" in line["event"] for line in daemon.logged()), "it is told")
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("garage", thumbnail=jpeg()))
    assert waiting(daemon) == [event.event_id]
    assert daemon.stop() == 0
    daemon.start()
    picture_of(daemon, event)


# -- crashes and limits ----------------------------------------------------------------------------------------------


def test_a_daemon_killed_between_ack_and_decoding_makes_the_picture_after_its_restart(daemon):
    pid = idle_decoder(daemon)
    os.kill(pid, signal.SIGSTOP)
    event = insert(daemon, png(colour=BLUE))
    daemon.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text(), "it dies too")
    assert path_of(daemon, event) is None
    for leftover in (".tmp", ".jpg"):
        (daemon.data_dir / "events" / "incoming" / leftover).write_bytes(b"half a picture")
    daemon.start()
    assert is_near(opened(picture_of(daemon, event)), (9, 9), BLUE)
    assert waiting(daemon) == []


@pytest.mark.parametrize("point", ["picture_incoming", "after_commit", "picture_renamed", "picture_in_row"])
def test_a_crash_at_any_point_loses_no_picture_and_leaves_no_second_one(idle_daemon, point):
    daemon = idle_daemon.start(program=[CRASHING, point, "1"])
    event = Event("front_door", thumbnail=png(colour=BLUE))
    with daemon.publisher() as publisher:
        receipt = publisher.publish(event, urgent=True)
        assert daemon.process.wait(20) == -signal.SIGKILL
        daemon.start()
        assert receipt.wait(20) == "stored"
    assert is_near(opened(picture_of(daemon, event)), (9, 9), BLUE)
    assert waiting(daemon) == []
    files = [path.name for path in daemon.data_dir.glob("events/*/*.jpg")]
    assert files == [f"{event.event_id}.jpg"]


def test_a_picture_that_has_its_row_or_whose_event_is_gone_is_removed_at_the_start(daemon):
    done = insert(daemon, png())
    data = picture_of(daemon, done)
    daemon.kill()
    # As a power cut after the row was durable leaves it, and one before the event was.
    (daemon.data_dir / "events" / "incoming" / done.event_id).write_bytes(png(colour=BLUE))
    (daemon.data_dir / "events" / "incoming" / "never-stored").write_bytes(png())
    daemon.start()
    wait_for(lambda: waiting(daemon) == [], "both are removed")
    assert picture_of(daemon, done) == data
    assert decoders(daemon) == []
    assert not list(daemon.data_dir.glob("events/*/never-stored*"))


def test_more_pictures_than_may_wait_are_dropped_and_their_events_are_stored(idle_daemon):
    daemon = idle_daemon.start()
    pid = idle_decoder(daemon)
    os.kill(pid, signal.SIGSTOP)
    events = [Event("front_door", thumbnail=png()) for _ in range(queue.INCOMING_MAX + 10)]
    with daemon.publisher() as publisher:
        assert publisher.insert_events(events).stored == len(events)
    assert len(waiting(daemon)) == queue.INCOMING_MAX
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: waiting(daemon) == [], "all are re-encoded", timeout=60)
    paths = [path_of(daemon, event) for event in events]
    assert paths.count(None) == 10
    assert any("256 others wait" in line["event"] for line in daemon.logged())


def test_the_bytes_that_may_wait_are_bounded_too(daemon):
    os.kill(idle_decoder(daemon), signal.SIGSTOP)
    large = jpeg_of(4 * 1024 * 1024)
    with daemon.publisher(spool_bytes_max=200_000_000) as publisher:
        for _ in range(18):
            assert publisher.insert_event(Event("front_door", thumbnail=large))
    assert len(waiting(daemon)) == 16


@pytest.fixture
def small_disk(idle_daemon):
    """The data directory on a file system of 6 MB."""
    idle_daemon.settings = SMALL_DISK
    with small_file_system(idle_daemon.data_dir, "6m"):
        yield idle_daemon
        idle_daemon.end()


def test_a_full_disk_acks_nothing_and_costs_no_picture(small_disk):
    daemon = small_disk.start()
    idle_decoder(daemon)
    filler = daemon.data_dir / "filler"
    fill_the_disk(filler)
    event = Event("front_door", thumbnail=png())
    with daemon.publisher() as publisher:
        receipt = publisher.publish(event, urgent=True)
        wait_for(lambda: any("storage_full" in str(line) for line in daemon.logged()), "the refusal")
        assert receipt.status is None
        filler.unlink()
        assert receipt.wait(60) == "stored"
    picture_of(daemon, event)


def test_a_row_that_cannot_be_written_for_now_gets_its_picture_later(idle_daemon):
    daemon = idle_daemon.start(program=[IMPATIENT, "30.0", ""])
    pid = idle_decoder(daemon)
    os.kill(pid, signal.SIGSTOP)
    event = insert(daemon, png(colour=BLUE))
    holder = sqlite3.connect(daemon.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: any("cannot store a re-encoded" in line["event"] for line in daemon.logged()), "it is told")
    assert event.event_id in waiting(daemon)
    holder.execute("ROLLBACK")
    holder.close()
    assert is_near(opened(picture_of(daemon, event)), (9, 9), BLUE)


def thumbnails_of(data_dir: Path, store: Store, counts: PictureCounts | None = None) -> Thumbnails:
    logs = DayLogs(data_dir, store, pytest.fail, lambda *_: None)
    return Thumbnails(data_dir, LIMITS, store, logs, lambda *_: None, counts or PictureCounts())


def parcel_of(session: Session, seq: int, event: Event) -> Chunk:
    packed, image = encode_record(event)
    return Chunk(session, Position(1, seq), [decode_record(packed)], [packed], {0: image} if image else {})


def test_what_a_refused_commit_left_waiting_is_not_another_events_picture(tmp_path):
    store = Store(tmp_path)
    thumbnails = thumbnails_of(tmp_path, store)
    camera, other = (Session(name, name, b"", 1, START, START) for name in ("camera", "other"))
    refused = Event("front_door", thumbnail=png())
    assert thumbnails.save([parcel_of(camera, 1, refused)]) == {}
    assert os.listdir(tmp_path / "events" / "incoming") == [refused.event_id]
    # Its commit was refused. Before it is sent again, another producer has an event of that name, and no picture.
    same_name = parcel_of(other, 1, Event("garage", event_id=refused.event_id))
    store.write([same_name], thumbnails.save([same_name]), [])
    assert os.listdir(tmp_path / "events" / "incoming") == []
    again = parcel_of(camera, 1, refused)
    assert thumbnails.save([again]) == {}
    assert os.listdir(tmp_path / "events" / "incoming") == []
    thumbnails.close()
    store.close()


def test_pictures_are_counted_by_what_became_of_them(tmp_path):
    store = Store(tmp_path)
    counts = PictureCounts()
    thumbnails = thumbnails_of(tmp_path, store, counts)
    session = Session("camera", "camera", b"", 1, START, START)
    for seq, image in enumerate((png(), bomb(), b"text", png()), 1):
        chunk = parcel_of(session, seq, Event("front_door", thumbnail=image))
        store.write([chunk], thumbnails.save([chunk]), [])

    def collected() -> bool:
        thumbnails.collect(time.monotonic())
        return counts == PictureCounts(stored=0, reencoded=2, dropped=2, failures=0)

    wait_for(collected, "two are re-encoded, two dropped")
    assert os.listdir(tmp_path / "events" / "incoming") == []
    thumbnails.close()
    store.close()

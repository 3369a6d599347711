"""The sensors' parts: hand-off, pictures, motion, people, faces, decisions; with the real OpenCV."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from sightlog import Detection, Event, SpoolFull
from sightlog_sensors import clip, detector, face, handoff, motion, picture, source
from sightlog_sensors.handoff import Inbox, Outbox
from sightlog_sensors.lock import FRESH, Decisions
from sightlog_sensors.process import SensorError, Stop

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as stop:
        yield stop


# -- hand-off --------------------------------------------------------------------------------------------------------


def test_a_frame_is_never_seen_in_part(tmp_path: Path, stop: Stop) -> None:
    """A consumer that lists all the time while large frames are written meets only whole ones."""
    image = b"\xff" * 8_000_000
    outbox, sizes = Outbox(tmp_path, ["detector"]), []
    written = threading.Event()

    def consume() -> None:
        while not written.is_set():
            sizes.extend(path.stat().st_size for path in handoff._waiting(tmp_path / "detector"))

    consumer = threading.Thread(target=consume)
    consumer.start()
    for number in range(20):
        outbox.put(f"event-{number}", image)
    written.set()
    consumer.join()
    assert set(sizes) == {len(image)}
    assert not list((tmp_path / "detector").glob(".*"))


def test_every_consumer_gets_its_own_copy_oldest_first(tmp_path: Path, stop: Stop) -> None:
    outbox = Outbox(tmp_path, ["detector", "face"])
    for name in ("b", "a", "c"):
        outbox.put(name, name.encode())
    for consumer in ("detector", "face"):
        assert _take(tmp_path, consumer, stop, 3) == [("a", b"a"), ("b", b"b"), ("c", b"c")]
        stop.requested = False
        assert not list((tmp_path / consumer).iterdir())


def test_a_slow_consumer_costs_a_bounded_number_of_frames_and_the_other_none(tmp_path: Path, stop: Stop) -> None:
    outbox = Outbox(tmp_path, ["detector", "face"])
    for number in range(handoff.WAITING_MAX):
        outbox.put(f"event-{number:03}", b"x")
    assert len(_take(tmp_path, "face", stop, handoff.WAITING_MAX)) == handoff.WAITING_MAX
    for number in range(3):
        outbox.put(f"later-{number}", b"x")
    assert outbox.skipped == {"detector": 3, "face": 0}
    assert len(list((tmp_path / "detector").iterdir())) == handoff.WAITING_MAX
    assert len(list((tmp_path / "face").iterdir())) == 3


def test_a_frame_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, ["detector"])
    (tmp_path / "detector" / "event.jpg").mkdir()
    outbox.put("event", b"x")
    assert outbox.skipped == {"detector": 1}
    assert [path.name for path in (tmp_path / "detector").iterdir()] == ["event.jpg"]


def test_what_a_crash_left_unfinished_is_cleared_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    old, young = (tmp_path / "detector" / name for name in (".old.tmp", ".young.tmp"))
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    Outbox(tmp_path, ["detector"])
    assert not old.exists()
    assert young.exists()


def test_a_consumer_that_fails_sees_the_frame_again(tmp_path: Path, stop: Stop) -> None:
    Outbox(tmp_path, ["detector"]).put("event", b"x")

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    with Inbox(tmp_path, "detector") as inbox, pytest.raises(ZeroDivisionError):
        inbox.serve(stop, crash)
    assert _take(tmp_path, "detector", stop, 1) == [("event", b"x")]


def test_a_full_spool_delays_a_frame(tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "RETRY_SECONDS", 0.01)
    Outbox(tmp_path, ["detector"]).put("event", b"x")
    tries: list[str] = []

    def publish(event_id: str, _image: bytes) -> None:
        tries.append(event_id)
        if len(tries) < 3:
            raise SpoolFull("full")
        stop.requested = True

    with Inbox(tmp_path, "detector") as inbox:
        inbox.serve(stop, publish)
    assert tries == ["event"] * 3
    assert not list((tmp_path / "detector").iterdir())


def test_a_waiting_consumer_is_woken_by_a_frame_and_uses_no_time_until_then(tmp_path: Path, stop: Stop) -> None:
    outbox = Outbox(tmp_path, ["detector"])
    began, used = time.monotonic(), time.process_time()
    threading.Timer(0.5, outbox.put, ("event", b"x")).start()
    assert _take(tmp_path, "detector", stop, 1) == [("event", b"x")]
    assert 0.5 <= time.monotonic() - began < 5
    assert time.process_time() - used < 0.25


def test_a_signal_ends_the_wait(tmp_path: Path, stop: Stop) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with Inbox(tmp_path, "detector") as inbox:
        inbox.serve(stop, lambda *_: None)
    assert stop.requested


def _take(directory: Path, consumer: str, stop: Stop, count: int) -> list[tuple[str, bytes]]:
    taken: list[tuple[str, bytes]] = []

    def take(event_id: str, image: bytes) -> None:
        taken.append((event_id, image))
        stop.requested = len(taken) == count

    with Inbox(directory, consumer) as inbox:
        inbox.serve(stop, take)
    stop.requested = False
    return taken


# -- pictures --------------------------------------------------------------------------------------------------------


def test_boxes_go_back_to_the_frame_they_are_of() -> None:
    frame = np.zeros((1080, 1920, 3), np.uint8)
    small, divisor = picture.shrunk(frame, 800)
    assert small.shape == (450, 800, 3)
    assert picture.bounded_box((100, 50, 20, 40), divisor, frame) == (240, 120, 288, 216)
    assert picture.bounded_box((-10, -10, 900, 500), divisor, frame) == (0, 0, 1920, 1080)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_none(data: bytes) -> None:
    assert picture.decode_image(data) is None


# -- motion ----------------------------------------------------------------------------------------------------------


def _still(number: int) -> Any:
    noise = np.random.default_rng(number).integers(-4, 5, (360, 640, 3))
    return (120 + noise).astype(np.uint8)


def test_a_still_scene_with_noise_does_not_move() -> None:
    meter = motion.MotionMeter()
    assert max(meter.confidence(_still(number)) for number in range(60)) == 0


def test_confidence_grows_with_what_moves() -> None:
    seen = []
    for side in (40, 80, 400):
        meter = motion.MotionMeter()
        for number in range(30):
            meter.confidence(_still(number))
        frame = _still(30)
        frame[:side, 100 : 100 + side] = 250
        seen.append(meter.confidence(frame))
    assert 0 < seen[0] < seen[1] < seen[2] == 1


def test_nothing_counts_while_the_background_is_being_learnt() -> None:
    meter = motion.MotionMeter()
    flicker = [np.full((360, 640, 3), 255 * (number % 2), np.uint8) for number in range(motion.WARM_UP_FRAMES)]
    assert [meter.confidence(frame) for frame in flicker] == [0] * motion.WARM_UP_FRAMES


def test_a_burst_is_one_event_and_goes_on_after_the_cooldown() -> None:
    gate = motion.MotionGate(threshold=0.1, cooldown=2)
    moves = [0, 0.5, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.05, 0.5, 0.5]
    passed, moved, suppressed = [], [], []
    for at, confidence in enumerate(moves):
        passed += [at / 2] * gate.passes(confidence, at / 2)
        moved.append(gate.moved)
        suppressed += [at / 2] * gate.suppressed
    assert passed == [2.0, 5.0]
    assert suppressed == [2.5, 3.0, 3.5]
    assert moved == [confidence >= 0.1 for confidence in moves]


# -- the clip, people and faces --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.avi and known/, as the demo makes them."""
    directory = tmp_path_factory.mktemp("clip")
    assert clip.main(["--output", str(directory / "clip.avi"), "--known", str(directory / "known")]) == 0
    return directory


def _frames_of(path: Path, stop: Stop) -> list[Any]:
    return [frame for _, frame in source.open_frames(str(path), stop, realtime=False, loop=False)]


def test_the_clip_shows_people_and_faces_to_the_detectors(rendered: Path, stop: Stop) -> None:
    frames = _frames_of(rendered / "clip.avi", stop)
    assert len(frames) == clip.FPS * clip.SECONDS
    people, recogniser = detector.hog_detector(), face.HaarRecogniser()
    known = face.load_known(rendered / "known", recogniser)
    for visit, name in zip(clip.VISITS, (clip.KNOWN_NAME, None), strict=True):
        for number in range(round((visit.walks + 0.2) * clip.FPS), round(visit.looks_in * clip.FPS), 3):
            best = max(people(frames[number]), key=lambda detection: detection.confidence)
            x1, y1, x2, y2 = best.bbox
            way = (number / clip.FPS - visit.walks) / (visit.looks_in - visit.walks)
            assert best.confidence > 0.7
            assert abs((x1 + x2) / 2 - clip.WALK_FROM - (clip.WALK_TO - clip.WALK_FROM) * way) < 30
            assert abs((y2 - y1) - clip.FIGURE_HEIGHT) < 0.4 * clip.FIGURE_HEIGHT
        for frame in frames[round((visit.looks_in + 0.5) * clip.FPS) : round(visit.leaves * clip.FPS) : 3]:
            (found,) = recogniser.identified(recogniser.look(frame), known)
            assert found.name == name
    for frame in frames[:: len(frames) - 1]:
        assert not people(frame)
        assert not recogniser.look(frame)


def test_the_people_detector_puts_the_box_around_the_figure(stop: Stop) -> None:
    """In a frame so large that it is scaled down on the way."""
    small = clip.draw_scene()
    clip.draw_figure(small, 200, 1.0, clip.ADA)
    frame = cv2.resize(small, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    (found,) = detector.hog_detector()(frame)
    x1, y1, x2, y2 = found.bbox
    assert found.label == "person"
    assert x1 < 3 * 200 < x2
    assert y1 < 3 * (clip.FEET_Y - 0.8 * clip.FIGURE_HEIGHT) < 3 * (clip.FEET_Y - 0.2 * clip.FIGURE_HEIGHT) < y2
    assert x2 - x1 < 3 * clip.FIGURE_HEIGHT


def test_a_frame_smaller_than_the_people_detectors_window_has_no_people() -> None:
    assert detector.hog_detector()(np.zeros((100, 60, 3), np.uint8)) == []


def test_confidences_are_in_bounds_and_grow_with_the_margin() -> None:
    values = [detector.hog_confidence(margin) for margin in (-5, 0, 0.5, 1, 20)]
    assert values == sorted(values)
    assert values[1] == 0.5
    assert 0 <= values[0] <= values[-1] <= 1


def test_the_nearest_known_person_is_named_and_a_stranger_is_not() -> None:
    recogniser = face.HaarRecogniser()
    ada, grace, other = np.eye(3, dtype=np.float32)
    box = (10.0, 20.0, 110.0, 220.0)
    seen = [face.Seen(Detection("face", 0.9, box), features) for features in (other, ada)]
    faces = recogniser.identified(seen, {"Grace": grace, "Ada": ada})
    stranger, known = [found.fields() for found in faces]
    assert known.pop("embedding") is ada
    assert known == {
        "person_name": "Ada", "face_distance": 0.0, "face_confidence": 1.0, "metadata": {"face_metric": "cosine"},
        "embedding_model": "grey-64x64", "embedding_version": None,
    }  # fmt: skip
    assert (stranger["person_name"], stranger["face_distance"]) == (None, 1.0)
    assert faces[0].bbox == box
    assert face.face_of_event(faces) is faces[1]
    assert face.face_of_event(faces[:1]) is faces[0]
    nobody = recogniser.identified(seen, {})
    assert [(found.name, found.distance, found.metric) for found in nobody] == [(None, None, None)] * 2
    assert face.face_of_event(nobody).embedding is other


def test_dlibs_faces_have_its_distance_and_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as it answers; it takes half an hour to build on a board."""
    numbers = np.full(128, 0.5)
    library = SimpleNamespace(
        face_locations=lambda rgb: [(20, 110, 220, 10)],
        face_encodings=lambda rgb, places: [numbers],
        face_distance=lambda known, one: np.array([np.linalg.norm(other - one) for other in known]),
    )
    monkeypatch.setitem(sys.modules, "face_recognition", library)
    recogniser = face.DlibRecogniser()
    seen = recogniser.look(np.zeros((240, 320, 3), np.uint8))
    assert seen[0].detection == Detection("face", 1.0, (10, 20, 110, 220))
    near, far = numbers + 0.25 / math.sqrt(128), numbers + 1
    for known, name in (({"Grace": far, "Ada": near}, "Ada"), ({"Grace": far}, None), ({}, None)):
        (found,) = recogniser.identified(seen, known)
        assert (found.name, found.metric, found.bbox) == (name, "euclidean", (10, 20, 110, 220))
        assert found.embedding is numbers
        assert found.embedding_model == "dlib_face_recognition_resnet_model_v1"
    (found,) = recogniser.identified(seen, {"Grace": far, "Ada": near})
    assert found.distance == pytest.approx(0.25)


def test_a_yolo_model_of_any_task_with_boxes_is_a_detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boxes = SimpleNamespace(xyxy=np.array([[1, 2, 3, 4]]), conf=np.array([1.0000001]), cls=np.array([0.0]))
    upright = SimpleNamespace(boxes=boxes, obb=None, names={0: "person"})
    oriented = SimpleNamespace(boxes=None, obb=boxes, names={0: "person"})
    weights = tmp_path / "model.pt"
    weights.touch()
    for results in (upright, oriented):
        model = SimpleNamespace(YOLO=lambda path, results=results: lambda frame, verbose: [results])
        monkeypatch.setitem(sys.modules, "ultralytics", model)
        detect = detector.yolo_detector(weights)
        assert detect(np.zeros((240, 320, 3), np.uint8)) == [Detection("person", 1.0, (1, 2, 3, 4))]


def test_a_known_picture_needs_exactly_one_face(tmp_path: Path) -> None:
    (tmp_path / "Nobody.jpg").write_bytes(picture.encode_jpeg(clip.draw_scene()))
    with pytest.raises(SensorError, match=r"Nobody\.jpg shows 0 faces"):
        face.load_known(tmp_path, face.HaarRecogniser())


# -- sources ---------------------------------------------------------------------------------------------------------


def test_a_file_that_loops_goes_on_in_time(rendered: Path, stop: Stop) -> None:
    times = []
    for at, _ in source.open_frames(str(rendered / "clip.avi"), stop, realtime=False, loop=True):
        times.append(at)
        stop.requested = len(times) == clip.FPS * clip.SECONDS + 5
    assert times == pytest.approx([number / clip.FPS for number in range(len(times))])
    assert len(times) == clip.FPS * clip.SECONDS + 5


def test_a_file_plays_at_its_own_speed(rendered: Path, stop: Stop) -> None:
    began = time.monotonic()
    for at, _ in source.open_frames(str(rendered / "clip.avi"), stop, realtime=True, loop=False):
        assert time.monotonic() - began >= at
        stop.requested = at >= 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.mp4", "there is no video file nowhere.mp4"),
        ("junk.avi", "not a video"),
        ("/dev/video987", "there is no camera /dev/video987"),
        ("987", "there is no camera /dev/video987"),
        ("rtsp://me:secret@127.0.0.1:9/x", "cannot read rtsp://127.0.0.1:9/x"),
        ("picamera2", "picamera2"),
    ],
)
def test_a_broken_source_is_told_in_one_line(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "junk.avi").write_bytes(os.urandom(4096))
    ended = subprocess.run(
        [sys.executable, "-m", "sightlog_sensors.camera", "--source", given, "--spool-dir", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert said in last
    assert "Traceback" not in ended.stderr
    assert "secret" not in last


@pytest.mark.parametrize("name", ["camera", "clip", "detector", "face", "lock"])
def test_help_needs_no_opencv(name: str) -> None:
    blocked = "import sys, runpy; sys.modules['cv2'] = sys.modules['numpy'] = None; sys.argv[1:] = ['--help']; "
    ended = subprocess.run(
        [sys.executable, "-c", f"{blocked} runpy.run_module('sightlog_sensors.{name}', run_name='__main__')"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "exit codes" in ended.stdout or name == "clip"


# -- the lock --------------------------------------------------------------------------------------------------------

UNKNOWN_FACE = Event("door", recorded_at=NOW, recording_id="run", detections=[Detection("face", 0.9)])
KNOWN = replace(UNKNOWN_FACE, event_id="known", person_name="Ada")


def test_the_lock_opens_at_once_for_who_is_known_and_refuses_a_face_after_the_grace() -> None:
    decisions = Decisions(grace=1.0, recording_id="run")
    assert decisions.due([KNOWN, UNKNOWN_FACE], NOW, 100.0) == [(KNOWN, True)]
    decisions.made(KNOWN)
    assert decisions.due([KNOWN, UNKNOWN_FACE], NOW, 100.9) == []
    assert decisions.due([KNOWN, UNKNOWN_FACE], NOW, 101.0) == [(UNKNOWN_FACE, False)]
    decisions.made(UNKNOWN_FACE)
    assert decisions.due([KNOWN, UNKNOWN_FACE], NOW, 200.0) == []


def test_a_decision_that_was_not_published_is_due_again() -> None:
    decisions = Decisions(grace=1.0)
    assert decisions.due([KNOWN], NOW, 1.0) == decisions.due([KNOWN], NOW, 2.0) == [(KNOWN, True)]


@pytest.mark.parametrize(
    "event",
    [
        replace(KNOWN, recording_id="another"),
        replace(KNOWN, recorded_at=NOW - FRESH - timedelta(milliseconds=1)),
        replace(KNOWN, recorded_at=NOW + FRESH + timedelta(milliseconds=1)),
        replace(KNOWN, unlock_granted=False),
        replace(UNKNOWN_FACE, detections=[Detection("person", 0.9)]),
    ],
    ids=["another run", "stale", "ahead", "decided already", "no face"],
)
def test_the_lock_leaves_alone(event: Event) -> None:
    assert Decisions(grace=0.0, recording_id="run").due([event], NOW, 1.0) == []

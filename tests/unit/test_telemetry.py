"""What a sensor counts about itself, and when it is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sightlog import InvalidRecord
from sightlog.protocol.limits import COUNTERS, INFERENCE_NAMES_MAX, INFERENCE_SAMPLES_MAX
from sightlog.publisher.session import Link, Phase
from sightlog.publisher.telemetry import TelemetryReporter
from sightlog.spool.spool import Spool
from sightlogd.protocol.decoder import Telemetry, decode_header


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "camera", "camera", 1_000_000)
    yield spool
    spool.close()


@pytest.fixture
def telemetry(spool) -> TelemetryReporter:
    telemetry = TelemetryReporter(Link(), spool)
    telemetry._link.phase = Phase.OPEN
    return telemetry


def told(telemetry: TelemetryReporter, now: float) -> Telemetry:
    (frame,) = telemetry.message(now)
    return decode_header(frame)


def test_totals_are_told_again_and_times_once(telemetry):
    telemetry.add((3, 1, 0, 0), {"hog": 12.5})
    telemetry.add((2, 0, 1, 4), {"hog": 13, "face": np.float32(0.5)})
    first, second = told(telemetry, 0), told(telemetry, 1)
    assert [getattr(first, name) for name in COUNTERS] == [5, 1, 1, 4]
    assert [getattr(second, name) for name in COUNTERS] == [5, 1, 1, 4]
    assert (first.inference_ms, second.inference_ms) == ({"hog": [12.5, 13.0], "face": [0.5]}, {})


def test_only_the_newest_times_wait_to_be_told(telemetry):
    for ms in range(1_000):
        telemetry.add((1, 0, 0, 0), {"hog": float(ms)})
    found = told(telemetry, 0)
    assert found.inference_ms["hog"] == [float(ms) for ms in range(1_000 - INFERENCE_SAMPLES_MAX, 1_000)]
    assert found.frames_processed == 1_000


@pytest.mark.parametrize(
    ("counts", "inference_ms", "said"),
    [
        ((-1, 0, 0, 0), None, "frames_processed=-1"),
        ((0, 1.0, 0, 0), None, "motion_detected=1.0"),
        ((0, 0, True, 0), None, "events_created=True"),
        ((0, 0, 0, "many"), None, "events_suppressed='many'"),
        ((1, 0, 0, 0), {"hog": math.nan}, "hog=nan"),
        ((1, 0, 0, 0), {"hog": -0.1}, "hog=-0.1"),
        ((1, 0, 0, 0), {"hog": math.inf}, "hog=inf"),
        ((1, 0, 0, 0), {"hog": "slow"}, "hog='slow'"),
        ((1, 0, 0, 0), {"a name": 1.0}, "a name"),
        ((1, 0, 0, 0), {f"model{n}": 1.0 for n in range(INFERENCE_NAMES_MAX + 1)}, "more than 16 names"),
    ],
)
def test_what_is_no_count_or_no_time_is_refused_and_adds_nothing(telemetry, counts, inference_ms, said):
    with pytest.raises(InvalidRecord, match=said):
        telemetry.add(counts, inference_ms)
    found = told(telemetry, 0)
    assert ([getattr(found, name) for name in COUNTERS], found.inference_ms) == ([0, 0, 0, 0], {})


def test_it_is_told_once_a_second_and_only_when_something_changed(telemetry):
    assert telemetry.due_at() <= 0
    told(telemetry, 100.0)
    assert telemetry.due_at() == math.inf
    assert telemetry.add((1, 0, 0, 0), None) is True  # the sender has to be woken
    assert telemetry.add((1, 0, 0, 0), None) is False  # once
    assert telemetry.due_at() == 101.0
    told(telemetry, 101.0)
    assert telemetry.due_at() == math.inf


def test_a_sensor_that_counts_nothing_tells_its_spool_every_ten_seconds(telemetry, spool):
    told(telemetry, 100.0)
    last = spool.append([(b"record", b"")])
    assert telemetry.due_at() == 110.0
    found = told(telemetry, 110.0)
    assert (found.published, found.spooled_records, found.last, found.acked) == (1, 1, last, (0, 0))
    telemetry._link.acked = last
    spool.drop_through(last)
    assert telemetry.due_at() == 120.0
    assert told(telemetry, 120.0).spooled_records == 0


def test_without_a_daemon_nothing_is_due_and_a_welcome_makes_it_due_at_once(telemetry):
    told(telemetry, 100.0)
    telemetry.add((1, 0, 0, 0), None)
    telemetry._link.phase = Phase.GREETING
    assert telemetry.due_at() == math.inf
    telemetry._link.phase = Phase.OPEN
    telemetry.renew()
    assert telemetry.due_at() <= 0

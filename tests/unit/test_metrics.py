"""Windows, counters, the snapshot and the two texts made of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sightlog import Event
from sightlog.protocol import encoding
from sightlog.protocol.accounts import Resolved
from sightlog.protocol.messages import START, Position
from sightlogd.metrics import prometheus
from sightlogd.metrics.metrics import INFERENCES_MAX, WINDOW_VALUES_MAX, Metrics, MetricsSnapshot, Usage, Window
from sightlogd.metrics.report import status_line
from sightlogd.protocol.decoder import Telemetry, decode_record
from sightlogd.protocol.session import Chunk, Reported, Session

START_AT = datetime(2026, 11, 20, 10, tzinfo=UTC)
EPOCH = int(START_AT.timestamp() * 1000) + 5
"""Of a life that began after the daemon did."""


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(100.0, START_AT)


def snapshot(metrics: Metrics, now: float = 160.0, cpu: float = 0.6, producers=()) -> MetricsSnapshot:
    usage = Usage(cpu, 40_000_000, 30_000_000, 8_192, 21, 4_096)
    metrics.used(now, usage)
    return metrics.snapshot(now, "2026-11-20T10:01:00.000Z", 4711, 4_096, producers)


def chunk(*ages: float) -> Chunk:
    """Events that were recorded so many seconds before START_AT."""
    events = [Event("door", recorded_at=START_AT - timedelta(seconds=age)) for age in ages]
    records = [decode_record(encoding.encode_record(event)[0]) for event in events]
    return Chunk(Session("p", "door", b"r", 5, START, START), Position(5, 1), records, [])


def tell(metrics: Metrics, epoch: int, frames: int, producer: str = "p", inference_ms=None) -> None:
    telemetry = Telemetry((epoch, 0), (0, 0), 0, frames_processed=frames, inference_ms=inference_ms or {})
    metrics.reported(Reported(producer, f"name-{producer}", telemetry))


# -- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "p95"), [(1, 1), (2, 2), (19, 19), (20, 19), (21, 20), (100, 95), (1_000, 950)])
def test_p95_is_the_smallest_value_that_95_percent_do_not_exceed(count, p95):
    window = Window()
    window.extend(range(count, 0, -1))
    spread = window.spread()
    assert (spread.count, spread.minimum, spread.maximum, spread.p95) == (count, 1, count, p95)
    assert spread.average == (count + 1) / 2


def test_a_window_forgets_what_is_older_than_the_last_1000():
    window = Window()
    window.extend([1e9] * 5)
    window.extend([2.0] * WINDOW_VALUES_MAX)
    assert (window.spread().maximum, window.spread().count) == (2.0, 1_000)


# -- commits ---------------------------------------------------------------------------------------------------------


def test_latency_is_from_the_events_own_time_and_clocks_ahead_are_told_apart(metrics):
    metrics.committed([chunk(1.5, 0.5, -3.0)], [[]], 0.002, START_AT.timestamp())
    found = snapshot(metrics)
    assert (found.latency_ms.count, found.latency_ms.minimum, found.latency_ms.maximum) == (2, 500, 1500)
    assert (found.clocks_ahead, found.commit_ms.maximum, found.batch_records.maximum) == (1, 2, 3)


def test_of_a_large_batch_a_few_events_are_looked_at_the_first_among_them(metrics):
    metrics.committed([chunk(*range(1_000, 0, -1))], [[]], 0.01, START_AT.timestamp())
    spread = snapshot(metrics).latency_ms
    assert (spread.count, spread.maximum, spread.minimum) == (10, 1_000_000, 100_000)


def test_what_was_not_stored_is_not_counted_as_an_event(metrics):
    exceptions = [(2, "duplicate", "x"), (3, "rejected", "y")]
    metrics.committed([chunk(1, 1, 1, 1), chunk(1)], [exceptions, []], 0.01, START_AT.timestamp())
    found = snapshot(metrics)
    assert (found.events_persisted, found.duplicates, found.rejected) == (3, 1, 1)
    assert found.written_bytes_per_record == round(8_192 / 5, 1)


def test_availability_is_the_share_of_time_in_which_writing_was_not_refused(metrics):
    assert snapshot(metrics, 110).availability == 1
    metrics.refused(110.0, by_budget=False)
    metrics.refused(112.0, by_budget=False)
    assert snapshot(metrics, 120).availability == 0.5
    metrics.recovered(125.0)
    metrics.recovered(126.0)
    found = snapshot(metrics, 200)
    assert (found.availability, found.db_write_errors, found.uptime_seconds) == (0.85, 2, 100)


def test_cpu_is_of_the_time_since_the_last_snapshot(metrics):
    assert snapshot(metrics, 160, cpu=0.6).cpu_percent == 1
    assert snapshot(metrics, 170, cpu=5.6).cpu_percent == 50


def test_where_nothing_happened_there_is_no_news_to_write(metrics):
    assert metrics.has_news
    for happens in (
        lambda: metrics.committed([chunk(1)], [[]], 0.01, START_AT.timestamp()),
        lambda: metrics.refused(110.0, by_budget=True),
        lambda: metrics.recovered(111.0),
        lambda: tell(metrics, EPOCH, 1),
        metrics.file_write_failed,
    ):
        snapshot(metrics)
        assert not metrics.has_news
        happens()
        assert metrics.has_news


# -- what sensors count ----------------------------------------------------------------------------------------------


def test_totals_add_up_over_lives_and_producers_and_nothing_counts_twice(metrics):
    for frames in (10, 10, 30, 20, 30):  # 20 came late
        tell(metrics, EPOCH, frames)
    tell(metrics, EPOCH, 5, "other")
    tell(metrics, EPOCH + 1, 7)
    tell(metrics, EPOCH, 1_000)  # of the life before: too late
    tell(metrics, EPOCH + 1, 8)
    assert snapshot(metrics).frames_processed == 30 + 5 + 8


def test_what_a_life_did_before_the_daemon_began_is_not_counted(metrics):
    earlier = EPOCH - 10_000
    tell(metrics, earlier, 1_000_000)
    assert snapshot(metrics).frames_processed == 0
    tell(metrics, earlier, 1_000_010)
    assert snapshot(metrics).frames_processed == 10


def test_inference_times_are_kept_apart_by_producer_and_name_and_bounded(metrics):
    tell(metrics, EPOCH, 0, "a", {"hog": [1.0, 3.0]})
    tell(metrics, EPOCH, 0, "b", {"hog": [5.0]})
    for number in range(200):
        tell(metrics, EPOCH, 0, f"p{number}", {"hog": [1.0]})
    found = snapshot(metrics).inference_ms
    assert len(found) == INFERENCES_MAX
    assert [(i.producer, i.name, i.ms.average) for i in found[:2]] == [("name-a", "hog", 2.0), ("name-b", "hog", 5.0)]


# -- the texts -------------------------------------------------------------------------------------------------------


def full(metrics: Metrics, name: str = "door") -> MetricsSnapshot:
    metrics.committed([chunk(1.0, 2.0)], [[(1, "duplicate", "x")]], 0.0031, START_AT.timestamp())
    metrics.storage_bytes, metrics.storage_limit_bytes, metrics.events_total = 1_200_000_000, 4_000_000_000, 1204
    telemetry = Telemetry((EPOCH, 2), (EPOCH, 1), 2, 0, 1, 179, 10, 1, 2, 3, {"hog": [12.5]})
    metrics.reported(Reported("p", name, telemetry))
    return snapshot(metrics, producers=[("p", name, Resolved(Position(EPOCH, 1), 1, 0, 0, 0))])


def test_the_status_line_leaves_out_what_is_not_known(metrics):
    assert status_line(snapshot(metrics)) == "nothing committed yet"
    metrics.committed([chunk(1.0)], [[]], 0.0031, START_AT.timestamp())
    assert status_line(snapshot(metrics)) == "p95 commit 3.1 ms"
    assert status_line(full(metrics)) == "Storage: 1.2GB / 4GB (30%) · 1,204 events · p95 commit 3.1 ms"


def test_a_line_is_the_whole_snapshot_on_one_line(metrics):
    found = full(metrics)
    line = msgspec.json.encode(found)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=MetricsSnapshot) == found
    assert len(line) < 2_000


@pytest.mark.parametrize("name", ["door", 'a"b', "back\\slash", "line\nend", 'all\\"\n'])
def test_prometheus_reads_what_is_written_whatever_a_producer_is_called(metrics, name):
    found = full(metrics, name)
    families = {family.name: family for family in text_string_to_metric_families(prometheus.text(found))}
    assert {family.type for family in families.values()} == {"counter", "gauge"}
    assert all(family.documentation for family in families.values())
    for family in families.values():
        for sample in family.samples:
            assert sample.name == family.name + ("_total" if family.type == "counter" else "")
            if "producer" in sample.labels:
                assert sample.labels["producer"] in (name, found.producers[0].name)
    (inference,) = families["sightlog_inference_seconds_p95"].samples
    assert (inference.value, inference.labels) == (0.0125, {"producer": name, "model": "hog"})
    (published,) = families["sightlog_producer_published"].samples
    assert (published.value, published.labels) == (2, {"producer": name, "producer_id": "p"})
    values = {family.name: family.samples[0].value for family in families.values()}
    assert values["sightlog_storage_bytes"] == 1.2e9
    assert values["sightlog_frames_processed"] == 10
    assert values["sightlog_cpu_ratio"] == 0.01
    assert values["sightlog_producer_difference"] == 0


def test_what_is_not_known_has_no_line(metrics):
    text = prometheus.text(snapshot(metrics))
    assert "None" not in text
    assert "sightlog_storage_bytes" not in text
    assert "sightlog_commit_seconds" not in text

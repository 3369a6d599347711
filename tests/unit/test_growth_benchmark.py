"""Benchmarks of growth and the slow side: the filled database is one of the daemon's, and what cannot be is told."""

from __future__ import annotations

import curves
import grown
import pi
import pytest
import results

from sightlog import Reader
from sightlogd.store import Store
from sightlogd.store.tools.verify import verify


def test_a_filled_database_is_as_the_daemon_would_have_left_it(tmp_path, monkeypatch):
    monkeypatch.setattr(grown, "A_DAY", 50)
    monkeypatch.setattr(grown, "SLICE", 60)
    filled = grown.Grown(tmp_path / "grown", removed=1)
    filled.fill(120)
    filled.fill(330)
    assert list(verify(filled.database, lambda _: None)) == []
    store = Store(filled.data)
    assert store.last_id() == store.log_marks()["event"] == 330
    assert store.uncounted() == 330
    assert store.count_of(filled.day(1)) == (50, 0)
    store.close()
    with Reader(filled.database) as reader:
        assert reader.count_events() == 330
        event = reader.get_event(filled.event_id(7))
        assert event is not None
        assert (event.recorded_at, len(event.detections)) == (filled.moment(7), 3)
        assert len(reader.get_events_by_timerange(filled.moment(201), filled.moment(221))) == 20
        assert reader.search("parcel")[0].event is not None
    days = sorted(path.name for path in (filled.data / "events").iterdir())
    assert days == [filled.day(number) for number in range(7)]
    logged = [len((filled.data / "events" / day / "events.json").read_text().splitlines()) for day in days]
    assert logged == [51, 0, 0, 0, 0, 0, 0]


def test_figures_of_several_sizes_make_curves_and_others_do_not():
    figures = [
        results.Figure("growth", f"{what}, at {size:,} events", "ms", (1.0,))
        for what in ("recent", "one")
        for size in (10_000, 1_000_000)
    ]
    found = curves.curves(figures)
    assert {what: [size for size, _ in curve] for what, curve in found.items()} == {
        "recent": [10_000, 1_000_000],
        "one": [10_000, 1_000_000],
    }
    assert curves.curves([*figures, results.Figure("growth", "another", "ms", (1.0,))]) == {}


def test_without_control_groups_the_slow_side_is_not_measured_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(pi, "CPU_V1", tmp_path / "none")
    monkeypatch.setattr(pi, "V2", tmp_path)
    book = results.Book("pi", quick=True)
    pi.measure(book)
    assert len(book.figures) == len(pi.NAMES)
    assert all(figure.verdict == results.NOT_MEASURED and "root" in figure.note for figure in book.figures)
    (tmp_path / "cgroup.controllers").write_text("cpuset io memory\n")
    with pytest.raises(pi.Unconfined, match="no cpu controller"), pi.group():
        pass

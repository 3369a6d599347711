"""The bookkeeping of the benchmarks. What they measure is not tested here: a figure is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bench
import cost
import pytest
import results
import run
from results import Book, Figure

BENCHMARKS = Path(run.__file__).parent
CALLS = """
11 pwrite64(5</data/events.db-wal>, ""..., 4096, 0) = 4096
11 fdatasync(5</data/events.db-wal> <unfinished ...>
12 write(7</data/events/2026-11-28/events.json>, ""..., 600 <unfinished ...>
11 <... fdatasync resumed>) = 0
12 <... write resumed>) = 600
12 write(2</log>, ""..., 80) = 80
11 pwrite64(4</data/events.db>, ""..., 4096, 0) = -1 ENOSPC (No space left on device)
"""
ABOUT = {"processor": "a fast one", "date": "2026-11-28"}


@pytest.fixture
def book():
    book = Book("ingest")
    for value in (30_000, 50_000, 40_000):
        book.value("publish_many", "events/s", value)
        book.value("publish_many / raw", "ratio", value / 50_000, ">= 0.85")
    book.value("ack", "ms", 1.5, "<= 2")
    book.missing("Redis", "events/s", "redis-server is not installed", ">= 3")
    return book


def test_a_figure_is_judged_by_its_median(book):
    assert [figure.verdict for figure in book.figures] == ["", "MISSED", "met", "not measured"]
    assert book.figures[0].values == (30_000, 50_000, 40_000)


def test_what_was_not_measured_says_why():
    with pytest.raises(ValueError, match="nobody says why"):
        Figure("ingest", "ack", "ms", ())


def test_a_target_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="a target is"):
        Figure("ingest", "ack", "ms", (1.0,), target="< 2")


def test_merging_replaces_the_sections_measured_and_no_others(tmp_path, book):
    results.merge(tmp_path, [*book.figures, Figure("peers", "Redis", "events/s", (7.0,))], ABOUT)
    results.merge(tmp_path, [Figure("ingest", "ack", "ms", (3.0,))], ABOUT | {"date": "2026-11-29"})
    found = results.figures_of(tmp_path)
    assert found["ingest"] == [Figure("ingest", "ack", "ms", (3.0,))]
    assert found["peers"] == [Figure("peers", "Redis", "events/s", (7.0,))]
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["peers"]["about"]["date"] == "2026-11-28"


def test_tables_and_plots_are_made_of_the_file_alone(tmp_path, book):
    results.merge(tmp_path, [*book.figures, Figure("peers", "Redis", "events/s", (7.0,), note="one by one")], ABOUT)
    results.merge(tmp_path, [Figure("pi", "start", "s", (), note="no Pi here")], ABOUT | {"processor": "another"})
    results.render(tmp_path)
    text = (tmp_path / "bench.md").read_text()
    assert "- date: 2026-11-28\n" in text
    assert "- processor: a fast one\n" in text.partition("## ingest")[2]
    assert "| publish_many | events/s | 40,000 (30,000 to 50,000) |  |  |  |\n" in text
    assert "| publish_many / raw | ratio | 0.8 (0.6 to 1) | >= 0.85 | **MISSED** |  |\n" in text
    assert "| ack | ms | 1.5 | <= 2 | met |  |\n" in text
    assert "| Redis | events/s |  | >= 3 | not measured | redis-server is not installed |\n" in text
    assert "| Redis | events/s | 7 |  |  | one by one |\n" in text
    assert (tmp_path / "ingest.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "pi.png").exists()


def test_every_section_is_there_and_measures():
    for section in run.SECTIONS:
        assert "\ndef measure(book: results.Book) -> None:\n" in (BENCHMARKS / f"{section}.py").read_text(), section


def test_run_explains_itself_and_refuses_what_it_does_not_know(tmp_path):
    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, run.__file__, "--results", tmp_path, *arguments], capture_output=True, text=True
        )

    assert "--quick" in said("--help").stdout
    refused = said("nonsense")
    assert refused.returncode == 2
    assert "no section nonsense" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_before_a_section_failed_is_kept(tmp_path, monkeypatch):
    class Failing:
        @staticmethod
        def measure(book: Book) -> None:
            book.value("ack", "ms", 1.5)
            raise OSError("the disk is gone")

    monkeypatch.setitem(sys.modules, "ingest", Failing)
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--results", str(tmp_path), "ingest"])
    assert run.main() == 1
    assert [figure.name for figure in results.figures_of(tmp_path)["ingest"]] == ["ack"]
    assert "not to its end" in results.load(tmp_path)["ingest"]["about"]["measured with"]


def test_a_figure_of_events_that_are_not_all_there_is_refused():
    with pytest.raises(RuntimeError, match="raw: 2 published, 1 stored"):
        bench.check("raw", 1, 2)


def failing(number: int) -> Iterator[None]:
    if number == 1:
        raise OSError("the disk is gone")
    yield
    yield


def test_a_producer_that_fails_fails_the_measuring():
    with pytest.raises(RuntimeError, match="the disk is gone"):
        bench.together(2, failing)


def test_calls_are_counted_by_file_though_threads_interrupt_each_other(tmp_path):
    (tmp_path / "calls").write_text("11 fsync(5</data/lock>) = 0" + CALLS)
    counted = cost.counted(tmp_path / "calls", 2, start=len("11 fsync(5</data/lock>) = 0"))
    assert counted == cost.Counted(fsyncs=0.5, database=2048.0, logs=300.0)
    (tmp_path / "calls").write_text("")
    with pytest.raises(RuntimeError, match="no byte"):
        cost.counted(tmp_path / "calls", 2)

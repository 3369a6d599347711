"""What the metrics cost the daemon: CPU seconds of their code at 50 events a second, in the daemon's own process.

The daemon is the product's, with every call into the metrics wrapped in a clock of its thread's CPU time from outside
(`python tests/benchmarks/metrics.py FILE run …`), which adds to what is measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import results

from sightlog import Publisher

EVENTS_A_SECOND = 50
SENSORS = 4
SECONDS, INTERVAL = 20, 1
DEFAULT_INTERVAL = 60
FLUSH_SECONDS = 10.0


def run_timed(file: Path, arguments: list[str]) -> int:
    """sightlogd that writes to `file` at its end how long its metrics and everything took, in CPU seconds."""
    from sightlogd.__main__ import main as sightlogd
    from sightlogd.metrics.metrics import Metrics
    from sightlogd.metrics.report import Reporter

    taken = {"report": 0.0, "committed": 0.0, "told": 0.0}
    calls = dict.fromkeys(taken, 0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args)
            finally:
                taken[name] += time.thread_time() - began
                calls[name] += 1

        return wrapped

    for owner, name in ((Reporter, "report"), (Metrics, "committed"), (Metrics, "told")):
        setattr(owner, name, timed(name, getattr(owner, name)))
    code = sightlogd(arguments)
    file.write_text(json.dumps({"taken": taken, "calls": calls, "cpu": time.process_time()}))
    return code


def measure(book: results.Book) -> None:
    seconds = 4 if book.quick else SECONDS
    book.about["load"] = f"{EVENTS_A_SECOND} events/s from {SENSORS} sensors, a snapshot every {INTERVAL} s"
    with bench.home() as home:
        config = f"[metrics]\nmetrics_interval = {INTERVAL}\n"
        with bench.daemon(home / "daemon", config, program=(__file__, home / "times")) as daemon:
            took = load(daemon.endpoint, home / "spool", seconds)
        bench.check("metrics", daemon.stored(), seconds * EVENTS_A_SECOND)
        found = json.loads((home / "times").read_text())
    for name, spent in found["taken"].items():
        calls = found["calls"][name]
        book.value(f"a call of {name}", "µs", spent / calls * 1e6, note=f"{calls} calls")
    taken, report = sum(found["taken"].values()), found["taken"]["report"]
    usual = (taken - report) / took + report / found["calls"]["report"] / DEFAULT_INTERVAL
    book.value(f"metrics, a snapshot every {INTERVAL} s", "% of a core", taken / took * 100, "<= 1")
    book.value(f"metrics, a snapshot every {DEFAULT_INTERVAL} s", "% of a core", usual * 100, "<= 1", "calculated")
    book.value("metrics", "% of the daemon's CPU time", taken / found["cpu"] * 100, note="start of the daemon included")


def load(endpoint: str, spool: Path, seconds: int) -> float:
    """Returns how long it took."""
    sensors = [Publisher(endpoint, f"camera{n}", spool) for n in range(SENSORS)]
    began = time.perf_counter()
    for number in range(seconds * EVENTS_A_SECOND):
        sensor = sensors[number % SENSORS]
        sensor.publish(bench.events(1)[0])
        sensor.telemetry(frames_processed=1, motion_detected=1, events_created=1, inference_ms={"hog": 12.5})
        time.sleep(max(0.0, began + (number + 1) / EVENTS_A_SECOND - time.perf_counter()))
    took = time.perf_counter() - began
    for sensor in sensors:
        if not sensor.flush(FLUSH_SECONDS):
            raise RuntimeError("no acks")
        sensor.close()
    return took


if __name__ == "__main__":
    sys.exit(run_timed(Path(sys.argv[1]), sys.argv[2:]))

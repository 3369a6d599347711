"""What the metrics cost the daemon: CPU seconds of their code at 50 events a second, in the daemon's own process.

    python tests/benchmarks/metrics.py [--seconds N] [--interval N]

The daemon is the product's, with every call into the metrics wrapped in a clock of its thread's CPU time from outside
(`python tests/benchmarks/metrics.py timed FILE run …`), which adds to what is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench

from sightlog import Publisher

EVENTS_A_SECOND = 50
SENSORS = 4
TARGET = 0.01


def run_timed(file: Path, arguments: list[str]) -> int:
    """sightlogd that writes to `file` at its end how long its metrics and everything took, in CPU seconds."""
    from sightlogd.__main__ import main as sightlogd
    from sightlogd.metrics import Metrics
    from sightlogd.report import Reporter

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--interval", type=int, default=1, help="metrics_interval; 60 is the default of the daemon")
    options = parser.parse_args()
    with bench.home() as home:
        endpoint = f"ipc://{home}/s"
        (home / "config.toml").write_text(f"[metrics]\nmetrics_interval = {options.interval}\n")
        command = [sys.executable, __file__, "timed", home / "times", "run", "--config", home / "config.toml",
                   "--data-dir", home / "data", "--endpoint", endpoint]  # fmt: skip
        with open(home / "log", "wb") as log:
            daemon = subprocess.Popen(command, stderr=log)
        sensors = [Publisher(endpoint, f"camera{n}", home / "spool") for n in range(SENSORS)]
        for sensor in sensors:
            assert sensor.insert_event(bench.events(1)[0])
        began = time.perf_counter()
        for number in range(options.seconds * EVENTS_A_SECOND):
            sensor = sensors[number % SENSORS]
            sensor.publish(bench.events(1)[0])
            sensor.telemetry(frames_processed=1, motion_detected=1, events_created=1, inference_ms={"hog": 12.5})
            time.sleep(max(0.0, began + (number + 1) / EVENTS_A_SECOND - time.perf_counter()))
        took = time.perf_counter() - began
        for sensor in sensors:
            sensor.close()
        daemon.terminate()
        assert daemon.wait() == 0, (home / "log").read_text()
        found = json.loads((home / "times").read_text())
    taken = sum(found["taken"].values())
    print(bench.machine())
    print(f"{took:.0f} s of {EVENTS_A_SECOND} events/s from {SENSORS} sensors, a snapshot every {options.interval} s")
    for name, seconds in found["taken"].items():
        calls = found["calls"][name]
        print(f"{name:<12} {calls:>5} calls  {seconds / max(1, calls) * 1e6:8.0f} µs each")
    print(f"metrics      CPU of one core  {taken / took:.3%}   target < {TARGET:.0%}")
    print(
        f"             of the daemon's  {taken / found['cpu']:.1%}   ({found['cpu']:.2f} CPU seconds, start included)"
    )
    report, calls = found["taken"]["report"], found["calls"]["report"]
    rest = (taken - report) / took
    print(f"             at the default of a snapshot every 60 s  {rest + report / calls / 60:.3%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["timed"]:
        sys.exit(run_timed(Path(sys.argv[2]), sys.argv[3:]))
    main()

"""What the soak measures every few seconds: processes by /proc, the store and spools by the sizes of their files."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
Sample = dict[str, Any]


class Cpu:
    """Shares of a processor that a role's processes took between two samples."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._at = 0.0

    def share(self, processes: list[dict[str, Any]], now: float) -> float | None:
        """None at first."""
        grown = sum(one["cpu"] - self._seconds.get(one["pid"], 0.0) for one in processes)
        took, is_first = now - self._at, not self._at
        self._seconds = {one["pid"]: one["cpu"] for one in processes}
        self._at = now
        return None if is_first else max(0.0, 100 * grown / took)


def of_process(pid: int) -> dict[str, Any] | None:
    """Memory (PSS, in MB), descriptors, threads, processor seconds; None when it is gone."""
    proc = Path("/proc") / str(pid)
    try:
        pss = next(line for line in (proc / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        return {
            "pid": pid,
            "memory": int(pss.split()[1]) / 1024,
            "descriptors": len(os.listdir(proc / "fd")),
            "threads": int(fields[17]),
            "cpu": (int(fields[11]) + int(fields[12])) / TICKS,
        }
    except (OSError, StopIteration):
        return None


def children_of(pid: int) -> list[int]:
    """The daemon's decoder."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def size_of(path: Path) -> int:
    """In bytes, of a file or of all that is in a folder; what goes meanwhile counts for nothing."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        with os.scandir(path) as entries:
            return sum(
                size_of(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else _size_of_entry(entry)
                for entry in entries
            )
    except OSError:
        return 0


def _size_of_entry(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


class Tail:
    """The lines that came to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reached = 0

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._reached)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._reached += len(whole)
        return whole.decode().splitlines()


def latencies(tails: Iterable[Tail], count: Callable[[int, int], None]) -> dict[str, float] | None:
    """Milliseconds from publish() to the ack of those acked since the last look; `count` gets published and acked."""
    found: list[float] = []
    for tail in tails:
        lines = tail.lines()
        acks = [line for line in lines if line.startswith("A ")]
        count(len(lines) - len(acks), len(acks))
        found += [float(line.split()[2]) for line in acks]
    if not found:
        return None
    found.sort()
    return {"median": statistics.median(found), "p95": found[int(0.95 * (len(found) - 1))], "max": found[-1]}

"""What the demo's sensors say they published, against what the store says became of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightlog.cli.render.table import table
from sightlog.cli.render.terminal import complain, terminal
from sightlog.text import printable

_RESOLVED: Final = ("stored", "duplicates", "rejected", "missing")
_SAID: Final = ("published", "carried_over", "spooled", "acked")
_HEADING: Final = ("producer", "published", "acked", "stored", "duplicates", "rejected", "ack p50", "p99")

Producers = Mapping[str, Mapping[str, Any]]
"""Rows of the `producers` table by producer id."""


def print_tally(stats: Sequence[Path], before: Producers, after: Producers) -> bool:
    """True when every record is accounted for. `stats` are the sensors' files, the rest is the store at both ends."""
    rows = []
    total: dict[str, Any] = {**dict.fromkeys((*_SAID, *_RESOLVED), 0), "ack_ms": [], "rejected_reasons": []}
    silent = [file.stem for file in stats if not file.exists()]
    for file in stats:
        if not file.exists():
            continue
        sensor: dict[str, Any] = json.loads(file.read_bytes())
        now, then = after.get(sensor["producer_id"], {}), before.get(sensor["producer_id"], {})
        sensor |= {counter: now.get(counter, 0) - then.get(counter, 0) for counter in _RESOLVED}
        rows.append(_row(sensor["producer"], sensor))
        total = {key: value + sensor[key] for key, value in total.items()}
    for line in table([_HEADING, *rows, _row("all", total)], terminal()):
        print(line)
    for reason in total["rejected_reasons"]:
        print(f"  {printable(reason)}")
    balanced = _print_balance(total)
    if silent:
        complain(f"no counts from {', '.join(silent)}: killed before the end")
    return balanced and not silent


def print_status_line(log: Path) -> None:
    """What the daemon last said about itself: it does when it stops."""
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        if "p95 commit" in line and line.startswith("{"):
            print(f"\nsightlogd: {printable(json.loads(line)['event'])}")
            return


def _row(name: str, counts: Mapping[str, Any]) -> list[str]:
    times = sorted(counts["ack_ms"])
    spread = [f"{_quantile(times, share):.1f} ms" if times else "-" for share in (0.5, 0.99)]
    return [name, *(str(counts[key]) for key in _HEADING[1:6]), *spread]


def _quantile(times: Sequence[float], share: float) -> float:
    """The smallest of the sorted `times` that at least `share` of them do not exceed."""
    return times[max(0, math.ceil(share * len(times)) - 1)]


def _print_balance(total: Mapping[str, Any]) -> bool:
    published, carried, spooled = total["published"], total["carried_over"], total["spooled"]
    resolved = total["stored"] + total["duplicates"] + total["rejected"]
    # What an earlier run left in the spool may have been resolved then already, and only its ack been lost.
    left = min(max(0, resolved - published), carried)
    difference = resolved - published - left
    earlier = f" + {left} left by an earlier run" if left else ""
    verdict = f"DIFFERENCE {difference:+d}" if difference else "OK"
    print(
        f"\npublished {published}{earlier} = stored {total['stored']} + duplicates {total['duplicates']} "
        f"+ rejected {total['rejected']}: {verdict}"
    )
    if spooled:
        print(f"{spooled} records wait in the spool; the next run sends them")
    if total["missing"]:
        print(f"{total['missing']} records are missing: their producers lost them")
    return not (difference or spooled or total["missing"])

"""The daemon's own figures, as lines for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sightlog.cli.render.terminal import Terminal, duration, field, size
from sightlog.cli.snapshot import Snapshot

_SPREADS: Final = {"commit": "commit_ms", "batch": "batch_records", "latency": "latency_ms"}
_LONG_MS: Final = 10_000
_TROUBLES: Final = {
    "db_write_errors": "batches not written",
    "file_write_errors": "files not written",
    "busy": "times producers were told to wait",
    "connections_dropped": "times all connections were dropped",
    "resent": "records resent",
    "storage_warnings": "storage warnings",
    "clocks_ahead": "events from clocks ahead",
}


def metrics_lines(metrics: Snapshot, to: Terminal) -> Iterator[str]:
    """What is not known has no line."""
    get = metrics.get
    yield field("writing", f"{_share(get('availability'))} of {duration(get('uptime_seconds') or 0)}", to)
    for name, key in _SPREADS.items():
        if spread := get(key):
            yield field(name, _spread(spread, in_ms=key.endswith("_ms")), to)
    for inference in get("inference_ms") or []:
        took = _spread(inference["ms"], in_ms=True)
        yield field("inference", f"{inference['producer']} {inference['name']}: {took}", to)
    if get("frames_processed"):
        rate = f" ({metrics['motion_hit_rate']:.2%})" if get("motion_hit_rate") is not None else ""
        yield field("frames", f"{metrics['frames_processed']:,}, motion in {metrics['motion_detected']:,}{rate}", to)
    made, suppressed = get("events_created") or 0, get("events_suppressed") or 0
    reported = f", {made:,} made and {suppressed:,} suppressed by sensors" if made or suppressed else ""
    yield field("this run", f"{get('events_persisted') or 0:,} events stored{reported}", to)
    pictures = [
        f"{count:,} {text}"
        for key, text in (("stored", "as sent"), ("reencoded", "re-encoded"), ("dropped", "dropped"))
        if (count := get(f"thumbnails_{key}"))
    ]
    if pictures:
        yield field("thumbnails", ", ".join(pictures), to, "warn" if get("thumbnails_dropped") else "")
    troubles = ", ".join(f"{metrics[key]:,} {text}" for key, text in _TROUBLES.items() if get(key))
    if troubles:
        yield field("", troubles, to, "warn")
    if (get("descriptors") or 0) >= (get("descriptors_max") or math.inf):
        yield field("connections", f"no more are let in: {get('descriptors'):,} descriptors are in use", to, "bad")
    yield field("process", ", ".join(_process(metrics)), to)


def _process(metrics: Snapshot) -> Iterator[str]:
    if metrics.get("cpu_percent") is not None:
        yield f"CPU {metrics['cpu_percent']:.1f} %"
    if metrics.get("memory_rss_bytes"):
        pss = f" (PSS {size(metrics['memory_pss_bytes'])})" if metrics.get("memory_pss_bytes") else ""
        yield f"memory {size(metrics['memory_rss_bytes'])}{pss}"
    each = metrics.get("written_bytes_per_record")
    yield f"{size(metrics.get('written_bytes') or 0)} written{f' ({size(round(each))} a record)' if each else ''}"


def _spread(spread: Mapping[str, Any], *, in_ms: bool) -> str:
    p95, average, least, most = (
        duration(spread[key] / 1000) if in_ms and spread["max"] >= _LONG_MS else f"{spread[key]:g}"
        for key in ("p95", "average", "min", "max")
    )
    unit = " ms" if in_ms and spread["max"] < _LONG_MS else ""
    return f"p95 {p95}{unit}, average {average}, {least} to {most}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3%}".replace("100.000%", "100%")

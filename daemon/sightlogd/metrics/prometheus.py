"""A snapshot as text for node_exporter's textfile collector. No I/O.

The format is Prometheus' text format 0.0.4: base units (seconds, bytes), `_total` for counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from .metrics import MetricsSnapshot, Spread

_COUNTERS: Final = {
    "frames_processed": "Frames that the sensors looked at.",
    "motion_detected": "Frames with motion.",
    "events_created": "Events that the sensors made.",
    "events_suppressed": "Motion that made no event because the last one was too recent.",
    "events_persisted": "Events stored.",
    "duplicates": "Events that were there already.",
    "rejected": "Records refused and kept as dead letters.",
    "resent": "Records received that were known already.",
    "busy": "Times that a producer was told to wait.",
    "connections_dropped": "Times that all connections were dropped, because their messages took too much memory.",
    "clocks_ahead": "Events of the latency samples that were recorded later than they were stored.",
    "db_write_errors": "Batches that could not be written.",
    "file_write_errors": "Files beside the database that could not be written.",
    "storage_warnings": "Warnings about the storage budget.",
    "thumbnails_stored": "Pictures stored as they were sent.",
    "thumbnails_reencoded": "Pictures made into acceptable JPEGs.",
    "thumbnails_dropped": "Pictures that could not be used.",
    "written_bytes": "Bytes that the daemon handed to the block layer since its process began.",
}
_GAUGES: Final = {
    "uptime_seconds": "Since the daemon's start.",
    "availability": "Share of the uptime in which writing was not refused, 0 to 1.",
    "motion_hit_rate": "Share of the frames in which there was motion, 0 to 1.",
    "memory_rss_bytes": "Resident memory.",
    "memory_pss_bytes": "Resident memory, shared pages in proportion.",
    "wal_bytes": "What is in the WAL and not yet in the database.",
    "descriptors": "Open files and connections.",
    "descriptors_max": "With so many open no more connections are let in.",
    "storage_bytes": "Everything in the data directory.",
    "storage_limit_bytes": "What it may take.",
    "events_total": "Events in the database.",
    "producers_known": "Producers that the database knows, of 10,000 at most.",
}
_LISTS: Final = {
    "foreign_objects": "Tables, views, indexes and triggers of other programs in the database.",
    "schema_changes": "What somebody changed of sightlog's tables; the next start refuses it.",
}
"""How many there are."""
_RENAMED: Final = {"events_total": "events"}
"""The ending _total is for counters."""
_RESOLVED: Final = {
    "stored": "Records stored, all sessions.",
    "duplicates": "Events that were there already, all sessions.",
    "rejected": "Records refused, all sessions.",
    "missing": "Records that never came, all sessions.",
}
_ACCOUNT: Final = {
    "published": ("counter", "Records published, all sessions."),
    "spooled": ("gauge", "Records in the spool."),
    "lost": ("gauge", "Records lost by a damaged spool or with a restored database, all sessions."),
    "difference": ("gauge", "Records published and not accounted for; 0 when all is well."),
}

_Sample = tuple[dict[str, str], float]


def text(snapshot: MetricsSnapshot) -> str:
    """The whole file; what is not known has no line."""
    return "".join(f"{line}\n" for line in _lines(snapshot))


def _lines(snapshot: MetricsSnapshot) -> Iterator[str]:
    for name, help_text in _COUNTERS.items():
        yield from _family(f"{name}_total", "counter", help_text, [({}, getattr(snapshot, name))])
    for name, help_text in _GAUGES.items():
        value = getattr(snapshot, name)
        yield from _family(_RENAMED.get(name, name), "gauge", help_text, [] if value is None else [({}, value)])
    is_volatile = int(snapshot.volatile is not None)
    yield from _family("storage_volatile", "gauge", "1: what is stored is gone with the power.", [({}, is_volatile)])
    if snapshot.cpu_percent is not None:
        yield from _family("cpu_ratio", "gauge", "CPU seconds a second.", [({}, snapshot.cpu_percent / 100)])
    for name, help_text in _LISTS.items():
        yield from _family(name, "gauge", help_text, [({}, len(getattr(snapshot, name)))])
    yield from _window("commit_seconds", "Time of a commit", [({}, snapshot.commit_ms)], 1000)
    yield from _window("batch_records", "Records a commit", [({}, snapshot.batch_records)], 1)
    yield from _window("latency_seconds", "From an event's own time to its commit", [({}, snapshot.latency_ms)], 1000)
    inferences = [({"producer": i.producer, "model": i.name}, i.ms) for i in snapshot.inference_ms]
    yield from _window("inference_seconds", "Time of an inference", inferences, 1000)
    yield from _producers(snapshot)


def _producers(snapshot: MetricsSnapshot) -> Iterator[str]:
    # Two spools may have one name, and a set of labels must be unique.
    labels = [{"producer": p.name, "producer_id": p.producer_id} for p in snapshot.producers]
    known = list(zip(labels, snapshot.producers, strict=True))
    for name, help_text in _RESOLVED.items():
        samples = [(label, getattr(producer, name)) for label, producer in known]
        yield from _family(f"producer_{name}_total", "counter", help_text, samples)
    for name, (kind, help_text) in _ACCOUNT.items():
        samples = [(label, getattr(p.account, name)) for label, p in known if p.account]
        yield from _family(f"producer_{name}{'_total' if kind == 'counter' else ''}", kind, help_text, samples)
    depths = [(label, p.told.spooled_bytes) for label, p in known if p.told]
    yield from _family("producer_spool_bytes", "gauge", "Bytes of the spool's files.", depths)


def _window(
    name: str, help_text: str, spreads: Iterable[tuple[dict[str, str], Spread | None]], divisor: int
) -> Iterator[str]:
    known = [(labels, spread) for labels, spread in spreads if spread is not None]
    for field, part in (("average", "average"), ("minimum", "min"), ("maximum", "max"), ("p95", "p95")):
        samples = [(labels, getattr(spread, field) / divisor) for labels, spread in known]
        yield from _family(f"{name}_{part}", "gauge", f"{help_text}: {part} of the last 1000.", samples)


def _family(name: str, kind: str, help_text: str, samples: Iterable[_Sample]) -> Iterator[str]:
    lines = [f"sightlog_{name}{_labels(labels)} {value!r}" for labels, value in samples]
    if lines:
        yield f"# HELP sightlog_{name} {help_text}"
        yield f"# TYPE sightlog_{name} {kind}"
        yield from lines


def _labels(labels: dict[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""A snapshot as text for node_exporter's textfile collector. No I/O.

The format is Prometheus' text format 0.0.4: base units (seconds, bytes), `_total` for counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, get_type_hints

from .metrics import MetricsSnapshot, Spread

_EXPORTED: Final = {
    name: exported
    for name, hint in get_type_hints(MetricsSnapshot, include_extras=True).items()
    for exported in getattr(hint, "__metadata__", ())
}
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
    for name, exported in _EXPORTED.items():
        value = getattr(snapshot, name)
        samples: list[_Sample] = [] if value is None else [({}, len(value) if isinstance(value, list) else value)]
        ending = "_total" if exported.kind == "counter" else ""
        yield from _family(f"{exported.name or name}{ending}", exported.kind, exported.help, samples)
    is_volatile = int(snapshot.volatile is not None)
    yield from _family("storage_volatile", "gauge", "1: what is stored is gone with the power.", [({}, is_volatile)])
    if snapshot.cpu_percent is not None:
        yield from _family("cpu_ratio", "gauge", "CPU seconds a second.", [({}, snapshot.cpu_percent / 100)])
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

"""What the daemon counts and measures, and a picture of it all at one moment. No I/O, no clock.

Times that are passed in are seconds of one monotonic clock, unless they are said to be of the wall clock. A window is
the last 1,000 values; its p95 is the nearest rank: the smallest value that at least 95 % of them do not exceed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import Struct
from msgspec import field as named

from sightlog.protocol import messages
from sightlog.protocol.accounts import Resolved, account
from sightlog.protocol.limits import COUNTERS
from sightlog.protocol.messages import DUPLICATE, REJECTED, Position
from sightlogd.protocol.decoder import EventRecord
from sightlogd.protocol.session import SESSIONS_MAX, Chunk, Reported
from sightlogd.store.schema import NOTHING_FOREIGN, Schema

WINDOW_VALUES_MAX: Final = 1_000
LATENCIES_A_BATCH_MAX: Final = 10
"""Events of a batch whose latency is taken, evenly spread: the first has waited the longest, the last not at all."""
CPU_SECONDS_MIN: Final = 1.0
"""In a shorter time the start itself, or one snapshot, would look like thousands of percent."""
INFERENCES_MAX: Final = 64
"""Pairs of producer and model; later ones are not kept."""
PRODUCERS_MAX: Final = 64
"""Producers in a snapshot: the ones heard last."""


class Spread(Struct, frozen=True):
    """Of a window."""

    count: int
    average: float
    minimum: float = named(name="min")
    maximum: float = named(name="max")
    p95: float


class Window:
    """The last 1,000 values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW_VALUES_MAX)
        self.add, self.extend = self._values.append, self._values.extend

    def spread(self) -> Spread | None:
        """None while it is empty."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        count = len(ordered)
        p95 = ordered[math.ceil(0.95 * count) - 1]
        return Spread(count, *(round(x, 3) for x in (sum(ordered) / count, ordered[0], ordered[-1], p95)))


class Usage(NamedTuple):
    """What the system says of this process. `pss` is None where the system does not tell it."""

    cpu_seconds: float
    rss_bytes: int
    pss_bytes: int | None
    written_bytes: int
    """Handed to the block layer since the start of the process: what wears the card out."""
    descriptors: int
    """Open: files, and a connection each."""
    descriptors_max: int
    """With so many open no more connections are let in."""


class Inference(Struct, frozen=True):
    producer: str
    name: str
    ms: Spread


class SpoolState(Struct, frozen=True):
    """A producer's words, as `sightlog.protocol.messages.SpoolReport`."""

    last: tuple[int, int]
    acked: tuple[int, int]
    published: int
    lost: int
    spooled_records: int
    spooled_bytes: int


class AccountState(Struct, frozen=True):
    """See `sightlog.protocol.accounts`."""

    published: int
    spooled: int
    lost: int
    difference: int


class ProducerState(Struct, frozen=True):
    """Counters of all sessions. `told` is None when it said nothing since the daemon's start."""

    producer_id: str
    name: str
    stored: int
    duplicates: int
    rejected: int
    missing: int
    told: SpoolState | None
    account: AccountState | None


class Exported(NamedTuple):
    """How Prometheus sees a field; of a list it sees how many there are."""

    kind: Literal["counter", "gauge"]
    help: str
    name: str = ""
    """Where it has another: the ending _total is for counters."""


class MetricsSnapshot(Struct, frozen=True, kw_only=True):
    """Everything at one time; counters are since the daemon's start. A line of metrics.json is one of these, and so
    is latest.json, where what the system says of the process is as of the last such line."""

    at: str
    pid: int
    uptime_seconds: Annotated[float, Exported("gauge", "Since the daemon's start.")]
    availability: Annotated[float, Exported("gauge", "Share of the uptime in which writing was not refused, 0 to 1.")]
    """Share of the uptime in which writing was not refused, 0 to 1."""
    commit_ms: Spread | None
    batch_records: Spread | None
    latency_ms: Spread | None
    """From an event's recorded_at to the end of its COMMIT."""
    inference_ms: list[Inference]
    frames_processed: Annotated[int, Exported("counter", "Frames that the sensors looked at.")]
    motion_detected: Annotated[int, Exported("counter", "Frames with motion.")]
    motion_hit_rate: Annotated[
        float | None, Exported("gauge", "Share of the frames in which there was motion, 0 to 1.")
    ]
    """Share of the frames in which there was motion."""
    events_created: Annotated[int, Exported("counter", "Events that the sensors made.")]
    events_suppressed: Annotated[
        int, Exported("counter", "Motion that made no event because the last one was too recent.")
    ]
    events_persisted: Annotated[int, Exported("counter", "Events stored.")]
    duplicates: Annotated[int, Exported("counter", "Events that were there already.")]
    rejected: Annotated[int, Exported("counter", "Records refused and kept as dead letters.")]
    resent: Annotated[int, Exported("counter", "Records received that were known already.")]
    """Records received that were known already: acks that got lost, or came too late."""
    busy: Annotated[int, Exported("counter", "Times that a producer was told to wait.")]
    connections_dropped: Annotated[
        int,
        Exported("counter", "Times that all connections were dropped, because their messages took too much memory."),
    ]
    """How often all connections were dropped, because what waited of their messages took too much memory."""
    clocks_ahead: Annotated[
        int, Exported("counter", "Events of the latency samples that were recorded later than they were stored.")
    ]
    """Events, of those looked at for their latency, that were recorded later than they were stored."""
    db_write_errors: Annotated[int, Exported("counter", "Batches that could not be written.")]
    file_write_errors: Annotated[int, Exported("counter", "Files beside the database that could not be written.")]
    storage_warnings: Annotated[int, Exported("counter", "Warnings about the storage budget.")]
    thumbnails_stored: Annotated[int, Exported("counter", "Pictures stored as they were sent.")]
    thumbnails_reencoded: Annotated[int, Exported("counter", "Pictures made into acceptable JPEGs.")]
    thumbnails_dropped: Annotated[int, Exported("counter", "Pictures that could not be used.")]
    """Pictures that could not be used: their events have none."""
    cpu_percent: float | None
    memory_rss_bytes: Annotated[int, Exported("gauge", "Resident memory.")]
    memory_pss_bytes: Annotated[int | None, Exported("gauge", "Resident memory, shared pages in proportion.")]
    wal_bytes: Annotated[int, Exported("gauge", "What is in the WAL and not yet in the database.")]
    wal_held_by: list[str]
    """The processes whose long transactions make it grow, once it is far too large."""
    written_bytes: Annotated[
        int, Exported("counter", "Bytes that the daemon handed to the block layer since its process began.")
    ]
    written_bytes_per_record: float | None
    descriptors: Annotated[int, Exported("gauge", "Open files and connections.")]
    descriptors_max: Annotated[int, Exported("gauge", "With so many open no more connections are let in.")]
    storage_bytes: Annotated[int | None, Exported("gauge", "Everything in the data directory.")]
    storage_limit_bytes: Annotated[int | None, Exported("gauge", "What it may take.")]
    events_total: Annotated[int | None, Exported("gauge", "Events in the database.", "events")]
    producers_known: Annotated[int | None, Exported("gauge", "Producers that the database knows, of 10,000 at most.")]
    foreign_objects: Annotated[
        list[str], Exported("gauge", "Tables, views, indexes and triggers of other programs in the database.")
    ]
    """What other programs have in the database, and touches nothing of ours."""
    schema_changes: Annotated[
        list[str], Exported("gauge", "What somebody changed of sightlog's tables; the next start refuses it.")
    ]
    """What they changed of ours: the next start refuses it."""
    schema_undo: list[str]
    """The statements that undo it; none where nothing does."""
    volatile: str | None
    """In which kind of memory the data directory is: what is stored is gone with the power. None: on a disk."""
    last_id: int
    """Of what was stored last: events behind it are not in these figures yet."""
    producers: list[ProducerState]


@dataclass(slots=True)
class PictureCounts:
    """Since the daemon's start. A picture is in one of the first three once it is resolved."""

    stored: int = 0
    """As they were sent."""
    reencoded: int = 0
    dropped: int = 0
    """Broken, hostile, too many at once: their events have no thumbnail."""
    failures: int = 0
    """Files that could not be read or written, decoders that did not start. It is tried again."""

    @property
    def total(self) -> int:
        return self.stored + self.reencoded + self.dropped + self.failures


@dataclass(slots=True)
class _ProducerSession:
    """What a producer told last of its spool, and how much of its totals is counted."""

    name: str
    report: messages.SpoolReport
    counted: list[int]

    @property
    def epoch(self) -> int:
        return self.report.last.epoch


@dataclass(slots=True)
class Metrics:
    """`started` and `started_at` are the same moment on the monotonic and on the wall clock."""

    started: float
    started_at: datetime
    duplicates: int = 0
    rejected: int = 0
    events_persisted: int = 0
    resent: int = 0
    busy: int = 0
    connections_dropped: int = 0
    clocks_ahead: int = 0
    db_write_errors: int = 0
    file_write_errors: int = 0
    storage_warnings: int = 0
    storage_bytes: int | None = None
    storage_limit_bytes: int | None = None
    events_total: int | None = None
    producers_known: int | None = None
    volatile: str | None = None
    last_id: int = 0
    wal_held_by: list[str] = field(default_factory=list)
    schema: Schema = NOTHING_FOREIGN
    pictures: PictureCounts = field(default_factory=PictureCounts)
    _records: int = 0
    _commit_ms: Window = field(default_factory=Window)
    _batch_records: Window = field(default_factory=Window)
    _latency_ms: Window = field(default_factory=Window)
    _inference_ms: dict[tuple[str, str], Window] = field(default_factory=dict)
    _sensors: list[int] = field(default_factory=lambda: [0] * len(COUNTERS))
    _sessions: dict[str, _ProducerSession] = field(default_factory=dict)
    _refused_since: float | None = None
    _refused_seconds: float = 0.0
    _usage: tuple[float, Usage] | None = None
    """When it was looked at, and what it was."""
    _cpu_percent: float | None = None
    _written_per_record: float | None = None
    has_news: bool = True
    """Since the last snapshot."""

    # -- the commit path ---------------------------------------------------------------------------------------------

    def committed(
        self,
        chunks: Sequence[Chunk],
        exceptions: Sequence[Sequence[tuple[int, str, str]]],
        seconds: float,
        wall: float,
    ) -> None:
        """A batch is durable: `exceptions` by chunk as in `Written`, `wall` the wall clock's seconds after COMMIT."""
        self.has_news = True
        events: list[EventRecord] = []
        for chunk, some in zip(chunks, exceptions, strict=True):
            self._records += len(chunk.records)
            events += [record for record in chunk.records if type(record) is EventRecord]
            for seq, status, _ in some:
                self.duplicates += status == DUPLICATE
                self.rejected += status == REJECTED
                self.events_persisted -= type(chunk.records[seq - chunk.first.seq]) is EventRecord
        self.events_persisted += len(events)
        self._commit_ms.add(seconds * 1000)
        self._batch_records.add(sum(len(chunk.records) for chunk in chunks))
        step = -(-len(events) // LATENCIES_A_BATCH_MAX) or 1
        for event in events[::step]:
            latency = wall - datetime.fromisoformat(event.recorded_at).timestamp()
            # A sensor whose clock is ahead would make the average a lie: it is told apart.
            if latency < 0:
                self.clocks_ahead += 1
            else:
                self._latency_ms.add(latency * 1000)

    def refused(self, now: float, *, by_budget: bool) -> None:
        """A batch was not written: it could not be, or the storage budget has no room for it."""
        self.has_news = True
        self.db_write_errors += not by_budget
        if self._refused_since is None:
            self._refused_since = now

    def recovered(self, now: float) -> None:
        """Writing goes on; nothing when it was not refused."""
        if self._refused_since is not None:
            self.has_news = True
            self._refused_seconds += now - self._refused_since
            self._refused_since = None

    def file_write_failed(self) -> None:
        """A file beside the database could not be written: a picture, a day log, the metrics."""
        self.has_news = True
        self.file_write_errors += 1

    # -- what producers tell -----------------------------------------------------------------------------------------

    def reported(self, reported: Reported) -> None:
        """Adds what a producer's totals have grown by. A session that is new here begins at 0, unless it is older than
        this daemon: what it did before is none of this daemon's counters."""
        self.has_news = True
        telemetry = reported.telemetry
        totals = [getattr(telemetry, name) for name in COUNTERS]
        before = self._sessions.pop(reported.producer_id, None)
        if before is not None and telemetry.last[0] < before.epoch:
            self._sessions[reported.producer_id] = before
            return
        if before is not None and telemetry.last[0] == before.epoch:
            counted = before.counted
        elif before is None and telemetry.last[0] < self.started_at.timestamp() * 1000:
            counted = totals
        else:
            counted = [0] * len(COUNTERS)
        for index, (total, known) in enumerate(zip(totals, counted, strict=True)):
            self._sensors[index] += max(0, total - known)
        self._sessions[reported.producer_id] = _ProducerSession(
            reported.name, telemetry.report, [*map(max, totals, counted)]
        )
        if len(self._sessions) > SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        for name, samples in telemetry.inference_ms.items():
            key = reported.name, name
            if key in self._inference_ms or len(self._inference_ms) < INFERENCES_MAX:
                self._inference_ms.setdefault(key, Window()).extend(samples)

    # -- a picture ---------------------------------------------------------------------------------------------------

    @property
    def knows_usage(self) -> bool:
        return self._usage is not None

    def used(self, now: float, usage: Usage) -> None:
        """What the process uses, for the snapshots from now on."""
        before, cpu_before = (self._usage[0], self._usage[1].cpu_seconds) if self._usage else (self.started, 0.0)
        elapsed = now - before
        cpu = round(100 * (usage.cpu_seconds - cpu_before) / elapsed, 2) if elapsed >= CPU_SECONDS_MIN else None
        self._usage, self._cpu_percent = (now, usage), cpu
        self._written_per_record = round(usage.written_bytes / self._records, 1) if self._records else None

    def snapshot(
        self, now: float, at: str, pid: int, wal_bytes: int, producers: Sequence[tuple[str, str, Resolved]]
    ) -> MetricsSnapshot:
        """`at` is the wall clock as text, `producers` are id, name and counters of those to tell of. Call `used`
        before."""
        assert self._usage is not None
        usage = self._usage[1]
        self.has_news = False
        uptime = now - self.started
        refused = self._refused_seconds + (now - self._refused_since if self._refused_since is not None else 0.0)
        frames, motion, *_ = self._sensors
        counted: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        counted |= zip(COUNTERS, self._sensors, strict=True)
        counted["file_write_errors"] += self.pictures.failures
        return MetricsSnapshot(
            **counted,
            at=at,
            pid=pid,
            uptime_seconds=round(uptime, 3),
            availability=1 - refused / uptime if uptime > 0 else 1.0,
            commit_ms=self._commit_ms.spread(),
            batch_records=self._batch_records.spread(),
            latency_ms=self._latency_ms.spread(),
            inference_ms=[
                Inference(producer, name, spread)
                for (producer, name), window in self._inference_ms.items()
                if (spread := window.spread())
            ],
            motion_hit_rate=motion / frames if frames else None,
            thumbnails_stored=self.pictures.stored,
            thumbnails_reencoded=self.pictures.reencoded,
            thumbnails_dropped=self.pictures.dropped,
            cpu_percent=self._cpu_percent,
            memory_rss_bytes=usage.rss_bytes,
            memory_pss_bytes=usage.pss_bytes,
            wal_bytes=wal_bytes,
            written_bytes=usage.written_bytes,
            written_bytes_per_record=self._written_per_record,
            descriptors=usage.descriptors,
            descriptors_max=usage.descriptors_max,
            foreign_objects=self.schema.foreign,
            schema_changes=self.schema.changed,
            schema_undo=self.schema.undo,
            producers=[self._state(*producer) for producer in self._with_unresolved(producers)],
        )

    def _with_unresolved(self, producers: Sequence[tuple[str, str, Resolved]]) -> list[tuple[str, str, Resolved]]:
        """Those in the store, and while they are all of it, those that told something and have nothing resolved yet."""
        if len(producers) >= PRODUCERS_MAX:
            return list(producers)
        nothing = Resolved(Position(0, 0), 0, 0, 0, 0)
        stored = {producer_id for producer_id, _, _ in producers}
        return [
            *producers,
            *[(key, session.name, nothing) for key, session in self._sessions.items() if key not in stored][
                :PRODUCERS_MAX
            ],
        ]

    def _state(self, producer_id: str, name: str, resolved: Resolved) -> ProducerState:
        session = self._sessions.get(producer_id)
        report = session.report if session else None
        found = account(report, resolved) if report else None
        return ProducerState(
            producer_id,
            name,
            *resolved[1:],
            told=SpoolState(*report) if report else None,
            account=AccountState(*found) if found else None,
        )


_PLAIN: Final = frozenset(field.name for field in fields(Metrics)) & frozenset(MetricsSnapshot.__struct_fields__)
"""What a snapshot has as it is: a new metric is a line in each of the two, and where it is counted."""

"""sightlog: journald for cameras. What sensors, bots and dashboards import."""

from .errors import (
    AckTimeout,
    DaemonError,
    DatabaseDamaged,
    DatabaseNotFound,
    DatabaseWriteError,
    InvalidRecord,
    NotNow,
    ProducerFenced,
    ProtocolError,
    PublisherClosed,
    RecordRejected,
    SchemaMismatch,
    SightlogError,
    SpoolDamaged,
    SpoolFull,
    SpoolInUse,
    UsageError,
)
from .publisher import Publisher
from .reader import Reader
from .receipts import BatchReceipt, InsertResult, Receipt
from .records import Amendment, Detection, Event, Person

__version__ = "0.1.0"

__all__ = [
    "AckTimeout",
    "Amendment",
    "BatchReceipt",
    "DaemonError",
    "DatabaseDamaged",
    "DatabaseNotFound",
    "DatabaseWriteError",
    "Detection",
    "Event",
    "InsertResult",
    "InvalidRecord",
    "NotNow",
    "Person",
    "ProducerFenced",
    "ProtocolError",
    "Publisher",
    "PublisherClosed",
    "Reader",
    "Receipt",
    "RecordRejected",
    "SchemaMismatch",
    "SightlogError",
    "SpoolDamaged",
    "SpoolFull",
    "SpoolInUse",
    "UsageError",
]

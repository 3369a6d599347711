"""sightlog: journald for cameras. What sensors, bots and dashboards import."""

from typing import TYPE_CHECKING

from .errors import (
    AccessDenied,
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
    SpoolFormatUnknown,
    SpoolFull,
    SpoolInUse,
    TemporaryError,
    UsageError,
)
from .reader.hits import SearchHit, SimilarHit
from .records import Amendment, Detection, Event, Observation, Person

if TYPE_CHECKING:
    from .publisher.publisher import Publisher
    from .publisher.receipts import BatchReceipt, InsertResult, Receipt
    from .reader.reader import Reader
else:
    # On first use: zmq and asyncio take most of the start-up time, and a program that only reads needs neither.
    _HOMES = {
        "BatchReceipt": "publisher.receipts",
        "InsertResult": "publisher.receipts",
        "Publisher": "publisher.publisher",
        "Reader": "reader.reader",
        "Receipt": "publisher.receipts",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})


__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
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
    "Observation",
    "Person",
    "ProducerFenced",
    "ProtocolError",
    "Publisher",
    "PublisherClosed",
    "Reader",
    "Receipt",
    "RecordRejected",
    "SchemaMismatch",
    "SearchHit",
    "SightlogError",
    "SimilarHit",
    "SpoolDamaged",
    "SpoolFormatUnknown",
    "SpoolFull",
    "SpoolInUse",
    "TemporaryError",
    "UsageError",
]

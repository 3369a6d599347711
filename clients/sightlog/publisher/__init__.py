"""The publisher: from a call of publish() to the ack that says the record is durable."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .publisher import Publisher as Publisher
else:
    # On first use: zmq and asyncio take most of the start-up time of who wants only a neighbour.
    def __getattr__(name: str) -> object:
        if name != "Publisher":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .publisher import Publisher

        globals()[name] = Publisher
        return Publisher

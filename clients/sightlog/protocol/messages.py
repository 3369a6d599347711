"""Messages of the wire protocol, version 1, as frames. No I/O. `clients/README.md` is its reference.

A message is a list of frames. Frame 0 is the header: a msgpack map whose `kind` names the message. A `records` message
has a body in frame 1, a msgpack array of binaries, each of them one record as a msgpack map, and images in the frames
behind it. A record is a binary of its own so that one that is malformed can be refused without its neighbours.

A position is the pair (epoch, seq): the epoch numbers the sessions of a producer, the seq its records within one
session, from 1. Positions are ordered as pairs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgpack

from sightlog.errors import ProtocolError

from .limits import IMAGE_BYTES_MAX, INTEGER_MAX, MESSAGE_BYTES_MAX, MESSAGE_RECORDS_MAX, RECORD_BYTES_MAX

PROTOCOL: Final = 1
PRODUCERS_MAX: Final = 10_000
"""Identities that a store knows. What it has of one says which of its records are resolved: none is ever forgotten."""

STORED: Final = "stored"
DUPLICATE: Final = "duplicate"
REJECTED: Final = "rejected"


class Position(NamedTuple):
    """Where in a producer's stream: the session (`epoch`) and the record within it (`seq`, from 1)."""

    epoch: int
    seq: int


START: Final = Position(0, 0)
"""Before everything: the position of a producer of whom nothing is stored."""


class Limits(NamedTuple):
    """What the daemon takes, told in WELCOME. A client stays within the smaller of these and its own."""

    window_records: int
    window_bytes: int
    message_records_max: int = MESSAGE_RECORDS_MAX
    message_bytes_max: int = MESSAGE_BYTES_MAX


class SpoolReport(NamedTuple):
    """How a producer's spool stands, in its own words: the first fields of a telemetry message."""

    last: Position
    """Of the last record it published: the epoch is that of its session, the seq 0 before the first."""
    acked: Position
    """Up to here it knows everything to be resolved: the depth counts from here."""
    published: int
    """Records of all sessions."""
    lost: int
    """Records of all sessions that damaged files could not give back."""
    spooled_records: int
    spooled_bytes: int


_pack = msgpack.packb  # a shared Packer is not safe in threads where msgpack has no C extension


# -- messages: client to daemon --------------------------------------------------------------------------------------


def hello(producer_id: str, name: str, epoch: int, first: Position) -> list[bytes]:
    """`epoch`: this session; `first`: position of the first record the producer will send."""
    return [
        _pack({"kind": "hello", "protocol": PROTOCOL, "producer_id": producer_id, "name": name, "epoch": epoch,
               "first": first})
    ]  # fmt: skip


def records(first: Position, packed: Sequence[bytes], images: Sequence[bytes], *, flush: bool) -> list[bytes]:
    """`packed` holds consecutive records of one epoch, `images` one item a record, empty for none.

    `flush` asks the daemon to commit at once: somebody waits for the ack.
    """
    carriers = [index for index, image in enumerate(images) if image]
    header = _pack({"kind": "records", "first": first, "flush": flush, "images": carriers})
    return [header, _pack(packed), *(images[index] for index in carriers)]


def unsendable(record: bytes, image: bytes) -> bytes | None:
    """What stands for a record that no daemon takes, so that those behind it get there; None for one that is sent."""
    if len(record) <= RECORD_BYTES_MAX and len(image) <= IMAGE_BYTES_MAX:
        return None
    reason = (
        f"its producer cannot send it: the record takes {len(record)} bytes, its thumbnail {len(image)}, and at most "
        f"{RECORD_BYTES_MAX} and {IMAGE_BYTES_MAX} can be sent"
    )
    return bytes(_pack({"kind": "refused", "reason": reason}))


def ping(spooled_records: int, spooled_bytes: int, *, flush: bool) -> list[bytes]:
    """Keeps a session alive, tells the depth of the spool, and with `flush` asks for a commit at once."""
    return [_pack({"kind": "ping", "spooled_records": spooled_records, "spooled_bytes": spooled_bytes, "flush": flush})]


def telemetry(
    report: SpoolReport, totals: Mapping[str, int], inference_ms: Mapping[str, Sequence[float]]
) -> list[bytes]:
    """How the spool stands, the sensor's counters of this session, and times not told before. It gets no answer."""
    return [_pack({"kind": "telemetry", **report._asdict(), **totals, "inference_ms": inference_ms})]


# -- messages: daemon to client --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    """All records up to `last` are resolved, as by an `Ack`."""

    last: Position
    exceptions: Sequence[tuple[int, str, str]]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Ack:
    """All records up to `last` are resolved. `exceptions` lists (seq, status, reason) of those not simply stored."""

    last: Position
    exceptions: Sequence[tuple[int, str, str]]


@dataclass(frozen=True, slots=True)
class Busy:
    """The daemon cannot write. Say hello after `retry_after` seconds; the welcome tells what is stored."""

    reason: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class Resync:
    """A gap: go on behind `last`. None: the daemon does not know this connection, say hello."""

    last: Position | None


@dataclass(frozen=True, slots=True)
class Refused:
    """`code` is one of fenced, protocol, malformed. The daemon ignores what caused it."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pong:
    pass


Reply = Welcome | Ack | Busy | Resync | Refused | Pong


def _position(pair: Sequence[Any]) -> Position:
    epoch, seq = pair
    if not (_is_count(epoch) and _is_count(seq)):
        raise ValueError(f"position {pair!r:.40}")
    return Position(epoch, seq)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= INTEGER_MAX


def _exceptions(header: dict[str, Any], last: Position) -> list[tuple[int, str, str]]:
    """One a record, of records up to `last`."""
    found = {seq: (seq, status, _text(reason)) for seq, status, reason in header["exceptions"]}
    for seq, status, _ in found.values():
        if not (_is_count(seq) and 0 < seq <= last.seq and status in (DUPLICATE, REJECTED)):
            raise ValueError(f"exception {seq!r:.40} {status!r:.40}")
    return list(found.values())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text {value!r:.40}")
    return value


def _limits(header: dict[str, Any]) -> Limits:
    limits = [header["limits"][field] for field in Limits._fields]
    if not all(_is_count(limit) and limit > 0 for limit in limits):
        raise ValueError(f"limits {limits!r:.80}")
    return Limits(*limits)


def decode_reply(frames: Sequence[bytes]) -> Reply:
    """Raises ProtocolError for anything that is not a message of the daemon."""
    try:
        header = msgpack.unpackb(frames[0], strict_map_key=True)
        kind = header["kind"]
        if kind in ("ack", "welcome"):
            last = _position(header["last"])
            exceptions = _exceptions(header, last)
            return Ack(last, exceptions) if kind == "ack" else Welcome(last, exceptions, _limits(header))
        if kind == "busy":
            pause = header["retry_after_ms"]
            if not _is_count(pause):
                raise ValueError(f"retry_after_ms {pause!r:.40}")
            return Busy(_text(header["reason"]), pause / 1000)
        if kind == "resync":
            return Resync(None if header["last"] is None else _position(header["last"]))
        if kind == "refused":
            return Refused(_text(header["code"]), _text(header["reason"]))
        if kind == "pong":
            return Pong()
    except (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the daemon sent a message that is not protocol {PROTOCOL}: {error!r}") from error
    raise ProtocolError(f"the daemon sent a message of unknown kind {kind!r:.40}: it is newer than this client")


def welcome(last: Position, exceptions: Sequence[tuple[int, str, str]], limits: Limits) -> list[bytes]:
    return [
        _pack(
            {
                "kind": "welcome",
                "protocol": PROTOCOL,
                "last": last,
                "exceptions": exceptions,
                "limits": limits._asdict(),
            }
        )
    ]


def ack(last: Position, exceptions: Sequence[tuple[int, str, str]]) -> list[bytes]:
    return [_pack({"kind": "ack", "last": last, "exceptions": exceptions})]


def busy(reason: str, retry_after: float) -> list[bytes]:
    return [_pack({"kind": "busy", "reason": reason, "retry_after_ms": round(retry_after * 1000)})]


def resync(last: Position | None) -> list[bytes]:
    return [_pack({"kind": "resync", "last": last})]


def refused(code: str, reason: str) -> list[bytes]:
    return [_pack({"kind": "refused", "code": code, "reason": reason})]


def pong() -> list[bytes]:
    return [_pack({"kind": "pong"})]

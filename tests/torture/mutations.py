"""Bytes and msgpack messages, changed as broken and hostile peers change them."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgpack

NASTY_TEXTS = [
    "", "\0", "\x1b[2J\x1b]0;owned\x07", "\x9b2J", "a\n[2026-01-01 00:00:00] EVENT: forged",
    "../../etc/passwd", "/etc/passwd", "..", ".", "-rf", "CON", "a/b", "a\\b", "a\x7fb", "\u202egpj.exe",
    "\ufeff", "\u2028", "e\u0301" * 40, "１", "Ⅷ", "ﬁ", "%s%n%x", "{0.__class__}", "${jndi:ldap://x}",
    "$(reboot)", "`reboot`", "; DROP TABLE events; --", "' OR '1'='1", "\"'); DELETE FROM events; --",
    "x' UNION SELECT * FROM sqlite_schema --", "NULL", "NaN", "true", "0x10", "1e999", "a" * 128, "a" * 129,
    "a" * 256, "a" * 257, "門" * 256, "😀" * 300, "x" * 70_000, "event", "hello", "records", "ping", "telemetry",
    "person", "amendment", "observation", "unlocked", "2026-02-30T10:00:00.000Z", "0001-01-01T00:00:00.000Z",
    "9999-12-31T23:59:59.999Z", "2026-11-20T10:00:00.000Z", "1970-01-01T00:00:00.000Z",
    "stored", "duplicate", "rejected",
]  # fmt: skip
NASTY_NUMBERS = [
    0, 1, -1, 2, 63, 64, 65, 255, 256, 999, 1_000, 1_001, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**53, 2**62, 2**63 - 1_001, 2**63 - 1_000, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63), 0.0, -0.0,
    0.5, 1.0, 1.0000001, -0.1, 1e9, 1.1e9, 1e300, 5e-324, float("nan"), float("inf"), -float("inf"),
]  # fmt: skip
LYING_HEADS = [
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdc\xff\xff",
    b"\xde\xff\xff", b"\xc9\x7f\xff\xff\xff\x01", b"\xdd\x00\x0f\xff\xff", b"\xc1", b"\x9f", b"\x8f", b"\xbf",
    b"\xda\x7f\xff",
]  # fmt: skip
"""Containers and texts that claim more than follows."""
NASTY = [
    *(msgpack.packb(text) for text in NASTY_TEXTS),
    *(msgpack.packb(number) for number in NASTY_NUMBERS),
    *LYING_HEADS,
    *(
        msgpack.packb(value)
        for value in (
            None, True, False, b"", b"\0" * 4, b"\0\0\xc0\x7f", b"x" * 16_384, [], {}, [[]], [0] * 100, [1, 2],
            [1, 2, 3], {"": 0}, {str(n): n for n in range(40)}, [["person", 0.5]] * 1_001, [["person", 0.5, [0,
            0, 0, 0]]], msgpack.Timestamp(0, 1), msgpack.ExtType(5, b"x"),
        )
    ),
    b"\xff\xff" * 8, b"\xa4\xff\xfe\xfd\xfc", b"\xa3\xed\xa0\x80", b"\x91" * 2_000, b"\x81\xa1a" * 2_000, b"\xd9\x05ab",
]  # fmt: skip


class Slot(NamedTuple):
    """Where a msgpack value is in its frame: the head `start:body`, the whole `start:end`; `count` of a container."""

    start: int
    body: int
    end: int
    kind: str
    count: int


_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZED = {0xC4: (1, "bin"), 0xC5: (2, "bin"), 0xC6: (4, "bin"), 0xD9: (1, "str"), 0xDA: (2, "str"), 0xDB: (4, "str")}
_COUNTED = {0xDC: (2, "array"), 0xDD: (4, "array"), 0xDE: (2, "map"), 0xDF: (4, "map")}


def slots(data: bytes) -> list[Slot]:
    """All values of a well-formed frame, the outer ones first."""
    found: list[Slot] = []

    def walk(at: int) -> int:
        tag = data[at]
        index = len(found)
        found.append(Slot(at, at + 1, at + 1, "", 0))
        body, count, kind = at + 1, 0, "scalar"
        if tag in _FIXED:
            end = at + 1 + _FIXED[tag]
        elif 0xA0 <= tag <= 0xBF:
            kind, end = "str", at + 1 + (tag & 31)
        elif tag in _SIZED:
            size, kind = _SIZED[tag]
            body = at + 1 + size
            end = body + int.from_bytes(data[at + 1 : body], "big")
        elif 0x80 <= tag <= 0x9F or tag in _COUNTED:
            if tag in _COUNTED:
                size, kind = _COUNTED[tag]
                body = at + 1 + size
                count = int.from_bytes(data[at + 1 : body], "big")
            else:
                kind, count = ("map" if tag < 0x90 else "array"), tag & 15
            end = body
            for _ in range(count * (2 if kind == "map" else 1)):
                end = walk(end)
        else:
            end = at + 1
        found[index] = Slot(at, body, end, kind, count)
        return end

    assert walk(0) == len(data)
    return found


def _head(kind: str, count: int) -> bytes:
    return struct.pack(">BI", {"map": 0xDF, "array": 0xDD, "str": 0xDB, "bin": 0xC6}[kind], count)


class Mutator:
    """`corpus` are well-formed msgpack frames to take parts of."""

    def __init__(self, choose: random.Random, corpus: Sequence[bytes]) -> None:
        self._choose = choose
        self._corpus = list(corpus)
        self._slots: dict[bytes, list[Slot]] = {}

    def _slots_of(self, data: bytes) -> list[Slot]:
        known = self._slots.get(data)
        if known is None:
            if len(self._slots) > 1_000:
                self._slots.clear()
            known = self._slots[data] = slots(data)
        return known

    def any(self, data: bytes) -> bytes:
        """Aware of the structure mostly, blind now and then; `data` has to be well-formed."""
        return self.blind(data) if self._choose.random() < 0.25 else self.aware(data)

    def aware(self, data: bytes) -> bytes:
        choose = self._choose
        slot = choose.choice(self._slots_of(data))
        what = choose.random()
        if what < 0.45:  # another value, of the worst kind
            return data[: slot.start] + choose.choice(NASTY) + data[slot.end :]
        if what < 0.65:  # the value of another message, or another of this one
            other = choose.choice(self._corpus)
            part = choose.choice(self._slots_of(other))
            return data[: slot.start] + other[part.start : part.end] + data[slot.end :]
        if what < 0.8 and slot.kind in ("map", "array", "str", "bin"):  # a lie about how long it is
            length = slot.count if slot.kind in ("map", "array") else slot.end - slot.body
            told = choose.choice([0, 1, max(0, length - 1), length + 1, length * 2, 255, 65_536, 2**31, 2**32 - 1])
            return data[: slot.start] + _head(slot.kind, told) + data[slot.body :]
        if slot.kind == "map" and slot.count:  # a key twice, or one that nobody knows
            pair = data[slot.body : slot.end] if slot.count < 3 else self._pair(data, slot)
            if what > 0.95:
                pair = msgpack.packb(choose.choice(NASTY_TEXTS)) + choose.choice(NASTY)
            added = slot.count if pair == data[slot.body : slot.end] else 1
            head = _head("map", slot.count + added)
            return data[: slot.start] + head + data[slot.body : slot.end] + pair + data[slot.end :]
        if slot.kind == "array" and slot.count:  # many of it
            times = choose.choice([2, 3, 70, 300])
            body = data[slot.body : slot.end]
            return data[: slot.start] + _head("array", slot.count * times) + body * times + data[slot.end :]
        return data[: slot.start] + data[slot.end :]

    def _pair(self, data: bytes, slot: Slot) -> bytes:
        inner = [s for s in self._slots_of(data) if slot.body <= s.start and s.end <= slot.end]
        at, direct = slot.body, []
        for part in inner:
            if part.start == at:
                direct.append(part)
                at = part.end
        key = self._choose.randrange(len(direct) // 2) * 2
        value = self._choose.choice(NASTY) if self._choose.random() < 0.5 else b""
        key_bytes = data[direct[key].start : direct[key].end]
        return key_bytes + (value or data[direct[key + 1].start : direct[key + 1].end])

    def blind(self, data: bytes) -> bytes:
        """Knows nothing of what it changes."""
        choose = self._choose
        changed = bytearray(data)
        for _ in range(choose.choice([1, 1, 1, 2, 4, 16])):
            at = choose.randrange(len(changed) + 1)
            what = choose.randrange(6)
            if what == 0 and at < len(changed):
                changed[at] ^= 1 << choose.randrange(8)
            elif what == 1:
                del changed[at:]
            elif what == 2:
                changed[at:at] = choose.randbytes(choose.choice([1, 2, 4, 33]))
            elif what == 3:
                del changed[at : at + choose.choice([1, 2, 4, 33])]
            elif what == 4:
                other = choose.choice(self._corpus)
                changed[at:] = other[choose.randrange(len(other)) :]
            elif at < len(changed):
                changed[at] = choose.choice([0, 0x7F, 0x80, 0xC0, 0xC1, 0xFF])
        return bytes(changed)

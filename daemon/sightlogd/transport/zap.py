"""Who may come in by tcp: the answer to libzmq's question (ZAP 1.0). No I/O.

A request is (version, request id, domain, address, routing id, mechanism, credentials …), a reply (version, request id,
status, text, user id, metadata). 200 lets in, 400 tells the client that it may not, 500 that we cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from zmq.utils import z85

ENDPOINT: Final = "inproc://zeromq.zap.01"
DOMAIN: Final = b"sightlog"
_VERSION: Final = b"1.0"
_KEY_BYTES: Final = 32


class Verdict(NamedTuple):
    reply: list[bytes]
    name: str | None
    """Whose key it is; None when it does not come in."""
    reason: str
    """Why it does not."""


def decide(request: Sequence[bytes], allowed: Mapping[str, str] | None) -> Verdict:
    """`allowed` has names by public key; None when it cannot be read, and nobody comes in."""
    if len(request) != 7 or request[0] != _VERSION:
        return _verdict(request, b"500", None, f"a request of {len(request)} frames that is not ZAP 1.0")
    _, _, domain, address, _, mechanism, credential = request
    peer = address.decode(errors="replace")
    if allowed is None:
        return _verdict(request, b"500", None, f"cannot check the key of {peer}")
    if (domain, mechanism, len(credential)) != (DOMAIN, b"CURVE", _KEY_BYTES):
        return _verdict(request, b"400", None, f"{peer} came without a key")
    key = z85.encode(credential).decode()
    if (name := allowed.get(key)) is None:
        why = f"refused a producer at {peer}: its key is not allowed. To let it in: sightlogd keys allow NAME '{key}'"
        return _verdict(request, b"400", None, why)
    return _verdict(request, b"200", name, "")


def _verdict(request: Sequence[bytes], status: bytes, name: str | None, reason: str) -> Verdict:
    request_id = request[1] if len(request) > 1 else b""
    text = b"OK" if name is not None else b"not allowed"
    return Verdict([_VERSION, request_id, status, text, (name or "").encode(), b""], name, reason)

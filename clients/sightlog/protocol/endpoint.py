"""Where the daemon listens."""

from __future__ import annotations

import ipaddress
import os
from typing import Final

from sightlog.errors import UsageError

DEFAULT_ENDPOINT: Final = "ipc:///run/sightlog/ingest.sock"
IPC_PATH_BYTES_MAX: Final = 107
"""sizeof(sun_path) - 1 on Linux."""


def default_endpoint() -> str:
    """`SIGHTLOG_ENDPOINT`, or the installed service's socket."""
    return os.environ.get("SIGHTLOG_ENDPOINT") or DEFAULT_ENDPOINT


def check_endpoint(endpoint: str) -> str:
    """Raises UsageError for an endpoint that ZeroMQ could only fail on later."""
    transport, separator, address = endpoint.partition("://")
    if not separator or transport not in ("ipc", "tcp") or not address or "\0" in address:
        raise UsageError(f"endpoint {endpoint!r}: expected ipc:///path/to/socket or tcp://host:port")
    if transport == "ipc" and len(os.fsencode(address)) > IPC_PATH_BYTES_MAX:
        raise UsageError(
            f"endpoint {endpoint!r}: a socket's path has {IPC_PATH_BYTES_MAX} bytes at most; use a shorter directory"
        )
    host, _, port = address.rpartition(":")
    if transport == "tcp" and not (
        host and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65_536
    ):
        raise UsageError(f"endpoint {endpoint!r}: expected tcp://host:port with a port from 1 to 65535")
    return endpoint


def is_loopback(endpoint: str) -> bool:
    """Whether a tcp endpoint is surely this machine. A name other than localhost may be anybody's."""
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

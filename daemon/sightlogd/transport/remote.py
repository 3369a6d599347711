"""The door for producers on other machines: tcp with CURVE, open to allowed keys alone."""

from __future__ import annotations

import errno
import os
from typing import Final

import structlog
import zmq

from sightlog.protocol.limits import FRAME_BYTES_MAX
from sightlogd.config import Config
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, Stop
from sightlogd.logs import Warnings

from . import zap
from .accepting import Gate
from .keys import Keys
from .local import bind, listening, make_router

log = structlog.get_logger()

SILENCE_MS: Final = 30_000
"""A peer that acknowledges nothing for this long is gone."""
PROBE_SECONDS: Final = 10
CURVE_BYTES: Final = 33
"""What CURVE adds to a frame: its command's name, a nonce, flags, and a code that authenticates it."""


class Remote:
    """`router` has the producers, `gate` those who wait, `handler` libzmq's questions about them: call `answer` when it
    is readable.

    All are others after `open`. Raises Stop.
    """

    def __init__(self, endpoint: str, keys: Keys, warn: Warnings) -> None:
        if not zmq.has("curve"):
            raise Stop(EXIT_CONFIG, "[remote] listen: this libzmq was built without CURVE. Install pyzmq from PyPI")
        self.endpoint = endpoint
        self._keys = keys
        self._warn = warn
        pair = keys.server_pair()
        if zmq.curve_public(pair.secret.encode()) != pair.public.encode():
            raise Stop(EXIT_CONFIG, "the two keys of the daemon are not a pair. Restore its server.key_secret")
        self._secret = pair.secret.encode()
        self.open()
        log.info("listening for other machines", endpoint=endpoint, allowed=len(keys.listed().names))

    def open(self) -> None:
        # A context of its own: only its end tells that the port is free again. And the handler, one a context, has
        # nothing to say about local producers.
        self._context = zmq.Context()
        self.gate: Gate | None = None
        self.handler = self._context.socket(zmq.REP)
        self.handler.setsockopt(zmq.LINGER, 0)
        self.handler.bind(zap.ENDPOINT)
        self.router = make_router(self._context)
        # What is counted is what comes in, before it is decrypted.
        self.router.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX + CURVE_BYTES)
        self.router.setsockopt(zmq.CURVE_SERVER, 1)
        self.router.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        self.router.setsockopt(zmq.ZAP_DOMAIN, zap.DOMAIN)
        self.router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, and without an answer, anybody comes in
        self.router.setsockopt(zmq.TCP_MAXRT, SILENCE_MS)
        self.router.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self.router.setsockopt(zmq.TCP_KEEPALIVE_IDLE, SILENCE_MS // 1000)
        self.router.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_SECONDS)
        try:
            self.gate = bind(self.router, self.endpoint, Gate(listening(self.endpoint)))
        except (OSError, zmq.ZMQError) as error:
            self.close(linger=0)
            if error.errno == errno.EAFNOSUPPORT:
                raise Stop(
                    EXIT_CONFIG,
                    f"cannot listen on {self.endpoint}: the service may use no network. Install "
                    "sightlogd.service.d/tcp.conf, which opens it",
                ) from error
            # Not the configuration's fault for good: at boot the network may come later, and a start anew helps.
            raise Stop(
                EXIT_PERMISSION if error.errno == errno.EACCES else EXIT_IO_ERROR,
                f"cannot listen on {self.endpoint}: {error.strerror}. Is it an address of this machine, and is the "
                "port free?",
            ) from error

    def answer(self) -> None:
        """All questions that are there. The list is read for each: a key that was revoked a moment ago is out."""
        while int(self.handler.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            request = self.handler.recv_multipart(zmq.NOBLOCK)
            allowed = None
            try:
                allowed, unreadable = self._keys.allowed()
                if unreadable:
                    self._warn("keys", f"cannot use a key file: {unreadable[0]} ({len(unreadable)} such)")
            except OSError as error:
                self._warn("keys", f"cannot read the allowed keys in {self._keys.directory}: {error}")
            verdict = zap.decide(request, allowed)
            if verdict.name is None:
                self._warn("refused key", verdict.reason)
            else:
                log.info("let a producer in", key=verdict.name, address=request[3].decode(errors="replace"))
            self.handler.send_multipart(verdict.reply, zmq.NOBLOCK)

    def close(self, linger: int | None = None) -> None:
        self.router.close(linger)
        if self.gate is not None:
            self.gate.close()
        self.handler.close()
        self._context.term()


def open_remote(config: Config, warn: Warnings) -> Remote | None:
    """None when no other machine may connect. Raises Stop."""
    if not config.remote.listen:
        return None
    return Remote(config.remote.listen, Keys(config.keys_dir, os.environ.get("CREDENTIALS_DIRECTORY")), warn)


def make_pair() -> tuple[str, str]:
    """(public, secret)."""
    if not zmq.has("curve"):
        raise Stop(EXIT_CONFIG, "this libzmq was built without CURVE. Install pyzmq from PyPI")
    while True:
        public, secret = zmq.curve_keypair()
        if not public.startswith(b"-"):  # a command would take it for an option
            return public.decode(), secret.decode()

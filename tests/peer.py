"""A producer that speaks the protocol by hand, and may break every rule of it."""

from __future__ import annotations

import uuid

import zmq
from conftest import Daemon

from sightlog.protocol import messages
from sightlog.protocol.messages import Position


class Peer:
    """Speaks the protocol by hand."""

    def __init__(self, daemon: Daemon) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 10_000)
        self.socket.connect(daemon.endpoint)
        self.producer_id = str(uuid.uuid4())
        self.seq = 1

    def ask(self, frames: list[bytes]) -> messages.Reply:
        self.socket.send_multipart(frames)
        return messages.decode_reply(self.socket.recv_multipart())

    def hello(self) -> messages.Reply:
        return self.ask(messages.hello(self.producer_id, "peer", 1, Position(1, 1)))

    def send(self, *packed: bytes) -> messages.Ack:
        reply = self.ask(messages.records(Position(1, self.seq), packed, [b""] * len(packed), flush=True))
        assert isinstance(reply, messages.Ack)
        self.seq += len(packed)
        assert reply.last == (1, self.seq - 1)
        return reply

    def close(self) -> None:
        self.socket.close()
        self.context.term()

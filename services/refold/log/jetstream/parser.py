"""The wire protocol as nats-py's client takes it, scanned by whole socket reads.

Put in the place of nats-py's own parser by `refold.log.jetstream.client` alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import orjson
from nats.errors import ProtocolError

RawHandler: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with subject, reply, header block and payload, all as the broker sent them. Must not raise."""


class Delivery(NamedTuple):
    """One message for nats-py."""

    sid: int
    subject: bytes
    reply: bytes
    payload: bytes
    headers: bytes | None


class Receiver(Protocol):
    """What the parser hands on to: the client."""

    async def deliver(self, delivery: Delivery) -> None:
        """Take a message of a subscription that is not raw."""

    async def obey(self, operation: bytes, argument: bytes) -> None:
        """Take any other line of the protocol."""


class WireParser:
    """Keeps what is not whole yet; messages of raw subscriptions never leave the scanning loop."""

    def __init__(self, receiver: Receiver) -> None:
        """Start on a fresh connection."""
        self._receiver = receiver
        self.raw: dict[bytes, RawHandler] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what the old connection left behind; called by nats-py when it reconnects."""
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = 0
        self._era = object()

    async def parse(self, data: bytes = b"") -> None:
        """Take one socket read."""
        self._parts.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._needed_bytes:
            return
        buffer = b"".join(self._parts) if len(self._parts) > 1 else data
        era = self._era
        position = 0
        while True:
            position, hand_on = self._scan(buffer, position)
            if hand_on is None:
                break
            await hand_on
            if self._era is not era:
                return
        rest = buffer[position:]
        self._parts = [rest] if rest else []
        self._held_bytes = len(rest)
        self._needed_bytes -= position

    def _scan(self, buffer: bytes, position: int) -> tuple[int, Awaitable[None] | None]:
        """Go on until the buffer ends or nats-py is to act; return where that was."""
        find = buffer.find
        raw = self.raw
        while True:
            end = find(b"\r\n", position)
            if end < 0:
                self._needed_bytes = 0
                return position, None
            words = buffer[position:end].split(b" ")
            operation = words[0]
            body = end + 2
            if operation == b"HMSG":
                payload = body + int(words[-2])
            elif operation == b"MSG":
                payload = body
            else:
                argument = buffer[position + len(operation) + 1 : end]
                return body, self._receiver.obey(operation, argument)
            stop = body + int(words[-1])
            if stop + 2 > len(buffer):
                self._needed_bytes = stop + 2
                return position, None
            position = stop + 2
            subject = words[1]
            reply = words[3] if len(words) == (6 if operation == b"HMSG" else 5) else b""
            handler = raw.get(words[2])
            if handler is None:
                ...

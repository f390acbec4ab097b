"""The broker's wire protocol, scanned by whole socket reads; raw subscriptions never leave the loop.

Stands in the place of nats-py's own parser; used by `refold.log.jetstream.client` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from nats.errors import ProtocolError

RawHandler: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with subject, reply, header block and payload, as the broker sent them. It must not raise."""

RunHandler: TypeAlias = Callable[[bytes, int], int]
"""Called with what has come and where a message of its subscription begins: takes as many as follow whole and in
the form that it knows, and returns where it stopped. It must not raise."""

LINE_BYTES_MAX: Final = 256 * 1024
"""A line of the protocol; the longest is the broker's INFO."""


class Receiver(Protocol):
    """Who takes what is not raw."""

    async def take_message(
        self, sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        """Take a message of an ordinary subscription."""

    async def take_operation(self, operation: bytes, argument: bytes) -> None:
        """Take any other line of the protocol."""


class WireParser:
    """Hands messages on, and keeps what has not come whole."""

    def __init__(self, receiver: Receiver) -> None:
        """Start on a fresh connection, with no raw subscription."""
        self._receiver = receiver
        self.raw: dict[bytes, RawHandler] = {}
        self.runs: dict[bytes, RunHandler] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what an old connection left behind; nats-py calls it when it reconnects."""
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = 0
        self._connection = object()

    async def parse(self, data: bytes = b"") -> None:
        """Take one socket read. Raises `ProtocolError`."""
        self._parts.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._needed_bytes:
            return
        buffer = b"".join(self._parts) if len(self._parts) > 1 else data
        connection = self._connection
        try:
            rest, needed_bytes = await self._scan(buffer, connection)
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        if len(rest) > LINE_BYTES_MAX and not needed_bytes:
            raise ProtocolError
        if self._connection is connection:
            self._parts, self._held_bytes, self._needed_bytes = [rest], len(rest), needed_bytes

    async def _scan(self, buffer: bytes, connection: object) -> tuple[bytes, int]:
        """Hand on all that is whole; return the rest, and how many bytes it takes to go on where that is known."""
        find, raw, length = buffer.find, self.raw, len(buffer)
        position = 0
        while (end := find(b"\r\n", position)) >= 0:
            words = buffer[position:end].split(b" ")
            if words[0] in {b"MSG", b"HMSG"}:
                subject, sid, reply, headers_size, size = _message(words)
            else:
                await self._receiver.take_operation(words[0], buffer[position + len(words[0]) + 1 : end])
                if self._connection is not connection:
                    break
                position = end + 2
                continue
            take_run = self.runs.get(sid)
            if take_run is not None and (after := take_run(buffer, position)) > position:
                position = after
                continue
            payload, stop = end + 2 + int(headers_size), end + 2 + int(size)
            if stop + 2 > length:
                return buffer[position:], stop + 2 - position
            position = stop + 2
            handler = raw.get(sid)
            if handler is not None:
                handler(subject, reply, buffer[end + 2 : payload], buffer[payload:stop])
                continue
            headers = buffer[end + 2 : payload]
            await self._receiver.take_message(int(sid), subject, reply, headers, buffer[payload:stop])
            if self._connection is not connection:
                break
        return buffer[position:], 0


def _message(words: list[bytes]) -> list[bytes]:
    """Read subject, sid, reply, headers' size and whole size; reply or headers may be missing."""
    if words[0] == b"MSG":
        words = [*words[:-1], b"0", words[-1]]
    if len(words) == 5:
        words = [*words[:3], b"", *words[3:]]
    return words[1:]

"""The NATS protocol without a client library: the least that publishing can cost. Used by the measurements.

Fills logs, publishes at a rate, and is the baseline for Refold's appender and any client.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self, cast
from urllib.parse import unquote, urlsplit

import orjson

from refold.bench.workload import NAMESPACE, Event
from refold.core.errors import LogUnavailable
from refold.telemetry.tracing import SpanContext
from refold.wiring.servers import inbox_of

IN_FLIGHT_MAX: Final = 8
CONNECT_SECONDS: Final = 10

Handler = Callable[[bytes, bytes], None]
"""Called with subject and payload of each message, and with nothing in either once the connection is lost."""


class Parcel(NamedTuple):
    """Frames ready to be written, and how many events they carry."""

    frames: bytes
    events: int


class Wire(asyncio.Protocol):
    """One bare connection that handles messages, pings and errors."""

    def __init__(self, handle: Handler) -> None:
        """Use `connect`."""
        self._handle = handle
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: str = ""

    @classmethod
    async def connect(cls, url: str, handle: Handler) -> Self:
        """Connect as the URL's user. Raises `LogUnavailable`."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, wire = await loop.create_connection(
                    lambda: cls(handle), parts.hostname or "127.0.0.1", parts.port or 4222
                )
                await wire.greet(parts.username, parts.password)
        except (OSError, TimeoutError) as error:
            raise LogUnavailable("no connection to the broker", reason=str(error)) from error
        return wire

    async def greet(self, user: str | None, password: str | None) -> None:
        """Send CONNECT and wait until the broker accepts it."""
        options: dict[str, object] = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
        }
        if user:
            options |= {"user": unquote(user), "pass": unquote(password or "")}
        self.write(b"CONNECT %b\r\nPING\r\n" % orjson.dumps(options))
        await self._connected

    def subscribe(self, subject: str) -> None:
        """Subscribe the handler to a subject."""
        self.write(b"SUB %b 1\r\n" % subject.encode())

    def write(self, frames: bytes) -> None:
        """Put whole commands on the wire."""
        assert self._transport is not None
        self._transport.write(frames)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse complete commands from the buffer."""
        buffer, at = self._buffer + data, 0
        while (end := buffer.find(b"\r\n", at)) >= 0:
            line = buffer[at:end]
            if line[:4] in {b"MSG ", b"HMSG"}:
                words = line.split(b" ")
                begin, size = end + 2, int(words[-1])
                if len(buffer) < begin + size + 2:
                    break
                head = int(words[-2]) if words[0] == b"HMSG" else 0
                self._handle(words[1], buffer[begin + head : begin + size])
                at = begin + size + 2
            else:
                self._take_line(line)
                at = end + 2
        self._buffer = buffer[at:]

    def connection_lost(self, _: Exception | None) -> None:
        """Record the error that ended it."""
        self.error = self.error or "the broker ended the connection"
        self._refuse()
        self._handle(b"", b"")

    def _take_line(self, line: bytes) -> None:
        if line == b"PING":
            self.write(b"PONG\r\n")
        elif line == b"PONG" and not self._connected.done():
            self._connected.set_result(None)
        elif line.startswith(b"-ERR"):
            self.error = line.decode(errors="replace")
            self._refuse()

    def _refuse(self) -> None:
        if not self._connected.done():
            self._connected.set_exception(OSError(self.error))


class BatchPublisher:
    """Publishes atomic batches, a few in flight; counts what the broker has acknowledged."""

    def __init__(self, inbox: str) -> None:
        """Use `connect`."""
        self._inbox = inbox
        self._wire: Wire
        self._in_flight: dict[bytes, int] = {}
        self._moved = asyncio.Event()
        self._refusal = ""
        self.acknowledged = 0

    @classmethod
    async def connect(cls, url: str, token: str) -> Self:
        """Connect; `token` distinguishes this publisher's batches from others."""
        publisher = cls(f"{inbox_of(url)}.{token}")
        await publisher.open(url)
        return publisher

    async def open(self, url: str) -> None:
        """Connect and listen to the broker's answers."""
        self._wire = await Wire.connect(url, self._take)
        self._wire.subscribe(f"{self._inbox}.*")

    def parcel(self, number: int, events: Sequence[Event], traced_share: float = 0.0) -> Parcel:
        """Write a batch's frames; the broker answers for the last event, or for one that it refuses.

        A share of the events have a sampled trace context.
        """
        batch = f"{self._inbox.rpartition('.')[2]}-{number}".encode()
        frames, last = [], len(events)
        for place, event in enumerate(events, 1):
            lines = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n" % (batch, place)
            reply = ""
            if random.random() < traced_share:
                lines += SpanContext.root().header_lines
            if place == last:
                lines, reply = lines + b"Nats-Batch-Commit: 1\r\n", f"{self._inbox}.{number}"
            frames.append(frame(event, reply=reply, lines=lines))
        return Parcel(b"".join(frames), last)

    async def send(self, number: int, parcel: Parcel) -> None:
        """Put a batch on the wire once few enough are in flight. Raises `LogUnavailable`."""
        await self._until(lambda: len(self._in_flight) < IN_FLIGHT_MAX)
        self._in_flight[b"%d" % number] = parcel.events
        self._wire.write(parcel.frames)

    async def drain(self) -> None:
        """Wait for all acknowledgements. Raises `LogUnavailable`."""
        await self._until(lambda: not self._in_flight)

    def close(self) -> None:
        """End the connection."""
        self._wire.close()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            if self._refusal or self._wire.error:
                raise LogUnavailable("a batch was refused", reason=self._refusal or self._wire.error)
            self._moved.clear()
            await self._moved.wait()

    def _take(self, subject: bytes, payload: bytes) -> None:
        self._moved.set()
        if not subject:
            return
        events = self._in_flight.pop(subject.rpartition(b".")[2], 0)
        answer = orjson.loads(payload) if payload else {}
        if "error" in answer or not answer:
            self._refusal = payload.decode(errors="replace") or "no responders"
        else:
            self.acknowledged += events


def frame(event: Event, *, reply: str = "", lines: bytes = b"") -> bytes:
    """Return the frame of one event; `lines` are headers, each ending in CRLF."""
    subject, answer, size = f"state.{NAMESPACE}.{event.document}", reply, len(event.body)
    if not lines:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), answer.encode(), size, event.body)
    block = b"NATS/1.0\r\n%b\r\n" % lines
    sizes = b"%d %d" % (len(block), len(block) + size)
    return b"HPUB %b %b %b\r\n%b%b\r\n" % (subject.encode(), answer.encode(), sizes, block, event.body)

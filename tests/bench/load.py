"""Send HTTP load: a number of requests in flight, or a fixed number a second.

The client is as small as possible (kept connections, whole responses), so that the server is measured and not the
client. Used by the measurements.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

from refold.core.errors import ServiceUnavailable

LEAD_SECONDS: Final = 0.05
_LENGTH: Final = b"\r\ncontent-length:"

Prepared = Callable[[], Awaitable[None]]
"""Awaited when all connections are open, before the first request."""


class Response(NamedTuple):
    """Status, the head's bytes with names in lower case, and the body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> str:
        """Return a header's value, empty if it is absent."""
        _, found, rest = self.head.partition(b"\r\n%b:" % name)
        return rest.partition(b"\r\n")[0].strip().decode() if found else ""

    def raise_for_status(self) -> None:
        """Raise `ServiceUnavailable` unless the status is 200."""
        if self.status != 200:
            raise ServiceUnavailable(f"answered {self.status}", body=self.body[:200])


class Loaded(NamedTuple):
    """Milliseconds of each request, the responses that were kept, and how long all of it took."""

    milliseconds: list[float]
    responses: dict[int, Response]
    seconds: float


async def keep_in_flight(
    url: str,
    requests: Iterator[tuple[int, bytes]],
    in_flight: int,
    *,
    seconds: float | None = None,
    kept: int = 0,
    prepared: Prepared | None = None,
) -> Loaded:
    """Send numbered requests over `in_flight` connections until they or the time run out.

    Responses numbered below `kept` are returned. Raises `ServiceUnavailable` for a status other than 200.
    """
    milliseconds: list[float] = []
    responses: dict[int, Response] = {}

    async def client(connection: HttpConnection) -> None:
        for number, request in requests:
            started_at = time.perf_counter()
            response = await connection.send(request)
            milliseconds.append((time.perf_counter() - started_at) * 1_000)
            response.raise_for_status()
            if number < kept:
                responses[number] = response
            if seconds is not None and started_at - started >= seconds:
                return

    connections = [await HttpConnection.open(url) for _ in range(in_flight)]
    try:
        if prepared is not None:
            await prepared()
        started = time.perf_counter()
        await asyncio.gather(*map(client, connections))
        return Loaded(milliseconds, responses, time.perf_counter() - started)
    finally:
        for connection in connections:
            connection.close()


async def send_at_rate(
    url: str, requests: Sequence[bytes], rate: float, connections: int, *, prepared: Prepared | None = None
) -> list[float]:
    """Send each request when it is due and return the milliseconds from that instant to its response.

    A request that is due while all connections are busy waits, and its wait counts. Raises `ServiceUnavailable`.
    """
    milliseconds: list[float] = []
    due: asyncio.Queue[int] = asyncio.Queue()

    async def client(connection: HttpConnection) -> None:
        while True:
            number = await due.get()
            (await connection.send(requests[number])).raise_for_status()
            milliseconds.append(pace.late_milliseconds(number))
            due.task_done()

    opened = [await HttpConnection.open(url) for _ in range(connections)]
    try:
        if prepared is not None:
            await prepared()
        pace = Pace(rate=rate, count=len(requests))
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(client(connection)) for connection in opened]
            await pace.keep(due.put_nowait)
            await due.join()
            for task in clients:
                task.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    finally:
        for connection in opened:
            connection.close()
    return milliseconds


class Pace:
    """`count` instants, `rate` a second. Latency is counted from the instant, not from the sending."""

    def __init__(self, *, rate: float, count: int) -> None:
        """Begin `LEAD_SECONDS` from now."""
        self._rate = rate
        self._count = count
        self._begun = time.perf_counter() + LEAD_SECONDS

    async def keep(self, due: Callable[[int], None]) -> None:
        """Call `due` with each instant's number; late ones immediately, none left out.

        A thread waits, because the event loop's timers have a resolution of one millisecond.
        """
        await asyncio.to_thread(self._beat, asyncio.get_running_loop(), due)

    def late_milliseconds(self, number: int) -> float:
        """Return how long ago an instant was."""
        return (time.perf_counter() - self.due(number)) * 1_000

    def _beat(self, loop: asyncio.AbstractEventLoop, due: Callable[[int], None]) -> None:
        for number in range(self._count):
            wait_seconds = self.due(number) - time.perf_counter()
            if wait_seconds > 0:
                time.sleep(wait_seconds)
            loop.call_soon_threadsafe(due, number)

    def due(self, number: int) -> float:
        """Return an instant, by `time.perf_counter`."""
        return self._begun + number / self._rate


class HttpConnection(asyncio.Protocol):
    """One kept connection that carries one request at a time."""

    def __init__(self) -> None:
        """Use `open`."""
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._response: asyncio.Future[Response] | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect. Raises `ServiceUnavailable`."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(cls, parts.hostname or "127.0.0.1", parts.port or 80)
        except OSError as error:
            raise ServiceUnavailable(f"no connection: {error}", url=url) from error
        return made

    def send(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request; the future holds the whole response."""
        assert self._transport is not None
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._response

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Complete the future once the whole response has arrived."""
        buffer = self._buffer = self._buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or self._response is None:
            return
        status, head = int(buffer[9:12]), buffer[: end + 2].lower()
        _, found, rest = head.partition(_LENGTH)
        if not found:
            self._fail("a response without a length")
            return
        whole = end + 4 + int(rest.partition(b"\r\n")[0])
        if len(buffer) >= whole:
            self._buffer = buffer[whole:]
            response, self._response = self._response, None
            response.set_result(Response(status, head, buffer[end + 4 : whole]))

    def connection_lost(self, _: Exception | None) -> None:
        """Fail the request that waits."""
        self._fail("the connection was lost")

    def _fail(self, why: str) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(ServiceUnavailable(why))


def get_request(url: str, path: str) -> bytes:
    """Return the bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()


def patch_request(url: str, path: str, patch: bytes) -> bytes:
    """Return the bytes of a PATCH with a JSON Patch."""
    head = f"PATCH {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json-patch+json\r\n"
    return b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(patch), patch)

"""The least of an HTTP client: kept connections, whole answers, nothing else. For loading a server, never for users.

Its tasks run in `refold.bench.worker`; what it costs itself is measured against a static answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

import orjson

from refold.bench.signals import Signals
from refold.bench.workload import COUNTER
from refold.core.errors import ServiceUnavailable

ANSWER_SECONDS: Final = 60
_LENGTH: Final = b"\r\ncontent-length:"
_BODILESS: Final = frozenset({204, 304})


class Answer(NamedTuple):
    """Status, the head's bytes with names in lower case, and the body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> str:
        """Return a header's value; empty where there is none."""
        _, found, rest = self.head.partition(b"\r\n%b:" % name)
        return rest.partition(b"\r\n")[0].strip().decode() if found else ""


class HttpConnection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        """Use `open`."""
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None

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

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the answer comes whole."""
        assert self._transport is not None
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._transport.write(request)
        return answer

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Give the answer to who asked, once all of it is there."""
        buffer = self._buffer = self._buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        status, head = int(buffer[9:12]), buffer[: end + 2].lower()
        _, found, rest = head.partition(_LENGTH)
        if not found and status not in _BODILESS:
            self._fail("an answer without a length")
            return
        whole = end + 4 + (int(rest.partition(b"\r\n")[0]) if found else 0)
        if len(buffer) >= whole:
            self._buffer = buffer[whole:]
            answer, self._answer = self._answer, None
            answer.set_result(Answer(status, head, buffer[end + 4 : whole]))

    def connection_lost(self, _: Exception | None) -> None:
        """Whoever waits learns of it."""
        self._fail("the connection was lost")

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ServiceUnavailable(why))


def get_request(url: str, path: str) -> bytes:
    """Write a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()


def patch_request(url: str, path: str, patch: bytes) -> bytes:
    """Write a PATCH by a JSON Patch."""
    head = f"PATCH {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json-patch+json\r\n"
    return b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(patch), patch)


async def read_each(signals: Signals, *, url: str, paths: Sequence[str], in_flight: int) -> dict[str, Any]:
    """Read every path once, in order; return what each state and its headers said. A task."""
    requests = [get_request(url, path) for path in paths]
    taken, answers, seconds = await _load(signals, url, enumerate(requests), in_flight, len(paths), None)
    told = [_told(answers[number]) for number in range(len(paths))]
    return {"milliseconds": taken, "seconds": seconds, "answers": told}


async def read_for(
    signals: Signals, *, url: str, paths: Sequence[str], in_flight: int, seconds: float
) -> dict[str, Any]:
    """Read the paths round and round for a time; every answer must be a 200. A task."""
    requests = enumerate(cycle([get_request(url, path) for path in paths]))
    taken, _, passed = await _load(signals, url, requests, in_flight, 0, seconds)
    return {"milliseconds": taken, "seconds": passed}


async def _load(
    signals: Signals,
    url: str,
    requests: Iterator[tuple[int, bytes]],
    in_flight: int,
    kept: int,
    seconds: float | None,
) -> tuple[list[float], dict[int, Answer], float]:
    """Keep `in_flight` requests on their way; keep the first `kept` answers."""
    taken: list[float] = []
    answers: dict[int, Answer] = {}

    async def client(connection: HttpConnection) -> None:
        for number, request in requests:
            begun = time.perf_counter()
            answer = await connection.ask(request)
            taken.append((time.perf_counter() - begun) * 1_000)
            if number < kept:
                answers[number] = answer
            elif answer.status != 200:
                raise ServiceUnavailable(f"answered {answer.status}", body=answer.body[:200])
            if seconds is not None and begun - started >= seconds:
                return

    connections = [await HttpConnection.open(url) for _ in range(in_flight)]
    try:
        await signals.until_go()
        started = time.perf_counter()
        await asyncio.gather(*map(client, connections))
        return taken, answers, time.perf_counter() - started
    finally:
        for connection in connections:
            connection.close()


def _told(answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        raise ServiceUnavailable(f"answered {answer.status}", body=answer.body[:200])
    return {
        "version": int(answer.header(b"refold-version")),
        "recorded_at": answer.header(b"refold-recorded-at").upper(),
        "counter": orjson.loads(answer.body)[COUNTER],
    }

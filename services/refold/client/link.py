"""A subscription's messages, over connections that are replaced when they end. For `refold.client.watch`.

Where a proxy buffers or cuts streams, the messages are polled for. The endpoints are those of `schemas/openapi.yaml`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from refold.client.connection import EventStream
from refold.client.transport import Transport, parse_json, random_share, retry_after_seconds
from refold.core import json_text
from refold.core.errors import RefoldError, Refused, ServiceUnavailable, TimedOut
from refold.core.json_text import Json

PAUSE_SECONDS_MIN: Final = 0.5
PAUSE_SECONDS_MAX: Final = 30.0
"""Before the next try to connect: a random time, whose bound doubles with every try that failed.

The shortest is an answer's `Retry-After` where that is longer than the first.
"""

FIRST_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 45.0
"""A stream sends something at once, then `alive` every 15 s. After so much silence its connection is given up."""

SHORT_SECONDS: Final = 1.0
SHORT_STREAMS_MAX: Final = 3
POLLING_SECONDS: Final = 300.0
"""After so many streams in a row that ended early, or one that began with silence, poll for five minutes."""

POLL_SECONDS: Final = 25.0
"""A poll waits for messages for so long at most, and for half of the client's timeout."""

T = TypeVar("T")


class Received(NamedTuple):
    """A message, and the cursor after it."""

    message: dict[str, Any]
    cursor: str


class Link:
    """Messages of one subscription. The next connection resumes at `cursor`; its owner moves it on."""

    def __init__(
        self, transport: Transport, path: str, query: Callable[[int | None], dict[str, Json]], cursor: str
    ) -> None:
        """Connect on first use. `query` returns a request's query, with the number after which it begins.

        That number is a cursor of digits. An empty one begins with what is there now.
        """
        transport.check_open()
        self.cursor = cursor
        self._transport = transport
        self._path = path
        self._query = query
        self._stream: EventStream | None = None
        self._opened_at = 0.0
        self._polled: deque[Received] = deque()
        self._polls_until = 0.0
        self._short_streams = 0
        self._pause_seconds = PAUSE_SECONDS_MIN

    async def next(self) -> Received | None:
        """Return the next message; None once the client is closed. Raises what permanently refuses it."""
        while received := await self.retrying(self._receive):
            self._pause_seconds = PAUSE_SECONDS_MIN
            message = received.message
            match message["kind"]:
                case "bye":
                    self.close()
                    await self._sleep(float(message["retry_seconds"]))
                case "error":
                    raise Refused(message["code"], message["detail"])
                case "alive":
                    self.cursor = received.cursor
                case _:
                    return received
        return None

    async def retrying(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """Return what a call returns, once the service answers; None once the client is closed."""
        while not self._transport.closed.is_set():
            try:
                return await call()
            except (ServiceUnavailable, TimedOut) as error:
                await self.recover(error)
        return None

    async def recover(self, error: RefoldError) -> None:
        """Drop the connection and wait. Raises the error where the service was never reached."""
        stream, now = self._stream, asyncio.get_running_loop().time()
        self.close()
        if not self._transport.was_reached:
            raise error
        if stream is not None:
            self._short_streams = self._short_streams + 1 if now - self._opened_at < SHORT_SECONDS else 0
        is_silent = isinstance(error, TimedOut) and not (stream and stream.has_begun)
        if now >= self._polls_until and (is_silent or self._short_streams >= SHORT_STREAMS_MAX):
            self._short_streams = 0
            self._polls_until = now + POLLING_SECONDS
        self._pause_seconds = min(2 * self._pause_seconds, PAUSE_SECONDS_MAX)
        shortest = max(PAUSE_SECONDS_MIN, retry_after_seconds(error) or 0.0)
        await self._sleep(shortest + random_share() * (self._pause_seconds - PAUSE_SECONDS_MIN))

    def close(self) -> None:
        """Close the connection."""
        self._polled.clear()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def _sleep(self, seconds: float) -> None:
        """Wait; the end of the client ends it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._transport.closed.wait()

    async def _receive(self) -> Received:
        if not self._polled and asyncio.get_running_loop().time() < self._polls_until:
            await self._poll()
        if self._polled:
            return self._polled.popleft()
        if self._stream is None:
            self._stream = await self._open()
        event = await self._stream.next()
        if event is None:
            raise ServiceUnavailable("the stream has ended")
        message = json_text.object_in(event.data)
        if "kind" not in message:
            raise ServiceUnavailable("the stream has no message of Refold", shape=repr(event.data[:80]))
        return Received(message, event.id or self.cursor)

    async def _open(self) -> EventStream:
        query, headers = self._resumed()
        self._opened_at = asyncio.get_running_loop().time()
        return await self._transport.stream(
            "GET",
            self._path,
            query=query,
            headers=headers,
            first_seconds=FIRST_SECONDS,
            silence_seconds=SILENCE_SECONDS,
        )

    async def _poll(self) -> None:
        """Hold the messages that come after the cursor."""
        loop = asyncio.get_running_loop()
        asked_at, wait_seconds = loop.time(), min(POLL_SECONDS, self._transport.timeout_seconds / 2)
        query, headers = self._resumed()
        answer = await self._transport.request(
            "GET",
            self._path,
            query={**query, "wait": wait_seconds},
            headers={"Accept": "application/json", **headers},
        )
        found: dict[str, Any] = parse_json(answer)
        messages = found["messages"] or [{"kind": "alive"}]
        # Their cursor is that after the last: at the one before, those that come first come again.
        self._polled.extend(Received(message, self.cursor) for message in messages[:-1])
        self._polled.append(Received(messages[-1], found["cursor"]))
        if not found["messages"] and loop.time() - asked_at < wait_seconds / 2:
            raise ServiceUnavailable("a poll was answered early, with nothing")

    def _resumed(self) -> tuple[dict[str, Json], dict[str, str]]:
        """Return the query and the headers of a request that resumes at the cursor."""
        if self.cursor.isdecimal():
            return self._query(int(self.cursor)), {}
        return self._query(None), {"Last-Event-ID": self.cursor} if self.cursor else {}

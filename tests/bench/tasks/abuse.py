"""Clients that cost more than they read: stopped, slow, and those that connect endlessly. Tasks for `bench.worker`."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from typing import Any, Final
from urllib.parse import urlsplit

from bench.signals import Signals
from support.subscribers import Subscriber, Subscribers, stream_request

RECEIVE_BYTES: Final = 4_096
"""What the kernel holds for a client that does not read: on another machine it is not the gateway's."""

TICK_SECONDS: Final = 0.1


class Holder(Subscriber):
    """Opens a stream, and then reads everything, or nothing by itself."""

    __slots__ = ("_path",)

    def __init__(self, number: int, path: str, *, is_reading: bool) -> None:
        super().__init__(number)
        self._path = path
        self.is_reading = is_reading

    def request(self) -> bytes:
        """Return the request."""
        return stream_request(self._path)

    def take(self, data: bytes, now: float) -> None:  # noqa: ARG002
        """Note that it has begun."""
        self.is_begun = True


class Caller(Subscriber):
    """Opens a stream, leaves it after the first event or a refusal, and opens the next."""

    __slots__ = ("_next", "answers")

    def __init__(self, number: int, next_request: Callable[[], bytes], answers: dict[str, int]) -> None:
        super().__init__(number)
        self._next = next_request
        self.answers = answers

    def request(self) -> bytes:
        """Return the next request."""
        return self._next()

    def take(self, data: bytes, now: float) -> None:  # noqa: ARG002
        """Leave after the first event."""
        at = data.find(b"event: ")
        kind = data[at + 7 : data.find(b"\n", at)].decode() if at >= 0 else data[9:12].decode()
        if at >= 0 or (data.startswith(b"HTTP/") and kind != "200"):
            self.is_begun = True
            self.answers[kind] = self.answers.get(kind, 0) + 1
            assert self.socket is not None
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def lost(self) -> float:
        """Return at once."""
        return 0.0


async def hold_streams(
    signals: Signals, *, url: str, paths: list[str], first: int, count: int, bytes_per_second: int | None
) -> dict[str, Any]:
    """Open streams until `stop`; each reads everything, or so much a second, 0 for nothing."""
    is_reading = bytes_per_second is None
    holders = [
        Holder(number, paths[number % len(paths)], is_reading=is_reading)
        for number in range(first, first + count)
    ]
    streams = Subscribers(_address(url), holders, receive_bytes=0 if is_reading else RECEIVE_BYTES)
    begun_at = time.perf_counter()
    try:
        await asyncio.to_thread(streams.run, lambda: streams.is_begun or signals.is_stopped)
        seconds = time.perf_counter() - begun_at
        reading = asyncio.create_task(asyncio.to_thread(streams.run, lambda: signals.is_stopped))
        await signals.until_go()
        while not signals.is_stopped:
            await asyncio.sleep(TICK_SECONDS)
            if bytes_per_second:
                _read_some(holders, int(bytes_per_second * TICK_SECONDS))
        await reading
    finally:
        streams.close()
    return {"seconds": seconds}


def _read_some(holders: list[Holder], size: int) -> None:
    for holder in holders:
        if holder.socket is not None:
            with suppress(OSError):
                holder.bytes_received += len(holder.socket.recv(size))


async def call_endlessly(
    signals: Signals, *, url: str, paths: list[str], cursors: list[str], first: int, count: int
) -> dict[str, Any]:
    """Open streams, so many at a time, and leave each at its first event, until `stop`; return how often, by answer.

    The cursors are taken in turn.
    """
    requests = cycle([stream_request(paths[0], cursor=cursor) for cursor in cursors or [""]])
    answers: dict[str, int] = {}
    callers = [Caller(number, requests.__next__, answers) for number in range(first, first + count)]
    streams = Subscribers(_address(url), callers)
    await signals.until_go()
    try:
        await asyncio.to_thread(streams.run, lambda: signals.is_stopped)
    finally:
        streams.close()
    return answers


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80

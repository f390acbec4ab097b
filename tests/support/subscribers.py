"""Thousands of subscribers in one thread: bare sockets and epoll, so that the server is measured and not the client.

Used by the measurements of live streams, and by the commands that kill servers under subscribers.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from heapq import heappop, heappush
from typing import Final

IN_FLIGHT_MAX: Final = 200
"""Connections that are open and have no message yet."""

RECEIVED_BYTES: Final = 65_536
LOOK_SECONDS: Final = 0.05
CONNECT_SECONDS: Final = 5.0
PER_ADDRESS: Final = 200
"""A gateway admits so many of one address; the clients of this host take several addresses."""


class Subscriber:
    """One connection. Subclasses say what it sends, what they make of what comes, and whether it returns.

    `is_begun`: it has got its first message. `is_reading`: if not, nothing is read once it has begun.
    """

    __slots__ = ("bytes_received", "is_begun", "is_reading", "number", "socket")

    def __init__(self, number: int) -> None:
        self.number = number
        self.socket: socket.socket | None = None
        self.is_begun = False
        self.is_reading = True
        self.bytes_received = 0

    def request(self) -> bytes:
        """Return what is sent at each connect."""
        raise NotImplementedError

    def take(self, data: bytes, now: float) -> None:
        """Take what came; `now` is of `time.perf_counter`."""
        raise NotImplementedError

    def lost(self) -> float | None:
        """Return in how many seconds it returns after the end of a connection; None: never."""
        return None


class Subscribers:
    """Their connections. Everything happens in `run`, which one thread calls."""

    def __init__(
        self, address: tuple[str, int], subscribers: Sequence[Subscriber], *, receive_bytes: int = 0
    ) -> None:
        """Prepare them; `receive_bytes` is what the kernel is to hold for one, if given."""
        self.address = address
        self.ended = 0
        self._receive_bytes = receive_bytes
        self._by_descriptor: dict[int, Subscriber] = {}
        self._poll = select.epoll()
        self._due: list[tuple[float, int, Subscriber]] = []
        self._waiting: deque[Subscriber] = deque(subscribers)
        self._count = len(subscribers)
        self._in_flight: set[Subscriber] = set()

    @property
    def is_begun(self) -> bool:
        """Whether all have got their first message on a connection that is open."""
        return len(self._by_descriptor) == self._count and not self._in_flight

    def run(self, is_over: Callable[[], bool]) -> None:
        """Open connections, and read, until a condition holds; it is looked at between two turns."""
        found, receive = self._by_descriptor, socket.socket.recv
        while not is_over():
            self._open_some()
            for descriptor, _ in self._poll.poll(LOOK_SECONDS):
                subscriber = found[descriptor]
                try:
                    data = receive(subscriber.socket, RECEIVED_BYTES)  # type: ignore[arg-type]  # It is open.
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._end(subscriber)
                    continue
                subscriber.bytes_received += len(data)
                subscriber.take(data, time.perf_counter())
                if self._in_flight:
                    self._note_begun(subscriber)

    def close(self) -> None:
        """Close all connections."""
        for subscriber in list(self._by_descriptor.values()):
            self._forget(subscriber)
        self._poll.close()

    def _open_some(self) -> None:
        now = time.perf_counter()
        while self._due and self._due[0][0] <= now:
            self._waiting.append(heappop(self._due)[2])
        while self._waiting and len(self._in_flight) < IN_FLIGHT_MAX:
            subscriber = self._waiting.popleft()
            subscriber.is_begun = False
            try:
                self._connect(subscriber)
            except OSError:
                self._return(subscriber)

    def _connect(self, subscriber: Subscriber) -> None:
        made = socket.socket()
        try:
            if self._receive_bytes:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
            made.settimeout(CONNECT_SECONDS)
            made.bind((address_of(subscriber.number), 0))
            made.connect(self.address)
            made.sendall(subscriber.request())
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        subscriber.socket = made
        self._by_descriptor[made.fileno()] = subscriber
        self._in_flight.add(subscriber)
        self._poll.register(made, select.EPOLLIN)

    def _note_begun(self, subscriber: Subscriber) -> None:
        if subscriber.is_begun and subscriber in self._in_flight:
            self._in_flight.discard(subscriber)
            if not subscriber.is_reading:
                self._poll.unregister(subscriber.socket)  # type: ignore[arg-type]  # It is open.

    def _end(self, subscriber: Subscriber) -> None:
        self.ended += 1
        self._forget(subscriber)
        self._return(subscriber)

    def _return(self, subscriber: Subscriber) -> None:
        seconds = subscriber.lost()
        if seconds is not None:
            heappush(self._due, (time.perf_counter() + seconds, subscriber.number, subscriber))

    def _forget(self, subscriber: Subscriber) -> None:
        made, subscriber.socket = subscriber.socket, None
        assert made is not None
        self._in_flight.discard(subscriber)
        del self._by_descriptor[made.fileno()]
        with suppress(OSError):
            self._poll.unregister(made)
        made.close()


def address_of(number: int) -> str:
    """Return the loopback address from which the subscriber of a number connects."""
    high, low = divmod(number // PER_ADDRESS, 250)
    return f"127.1.{high}.{low + 1}"


def stream_request(path: str, *, cursor: str = "") -> bytes:
    """Return the request of a stream of server-sent events; `cursor` is where it continues."""
    last = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{last}\r\n".encode()


@asynccontextmanager
async def reading(subscribers: Subscribers) -> AsyncIterator[None]:
    """Let the subscribers read, in a thread, as long as the block runs."""
    is_over: list[bool] = []
    task = asyncio.create_task(asyncio.to_thread(subscribers.run, lambda: bool(is_over or task.done())))
    try:
        yield
    finally:
        is_over.append(True)
        await task
        subscribers.close()

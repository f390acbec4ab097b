"""Subscribers that note when they have read which version. A task for `bench.worker`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from bench.signals import Signals
from refold.core.errors import ServiceUnavailable
from support.subscribers import Subscriber, Subscribers, stream_request

END: Final = b"\n\n\r\n"
"""The end of an event and of its chunk."""

NAME: Final = b'"version":'
VERSION: Final = re.compile(b'"version":([0-9]+)')


class Reached:
    """How many subscribers have the last version."""

    def __init__(self, last_version: int) -> None:
        self.last_version = last_version
        self.count = 0


class Reader(Subscriber):
    """Notes its newest version each time that events have come whole. No text in them may look like a version."""

    __slots__ = (
        "_is_kept",
        "_path",
        "_reached",
        "_rest",
        "events",
        "last_at",
        "times",
        "version",
        "versions",
    )

    def __init__(self, number: int, path: str, reached: Reached, *, is_kept: bool) -> None:
        super().__init__(number)
        self.version = self.events = 0
        self.last_at = 0.0
        self.times: list[float] = []
        self.versions: list[int] = []
        self._path = path
        self._reached = reached
        self._is_kept = is_kept
        self._rest = b""

    def request(self) -> bytes:
        """Return the request."""
        return stream_request(self._path)

    def take(self, data: bytes, now: float) -> None:
        """Note the version."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if not data.endswith(END):
            self._rest = data
            if data.startswith(b"HTTP/") and not data.startswith(b"HTTP/1.1 200"):
                raise ServiceUnavailable("a stream was refused", answer=data[:300].decode())
            return
        found = VERSION.match(data, max(0, data.rfind(NAME)))
        if found is not None:
            self._note(int(found[1]), data.count(NAME), now)

    def _note(self, version: int, events: int, now: float) -> None:
        self.version, self.is_begun = version, True
        self.events += events
        if self._is_kept:
            self.times.append(now)
            self.versions.append(version)
        if version >= self._reached.last_version and not self.last_at:
            self.last_at = now
            self._reached.count += 1

    def lost(self) -> None:
        """Fail: no stream ends by itself."""
        raise ServiceUnavailable("a stream has ended", subscriber=self.number, version=self.version)

    def result(self) -> dict[str, Any]:
        """Return what it noted."""
        noted = {"events": self.events, "bytes": self.bytes_received, "last_at": self.last_at}
        return {**noted, "times": self.times, "versions": self.versions} if self._is_kept else noted


class PeerReader(Reader):
    """The same for a document of ShareDB, over a WebSocket."""

    __slots__ = ()

    def request(self) -> bytes:
        """Return the request to upgrade, and the messages after it."""
        return SHAREDB_REQUEST

    def take(self, data: bytes, now: float) -> None:
        """Note the version of the last operation."""
        data, at, events, version = self._rest + data, 0, 0, 0
        if data.startswith(b"HTTP/1.1 101"):
            at = data.find(b"\r\n\r\n") + 4
        while len(data) >= at + 4:
            short = data[at + 1]
            begin = at + (2 if short < 126 else 4)
            end = begin + (short if short < 126 else int.from_bytes(data[at + 2 : begin]))
            if len(data) < end:
                break
            found = SHAREDB_VERSION.search(data, begin, end)
            if found is not None:
                is_operation = data.startswith(b'{"a":"op"', begin)
                version, events = int(found[1]) + is_operation, events + is_operation
            at = end
        self._rest = data[at:]
        if version:
            self._note(version, events, now)


def _masked(text: bytes) -> bytes:
    """Return the frame of a short message, with a mask that changes nothing."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


SHAREDB_VERSION: Final = re.compile(b'"v":([0-9]+)')
SHAREDB_REQUEST: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    + _masked(b'{"a":"hs","id":null,"protocol":1,"protocolMinor":2}')
    + _masked(b'{"a":"s","c":"docs","d":"wide"}')
)


async def read_streams(
    signals: Signals,
    *,
    url: str,
    paths: Sequence[str],
    first: int,
    count: int,
    last_version: int,
    is_kept: bool,
    is_peer: bool = False,
) -> list[dict[str, Any]]:
    """Open streams, and read until all have the last version, or `stop`; `is_kept`: return when each version came.

    The subscriber of a number, from `first` on, watches the path of that number, again from the first one after the
    last. `is_peer`: the server is ShareDB.
    """
    reached, parts = Reached(last_version), urlsplit(url)
    readers = [
        (PeerReader if is_peer else Reader)(number, paths[number % len(paths)], reached, is_kept=is_kept)
        for number in range(first, first + count)
    ]
    streams = Subscribers((parts.hostname or "127.0.0.1", parts.port or 80), readers)
    try:
        await asyncio.to_thread(streams.run, lambda: streams.is_begun or signals.is_stopped)
        for reader in readers:
            reader.bytes_received = reader.events = 0
            reader.times.clear()
            reader.versions.clear()
        reading = asyncio.create_task(
            asyncio.to_thread(streams.run, lambda: reached.count == count or signals.is_stopped)
        )
        await signals.until_go()
        await reading
    finally:
        streams.close()
    return [reader.result() for reader in readers]

"""Reads a stream of server-sent events from a socket, byte by byte as it was sent. Independent of the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import orjson

SECONDS = 20


class Event(NamedTuple):
    """One event: its type, the message, the cursor after it, and `retry` in milliseconds where it says so."""

    kind: str
    message: Any
    cursor: str | None
    retry: int | None


class Events:
    """A stream's head, and its events one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._text = b""
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.retry = 0

    async def begin(self) -> None:
        """Read the head and, of a stream, the first event, which says how soon to return."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.headers = dict(line.split(": ", 1) for line in head[1:-2])
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            first = await self._event()
            assert first is not None
            assert list(first) == ["retry"], first
            self.retry = int(first["retry"])

    async def next(self, *kinds: str) -> Event:
        """Return the next event, of these kinds or, without any, of all but `alive`."""
        while True:
            fields = await self._event()
            assert fields is not None, "the stream has ended"
            message = orjson.loads(fields["data"])
            assert fields["event"] == message["kind"]
            if fields["event"] in kinds or (not kinds and fields["event"] != "alive"):
                retry = fields.get("retry")
                return Event(fields["event"], message, fields.get("id"), retry and int(retry))

    async def until(self, version: int) -> list[Event]:
        """Return the events up to the one that brings a version."""
        events = [await self.next()]
        while events[-1].message.get("version", 0) < version:
            events.append(await self.next())
        return events

    async def ended(self) -> bool:
        """Tell whether nothing follows."""
        return await self._event() is None

    async def _event(self) -> dict[str, str] | None:
        async with asyncio.timeout(SECONDS):
            while b"\n\n" not in self._text:
                if not await self._read():
                    assert not self._text
                    return None
        event, _, self._text = self._text.partition(b"\n\n")
        assert b"\r" not in event
        return dict(line.split(": ", 1) for line in event.decode().split("\n"))

    async def _read(self) -> bool:
        if "content-length" in self.headers:
            some = await self._reader.read(65_536)
            self._text += some
            return bool(some)
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        self._text += (await self._reader.readexactly(size + 2))[:-2]
        return size > 0


@asynccontextmanager
async def events(url: str, path: str, query: Any = None, **headers: str) -> AsyncIterator[Events]:
    """Open a stream; a header is given as `Last_Event_ID`."""
    host, port = urlsplit(url).netloc.split(":")
    target = f"{path}?{urlencode(query)}" if query else path
    given = {"Host": f"{host}:{port}", "Accept": "text/event-stream", "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write("\r\n".join(lines).encode())
        made = Events(reader, writer)
        async with asyncio.timeout(SECONDS):
            await made.begin()
        yield made
    finally:
        writer.transport.abort()

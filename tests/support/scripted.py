"""A server whose every answer is a script of the test: it can write any bytes, wait, and cut anywhere.

For tests of clients that follow a stream, where the faults of a network cannot be had from a real server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import orjson

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Asked(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


Write = Callable[[bytes], Awaitable[None]]
Script = Callable[[Asked, Write], Awaitable[None]]


async def never(_asked: Asked, _write: Write) -> None:
    """Answer nothing."""
    await asyncio.Event().wait()


@dataclass
class Scripted:
    """Answers each request by the next script, else by `otherwise`, and closes the connection."""

    url: str = ""
    otherwise: Script = never
    asked: list[Asked] = field(default_factory=list)
    scripts: deque[bytes | Script] = field(default_factory=deque)
    closed: int = 0
    """Connections that the client has closed before their script ended."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def add(self, *scripts: bytes | Script) -> None:
        """Answer the next requests by these bytes, or by what these functions write."""
        self.scripts.extend(scripts)

    async def until_asked(self) -> None:
        """Wait for a request."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.asked)

    async def until_closed(self, count: int) -> None:
        """Wait until the client has closed so many connections."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed >= count)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split()
            split = urlsplit(target)
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            async with self.changed:
                self.asked.append(Asked(method, split.path, query, headers))
                self.changed.notify_all()
            script = self.scripts.popleft() if self.scripts else self.otherwise
            writing = asyncio.ensure_future(_write(writer, script, self.asked[-1]))
            ended = asyncio.ensure_future(reader.read())
            await asyncio.wait({writing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                async with self.changed:
                    self.closed += 1
                    self.changed.notify_all()
            for task in (writing, ended):
                task.cancel()
            await asyncio.gather(writing, ended, return_exceptions=True)
        finally:
            writer.close()


async def _write(writer: asyncio.StreamWriter, script: bytes | Script, asked: Asked) -> None:
    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    if isinstance(script, bytes):
        await write(script)
    else:
        await script(asked, write)


@asynccontextmanager
async def scripted_server() -> AsyncIterator[Scripted]:
    """Run one on a free port."""
    made = Scripted()
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made


def then_wait(data: bytes) -> Script:
    """Write, and keep the connection."""

    async def script(asked: Asked, write: Write) -> None:
        await write(data)
        await never(asked, write)

    return script


def event(message: dict[str, Any], cursor: str = "") -> bytes:
    """Return a live message as the gateway sends it."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (
        message["kind"].encode(),
        cursor.encode(),
        orjson.dumps(message),
    )


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked answer."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*pieces: bytes) -> bytes:
    """Return a streamed answer that has not ended, one chunk a piece."""
    return STREAM_HEAD + b"".join(chunk(piece) for piece in pieces)


def problem(status: int, code: str) -> bytes:
    """Return an answer that is an error."""
    body = orjson.dumps(
        {"type": f"urn:refold:problem:{code}", "code": code, "status": status, "detail": code}
    )
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def json_answer(value: Any) -> bytes:
    """Return a JSON answer."""
    body = orjson.dumps(value)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )

"""One HTTP/1.1 connection to a gateway: a request, and its answer whole or as a stream. For `refold.client` only.

There is no HTTP library below it: DECISIONS.md has the measurements.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from refold.core.errors import Refused, ServiceUnavailable, TimedOut

CONNECT_SECONDS: Final = 5.0
HEAD_BYTES_MAX: Final = 1024 * 1024
PIECE_BYTES: Final = 256 * 1024
"""A large body is sent in pieces, so that other connections get their turn between them."""

EVENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""One server-sent event: several times a state's bound."""

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: |$)")
_NO_TEXT: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Answer(NamedTuple):
    """A gateway's answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ServerEvent(NamedTuple):
    """One server-sent event: its `event`, `id` and `data` fields, empty where it has none."""

    kind: str
    id: str
    data: bytes


class Connection:
    """A connection that is opened when it is needed: one request and its answer at a time."""

    _reader: asyncio.StreamReader
    _silence: asyncio.Timeout

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url = url
        self._timeout_seconds = timeout_seconds
        self._writer: asyncio.StreamWriter | None = None

    def is_open(self) -> bool:
        return self._writer is not None and not (self._reader.at_eof() or self._writer.is_closing())

    async def open(self, address: Address) -> None:
        self.close()
        async with asyncio.timeout(CONNECT_SECONDS):
            self._reader, self._writer = await asyncio.open_connection(
                address.host, address.port, ssl=address.is_secure or None, limit=HEAD_BYTES_MAX
            )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def exchange(self, head: bytes, body: bytes) -> Answer:
        """Send a request and read its answer, which may come before a large body is sent."""
        assert self._writer is not None
        is_kept, sending = False, None
        try:
            async with asyncio.timeout(self._timeout_seconds) as self._silence:
                if len(body) <= PIECE_BYTES:
                    self._writer.write(head + body)
                else:
                    self._writer.write(head)
                    sending = asyncio.create_task(self._send(self._writer, body))
                is_newest, status, headers = await self._read_head()
                content, is_delimited = await self._read_body(status, headers)
                is_kept = is_newest and is_delimited and headers.get("connection", "").lower() != "close"
                return Answer(status, headers, content)
        except TimeoutError as error:
            raise self.silent() from error
        finally:
            if not is_kept or (sending and not sending.done()):
                self.close()
            if sending is not None:
                sending.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await sending

    async def begin(self, head: bytes, body: bytes) -> Answer:
        """Send a request and return its answer; the body of a success comes by `read_piece`."""
        assert self._writer is not None
        try:
            async with asyncio.timeout(self._timeout_seconds) as self._silence:
                self._writer.write(head + body)
                _, status, headers = await self._read_head()
                self._is_chunked, self._chunk_left = _is_chunked(headers), 0
                is_streamed = 200 <= status < 300
                content = b"" if is_streamed else (await self._read_body(status, headers))[0]
                return Answer(status, headers, content)
        except TimeoutError as error:
            raise self.silent() from error

    async def read_piece(self, seconds: float) -> bytes:
        """Return what has come of a body, at its end nothing. Raises `TimedOut` after so much silence."""
        try:
            async with asyncio.timeout(seconds):
                return await (self._read_of_chunk() if self._is_chunked else self._reader.read(PIECE_BYTES))
        except TimeoutError as error:
            raise self.silent() from error

    def silent(self) -> TimedOut:
        return TimedOut(f"{self.url} did not answer in time")

    def unavailable(self, error: Exception) -> ServiceUnavailable:
        if isinstance(error, ValueError):
            return not_a_gateway(self.url, _why(error))
        return ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}")

    async def _send(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            writer.write(body[start : start + PIECE_BYTES])
            await writer.drain()
            self._progress()

    def _progress(self) -> None:
        """Count the silence from now, unless it is over already."""
        if not self._silence.expired():
            self._silence.reschedule(asyncio.get_running_loop().time() + self._timeout_seconds)

    async def _read_head(self) -> tuple[bool, int, dict[str, str]]:
        """Read an answer's head: whether it is HTTP/1.1, its status and its headers."""
        is_newest, status = False, 100
        while status < 200:
            try:
                first, *lines = (await self._line(b"\r\n\r\n")).split(b"\r\n")
            except asyncio.IncompleteReadError as error:
                if not error.partial or error.partial.startswith(b"HTTP/"):
                    raise EOFError("the connection was closed before the answer ended") from error
                raise ValueError(f"no HTTP answer: {error.partial[:80]!r}") from error
            except asyncio.LimitOverrunError as error:
                raise ValueError("the answer's headers are too large") from error
            found = _STATUS.match(first)
            if found is None:
                raise ValueError(f"no HTTP answer: {first[:80]!r}")
            is_newest, status = found[1] == b"1", int(found[2])
        return is_newest, status, dict(_header(line) for line in lines)

    async def _read_body(self, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        """Read a body; return it, and whether it ended before the connection did."""
        if status in (204, 304):
            return b"", True
        if _is_chunked(headers):
            return await self._read_chunked(), True
        if "content-length" in headers:
            return await self._read(int(headers["content-length"])), True
        return await self._read(), False

    async def _read_of_chunk(self) -> bytes:
        if self._chunk_left == 0:
            self._chunk_left = int((await self._line()).partition(b";")[0], 16)
        if self._chunk_left == 0:
            return b""
        piece = await self._reader.read(min(self._chunk_left, PIECE_BYTES))
        if not piece:
            raise EOFError("the answer ended early")
        self._chunk_left -= len(piece)
        if self._chunk_left == 0:
            await self._line()
        return piece

    async def _line(self, end: bytes = b"\r\n") -> bytes:
        return (await self._reader.readuntil(end)).removesuffix(end)

    async def _read_chunked(self) -> bytes:
        pieces = []
        while size := int((await self._line()).partition(b";")[0], 16):
            pieces.append(await self._read(size))
            await self._line()
        while await self._line():
            pass
        return b"".join(pieces)

    async def _read(self, count: int | None = None) -> bytes:
        """Read this many bytes; without a count, to the end of the connection."""
        pieces, left = [], count
        while left is None or left > 0:
            piece = await self._reader.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES))
            if not piece and left is None:
                break
            if not piece:
                raise EOFError("the answer ended early")
            pieces.append(piece)
            left = None if left is None else left - len(piece)
            if left != 0:
                self._progress()
        return b"".join(pieces)


class EventStream:
    """Server-sent events from a connection of its own, which ends with it."""

    def __init__(self, connection: Connection, *, first_seconds: float, silence_seconds: float) -> None:
        """`first_seconds` bounds the wait for the first byte, `silence_seconds` the later silences."""
        self._connection = connection
        self._seconds = first_seconds
        self._silence_seconds = silence_seconds
        self._buffer = bytearray()
        self._searched = 0
        self.has_begun = False

    async def next(self) -> ServerEvent | None:
        """Return the next event, None at the end. Raises `TimedOut` and `ServiceUnavailable`."""
        while True:
            while (end := self._buffer.find(b"\n\n", self._searched)) >= 0:
                block = bytes(self._buffer[:end])
                del self._buffer[: end + 2]
                self._searched = 0
                if event := _read_event(block):
                    return event
            self._searched = max(0, len(self._buffer) - 1)
            try:
                if len(self._buffer) > EVENT_BYTES_MAX:
                    raise ValueError(f"an event has more than {EVENT_BYTES_MAX} bytes")
                piece = await self._connection.read_piece(self._seconds)
            except (OSError, EOFError, ValueError) as error:
                raise self._connection.unavailable(error) from error
            if not piece:
                return None
            self._buffer += piece
            self.has_begun, self._seconds = True, self._silence_seconds

    def close(self) -> None:
        """Close the connection; what waits for an event raises or returns None."""
        self._connection.close()


def _read_event(block: bytes) -> ServerEvent | None:
    """Read an event's lines; None where it has no data. Lines end with LF, as Refold sends them."""
    fields = {b"event": b"", b"id": b""}
    data: list[bytes] = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name in fields:
            fields[name] = value
    if not data:
        return None
    return ServerEvent(fields[b"event"].decode(), fields[b"id"].decode(), b"\n".join(data))


class Address(NamedTuple):
    """A gateway's address, and what each request says of it."""

    host: str
    port: int
    is_secure: bool
    path: str
    lines: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Split a URL. Raises `Refused`."""
        try:
            split = urlsplit(url)
            host = (split.hostname or "").encode("idna")
            if split.scheme not in {"http", "https"} or not host or b" " in host or split.port == 0:
                raise ValueError(url)
        except ValueError as error:
            rule = "an address is http:// or https://, a host and a port"
            raise Refused("bad_url", rule, field="url", shape=repr(url[:80])) from error
        lines = f"Host: {split.netloc.rpartition('@')[2].encode('idna').decode()}\r\n"
        if split.username:
            user = f"{unquote(split.username)}:{unquote(split.password or '')}"
            lines += f"Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n"
        is_secure = split.scheme == "https"
        port = split.port or (443 if is_secure else 80)
        return cls(split.hostname or "", port, is_secure, split.path, lines)

    def head(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """Return a request's head. Raises `Refused` for a header that HTTP cannot carry."""
        lines = [f"{name}: {_checked(name, value)}\r\n" for name, value in headers.items()]
        if body is not None or method in {"PUT", "POST", "PATCH"}:
            lines.append(f"Content-Length: {len(body or b'')}\r\n")
        return f"{method} {self.path}{target} HTTP/1.1\r\n{self.lines}{''.join(lines)}\r\n".encode()


def not_a_gateway(url: str, why: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"what answers at {url} is not a gateway of Refold: {why}")


def _is_chunked(headers: Mapping[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower() == "chunked"


def _checked(name: str, value: str) -> str:
    if found := _NO_TEXT.search(value):
        kind = "lone surrogates" if found[0] >= "\ud800" else "control characters"
        raise Refused("bad_header", f"a header holds no {kind}", field=name)
    return value


def _header(line: bytes) -> tuple[str, str]:
    name, _, value = line.partition(b":")
    return name.decode("latin-1").lower(), value.strip().decode("latin-1")


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error) or type(error).__name__

"""HTTP/1.1 to one gateway over asyncio streams: requests out, answers or errors of Refold's tree back.

Only `refold.client` may use it. There is no HTTP library below it: DECISIONS.md has the measurements.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

from refold.core import json_text
from refold.core.errors import (
    DocumentAbsent,
    RefoldError,
    Refused,
    ServiceUnavailable,
    TimedOut,
    VersionUnknown,
)
from refold.core.stream import check_document, check_name, path_segment

DEFAULT_URL: Final = "http://127.0.0.1:8080"

CONNECT_SECONDS: Final = 5.0
CONNECTIONS_MAX: Final = 64
HEAD_BYTES_MAX: Final = 1024 * 1024
PIECE_BYTES: Final = 256 * 1024
"""A large body is sent in pieces, so that other connections get their turn between them."""

RETRY_SECONDS: Final = 15.0
RETRY_PAUSE_SECONDS: Final = 0.1
RETRY_PAUSE_SECONDS_MAX: Final = 2.0
"""Unanswered writes are sent again for `RETRY_SECONDS`; the pause between two tries doubles up to the maximum."""

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: |$)")
_NO_TEXT: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Answer(NamedTuple):
    """A gateway's answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Backoff:
    """The time left for one write, and the growing pauses between its tries."""

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._pause_seconds = RETRY_PAUSE_SECONDS

    async def pause(self) -> bool:
        """Wait before the next try; return False at once if no time is left for one."""
        if asyncio.get_running_loop().time() + self._pause_seconds > self._deadline:
            return False
        await asyncio.sleep(self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, RETRY_PAUSE_SECONDS_MAX)
        return True


class Transport:
    """A pool of connections to one gateway."""

    def __init__(self, url: str, *, timeout_seconds: float, trace: Callable[[str], None] | None) -> None:
        """Connect on first use. `timeout_seconds` bounds the silence while an answer is awaited."""
        self.url = full_url(url)
        self.was_reached = False
        self._address: _Address | None = None
        self._trace = trace
        self._connections = [_Connection(self.url, timeout_seconds) for _ in range(CONNECTIONS_MAX)]
        # LIFO: the connection that was used last is used next.
        self._free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        for connection in self._connections:
            self._free.put_nowait(connection)

    async def request_retrying(self, backoff: Backoff, method: str, path: str, **options: Any) -> Answer:
        """Send a request, and send it again while it is not answered or the service fails (5xx).

        Only for what may arrive twice: a write that carries an id. A service that this client has never reached is
        not retried: its address may be wrong.
        """
        while True:
            try:
                return await self.request(method, path, **options)
            except (ServiceUnavailable, TimedOut):
                if not self.was_reached or not await backoff.pause():
                    raise

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        also: tuple[int, ...] = (),
    ) -> Answer:
        """Return the answer if its status is a success or in `also`; otherwise raise its error."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, quote_via=quote)}" if given else path
        address = self._address = self._address or _Address.of(self.url)
        answer = await self._exchange(address, address.head(method, target, headers or {}, body), body or b"")
        if self._trace is not None:
            self._trace(f"{method} {self.url}{target}: {answer.status}, {len(answer.body)} bytes")
        if 200 <= answer.status < 300 or answer.status in also:
            return answer
        raise read_error(answer.status, answer.body)

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()
        # Lets the event loop close the sockets.
        await asyncio.sleep(0)

    async def _exchange(self, address: _Address, head: bytes, body: bytes) -> Answer:
        connection = await self._free.get()
        try:
            if not connection.is_open():
                await connection.open(address)
            self.was_reached = True
            return await connection.exchange(head, body)
        except (OSError, EOFError, ValueError) as error:
            raise ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}") from error
        finally:
            self._free.put_nowait(connection)


class _Connection:
    """A connection that is opened when it is needed: one request and its answer at a time."""

    _reader: asyncio.StreamReader
    _silence: asyncio.Timeout

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._writer: asyncio.StreamWriter | None = None

    def is_open(self) -> bool:
        return self._writer is not None and not (self._reader.at_eof() or self._writer.is_closing())

    async def open(self, address: _Address) -> None:
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
                answer, is_kept = await self._answer()
                return answer
        except TimeoutError as error:
            raise TimedOut(f"{self._url} did not answer in time") from error
        finally:
            if not is_kept or (sending and not sending.done()):
                self.close()
            if sending is not None:
                sending.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await sending

    async def _send(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            writer.write(body[start : start + PIECE_BYTES])
            await writer.drain()
            self._progress()

    def _progress(self) -> None:
        """Count the silence from now, unless it is over already."""
        if not self._silence.expired():
            self._silence.reschedule(asyncio.get_running_loop().time() + self._timeout_seconds)

    async def _answer(self) -> tuple[Answer, bool]:
        """Read an answer; return it, and whether the service keeps the connection."""
        is_newest, status = False, 100
        while status < 200:
            first, *lines = (await self._read_head()).split(b"\r\n")
            found = _STATUS.match(first)
            if found is None:
                raise ValueError(f"no HTTP answer: {first[:80]!r}")
            is_newest, status = found[1] == b"1", int(found[2])
        headers = dict(_header(line) for line in lines)
        is_kept = is_newest and headers.get("connection", "").lower() != "close"
        if status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._read_chunked()
        elif "content-length" in headers:
            body = await self._read(int(headers["content-length"]))
        else:
            body, is_kept = await self._read(), False
        return Answer(status, headers, body), is_kept

    async def _read_head(self) -> bytes:
        try:
            return await self._line(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise ValueError("the answer's headers are too large") from error

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


def full_url(url: str) -> str:
    """Return a gateway's address with its scheme: `http://` if none is given."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def document_path(namespace: str, document: str, *rest: str) -> str:
    """Return the path of a document's resource. Raises `Refused` for an invalid name."""
    names = check_name(namespace, "namespace"), path_segment(check_document(document, "document"))
    return "/".join(["/v1", *names, *rest])


def namespace_path(namespace: str, *rest: str) -> str:
    """Return the path of a namespace's resource. Raises `Refused` for an invalid name."""
    return "/".join(["/v1", check_name(namespace, "namespace"), *rest])


def parse_json(answer: Answer) -> Any:
    """Parse an answer's body strictly."""
    return json_text.loads(answer.body)


def read_error(status: int, body: bytes) -> RefoldError:
    """Return the error that a problem document describes."""
    problem: dict[str, Any] = {}
    with suppress(Refused):
        parsed = json_text.loads(body)
        problem = parsed if isinstance(parsed, dict) else {}
    code, field, shape = (str(problem.get(name) or "") for name in ("code", "field", "shape"))
    detail = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    for kind in (VersionUnknown, DocumentAbsent):
        if status == 404 and code == kind.code:
            return kind(detail)
    if status in (408, 504):
        return TimedOut(detail)
    if status == 429 or status >= 500:
        return ServiceUnavailable(detail)
    # `Refused` adds field and shape to its text, which the detail contains already.
    rule = detail.removeprefix(f"{field}: ").removesuffix(f" (got {shape})")
    return Refused(code or f"http_{status}", rule, field=field, shape=shape)


class _Address(NamedTuple):
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

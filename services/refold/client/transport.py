"""HTTP/1.1 to one gateway over asyncio streams: requests out, answers or errors of Refold's tree back.

Only `refold.client` may use it. There is no HTTP library below it: importing one takes longer than a command.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from refold.core import json_text
from refold.core.errors import (
    DocumentAbsent,
    RefoldError,
    Refused,
    ServiceUnavailable,
    TimedOut,
    VersionUnknown,
)
from refold.core.stream import check_name

T = TypeVar("T")

CONNECT_SECONDS: Final = 5.0
CONNECTIONS_MAX: Final = 64
HEAD_BYTES_MAX: Final = 1024 * 1024
PIECE_BYTES: Final = 256 * 1024
"""A large body is sent in pieces, so that other connections get their turn between them."""

RETRY_SECONDS: Final = 15.0
RETRY_PAUSE_SECONDS: Final = 0.1
RETRY_PAUSE_SECONDS_MAX: Final = 2.0
"""Unanswered writes are sent again for `RETRY_SECONDS`; the pause between two tries doubles up to the maximum."""

_NAME_SAFE: Final = ":=@+~"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: |$)")


class Answer(NamedTuple):
    """A gateway's answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Backoff:
    """The time left for one write, and the growing pauses between its tries."""

    def __init__(self, seconds: float) -> None:
        """Start now."""
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

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """Connect on first use. `timeout_seconds` bounds the silence while an answer is awaited."""
        self.url = full_url(url)
        self.was_reached = False
        self.trace: Callable[[str], None] | None = None
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

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
        checked = {name: _checked_header(name, value) for name, value in (headers or {}).items()}
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, quote_via=quote)}" if given else path
        answer = await self._exchange(method, target, checked, body)
        self.was_reached = True
        if self.trace is not None:
            self.trace(f"{method} {self.url}{target}: {answer.status}, {len(answer.body)} bytes")
        if 200 <= answer.status < 300 or answer.status in also:
            return answer
        raise error_of(answer.status, answer.body)

    async def close(self) -> None:
        """Close all connections."""
        for connection in list(self._open):
            self._discard(connection)
        # Lets the event loop close the sockets.
        await asyncio.sleep(0)

    async def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        address = _split(self.url)
        head = _request_head(method, address, target, headers, body)
        async with self._slots:
            connection = self._reused() or await self._connect(address)
            try:
                answer, is_reusable = await connection.exchange(
                    head, body or b"", timeout_seconds=self._timeout_seconds
                )
            except TimeoutError as error:
                self.was_reached = True
                raise TimedOut(f"{self.url} did not answer in time") from error
            except (OSError, EOFError, ValueError) as error:
                self.was_reached = True
                raise ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}") from error
            else:
                if is_reusable:
                    self._idle.append(connection)
                return answer
            finally:
                if connection not in self._idle:
                    self._discard(connection)

    def _reused(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive():
                return connection
            self._discard(connection)
        return None

    async def _connect(self, address: SplitResult) -> _Connection:
        is_secure = address.scheme == "https"
        port = address.port or (443 if is_secure else 80)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                streams = await asyncio.open_connection(
                    address.hostname, port, ssl=is_secure or None, limit=HEAD_BYTES_MAX
                )
        except OSError as error:
            raise ServiceUnavailable(f"no service answers at {self.url}: {_why(error)}") from error
        connection = _Connection(*streams)
        self._open.add(connection)
        return connection

    def _discard(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        connection.abort()


class _Connection:
    """One connection: one request and its answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_seconds = 0.0
        self._pieces_sent = 0

    def is_alive(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing())

    def abort(self) -> None:
        self._writer.transport.abort()

    async def exchange(self, head: bytes, body: bytes, *, timeout_seconds: float) -> tuple[Answer, bool]:
        """Send a request and read its answer; return it, and whether the connection can be used again."""
        self._timeout_seconds = timeout_seconds
        if len(body) <= PIECE_BYTES:
            self._writer.write(head + body)
            return await self._answer()
        self._writer.write(head)
        # The service may answer before it has read the whole body, for example that it is too large.
        sending = asyncio.create_task(self._send(body))
        try:
            answer, is_reusable = await self._answer()
            return answer, is_reusable and sending.done() and sending.exception() is None
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sending

    async def _send(self, body: bytes) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            self._writer.write(body[start : start + PIECE_BYTES])
            await self._writer.drain()
            self._pieces_sent += 1

    async def _answer(self) -> tuple[Answer, bool]:
        is_newest, status = False, 100
        while status < 200:
            first, *lines = (await self._read_head()).split(b"\r\n")
            found = _STATUS.match(first)
            if found is None:
                raise ValueError(f"no HTTP answer: {first[:80]!r}")
            is_newest, status = found[1] == b"1", int(found[2])
        headers = dict(_header(line) for line in lines)
        is_reusable = is_newest and headers.get("connection", "").lower() != "close"
        if status in (204, 304):
            return Answer(status, headers, b""), is_reusable
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Answer(status, headers, await self._read_chunked()), is_reusable
        if "content-length" in headers:
            return Answer(status, headers, await self._read(int(headers["content-length"]))), is_reusable
        return Answer(status, headers, await self._read_rest()), False

    async def _read_head(self) -> bytes:
        """Read to the blank line; what is still being sent is no silence."""
        while True:
            pieces_sent = self._pieces_sent
            try:
                return (await self._timed(self._reader.readuntil(b"\r\n\r\n")))[:-4]
            except TimeoutError:
                if pieces_sent == self._pieces_sent:
                    raise
            except asyncio.LimitOverrunError as error:
                raise ValueError("the answer's headers are too large") from error

    async def _read(self, count: int) -> bytes:
        pieces = []
        while count:
            piece = await self._timed(self._reader.read(min(count, PIECE_BYTES)))
            if not piece:
                raise EOFError("the answer ended early")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    async def _read_chunked(self) -> bytes:
        pieces = []
        while size := int((await self._line()).partition(b";")[0], 16):
            pieces.append(await self._read(size))
            await self._line()
        while await self._line():
            pass
        return b"".join(pieces)

    async def _line(self) -> bytes:
        return (await self._timed(self._reader.readuntil(b"\r\n")))[:-2]

    async def _read_rest(self) -> bytes:
        pieces = []
        while piece := await self._timed(self._reader.read(PIECE_BYTES)):
            pieces.append(piece)
        return b"".join(pieces)

    async def _timed(self, reading: Awaitable[T]) -> T:
        async with asyncio.timeout(self._timeout_seconds):
            return await reading


def full_url(url: str) -> str:
    """Return a gateway's address with its scheme: `http://` if none is given."""
    return (url if _SCHEME.match(url) else f"http://{url}").rstrip("/")


def document_path(namespace: str, document: str, *rest: str) -> str:
    """Return the path of a document's resource. Raises `Refused` for an invalid name."""
    names = check_name(namespace, "namespace"), check_name(document, "document")
    return "/".join(["/v1", *(quote(name, safe=_NAME_SAFE) for name in names), *rest])


def namespace_path(namespace: str, *rest: str) -> str:
    """Return the path of a namespace's resource. Raises `Refused` for an invalid name."""
    return "/".join(["/v1", quote(check_name(namespace, "namespace"), safe=_NAME_SAFE), *rest])


def json_of(answer: Answer) -> Any:
    """Parse an answer's body strictly."""
    return json_text.loads(answer.body)


def error_of(status: int, body: bytes) -> RefoldError:
    """Return the error that a problem document describes."""
    problem = _problem(body)
    code = str(problem.get("code") or "")
    detail = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    if status == 404 and code == VersionUnknown.code:
        return VersionUnknown(detail)
    if status == 404 and code == DocumentAbsent.code:
        return DocumentAbsent(detail)
    if status in (408, 504):
        return TimedOut(detail)
    if status == 429 or status >= 500:
        return ServiceUnavailable(detail)
    field, shape = str(problem.get("field") or ""), str(problem.get("shape") or "")
    # `Refused` adds field and shape to its text, which the detail contains already.
    rule = detail.removeprefix(f"{field}: ").removesuffix(f" (got {shape})")
    return Refused(code or f"http_{status}", rule, field=field, shape=shape)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = json_text.loads(body)
    except Refused:
        return {}
    return problem if isinstance(problem, dict) else {}


def _split(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        host = (address.hostname or "").encode("idna")
        if address.scheme not in {"http", "https"} or not host or b" " in host or address.port == 0:
            raise ValueError(url)
    except ValueError as error:
        rule = "an address is http:// or https://, a host and a port"
        raise Refused("bad_url", rule, field="url", shape=repr(url[:80])) from error
    return address


def _request_head(
    method: str, address: SplitResult, target: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    host = address.netloc.rpartition("@")[2]
    lines = [f"{method} {address.path}{target} HTTP/1.1", f"Host: {host.encode('idna').decode()}"]
    if address.username:
        user = f"{unquote(address.username)}:{unquote(address.password or '')}"
        lines.append(f"Authorization: Basic {base64.b64encode(user.encode()).decode()}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None or method in {"PUT", "POST", "PATCH"}:
        lines.append(f"Content-Length: {len(body or b'')}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _header(line: bytes) -> tuple[str, str]:
    name, _, value = line.partition(b":")
    return name.decode("latin-1").lower(), value.strip().decode("latin-1")


def _checked_header(name: str, value: str) -> str:
    if _CONTROL.search(value):
        raise Refused("bad_header", "a header holds no control characters", field=name)
    if _SURROGATE.search(value):
        raise Refused("bad_header", "a header holds no lone surrogates", field=name)
    return value


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error) or type(error).__name__

"""An exchange of a connection: a request and its response, as `receive` and `send` of an ASGI application.

Used by `refold.wiring.http_connection`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from refold.gateway.responses import Problem
from refold.telemetry.logging import get_logger

if TYPE_CHECKING:
    from refold.wiring.http_connection import Connection

BODY_BYTES_MAX: Final = 64 * 1024
"""Bytes of a body that are read before the application asks for them."""

Message = MutableMapping[str, Any]
Application = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_WITHOUT_BODY: Final = frozenset({204, 304})
_DISCONNECT: Final = {"type": "http.disconnect"}


class Exchange:
    """A request and its response: `receive` and `send` of the application."""

    __slots__ = (
        *("_body_bytes", "_body_left", "_connection", "_has_body", "_has_given_all", "_head", "_is_chunked"),
        *("_is_gone", "_must_continue", "_pieces", "_scope", "_waiter", "has_started", "is_body_complete"),
        *("is_cut", "is_over", "keeps_alive"),
    )

    def __init__(
        self, connection: Connection, scope: dict[str, Any], *, keeps_alive: bool, must_continue: bool
    ) -> None:
        self._connection = connection
        self._scope = scope
        scope["extensions"] = {"refold.whole_body": self.whole_body}
        self._pieces: list[bytes] = []
        self._body_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._must_continue = must_continue
        self._has_body = self._has_given_all = self._is_gone = self._is_chunked = False
        self._head: Message | None = None
        self._body_left: int | None = None
        self.keeps_alive = keeps_alive
        self.is_body_complete = self.is_cut = self.has_started = self.is_over = False

    async def run(self, app: Application) -> None:
        """Run the application. One that ends before its response breaks the connection off."""
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:  # noqa: BLE001 - the application is any; its error is logged.
            get_logger().exception("request_crashed", method=self._scope["method"])
            if not (self.has_started or self._is_gone):
                await self._fail()
        finally:
            if not self.is_over:
                self._connection.abort()

    async def receive(self) -> Message:
        """Return the next piece of the body; a disconnect where it is cut, the client gone or the response complete."""
        while not (self._is_gone or self.is_over):
            if self._pieces or (self.is_body_complete and not self._has_given_all):
                body, self._pieces, self._body_bytes = b"".join(self._pieces), [], 0
                self._has_given_all = self.is_body_complete
                return {"type": "http.request", "body": body, "more_body": not self.is_body_complete}
            if self.is_cut:
                break
            if self._must_continue:
                self._must_continue = False
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not self.is_body_complete:
                self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return _DISCONNECT

    def whole_body(self) -> bytes | None:
        """Return the body if all of it has come and none was received: without a timeout, which costs a timer."""
        if not self.is_body_complete or self._has_given_all:
            return None
        self._has_given_all = True
        body, self._pieces = b"".join(self._pieces), []
        return body

    async def send(self, message: Message) -> None:
        """Send the response's head, with the body's first piece, or a piece; wait while the client takes none."""
        if self._head is None:
            self._head = message
            return
        if self._is_gone or self.is_over:
            return
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        connection = self._connection
        if self.has_started:
            connection.write(self._framed(body, is_last=is_last))
        else:
            self.has_started = True
            connection.write(self._begin(self._head), self._framed(body, is_last=is_last))
        if is_last:
            self.is_over = True
            self._wake()
            connection.end(self)
        elif connection.is_full:
            await connection.wait_until_writable()

    def _begin(self, head: Message) -> bytes:
        """Return the head's bytes; decide how the body's end is known."""
        status, connection = head["status"], self._connection
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, connection.server.date_line]
        for name, value in head.get("headers", ()):
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self._body_left = int(value)
            elif name == b"connection":
                # The only thing that an application says of its connection.
                self.keeps_alive = False
                lines.pop()
        self._has_body = status not in _WITHOUT_BODY and self._scope["method"] != "HEAD"
        if self._has_body and self._body_left is None:
            self._is_chunked = self._scope["http_version"] != "1.0"
            self.keeps_alive &= self._is_chunked
            if self._is_chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
        # A client that was not asked to continue may send its body or not.
        if not self.keeps_alive or self._must_continue or self.is_cut or connection.server.is_stopping:
            self.keeps_alive = False
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        written = b"".join(lines)
        if not written.count(b"\n") == written.count(b"\r") == len(lines):
            raise ValueError("a response's header contains a line break")
        return written

    def _framed(self, body: bytes, *, is_last: bool) -> bytes:
        if not self._has_body:
            return b""
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk + b"0\r\n\r\n" if is_last else chunk
        if self._body_left is not None:
            self._body_left -= len(body)
            if self._body_left < 0 or (is_last and self._body_left):
                raise ValueError("a response's body has another length than announced")
        return body

    async def _fail(self) -> None:
        self._head = None
        problem = Problem(500, "internal_error", "the request failed unexpectedly; the log has the traceback")
        response = problem.response()
        await self.send({"type": "http.response.start", "status": 500, "headers": response.raw_headers})
        await self.send({"type": "http.response.body", "body": response.body})

    def add(self, piece: bytes) -> None:
        """Take a piece of the body; one that comes after the response is dropped."""
        if not self.is_over:
            self._pieces.append(piece)
            self._body_bytes += len(piece)
            if self._body_bytes > BODY_BYTES_MAX:
                self._connection.pause_reading()
            self._wake()

    def complete(self) -> None:
        """Take the body's end."""
        self.is_body_complete = True
        self._wake()

    def cut(self) -> None:
        """Take the end of a body that is not complete and never will be."""
        self.is_cut = True
        self.keeps_alive = False
        self._wake()

    def disconnect(self) -> None:
        """The connection is lost."""
        self._is_gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

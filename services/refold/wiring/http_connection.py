"""HTTP/1.1: one connection of a client, which serves one exchange at a time.

httptools (llhttp, the parser of Node.js) finds where a request begins and ends; here is what bounds a connection: in
time, in bytes, and in requests of a pipeline. Used by `refold.wiring.http_server`.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote_to_bytes

import httptools

from refold.gateway.responses import RETRY, Problem
from refold.wiring.http_exchange import STATUS_LINES, Exchange

if TYPE_CHECKING:
    from refold.wiring.http_server import Server

HEAD_BYTES_MAX: Final = 64 * 1024
"""A head (request line and headers) that is longer and not complete is refused; one read takes up to 256 KiB."""

HEADERS_MAX: Final = 100

PIPELINE_MAX: Final = 100
"""Requests of a connection that wait for the responses before theirs; a connection with more is closed after them."""

COPY_BYTES_MAX: Final = 16 * 1024
"""A body of at most this size is sent in one piece with its head."""

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


class Connection(asyncio.Protocol):
    """A client's connection: it parses requests, and serves one exchange at a time.

    `closes_at` is the time of the loop at which its server closes it: while no request is complete up to its body.
    """

    __slots__ = (
        *("_address", "_bytes_of_head", "_client", "_current", "_headers", "_incoming", "_is_in_head"),
        *("_is_paused", "_is_replayed", "_is_upgraded", "_last_words", "_loop", "_must_continue", "_parser"),
        *("_queue", "_takes_more", "_target", "_transport", "_writable", "closes_at", "is_full", "server"),
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closes_at = inf
        self.is_full = False
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._current: Exchange | None = None
        self._incoming: Exchange | None = None
        self._queue: list[Exchange] = []
        self._writable: list[asyncio.Future[None]] = []
        self._target = self._last_words = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._bytes_of_head = 0
        self._is_in_head = self._takes_more = True
        self._is_paused = self._is_replayed = self._is_upgraded = self._must_continue = False

    # --- The transport's callbacks ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a connection over the bound is refused."""
        self._transport = cast(asyncio.Transport, transport)
        self._client, self._address = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        self.closes_at = self._loop.time() + self.server.idle_seconds
        if not self.server.add(self):
            self._refuse(Problem(503, "busy", "too many connections are open", headers=RETRY))

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._parser is None or not self._takes_more:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError as error:
            self._refuse(Problem(400, "bad_request", f"not HTTP/1.1: {error}"))
        if self._is_in_head and self._takes_more:
            self._bytes_of_head += len(data)
            if self._bytes_of_head > HEAD_BYTES_MAX:
                self._refuse_head()

    def eof_received(self) -> bool:
        """Answer a body that is cut; anything else ends with its client."""
        incoming = self._incoming
        if incoming is None or incoming.is_body_complete or incoming.is_over:
            return False
        self._takes_more = False
        incoming.cut()
        return True

    def connection_lost(self, _: Exception | None) -> None:
        """Tell the exchanges, and drop what refers back to here."""
        self.server.remove(self)
        for exchange in (self._current, *self._queue):
            if exchange is not None:
                exchange.disconnect()
        self._queue.clear()
        self._parser = self._incoming = None
        self.resume_writing()

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        self.is_full = True

    def resume_writing(self) -> None:
        """The client has taken most of what was sent."""
        self.is_full = False
        for waiting in self._writable:
            if not waiting.done():
                waiting.set_result(None)
        if self._current is None:
            self._proceed()

    # --- The parser's callbacks ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a head."""
        if not self._is_replayed:
            self._target, self._headers, self._must_continue, self._is_in_head = b"", [], False, True

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        if self._is_in_head:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        # Outside of the head it is a trailer.
        if self._is_in_head:
            name = name.lower()
            self._headers.append((name, value))
            if name == b"expect":
                self._must_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """Make the exchange; it waits while another of this connection is served."""
        if not (self._is_in_head and self._takes_more):
            return
        if len(self._queue) == PIPELINE_MAX:
            self._takes_more = False
            return
        if len(self._headers) > HEADERS_MAX:
            self._refuse_head()
            return
        assert self._parser is not None
        self._is_in_head, self._bytes_of_head = False, 0
        self._is_upgraded = self._parser.should_upgrade()
        exchange = self._incoming = Exchange(
            self,
            self._scope(self._parser),
            keeps_alive=self._parser.should_keep_alive(),
            must_continue=self._must_continue,
        )
        self.closes_at = inf
        if self._current is None and not self._queue and not self.is_full:
            self._current = exchange
            self.server.start(exchange)
        else:
            self._queue.append(exchange)
            self.pause_reading()

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if self._incoming is not None and not self._is_in_head:
            self._incoming.add(piece)

    def on_message_complete(self) -> None:
        """End the body."""
        # Of a request to upgrade, llhttp has read no body yet.
        if not (self._incoming is None or self._is_in_head or self._is_upgraded):
            self._incoming.complete()

    def _scope(self, parser: httptools.HttpRequestParser) -> dict[str, Any]:
        raw_path, _, query = self._target.partition(b"?")
        if raw_path[:1] != b"/":
            # The absolute form, as for a proxy; anything else is no path of ours.
            _, found, rest = raw_path.partition(b"://")
            raw_path = b"/" + rest.partition(b"/")[2] if found else raw_path
        is_plain = b"%" not in raw_path and raw_path.isascii()
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": parser.get_http_version(),
            "method": parser.get_method().decode("latin-1"),
            "scheme": "http",
            "path": raw_path.decode() if is_plain else unquote_to_bytes(raw_path).decode(errors="replace"),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._address,
        }

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read on in HTTP/1.1 after a request to upgrade: llhttp takes its body for the other protocol."""
        self._is_upgraded = False
        framing = [b"%b: %b\r\n" % (name, value) for name, value in self._headers if name in _FRAMING]
        self._parser = httptools.HttpRequestParser(self)
        self._is_replayed = True
        self._parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"]))
        self._is_replayed = False
        if rest:
            self.data_received(rest)

    # --- For the exchanges --------------------------------------------------------------------------------

    def write(self, data: bytes, more: bytes = b"") -> None:
        """Send bytes, if the connection is open."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if len(more) > COPY_BYTES_MAX:
                transport.write(data)
                transport.write(more)
            elif data or more:
                transport.write(data + more)

    async def wait_until_writable(self) -> None:
        """Wait until the client has taken most of what was sent, or is gone."""
        waiting = self._loop.create_future()
        self._writable.append(waiting)
        try:
            await waiting
        finally:
            self._writable.remove(waiting)

    def pause_reading(self) -> None:
        """Take no more bytes from the client."""
        if self._transport is not None and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        if self._transport is not None and self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def end(self, exchange: Exchange) -> None:
        """Go on after an exchange's response is complete."""
        self._current = None
        # What is left of its body is read and dropped until then, so that the client sees the response.
        self.closes_at = self._loop.time() + self.server.idle_seconds
        if exchange.keeps_alive and not self.server.is_stopping:
            self._proceed()
        else:
            self.close()

    def close(self) -> None:
        """Close once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Break off."""
        if self._transport is not None:
            self._transport.abort()

    def stop(self) -> None:
        """Close, as soon as no response is under way."""
        if self._current is None:
            self.close()

    def _proceed(self) -> None:
        """Start the next exchange, unless the client has still to read the last response: it would hold a permit."""
        if self.is_full:
            return
        if self._queue:
            self._current = self._queue.pop(0)
            self.closes_at = inf
            if not self._queue:
                # Else a disconnect would not be seen.
                self.resume_reading()
            self.server.start(self._current)
        elif self._takes_more:
            self.resume_reading()
        else:
            self.write(self._last_words)
            self.close()

    def _refuse_head(self) -> None:
        detail = f"a request's head has at most {HEAD_BYTES_MAX} bytes and {HEADERS_MAX} headers"
        self._refuse(Problem(431, "headers_too_large", detail))

    def _refuse(self, problem: Problem) -> None:
        """Take no more requests: the one whose body comes is cut, or this problem is the connection's last response."""
        self._takes_more = False
        incoming = self._incoming
        if incoming is not None and not incoming.is_body_complete:
            incoming.cut()
            if incoming.is_over:
                self.close()
            return
        response = problem.response()
        headers = b"".join(b"%b: %b\r\n" % (name, value) for name, value in response.raw_headers)
        start = STATUS_LINES[problem.status] + self.server.date_line
        self._last_words = b"".join((start, headers, b"connection: close\r\n\r\n", response.body))
        if self._current is None:
            self._proceed()

"""Server-sent events: a live stream as `EventSource` of a browser reads it.

A browser reconnects by itself after the end of a response of status 200, with its cursor as `Last-Event-ID`, and after
no other status. So what may pass (too many connections, no database) is 200, `retry` and `bye` as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from refold.gateway.live import Connection
from refold.gateway.live.requests import EVENT_STREAM
from refold.gateway.responses import Response
from refold.live import Frame
from refold.live.fanout import RETRY_SECONDS, Stream, bye_frame

CURSORS_CACHED_MAX: Final = 1_024

_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Body(Protocol):
    """The body of a streamed response (`refold.wiring.http_stream`)."""

    is_paused: bool
    is_closed: bool
    on_resume: Callable[[], None]
    on_close: Callable[[], None]

    def write(self, *chunks: bytes) -> None:
        """Write chunks, framed for HTTP/1.1."""

    def end(self) -> None:
        """End the response."""


class EventSink:
    """Where a live stream's messages go: the body of a response, once that has begun."""

    __slots__ = ("_body", "_connection", "_is_ended", "is_ready", "on_ready")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._body: Body | None = None
        self._is_ended = False
        self.is_ready = False
        self.on_ready: Callable[[], None] = _ignore

    def begin(self, body: Body, on_close: Callable[[], None]) -> None:
        """Send what comes to a response; `on_close` is called when the client has left."""
        if body.is_closed:
            on_close()
            return
        self._body = body
        body.on_resume, body.on_close = self._resume, on_close
        body.write(chunk(retry_line()))
        if self._is_ended:
            body.write(_encoded(bye_frame("shutdown")))
            body.end()
        elif not body.is_paused:
            self._resume()

    def send(self, frame: Frame, cursor: str) -> None:
        """Send a message; all its receivers share its bytes."""
        body = self._body
        assert body is not None
        encoded = frame.encoded
        if encoded is None:
            encoded = frame.encoded = _encoded(frame)
        if cursor:
            body.write(_id_chunk(cursor), encoded)
        else:
            body.write(encoded)
        self._connection.count_bytes(len(encoded))
        self.is_ready = not body.is_paused

    def end(self) -> None:
        """End the response."""
        self._is_ended, self.is_ready = True, False
        self._connection.close()
        if self._body is not None:
            self._body.end()

    def _resume(self) -> None:
        self.is_ready = True
        self.on_ready()


class EventStream:
    """The response of a live stream, as an ASGI application. It has ended, for ASGI, when the stream has begun."""

    def __init__(self, sink: EventSink, stream: Stream, connection: Connection) -> None:
        self._sink = sink
        self._stream = stream
        self._connection = connection

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the head, then take the connection over; what wraps `send` sees only the head."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": head_response().raw_headers})
            self._sink.begin(scope["extensions"]["refold.stream"](), self._close)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._stream.close()
        self._connection.close()


def head_response() -> Response:
    """Return the head of a stream."""
    response = Response(None, 200, _HEADERS, EVENT_STREAM)
    response.raw_headers = [each for each in response.raw_headers if each[0] != b"content-length"]
    return response


def later_response() -> Response:
    """Return what sends a client away for some seconds."""
    return Response(retry_line() + _event(bye_frame("full")), 200, _HEADERS, EVENT_STREAM)


def retry_line() -> bytes:
    """Return the event without data that says how soon a client returns whose connection breaks."""
    return b"retry: %d\n\n" % random.randint(*(int(seconds * 1_000) for seconds in RETRY_SECONDS))  # noqa: S311 - no secret


def chunk(body: bytes) -> bytes:
    """Frame a part of a body as HTTP/1.1 does."""
    return b"%x\r\n%b\r\n" % (len(body), body)


@lru_cache(CURSORS_CACHED_MAX)
def _id_chunk(cursor: str) -> bytes:
    return chunk(b"id: %b\n" % cursor.encode())


def _encoded(frame: Frame) -> bytes:
    return chunk(_event(frame))


def _event(frame: Frame) -> bytes:
    event = b"event: %b\ndata: %b\n\n" % (frame.kind.encode(), frame.body)
    if frame.kind == "bye":
        # `EventSource` knows only this.
        milliseconds = round(orjson.loads(frame.body)["retry_seconds"] * 1_000)
        return b"retry: %d\n%b" % (milliseconds, event)
    return event


def _ignore() -> None: ...

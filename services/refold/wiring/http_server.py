"""Serve an ASGI application over HTTP/1.1 by uvicorn, in the event loop of this process, until it is asked to stop.

uvicorn leaves a connection's head unbounded in bytes and in time; `Connection` adds the bounds. Used by the
compositions of gateway and projector.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import Context
from functools import cache, partial
from typing import Any, Final

import httptools
from uvicorn import Config
from uvicorn import Server as UvicornServer
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from refold.gateway import IDLE_SECONDS
from refold.gateway.responses import RETRY, Problem
from refold.gateway.tracing import new_request_id
from refold.telemetry.logging import get_logger
from refold.wiring.http_stream import ResponseStream
from refold.wiring.listening import BACKLOG, answering_while_blocked, listening_socket
from refold.wiring.service import Listener

CONNECTIONS_MAX: Final = 32_768
"""Of one service, within its limit of open files; one more is answered 503. One Linux host opens 28,232 to a port."""

FILES_RESERVED: Final = 256
"""Descriptors that connections leave to the database, the broker, files and libraries."""

HEAD_BYTES_MAX: Final = 64 * 1024
"""A head (request line and headers) that is longer and not complete is refused; one read takes up to 256 KiB."""

HEADERS_MAX: Final = 100

PIPELINE_MAX: Final = 100
"""Requests of a connection that wait for the responses before theirs."""

STOP_SECONDS: Final = 20.0
"""Requests that have not ended this long after the stop signal are abandoned."""

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


async def serve(
    app: Any, listener: Listener, *, stop: asyncio.Event, idle_seconds: float = IDLE_SECONDS
) -> None:
    """Serve until `stop` is set, then let the requests in flight end."""
    config = Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=idle_seconds,  # type: ignore[arg-type]  # It is passed to `call_later`.
        timeout_graceful_shutdown=STOP_SECONDS,  # type: ignore[arg-type]  # It is passed to `wait_for`.
    )
    server, listening = _Server(config), listening_socket(listener)
    serving = asyncio.create_task(server.serve([listening]), name="http")
    get_logger().info("listening", host=listener.host, port=listener.port)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        async with answering_while_blocked(listening):
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
        await serving
        await asyncio.sleep(0)  # The loop closes the socket in its next turn.


class _Server(UvicornServer):
    """uvicorn's server, without its handlers of signals: the caller decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Connection(HttpToolsProtocol):
    """A client's connection, with bounds on its head, its pipeline and the time without a request.

    Answers to what is no request are problems. A request to upgrade is served in HTTP/1.1.
    """

    _bytes_of_head = 0
    _is_in_head = True
    _running: RequestResponseCycle | None = None
    _next: tuple[RequestResponseCycle, ASGI3Application] | None = None
    _stream: ResponseStream | None = None
    _idle_since = 0.0
    _is_cut = _is_refused = _is_replayed = _is_upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._note_idle()
        self._start_idle_timer(self.timeout_keep_alive)
        if len(self.connections) > connections_max():
            self._refuse(Problem(503, "busy", "too many connections are open", headers=RETRY))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        # uvicorn notifies only the newest request of a pipeline.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self._running = self._next = None
        if self._stream is not None:
            self._stream.lose()

    def eof_received(self) -> bool:  # type: ignore[override]
        if self.cycle is None or self.cycle.response_complete or not self.cycle.more_body:
            return False
        self._refuse(Problem(400, "bad_request", "the body ended early"))
        return True

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(Problem(400, "bad_request", f"not HTTP/1.1: {error}"))
        if self._is_in_head:
            self._bytes_of_head += len(data)
            if self._bytes_of_head > HEAD_BYTES_MAX:
                self._refuse_head()

    def on_message_begin(self) -> None:
        if not self._is_replayed:
            super().on_message_begin()
            self._is_in_head = True

    def on_url(self, url: bytes) -> None:
        if self._is_in_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Outside of the head it is a trailer.
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_in_head or self._is_refused:
            return
        if len(self.headers) > HEADERS_MAX:
            self._refuse_head()
            return
        if len(self.pipeline) == PIPELINE_MAX:
            self._is_refused = True
            return
        self._is_in_head, self._bytes_of_head = False, 0
        self._is_upgraded = self.parser.should_upgrade()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        # Of a request to upgrade, llhttp has read no body yet.
        if not (self._is_upgraded or self._is_refused):
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Do as uvicorn does, without a timer for each request: to start and to cancel one takes 2 to 3 µs."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._is_refused:
            self.transport.close()
        else:
            self._note_idle()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stream is not None:
            self._stream.resume()
        if self._next is not None:
            (cycle, app), self._next = self._next, None
            self._start_asgi_task(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # While the client does not take its last response, another would only hold memory and a permit.
        if self.flow.write_paused:
            self._next = cycle, app
        else:
            self._running = cycle
            # A pipelined request starts in the task of the one before, whose context it must not have.
            Context().run(super()._start_asgi_task, cycle, partial(self._run, app, cycle))

    async def _run(
        self,
        app: Any,
        cycle: RequestResponseCycle,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Any,
    ) -> None:
        """Run the application; a body that ends early is reported as a disconnect, which can still be answered."""

        async def receive_until_cut() -> Any:
            if not self._is_cut:
                message = await receive()
                if not self._is_cut or message.get("body"):
                    return message
            elif cycle.body:
                return await receive()
            return {"type": "http.disconnect"}

        def whole_body() -> bytes | None:
            """Return the body if all of it has come: to receive it takes a timeout, which costs a timer."""
            if cycle.more_body or self._is_cut:
                return None
            cycle.message_event.clear()
            body, cycle.body = bytes(cycle.body), bytearray()
            return body

        head: Any = None

        async def send_at_once(message: Any) -> None:
            """Hold the head until the body begins, as ASGI allows."""
            nonlocal head
            if message["type"] == "http.response.start":
                head = message
                return
            if head is not None:
                held, head = head, None
                if self._write_whole(cycle, held, message):
                    return
                await send(held)
            await send(message)

        def stream() -> ResponseStream:
            """Begin a streamed response with the head that was sent; the application need not stay for it."""
            return self._begin_stream(cycle, head)

        scope["extensions"] = {"refold.whole_body": whole_body, "refold.stream": stream}
        try:
            await app(scope, receive_until_cut, send_at_once)
        finally:
            # It refers back to the exchange; without it, a request leaves nothing to the garbage collector.
            del scope["extensions"]

    def _begin_stream(self, cycle: RequestResponseCycle, start: Any) -> ResponseStream:
        """Leave the connection to a stream: no further request is read, and the exchange's memory is freed."""
        cycle.response_started = cycle.response_complete = True
        self._is_refused = True
        self._running = self.cycle = self.scope = self.headers = None  # type: ignore[assignment]
        self.pipeline.clear()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        is_chunked = cycle.scope["http_version"] == "1.1"
        self._stream = ResponseStream(self.transport, is_chunked=is_chunked)
        chunked = [(b"transfer-encoding", b"chunked")] if is_chunked else []
        headers = [*start["headers"], *chunked, (b"connection", b"close")]
        self._stream.begin(self._head(start["status"], headers))
        return self._stream

    def shutdown(self) -> None:
        if self._stream is None:
            super().shutdown()
        else:
            self._stream.stop()

    def _write_whole(self, cycle: RequestResponseCycle, start: Any, message: Any) -> bool:
        """Write a usual response by one system call; uvicorn takes one for the head and one for the body (+9 µs).

        Return False, with nothing written, for one that is left to uvicorn: of several pieces, without its length, the
        last of its connection.
        """
        body, headers = message.get("body", b""), dict(start["headers"])
        is_whole = not message.get("more_body") and headers.get(b"content-length") == b"%d" % len(body)
        is_kept = cycle.keep_alive and b"connection" not in headers
        if not (is_whole and is_kept) or cycle.disconnected or self.flow.write_paused:
            return False
        head = self._head(start["status"], start["headers"])
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        self.transport.writelines([head] if cycle.scope["method"] == "HEAD" else [head, body])
        cycle.message_event.set()
        cycle.on_response()
        return True

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        head = b"".join([STATUS_LINE[status], *lines, b"\r\n"])
        if head.count(b"\n") != len(lines) + 2:
            raise ValueError("a header's value has a line break")
        return head

    def _note_idle(self) -> None:
        self._idle_since = self.loop.time()

    def _start_idle_timer(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection once it has been without a request for so long; until then, look again later."""
        is_idle = self.cycle is None or self.cycle.response_complete
        left_seconds = float(self.timeout_keep_alive)
        if is_idle:
            left_seconds -= self.loop.time() - self._idle_since
        if left_seconds > 0:
            self._start_idle_timer(left_seconds)
        else:
            self.transport.close()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read on in HTTP/1.1 after a request to upgrade: llhttp takes its body for the other protocol.

        Java's client sends such a request first, also with a body.
        """
        self._is_upgraded = False
        framing = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self._is_replayed = True
        self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"]))
        self._is_replayed = False
        if rest:
            self.data_received(rest)

    def _refuse_head(self) -> None:
        detail = f"a request's head has at most {HEAD_BYTES_MAX} bytes and {HEADERS_MAX} headers"
        self._refuse(Problem(431, "headers_too_large", detail))

    def _refuse(self, problem: Problem) -> None:
        """Take no more requests; answer with a problem, after the responses to the requests before it."""
        self._is_refused = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._answer(problem)
        elif not cycle.more_body:
            # Requests that are complete come first; the connection is closed after them.
            return
        elif self.pipeline:
            self.pipeline.popleft()
        else:
            # The application sees that the body ends early, and answers.
            self._is_cut = True
            cycle.message_event.set()

    def _answer(self, problem: Problem) -> None:
        response = problem.response()
        added = new_request_id(), (b"connection", b"close")
        head = self._head(problem.status, [*response.raw_headers, *added])
        self.transport.write(head + response.body)
        self.transport.close()


@cache
def connections_max() -> int:
    """Raise the limit of open files as far as needed and allowed; return how many connections fit in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_MAX + FILES_RESERVED
    files = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - min(FILES_RESERVED, files // 2)

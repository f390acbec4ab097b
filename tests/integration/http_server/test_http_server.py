"""The services' HTTP server over raw sockets, with an application of the test's own, on the services' event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import httpx
import orjson
import pytest
import structlog

from refold.wiring import http_server, listening
from refold.wiring.http_server import serve
from refold.wiring.http_stream import ResponseStream
from refold.wiring.service import Listener
from support.system import free_port

SECONDS = 10
LARGE = 8 * 1024 * 1024
SERVED: ContextVar[str] = ContextVar("SERVED", default="")


class App:
    """An application with a path for each behaviour; it counts the requests that it has begun.

    `inherited` has what each found in the context of its task: the path of another request, or nothing.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.inherited: list[str] = []
        self.streams: list[ResponseStream] = []
        self._changed = asyncio.Condition()
        self.disconnected = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.inherited.append(SERVED.get())
        SERVED.set(path)
        async with self._changed:
            self.begun.append(path)
            self._changed.notify_all()
        if path == "/echo":
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return await answer(send, 400, b"cut")
                body, more = body + message["body"], message["more_body"]
            return await answer(send, 200, body)
        if path == "/waits":
            await receive()
            gone = asyncio.create_task(receive())
            released = asyncio.create_task(self.released.wait())
            await asyncio.wait({gone, released}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and (await gone)["type"] == "http.disconnect":
                self.disconnected.set()
            gone.cancel()
            return await answer(send, 200, b"waited")
        if path == "/streams":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in (b"one", b"", b"two"):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            return await send({"type": "http.response.body"})
        if path == "/live":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async with self._changed:
                self.streams.append(scope["extensions"]["refold.stream"]())
                return self._changed.notify_all()
        if path == "/crashes":
            raise RuntimeError("on purpose")
        if path == "/breaks-off":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            return await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if path == "/large":
            return await answer(send, 200, bytes(LARGE))
        if path == "/not-modified":
            return await send_all(send, 304, [(b"etag", b'"1"')], b"")
        if path == "/split-header":
            return await send_all(send, 200, [(b"x", b"a\r\nset-cookie: b"), (b"content-length", b"0")], b"")
        shown = {name: scope[name] for name in ("method", "path", "http_version")}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        return await answer(send, 200, orjson.dumps({**shown, "query": query, "headers": headers}))

    async def stream(self) -> ResponseStream:
        """Wait for the stream of a request to `/live`."""
        async with self._changed, asyncio.timeout(SECONDS):
            await self._changed.wait_for(lambda: self.streams)
            return self.streams.pop()

    async def begins(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with self._changed, asyncio.timeout(SECONDS):
            await self._changed.wait_for(lambda: len(self.begun) >= count)


async def answer(send: Any, status: int, body: bytes) -> None:
    await send_all(send, status, [(b"content-length", b"%d" % len(body))], body)


async def send_all(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Serving:
    def __init__(self, app: App, port: int, stop: asyncio.Event, server: asyncio.Task[None]) -> None:
        self.app = app
        self.port = port
        self.stop = stop
        self.server = server

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, sent: bytes) -> Answer:
        async with self.client() as client:
            client.send(sent)
            return await client.answer()


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def value(self) -> Any:
        return orjson.loads(self.body)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, has_body: bool = True) -> Answer:
        async with asyncio.timeout(SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.rstrip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            assert len(headers) == len(lines), head
            body = b""
            if has_body and "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = await self.reader.readuntil(b"0\r\n\r\n")
            return Answer(int(status.split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    async with started() as made:
        yield made


@asynccontextmanager
async def started(idle_seconds: float = 30) -> AsyncIterator[Serving]:
    app, port, stop = App(), free_port(), asyncio.Event()
    server = asyncio.create_task(
        serve(app, Listener("127.0.0.1", port), stop=stop, idle_seconds=idle_seconds)
    )
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.005)
    try:
        yield Serving(app, port, stop, server)
    finally:
        # A loop that is closed while it still serves hangs: a test that fails must not.
        app.released.set()
        stop.set()
        async with asyncio.timeout(SECONDS):
            await server


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: localhost", *headers, "", ""]).encode()


# --- Requests and responses ------------------------------------------------------------------------------


async def test_a_request_reaches_the_application_as_it_was_sent(serving: Serving) -> None:
    found = await serving.ask(get("/a%20b/%C3%A9?x=1&y=%2B", "X-One: 1", 'IF-MATCH: "2"'))
    assert found.value["path"] == "/a b/é"
    assert found.value["query"] == "x=1&y=%2B"
    assert found.value["headers"] == {"host": "localhost", "x-one": "1", "if-match": '"2"'}
    assert {"date", "content-length"} == set(found.headers)


async def test_the_absolute_form_of_a_target_is_read(serving: Serving) -> None:
    assert (await serving.ask(get("http://localhost:1/a/b?c=d"))).value["path"] == "/a/b"
    assert (await serving.ask(get("*", method="OPTIONS"))).value["path"] == "*"


async def test_a_body_comes_whole_with_a_length_and_in_chunks(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/echo", "Content-Length: 5", method="PUT") + b"hello")
        assert (await client.answer()).body == b"hello"
        client.send(
            get("/echo", "Transfer-Encoding: chunked", method="PUT") + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
        )
        assert (await client.answer()).body == b"hello"
        large = bytes(LARGE)
        client.send(get("/echo", f"Content-Length: {LARGE}", method="PUT") + large)
        assert (await client.answer()).body == large


async def test_trailers_are_no_headers(serving: Serving) -> None:
    async with serving.client() as client:
        head = get("/shown", "Transfer-Encoding: chunked", method="PUT")
        client.send(head + b'1\r\nx\r\n0\r\nIf-Match: "1"\r\n\r\n')
        assert "if-match" not in (await client.answer()).value["headers"]


async def test_a_head_request_is_answered_without_the_body(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/shown", method="HEAD") + get("/not-modified") + get("/shown"))
        first = await client.answer(has_body=False)
        assert int(first.headers["content-length"]) > 0
        second = await client.answer()
        assert (second.status, second.headers["etag"]) == (304, '"1"')
        assert not {"content-length", "transfer-encoding"} & set(second.headers)
        assert (await client.answer()).value["method"] == "GET"


async def test_a_response_of_unknown_length_is_chunked(serving: Serving) -> None:
    found = await serving.ask(get("/streams"))
    assert (found.headers["transfer-encoding"], found.body) == (
        "chunked",
        b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
    )


async def test_a_client_that_expects_100_continue_gets_it(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/echo", "Content-Length: 2", "Expect: 100-continue", method="PUT"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"ok")
        assert (await client.answer()).body == b"ok"


async def test_the_connection_is_kept_unless_the_client_says_otherwise(serving: Serving) -> None:
    async with serving.client() as client:
        for _ in range(3):
            client.send(get("/shown"))
            assert "connection" not in (await client.answer()).headers
        client.send(get("/shown", "Connection: close"))
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.rest() == b""
    found = await serving.ask(get("/shown", version="1.0"))
    assert (found.headers["connection"], found.value["http_version"]) == ("close", "1.0")


@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_a_request_to_upgrade_is_served_without(serving: Serving, body: bytes) -> None:
    """Java's HTTP client sends one with its first request, also with a body."""
    asked = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")
    async with serving.client() as client:
        client.send(get("/echo", *asked, f"Content-Length: {len(body)}", method="PUT") + body)
        assert (await client.answer()).body == body
        client.send(get("/echo", *asked, "Transfer-Encoding: chunked", method="PUT") + b"2\r\nhi\r\n0\r\n")
        client.send(b"\r\n" + get("/shown"))
        assert (await client.answer()).body == b"hi"
        assert (await client.answer()).value["path"] == "/shown"


async def test_what_is_left_of_a_body_after_the_response_is_no_request(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/shown", f"Content-Length: {LARGE}", method="PUT"))
        assert (await client.answer()).value["path"] == "/shown"
        client.send((get("/smuggled") * (LARGE // len(get("/smuggled")) + 1))[:LARGE])
        client.send(get("/last"))
        assert (await client.answer()).value["path"] == "/last"
        assert serving.app.begun == ["/shown", "/last"]


# --- What a request may not be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/3.7\r\n\r\n",
        get("/echo", "Content-Length: 1", "Transfer-Encoding: chunked", method="PUT"),
        get("/echo", "Content-Length: 1", "Content-Length: 2", method="PUT"),
        get("/echo", "Content-Length: -1", method="PUT"),
    ],
)
async def test_a_malformed_request_is_a_problem_and_ends_the_connection(
    serving: Serving, sent: bytes
) -> None:
    async with serving.client() as client:
        client.send(sent)
        found = await client.answer()
        assert (found.status, found.value["code"]) == (400, "bad_request")
        assert found.headers["content-type"] == "application/problem+json"
        assert len(found.headers["refold-request-id"]) == 32
        assert await client.rest() == b""
    assert serving.app.begun == []


async def test_requests_before_a_malformed_one_are_answered(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/waits") + get("/shown") + b"nonsense\r\n\r\n")
        await serving.app.begins(1)
        serving.app.released.set()
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 400_000,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 400_000,
        get("/", *(f"X-{number}: 1" for number in range(http_server.HEADERS_MAX))),
    ],
    ids=["target", "header", "headers"],
)
async def test_a_head_is_bounded(serving: Serving, head: bytes) -> None:
    found = await serving.ask(head)
    assert (found.status, found.value["code"]) == (431, "headers_too_large")
    assert serving.app.begun == []


@pytest.mark.parametrize("body", [b"zz\r\n", b"1\r\nx\r\nzz\r\n"])
async def test_a_malformed_body_is_reported_to_the_application(serving: Serving, body: bytes) -> None:
    async with serving.client() as client:
        client.send(get("/echo", "Transfer-Encoding: chunked", method="PUT") + body)
        assert (await client.answer()).body == b"cut"
        assert await client.rest() == b""


async def test_a_body_that_ends_early_is_reported_and_can_be_answered(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/echo", "Content-Length: 9", method="PUT") + b"1")
        client.writer.write_eof()
        assert (await client.answer()).body == b"cut"
        assert await client.rest() == b""


# --- Pipelines, slow clients, bounds ---------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_their_order(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(b"".join(get(f"/{number}") for number in range(50)))
        assert [(await client.answer()).value["path"] for _ in range(50)] == [f"/{n}" for n in range(50)]
    assert set(serving.app.inherited) == {""}, "a request has the context of the one before"


async def test_a_pipeline_is_bounded_and_its_requests_are_served_one_at_a_time(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/waits") + get("/shown") * 5_000)
        await serving.app.begins(1)
        assert serving.app.begun == ["/waits"]
        serving.app.released.set()
        assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 1 + http_server.PIPELINE_MAX


async def test_a_client_that_does_not_read_is_served_no_further_request(serving: Serving) -> None:
    async with serving.client() as client:
        client.writer.transport.pause_reading()
        client.send(get("/large") * 3)
        await serving.app.begins(1)
        # Others are served; the large responses would each take their memory.
        for _ in range(3):
            assert (await serving.ask(get("/shown"))).status == 200
        assert serving.app.begun.count("/large") == 1
        client.writer.transport.resume_reading()
        for _ in range(3):
            assert len((await client.answer()).body) == LARGE


async def test_a_client_that_leaves_is_reported_to_the_application(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/waits"))
        await serving.app.begins(1)
    async with asyncio.timeout(SECONDS):
        await serving.app.disconnected.wait()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1", get("/shown"), get("/shown", "Content-Length: 9", method="PUT")]
)
async def test_an_idle_connection_is_closed(sent: bytes) -> None:
    async with started(idle_seconds=0.2) as serving, serving.client() as client:
        client.send(sent)
        await client.rest()


async def test_a_request_in_work_is_not_idle() -> None:
    async with started(idle_seconds=0.1) as serving, serving.client() as client:
        client.send(get("/waits"))
        async with serving.client() as idle:
            # It is closed, and the other is not.
            await idle.rest()
        serving.app.released.set()
        assert (await client.answer()).body == b"waited"


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "connections_max", lambda: 2)
    async with started() as serving, serving.client() as first, serving.client() as second:
        for client in (first, second):
            client.send(get("/shown"))
            assert (await client.answer()).status == 200
        async with serving.client() as third:
            found = await third.answer()
            assert (found.status, found.value["code"], found.headers["Retry-After".lower()]) == (
                503,
                "busy",
                "1",
            )


# --- Failures and the end --------------------------------------------------------------------------------


async def test_an_application_that_crashes_is_500(serving: Serving) -> None:
    assert (await serving.ask(get("/crashes"))).status == 500
    assert (await serving.ask(get("/shown"))).status == 200


async def test_a_response_that_ends_early_breaks_the_connection_off(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/breaks-off"))
        with suppress(ConnectionError):
            assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_a_header_cannot_add_another(serving: Serving) -> None:
    async with serving.client() as client:
        client.send(get("/split-header"))
        with suppress(ConnectionError):
            assert b"set-cookie" not in await client.rest()


async def test_a_stopping_server_answers_what_it_has_begun_and_closes_the_rest(serving: Serving) -> None:
    async with serving.client() as idle, serving.client() as client:
        client.send(get("/waits"))
        await serving.app.begins(1)
        serving.stop.set()
        assert await idle.rest() == b""
        assert not serving.server.done()
        serving.app.released.set()
        found = await client.answer()
        assert (found.body, found.headers["connection"]) == (b"waited", "close")
        async with asyncio.timeout(SECONDS):
            await serving.server


async def test_requests_that_do_not_end_are_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "STOP_SECONDS", 0.05)
    async with started() as serving, serving.client() as client:
        client.send(get("/waits"))
        await serving.app.begins(1)
        serving.stop.set()
        async with asyncio.timeout(SECONDS):
            await serving.server


# --- Streamed responses ----------------------------------------------------------------------------------

ENDED = b"0\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


@asynccontextmanager
async def streaming(
    serving: Serving, *more: bytes, version: str = "1.1"
) -> AsyncIterator[tuple[Client, bytes, ResponseStream]]:
    """Yield a client that has asked for a stream, the response's head, and the stream."""
    async with serving.client() as client, asyncio.timeout(SECONDS):
        client.send(get("/live", version=version) + b"".join(more))
        yield client, await client.reader.readuntil(b"\r\n\r\n"), await serving.app.stream()


def called(stream: ResponseStream, name: str) -> asyncio.Event:
    """Return an event for a call of one of its callbacks."""
    event = asyncio.Event()
    setattr(stream, name, event.set)
    return event


async def fill(stream: ResponseStream) -> int:
    """Write until the client's kernel and ours take no more; return the bytes."""
    written = 0
    while not stream.is_paused:
        stream.write(chunk(bytes(16_384)))
        written += 16_384
        await asyncio.sleep(0)
    return written


async def test_chunks_of_a_stream_arrive_as_they_are_written(serving: Serving) -> None:
    async with streaming(serving) as (client, head, stream):
        assert b"transfer-encoding: chunked\r\n" in head
        for body in (b"one", b"two"):
            stream.write(chunk(body), chunk(b"\n"))
            assert await client.reader.readuntil(b"\n\r\n") == chunk(body) + chunk(b"\n")
        stream.end()
        assert await client.rest() == ENDED
        stream.write(chunk(b"three"))


async def test_a_stream_for_http_1_0_has_no_chunks(serving: Serving) -> None:
    async with streaming(serving, version="1.0") as (client, head, stream):
        assert b"transfer-encoding" not in head
        stream.write(chunk(b"one\r\n"), chunk(b"two"))
        stream.end()
        assert await client.rest() == b"one\r\ntwo"


async def test_a_stream_is_the_last_response_of_its_connection(serving: Serving) -> None:
    async with streaming(serving, get("/shown"), get("/shown")) as (client, head, stream):
        assert b"connection: close\r\n" in head
        client.send(get("/shown"))
        stream.write(chunk(b"one"))
        await client.reader.readexactly(len(chunk(b"one")))
        stream.end()
        assert await client.rest() == ENDED
        assert serving.app.begun == ["/live"]


async def test_a_stream_is_not_idle() -> None:
    async with started(idle_seconds=0.1) as serving, streaming(serving) as (client, _, stream):
        async with serving.client() as idle:
            # It is closed, and the stream is not.
            await idle.rest()
        stream.write(chunk(b"one"))
        assert await client.reader.readexactly(len(chunk(b"one"))) == chunk(b"one")


async def test_a_stream_is_paused_until_its_client_has_read(serving: Serving) -> None:
    async with streaming(serving) as (client, _, stream):
        client.writer.transport.pause_reading()
        resumed = called(stream, "on_resume")
        written = await fill(stream)
        # The kernels of both ends keep some of it, this process what is left of one chunk.
        assert 100_000 < written < LARGE
        assert 0 < stream._transport.get_write_buffer_size() < 2 * 16_384
        client.writer.transport.resume_reading()
        await resumed.wait()
        assert not stream.is_paused
        stream.end()
        assert (await client.rest()).count(bytes(16_384)) == written // 16_384


async def test_a_client_that_leaves_ends_its_stream(serving: Serving) -> None:
    async with streaming(serving) as (client, _, stream):
        closed = called(stream, "on_close")
        client.writer.transport.abort()
        await closed.wait()
        assert stream.is_closed
        stream.write(chunk(b"one"))
        stream.end()


async def test_a_client_that_does_not_read_is_ended_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "UNSENT_SECONDS", 1)
    async with started() as serving, streaming(serving) as (client, _, stream):
        client.writer.transport.pause_reading()
        closed = called(stream, "on_close")
        await fill(stream)
        await closed.wait()
        assert stream._transport.get_write_buffer_size() == 0


async def test_a_stopping_server_ends_streams_and_waits_for_no_reader(serving: Serving) -> None:
    async with streaming(serving) as (slow, _, paused), streaming(serving) as (client, _, _):
        slow.writer.transport.pause_reading()
        closed = called(paused, "on_close")
        await fill(paused)
        serving.stop.set()
        assert await client.rest() == ENDED
        await closed.wait()
        async with asyncio.timeout(http_server.STOP_SECONDS / 4):
            await serving.server


async def test_while_the_loop_is_blocked_new_connections_are_answered_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "TURN_SECONDS", 0.01)
    async with started() as serving:
        with ThreadPoolExecutor() as pool, structlog.testing.capture_logs() as logs:
            asked = pool.submit(httpx.get, f"http://127.0.0.1:{serving.port}/healthz", trust_env=False)
            # This blocks the loop that serves.
            answered = asked.result(SECONDS)
        assert (answered.status_code, answered.json()["code"]) == (503, "loop_blocked")
        assert len(answered.headers["Refold-Request-Id"]) == 32
        assert not serving.app.begun
        [blocked] = [each for each in logs if each["event"] == "loop_blocked"]
        assert any("test_http_server.py" in frame for frame in blocked["frames"])
        async with asyncio.timeout(SECONDS):
            # The thread stops once it sees that the loop turns.
            while (await serving.ask(get("/healthz"))).status != 200:
                pass


async def test_connections_without_a_request_delay_no_probe_while_the_loop_is_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(listening, "REQUEST_SECONDS", 10 * SECONDS)
    async with started() as serving:
        url, address = f"http://127.0.0.1:{serving.port}/healthz", ("127.0.0.1", serving.port)
        with ThreadPoolExecutor() as pool, ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(socket.create_connection(address))
            asked = pool.submit(httpx.head, url, trust_env=False)
            # This blocks the loop that serves.
            answered = asked.result(SECONDS)
            assert (answered.status_code, answered.content) == (503, b"")


async def test_the_port_is_free_once_the_server_has_ended() -> None:
    async with started() as serving:
        serving.stop.set()
        await serving.server
        assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
        listening.listening_socket(Listener("127.0.0.1", serving.port)).close()

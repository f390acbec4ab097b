"""HTTP/1.1 to one gateway over asyncio streams: requests out, answers or errors of Refold's tree back.

Only `refold.client` may use it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlencode

from refold.client.connection import Address, Answer, Connection, EventStream, not_a_gateway
from refold.client.requests import argument_of, in_arguments
from refold.core import json_text
from refold.core.errors import (
    DocumentAbsent,
    HistoryElsewhere,
    HistorySlow,
    RefoldError,
    Refused,
    ServiceUnavailable,
    TimedOut,
    VersionUnknown,
)
from refold.core.stream import check_document, check_name, path_segment
from refold.core.timestamp import parse_retry_after

DEFAULT_URL: Final = "http://127.0.0.1:8080"

CONNECTIONS_MAX: Final = 64

RETRY_SECONDS: Final = 15.0
RETRY_PAUSE_SECONDS: Final = 0.1
RETRY_PAUSE_SECONDS_MAX: Final = 2.0
"""Unanswered writes are sent again for `RETRY_SECONDS`; the pause between two tries doubles up to the maximum."""

SOON_SECONDS: Final = 0.02
SOON_SECONDS_MAX: Final = 0.25
"""After `Retry-After: 0`, the pause is random below the first, which doubles with every such try up to the second."""

RETRY_AFTER_SECONDS_MAX: Final = 60.0
"""The longest pause that an answer can ask for by `Retry-After`."""

TRACESTATE_BYTES_MAX: Final = 512
"""A larger `tracestate` is left out: the service takes no context with it."""


class Backoff:
    """The time left for one write, and the growing pauses between its tries."""

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._pause_seconds = RETRY_PAUSE_SECONDS
        self._soon_seconds = SOON_SECONDS

    async def pause(self, seconds_min: float | None = None) -> bool:
        """Wait before the next try, as an answer asks; return False at once if no time is left for one.

        With 0, it is to be sent again at once: the service is well, and the write met others, whose pauses must differ.
        """
        if seconds_min == 0:
            seconds = random_share() * self._soon_seconds
            self._soon_seconds = min(2 * self._soon_seconds, SOON_SECONDS_MAX)
        else:
            seconds = max(self._pause_seconds, seconds_min or 0.0)
            self._pause_seconds = min(2 * self._pause_seconds, RETRY_PAUSE_SECONDS_MAX)
        if asyncio.get_running_loop().time() + seconds > self._deadline:
            return False
        await asyncio.sleep(seconds)
        return True


class Transport:
    """A pool of connections to one gateway, and streams beside it."""

    def __init__(self, url: str, *, timeout_seconds: float, trace: Callable[[str], None] | None) -> None:
        """Connect on first use. `timeout_seconds` bounds the silence while an answer is awaited."""
        self.url = full_url(url)
        self.timeout_seconds = timeout_seconds
        self.was_reached = False
        self.closed = asyncio.Event()
        self._address: Address | None = None
        self._trace = trace
        self._connections = [Connection(self.url, timeout_seconds) for _ in range(CONNECTIONS_MAX)]
        # LIFO: the connection that was used last is used next.
        self._free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        for connection in self._connections:
            self._free.put_nowait(connection)
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()

    async def request_retrying(self, backoff: Backoff, method: str, path: str, **options: Any) -> Answer:
        """Send a request, and send it again while it is not answered or the service cannot take it (429, 5xx).

        An answer's `Retry-After` is the shortest pause before the next try. Only for what may arrive twice: a write
        that carries an id. A service that this client has never reached is not retried: its address may be wrong.
        """
        while True:
            try:
                return await self.request(method, path, **options)
            except (ServiceUnavailable, TimedOut) as error:
                if not self.was_reached or not await backoff.pause(retry_after_seconds(error)):
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
        address, target, head = self._head_of(method, path, query, headers, body)
        answer = await self._exchange(address, head, body or b"")
        if self._trace is not None:
            self._trace(f"{method} {self.url}{target}: {answer.status}, {len(answer.body)} bytes")
        is_success = 200 <= answer.status < 300
        media = answer.headers.get("content-type", "")
        # The metrics of a gateway are plain text, and it has no HTML.
        if media.startswith("text/html") and (is_success or answer.status == 404):
            raise not_a_gateway(self.url, f"it answered {answer.status} with {media}")
        if is_success or answer.status in also:
            return answer
        raise read_error(answer)

    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        first_seconds: float,
        silence_seconds: float,
    ) -> EventStream:
        """Open a stream of server-sent events on a connection outside the pool. The caller closes it.

        `first_seconds` bounds the wait for the answer's head, and for its first byte; `silence_seconds` each silence
        after that. Raises the answer's error unless its status is a success.
        """
        sent = {"Accept": "text/event-stream", "Connection": "close", **(headers or {})}
        address, target, head = self._head_of(method, path, query, sent, body)
        connection = Connection(self.url, first_seconds)
        try:
            await connection.open(address)
            self.was_reached = True
            answer = await connection.begin(head, body or b"")
            if self._trace is not None:
                self._trace(f"{method} {self.url}{target}: {answer.status}")
            if not 200 <= answer.status < 300:
                raise read_error(answer)
        except (OSError, EOFError, ValueError) as error:
            connection.close()
            raise connection.unavailable(error) from error
        except BaseException:
            connection.close()
            raise
        stream = EventStream(connection, first_seconds=first_seconds, silence_seconds=silence_seconds)
        self._streams.add(stream)
        return stream

    def check_open(self) -> None:
        """Raise `RuntimeError` once the client is closed."""
        if self.closed.is_set():
            raise RuntimeError("the client is closed")

    async def close(self) -> None:
        """Close all connections."""
        self.closed.set()
        for stream in self._streams:
            stream.close()
        for connection in self._connections:
            connection.close()
        # Lets the event loop close the sockets.
        await asyncio.sleep(0)

    def _head_of(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        body: bytes | None,
    ) -> tuple[Address, str, bytes]:
        """Return the address, a request's target and its head. Raises `RuntimeError` once the client is closed."""
        self.check_open()
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, quote_via=quote)}" if given else path
        address = self._address = self._address or Address.of(self.url)
        sent = {**(headers or {}), **trace_headers()}
        return address, target, address.head(method, target, sent, body)

    async def _exchange(self, address: Address, head: bytes, body: bytes) -> Answer:
        connection = await self._free.get()
        try:
            if not connection.is_open():
                await connection.open(address)
            self.was_reached = True
            return await connection.exchange(head, body)
        except (OSError, EOFError, ValueError) as error:
            raise connection.unavailable(error) from error
        finally:
            self._free.put_nowait(connection)


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


_KINDS: Final[Mapping[type[RefoldError], int]] = {
    VersionUnknown: 404,
    DocumentAbsent: 404,
    HistoryElsewhere: 501,
    HistorySlow: 503,
}
"""Errors that a client tells apart by their code; a request for history that is answered so is not sent again."""


def read_error(answer: Answer) -> RefoldError:
    """Return the error that a problem document describes.

    One of the service has as facts the id of the request in its log, and the `Retry-After` of a 429 or 503.
    """
    status, problem = answer.status, dict[str, Any]()
    with suppress(Refused):
        parsed = json_text.loads(answer.body)
        problem = parsed if isinstance(parsed, dict) else {}
    code, field, shape = (str(problem.get(name) or "") for name in ("code", "field", "shape"))
    detail = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    for kind, its_status in _KINDS.items():
        if (status, code) == (its_status, kind.code):
            return kind(detail)
    logged: dict[str, object] = {}
    if request_id := answer.headers.get("refold-request-id"):
        logged["request_id"] = request_id
    if status in (429, 503) and (wait := answer.headers.get("retry-after")):
        seconds = min(parse_retry_after(wait, now=time.time()), RETRY_AFTER_SECONDS_MAX)
        # A date that has passed, by a clock that may differ, and what cannot be read ask for nothing.
        if seconds or wait.strip() == "0":
            logged["retry_after_seconds"] = seconds
    if status in (408, 504):
        return TimedOut(detail, **logged)
    if status == 429 or status >= 500:
        return ServiceUnavailable(detail, **logged)
    # `Refused` adds field and shape to its text, which the detail contains already.
    rule = detail.removeprefix(f"{field}: ").removesuffix(f" (got {shape})")
    if code == "not_found":
        rule += "; the address to give is that of a gateway, without /v1"
    return Refused(code or f"http_{status}", in_arguments(rule), field=argument_of(field), shape=shape)


def retry_after_seconds(error: RefoldError) -> float | None:
    """Return how long the service asked to wait before the next try; None where it did not."""
    seconds = error.facts.get("retry_after_seconds")
    return seconds if isinstance(seconds, float) else None


def random_share() -> float:
    """Return a random number from 0 to 1; `random` would be imported for this alone."""
    return int.from_bytes(os.urandom(4)) / 2**32


def trace_headers() -> dict[str, str]:
    """Return the context of OpenTelemetry's current span as headers; none where there is no span.

    OpenTelemetry is not imported here: a program that has a span has imported it.
    """
    current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if current_span is None:
        return {}
    context = current_span().get_span_context()
    if not context.is_valid:
        return {}
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header()
    return {"traceparent": parent} | ({"tracestate": state} if 0 < len(state) <= TRACESTATE_BYTES_MAX else {})

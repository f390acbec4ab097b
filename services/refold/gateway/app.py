"""The gateway's ASGI application: routes, errors, and what happens to every request.

From the outside in: metrics, hosts and origins, CORS, readiness, a permit, the route. The routes of one document come
first: they are the hot ones. Composed by `refold.wiring.gateway`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

from prometheus_client import Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refold.core.errors import RefoldError, Refused
from refold.gateway import agui, bulk, documents, history, ops, revert, transactions
from refold.gateway.context import Context
from refold.gateway.encoding import encode
from refold.gateway.inflight import InFlight, deadline_in
from refold.gateway.live import routes as live
from refold.gateway.live.requests import is_event_stream
from refold.gateway.readiness import with_lag
from refold.gateway.responses import Problem, Response, problem_of
from refold.gateway.stores import with_store
from refold.gateway.tracing import REQUEST_ID, begin_request, exemplar_in
from refold.store.layers.sources import TERMS, Terms
from refold.telemetry.logging import get_logger

UNROUTED: Final = "none"
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS"})
LABELS_MAX: Final = 1_024
"""Histograms kept at hand, by route, method and status."""

Handler = Callable[[Request], Awaitable[ASGIApp]]

ROUTES: Final[list[tuple[str, str, Handler]]] = [
    ("GET", "/v1/{namespace}/{document}", documents.read_document),
    ("PUT", "/v1/{namespace}/{document}", documents.put_document),
    ("PATCH", "/v1/{namespace}/{document}", documents.patch_document),
    ("DELETE", "/v1/{namespace}/{document}", documents.delete_document),
    ("POST", "/v1/{namespace}/events", bulk.append_events),
    ("POST", "/v1/{namespace}/transactions", transactions.append_transaction),
    ("POST", "/v1/{namespace}/{document}/revert", revert.revert_document),
    ("GET", "/v1/{namespace}/{document}/history", history.read_history),
    ("GET", "/v1/{namespace}/{document}/diff", history.read_diff),
    ("GET", "/v1/{namespace}/{document}/blame", history.read_blame),
    ("GET", "/v1/{namespace}/{document}/rejections", history.read_rejections),
    ("GET", "/v1/{namespace}/{document}/conflicts", history.read_conflicts),
    ("GET", "/v1/{namespace}/{document}/conflicts/{sequence}", history.read_conflict),
    ("GET", "/v1/{namespace}/{document}/outcomes", history.read_outcome_by_id),
    ("GET", "/v1/{namespace}/{document}/outcomes/{sequence}", history.read_outcome),
    ("GET", "/v1/{namespace}/{document}/live", live.watch_document),
    ("GET", "/live/v1", live.watch),
    ("GET", "/v1/_rejections", history.read_all_rejections),
    ("GET", "/v1/_conflicts", history.read_open_conflicts),
    ("GET", "/v1/{namespace}", documents.list_documents),
    ("GET", "/v1", documents.list_namespaces),
    ("POST", "/agui/{namespace}/{document}", agui.run_document),
    ("GET", "/healthz", ops.read_liveness),
    ("GET", "/health", ops.read_health),
    ("GET", "/readyz", ops.read_readiness),
    ("GET", "/metrics", ops.read_metrics),
    ("GET", "/status", ops.read_status),
    ("GET", "/", ops.read_index),
    ("GET", "/openapi.json", ops.read_openapi),
    ("GET", "/docs", ops.read_docs),
    ("GET", "/docs/{file}", ops.read_docs_file),
]
"""Method, path and handler; `HEAD` goes to the handler of `GET`."""


class Template(NamedTuple):
    """The template of a path: its fixed parts and its names, each with its place, and the handler of each method."""

    path: str
    fixed: tuple[tuple[int, str], ...]
    names: tuple[tuple[int, str], ...]
    handlers: dict[str, Handler]

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """Return the named parts of a path that has as many parts; None where it does not match."""
        for place, text in self.fixed:
            if parts[place] != text:
                return None
        found = {name: parts[place] for place, name in self.names}
        return found if all(found.values()) else None


def _templates() -> dict[int, list[Template]]:
    """Return the templates by their number of parts, in the order of the routes."""
    by_path: dict[str, Template] = {}
    for method, path, handle in ROUTES:
        parts = list(enumerate(path.split("/")))
        fixed = tuple((place, text) for place, text in parts if not text.startswith("{"))
        names = tuple((place, text[1:-1]) for place, text in parts if text.startswith("{"))
        template = by_path.setdefault(path, Template(path, fixed, names, {}))
        template.handlers[method] = handle
        if method == "GET":
            template.handlers["HEAD"] = handle
    by_count: dict[int, list[Template]] = {}
    for template in by_path.values():
        by_count.setdefault(len(template.fixed) + len(template.names), []).append(template)
    return by_count


_TEMPLATES: Final = _templates()
_NO_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Gateway:
    """The application; handlers find its context as `request.app.context`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._access, self._readiness, self._timer = context.access, context.readiness, context.timer
        self._sources, self._consistency = context.sources, context.consistency
        self._wait_seconds, self._tracing = context.wait_seconds, context.tracing
        self._in_flight = InFlight(context.in_flight_limits, context.registry)
        self._admitted = context.access.answering_cors(self._admit)
        self._observed = lru_cache(LABELS_MAX)(context.metrics.http_seconds.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and observe its duration by route template, never by path."""
        scope["app"] = self
        status = 500
        request_id, trace = begin_request(scope, self._tracing)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, request_id)]
            await send(message)

        started = self._timer()
        try:
            refusal = self._access.refusal(scope)
            await (refusal.response() if refusal else self._admitted)(scope, receive, watched)
        finally:
            self._histogram(scope, status).observe(self._timer() - started, exemplar_in(trace))
            if trace is not None:
                trace.end(scope, status)

    def _histogram(self, scope: Scope, status: int) -> Histogram:
        method = scope["method"] if scope["method"] in METHODS else "other"
        return self._observed(scope.get("route", UNROUTED), method, status)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer reads of the projection 503, or mark them, until it has caught up. Writes pass: they need the log."""
        if is_event_stream(scope):
            # It has bounds of its own, and says otherwise that it may pass.
            await self._answer(scope, receive, send)
            return
        readiness = self._readiness
        if not readiness.is_caught_up and _is_read(scope):
            if not readiness.allows_stale_reads:
                await problem_of(readiness.behind()).response()(scope, receive, send)
                return
            send = with_lag(send, readiness)
        if self._sources is not None and _is_read(scope):
            await self._read_by_terms(scope, receive, send)
            return
        await self._in_flight.serve(self._answer, scope, receive, send)

    async def _read_by_terms(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a read from one of several stores, and name it."""
        terms = Terms(deadline=deadline_in(self._wait_seconds))
        token = TERMS.set(terms)
        try:
            await self._in_flight.serve(
                self._answer, scope, receive, with_store(send, terms, self._consistency)
            )
        finally:
            TERMS.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the handler; turn its errors into problems."""
        request, response = Request(scope, receive, send), None
        try:
            response = await _handler(request)(request)
            if isinstance(response, Response):
                await encode(request, response)
            await response(scope, receive, send)
        except Exception as error:
            # A response that streams may still fail before it starts.
            if response is not None and getattr(response, "has_started", True):
                raise
            await _problem_for(request, error).response()(scope, receive, send)


def _handler(request: Request) -> Handler:
    scope = request.scope
    parts = _parts(scope["raw_path"])
    allowed: set[str] = set()
    for template in _TEMPLATES.get(len(parts), ()):
        named = template.match(parts)
        if named is not None:
            scope["route"] = template.path
            handler = template.handlers.get(scope["method"])
            if handler is not None:
                scope["path_params"] = named
                return handler
            allowed |= template.handlers.keys()
    raise _unrouted(request, ", ".join(sorted(allowed)))


def _parts(raw_path: bytes) -> list[str]:
    """Split a path, then unescape its parts: an id may have a `/`, as `%2F`. Raises `Refused`."""
    parts = raw_path.decode("latin-1").split("/")
    if b"%" not in raw_path and raw_path.isascii():
        return parts
    try:
        if not raw_path.isascii() or _NO_ESCAPE.search(raw_path):
            raise ValueError
        return [unquote(part, errors="strict") for part in parts]
    except ValueError:
        rule = "names in a path are percent-escaped UTF-8, a % itself is %25"
        raise Refused("bad_name", rule, field="path", shape=repr(raw_path[:80])) from None


def _unrouted(request: Request, allowed: str) -> Problem:
    if allowed:
        detail = f"{request.method} is not supported here; supported: {allowed}"
        return Problem(405, "method_not_allowed", detail, headers={"Allow": allowed})
    return Problem(404, "not_found", f"there is no resource at {request.url.path}")


def _is_read(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path == "/v1" or path.startswith(("/v1/", "/live/")))


def _problem_for(request: Request, error: Exception) -> Problem:
    if isinstance(error, Problem | RefoldError):
        problem = problem_of(error)
        if isinstance(error, RefoldError) and problem.status >= 500:
            get_logger().warning("request_failed", status=problem.status, code=error.code, error=str(error))
        return problem
    get_logger().error("request_crashed", method=request.method, path=request.url.path, exc_info=error)
    return Problem(500, "internal_error", "the gateway failed unexpectedly; its log has the traceback")

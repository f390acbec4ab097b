"""The gateway's ASGI application: routes, errors, and the layers around them. Composed by `refold.wiring.gateway`.

From the outside in: `Timed` (metrics), `Guarded` (hosts and origins), `Counted` (requests in flight), `ReadGate`
(readiness), then Starlette's router. The routes of one document come first: they are the hot ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Histogram
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refold.core.errors import RefoldError
from refold.core.stream import NAME_CHARS_MAX
from refold.gateway import bulk, documents, history, ops
from refold.gateway.access import Guarded
from refold.gateway.context import Context
from refold.gateway.inflight import Counted, InFlight
from refold.gateway.readiness import ReadGate
from refold.gateway.responses import Problem, problem_of
from refold.telemetry.logging import get_logger

UNROUTED: Final = "none"
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS"})

Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """The application; handlers find its context as `request.app.context`."""

    def __init__(self, context: Context) -> None:
        """Put the layers together."""
        self.context = context
        self.routes = [Route(path, Endpoint(handle), methods=[method]) for method, path, handle in ROUTES]
        router = Router(self.routes, redirect_slashes=False, default=Endpoint(_not_found))
        gated = ReadGate(_Refusing(router), context.readiness)
        counted = Counted(gated, InFlight(context.in_flight_limits, context.registry))
        guarded = Guarded(counted, context.access)
        self._app = Timed(guarded, context.metrics.http_seconds, context.timer)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve."""
        scope["app"] = self
        return self._app(scope, receive, send)


ROUTES: Final[list[tuple[str, str, Handler]]] = [
    ("GET", "/v1/{namespace}/{document}", documents.read_document),
    ("PUT", "/v1/{namespace}/{document}", documents.put_document),
    ("PATCH", "/v1/{namespace}/{document}", documents.patch_document),
    ("DELETE", "/v1/{namespace}/{document}", documents.delete_document),
    ("POST", "/v1/{namespace}/events", bulk.append_events),
    ("GET", "/v1/{namespace}/{document}/history", history.read_history),
    ("GET", "/v1/{namespace}/{document}/diff", history.read_diff),
    ("GET", "/v1/{namespace}/{document}/rejections", history.read_rejections),
    ("GET", "/v1/{namespace}/{document}/outcomes", history.read_outcome_by_id),
    ("GET", "/v1/{namespace}/{document}/outcomes/{sequence}", history.read_outcome),
    ("GET", "/v1/_rejections", history.read_all_rejections),
    ("GET", "/v1/{namespace}", documents.list_documents),
    ("GET", "/v1", documents.list_namespaces),
    ("GET", "/healthz", ops.read_health),
    ("GET", "/readyz", ops.read_readiness),
    ("GET", "/metrics", ops.read_metrics),
    ("GET", "/status", ops.read_status),
    ("GET", "/", ops.read_index),
    ("GET", "/openapi.json", ops.read_openapi),
    ("GET", "/docs", ops.read_docs),
    ("GET", "/docs/{file}", ops.read_docs_file),
]
"""Method, path and handler; `HEAD` goes to the handler of `GET`."""


class Endpoint:
    """An ASGI application that runs a handler and turns its errors into problems."""

    def __init__(self, handle: Handler) -> None:
        """Run this handler."""
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request, response = Request(scope, receive, send), None
        try:
            response = await self._handle(request)
            await response(scope, receive, send)
        except Exception as error:
            # A response that streams may still fail before it starts.
            if response is not None and getattr(response, "has_started", True):
                raise
            await _problem_for(request, error).response()(scope, receive, send)


class _Refusing:
    """An ASGI application that turns the router's own refusals into problems."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router(scope, receive, send)
        except HTTPException:
            request = Request(scope)
            methods = ", ".join(_allowed(self._router, scope))
            detail = f"{request.method} is not supported by this resource; {methods} is"
            problem = Problem(405, "method_not_allowed", detail, headers={"Allow": methods})
            await problem.response()(scope, receive, send)


class Timed:
    """An ASGI application that observes the duration of another's requests by route template, never by path."""

    def __init__(self, app: ASGIApp, http_seconds: Histogram, timer: Callable[[], float]) -> None:
        """Observe into a histogram with the labels route, method and status."""
        self._app = app
        self._http_seconds = http_seconds
        self._timer = timer
        self._children: dict[tuple[str, str, int], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and time HTTP requests."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = self._timer()
        try:
            await self._app(scope, receive, watched)
        finally:
            self._child(scope, status).observe(self._timer() - started)

    def _child(self, scope: Scope, status: int) -> Histogram:
        route = getattr(scope.get("route"), "path", UNROUTED)
        method = scope["method"] if scope["method"] in METHODS else "other"
        labels = (route, method, status)
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._http_seconds.labels(
                route=route, method=method, status=str(status)
            )
        return child


def _problem_for(request: Request, error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, RefoldError):
        problem = problem_of(error)
        if problem.status >= 500:
            get_logger().warning("request_failed", status=problem.status, code=error.code, error=str(error))
        return problem
    get_logger().error("request_crashed", method=request.method, path=request.url.path, exc_info=error)
    return Problem(500, "internal_error", "the gateway failed unexpectedly; its log has the traceback")


async def _not_found(request: Request) -> Response:
    if b"%2f" in request.scope.get("raw_path", b"").lower():
        rule = f"a name is 1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 _ - : = @ + ~, so it contains no /"
        raise Problem(422, "bad_name", rule, field="path")
    raise Problem(404, "not_found", f"there is no resource at {request.url.path}")


def _allowed(router: Router, scope: Scope) -> list[str]:
    methods: set[str] = set()
    for route in router.routes:
        match, _ = route.matches(scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)

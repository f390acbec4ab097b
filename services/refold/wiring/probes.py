"""Serve what every service but the gateway answers alike: `/healthz`, `/readyz` and `/metrics`, and its own routes.

Used by the compositions of projector, alert engine and usage service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files
from typing import Any, Final

from prometheus_client import CollectorRegistry

from refold import __version__
from refold.core.errors import RefoldError
from refold.gateway import IDLE_SECONDS
from refold.gateway.access import Access
from refold.gateway.responses import Problem, Response, json_response, problem_of
from refold.telemetry.metrics.exposition import Exposition, accepted_by
from refold.telemetry.metrics.process import ServiceMetrics
from refold.wiring.http_server import serve
from refold.wiring.service import Listener

METHODS: Final = "GET, HEAD"

NEWEST_MIGRATION: Final = max(
    int(file.name[:4]) for file in files("refold.store").joinpath("postgres", "migrations").iterdir()
)
"""The newest migration of PostgreSQL's tables that this build has; not every service loads the driver."""

Scope = MutableMapping[str, Any]

Route = Callable[[Scope], Awaitable[Response]]
"""Answers a GET; raises `Problem` or `RefoldError`."""


async def serve_probes(
    registry: CollectorRegistry,
    listener: Listener,
    *,
    stop: asyncio.Event,
    readiness: Callable[[], Response],
    route: Route | None = None,
    access: Access | None = None,
    idle_seconds: float = IDLE_SECONDS,
) -> None:
    """Serve until `stop` is set, and measure the process meanwhile.

    `readiness` answers `/readyz`: 200 where the service is ready. `route` answers all other paths, `access` decides
    which hosts and web pages may ask; without it, all may.
    """
    metrics = ServiceMetrics(registry, __version__, migration=NEWEST_MIGRATION)
    metrics.ready.set_function(lambda: readiness().status == 200)
    measuring = asyncio.create_task(metrics.measure_loop_delay(), name="loop-delay")
    try:
        app = application(registry, readiness, route or not_found, access)
        await serve(app, listener, stop=stop, idle_seconds=idle_seconds)
    finally:
        measuring.cancel()


def application(
    registry: CollectorRegistry, readiness: Callable[[], Response], route: Route, access: Access | None
) -> Any:
    """Return the ASGI application."""
    exposition = Exposition(registry)

    async def answer(scope: Scope) -> Response:
        path = scope["path"]
        if access is not None and (refusal := access.refusal(scope)) is not None:
            raise refusal
        if scope["method"] not in METHODS.split(", "):
            detail = f"{scope['method'][:20]} is not supported here; supported: {METHODS}"
            raise Problem(405, "method_not_allowed", detail, headers={"Allow": METHODS})
        if path == "/healthz":
            return json_response({"status": "alive"})
        if path == "/readyz":
            return readiness()
        if path == "/metrics":
            body, media_type = await exposition.read(accepted_by(scope))
            return Response(body, 200, None, media_type)
        return await route(scope)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        try:
            response = await answer(scope)
        except (RefoldError, Problem) as error:
            response = problem_of(error).response()
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    return served if access is None else access.answering_cors(served)


async def not_found(scope: Scope) -> Response:
    """Answer that there is no such resource."""
    raise Problem(404, "not_found", f"there is no resource at {scope['path'][:80]}")


def not_ready(detail: str) -> Response:
    """Return the answer of `/readyz` of a service that is not ready."""
    return Problem(503, "not_ready", detail).response()

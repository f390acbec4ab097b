"""The gateway's ASGI application, made of its parts by the wiring.

Order of routes: the hot one first, then writes, reads and the operator's.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from refold.gateway import admin, bulk, openapi, problems, views, write
from refold.gateway.access import Guarded
from refold.gateway.hot import HOT_PATH, HotRoutes
from refold.gateway.inflight import Counted, InFlight
from refold.gateway.measured import Measured
from refold.gateway.parts import Parts
from refold.gateway.read import read_document
from refold.gateway.readiness import ReadGate


class Gateway(FastAPI):
    """FastAPI, timed and counted from outside its own error handling."""

    def build_middleware_stack(self) -> ASGIApp:
        """Wrap the whole stack."""
        parts: Parts = self.state.parts
        guarded = ReadGate(super().build_middleware_stack(), parts.readiness)
        counted = Counted(guarded, InFlight(parts.bounds, parts.registry))
        allowed = Guarded(counted, parts.access)
        return Measured(allowed, parts.metrics.http_seconds, parts.timer)


def create_app(parts: Parts) -> Gateway:
    """Return the application that works on these parts."""
    app = bare_app(parts.about.refold)
    app.state.parts = parts
    app.state.bulk_slots = bulk.new_slots()
    return app


def bare_app(version: str) -> Gateway:
    """Return the application without its parts: for its OpenAPI document."""
    app = Gateway(
        title="Refold",
        version=version,
        description="JSON documents as the fold of an immutable log: any version, at any time.",
        redoc_url=None,
        redirect_slashes=False,
        # `Measured` does it; FastAPI's own cost a tenth of a read without being configured.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    reading = APIRoute(HOT_PATH, read_document, methods=["GET", "HEAD"], include_in_schema=False)
    app.router.routes.insert(0, reading)
    for module in (write, bulk, views, admin):
        # Side by side, not nested: the router looks through one list, and a 405 knows all methods of a path.
        app.router.routes.extend(module.router.routes)
    app.add_middleware(HotRoutes, owner=app)
    problems.install(app)
    openapi.install(app)
    return app

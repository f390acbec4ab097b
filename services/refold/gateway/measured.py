"""Times every request by its route's template, never by its path.

The outermost layer of the application that `refold.gateway.app` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNROUTED: Final = "none"
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS"})


class Measured:
    """An ASGI application that observes another."""

    def __init__(self, app: ASGIApp, http_seconds: Histogram, timer: Callable[[], float]) -> None:
        """Observe into a histogram with the labels route, method and status."""
        self._app = app
        self._http_seconds = http_seconds
        self._timer = timer
        self._children: dict[tuple[str, str, int], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and time what is HTTP."""
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

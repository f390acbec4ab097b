"""Serves the routes of one document straight from their endpoints, past the framework's resolution of parameters.

A middleware of the application that `refold.gateway.app` makes: their endpoints take the request and two names, and
read the rest themselves, so that there is nothing to resolve.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from refold.gateway.problems import HANDLED, answer_to

HOT_PATH: Final = "/v1/{namespace}/{document}"

Endpoint = Callable[[Request, str, str], Awaitable[Response]]


class _Hot(NamedTuple):
    route: BaseRoute
    endpoint: Endpoint


class HotRoutes:
    """An ASGI application that answers some requests itself and leaves the others to another."""

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        """Take the hot path's routes from their owner, the application that lists and describes them."""
        self._app = app
        self._routes = {
            method: _Hot(route, route.endpoint)
            for route in owner.router.routes
            if isinstance(route, Route) and route.path == HOT_PATH
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        hot = self._routes.get(scope["method"]) if scope["type"] == "http" else None
        names = _NAMES.fullmatch(scope["path"]) if hot and not scope.get("root_path") else None
        if hot is None or names is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = hot.route
        request = Request(scope, receive, send)
        try:
            response = await hot.endpoint(request, names[1], names[2])
        except HANDLED as error:
            response = await answer_to(request, error)
        await response(scope, receive, send)


_NAMES: Final = re.compile(r"/v1/([^/]+)/([^/]+)")

"""Every error as RFC 9457 `application/problem+json`, the framework's own and the unexpected ones included.

`type` ends in the stable code, which also stands in `code`; `detail` is for people.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from refold.core.canonical import Json
from refold.core.errors import (
    DocumentAbsent,
    LogError,
    RefoldError,
    Refused,
    StoreError,
    TimedOut,
    VersionUnknown,
)
from refold.core.limits import NAME_CHARS_MAX
from refold.telemetry.logging import get_logger

MEDIA_TYPE: Final = "application/problem+json"
NAMESPACE: Final = "urn:refold:problem:"
RETRY: Final = {"Retry-After": "1"}

UNPARSED: Final = frozenset(
    {"bad_json", "duplicate_key", "lone_surrogate", "number_out_of_range", "bad_header", "repeated_header"}
)
TOO_LARGE: Final = frozenset({"event_too_large", "headers_too_large", "state_too_large"})


class Problem(Exception):
    """An answer that says what is wrong."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **facts: Json
    ) -> None:
        """`facts` stand beside the members that RFC 9457 names."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.facts = facts

    def view(self) -> dict[str, Json]:
        """Return the document's members."""
        return {
            "type": NAMESPACE + self.code,
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.facts,
        }

    def response(self) -> Response:
        """Return the answer."""
        return Response(orjson.dumps(self.view()), self.status, self.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of an application a problem document."""
    app.exception_handlers.update({**_HANDLERS, Exception: _on_unexpected})


async def answer_to(request: Request, error: Exception) -> Response:
    """Return the problem document for an error that is `HANDLED`."""
    handle = next(handle for kind, handle in _HANDLERS.items() if isinstance(error, kind))
    return await handle(request, error)


def problem_of(error: RefoldError) -> Problem:
    """Make the problem that an error of ours stands for."""
    if isinstance(error, Refused):
        named: dict[str, Json] = {"field": error.field, "shape": error.shape}
        facts = {name: value for name, value in named.items() if value}
        return Problem(_status_of(error.reason), error.reason, str(error), **facts)
    status, headers = _STATUS.get(type(error)), None
    if isinstance(error, LogError | StoreError):
        status, headers = 503, RETRY
    return Problem(status or 500, error.code, error.message, headers=headers, **shown(error.facts))


def _status_of(reason: str) -> int:
    if reason in UNPARSED:
        return 400
    if reason == "unsupported_media_type":
        return 415
    return 413 if reason in TOO_LARGE else 422


def shown(facts: Mapping[str, object]) -> dict[str, Json]:
    """Return the facts of an error that a problem document may show."""
    return {name: value for name, value in facts.items() if isinstance(value, str | int | float | bool)}


async def _on_problem(_: Request, error: Problem) -> Response:
    return error.response()


async def _on_refold_error(_: Request, error: RefoldError) -> Response:
    problem = problem_of(error)
    if problem.status >= 500:
        get_logger().warning("request_failed", status=problem.status, code=error.code, error=str(error))
    return problem.response()


async def _on_invalid(_: Request, error: RequestValidationError) -> Response:
    fault = error.errors()[0]
    field = str(fault["loc"][-1]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return unknown_parameter(field).response()
    return Problem(422, "bad_parameter", f"{field}: {fault['msg']}", field=field).response()


def unknown_parameter(name: str) -> Problem:
    """Say that a query parameter is none of this resource's."""
    return Problem(422, "unknown_parameter", f"{name}: this resource has no such parameter", field=name)


async def _on_framework(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        allowed = ", ".join(_allowed(request))
        detail = f"{request.method} is not for this resource; {allowed} is"
        return Problem(405, "method_not_allowed", detail, headers={"Allow": allowed}).response()
    if error.status_code == 404:
        return _nowhere(request).response()
    code = "http_error" if error.status_code < 500 else "internal_error"
    return Problem(error.status_code, code, str(error.detail), headers=error.headers).response()


def _nowhere(request: Request) -> Problem:
    if b"%2f" in request.scope.get("raw_path", b"").lower():
        rule = f"a name is 1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 _ - : = @ + ~, hence never with a /"
        return Problem(422, "bad_name", rule, field="path")
    return Problem(404, "not_found", f"there is no resource at {request.url.path}")


def _allowed(request: Request) -> list[str]:
    methods: set[str] = set()
    for route in request.app.router.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    get_logger().error("request_crashed", method=request.method, path=request.url.path, exc_info=error)
    detail = "the gateway failed in a way that it does not know; its log says how"
    return Problem(500, "internal_error", detail).response()


_STATUS: Final[dict[type[RefoldError], int]] = {DocumentAbsent: 404, VersionUnknown: 404, TimedOut: 504}

# Coroutines, all of them: plain functions would be sent to a thread.
_HANDLERS: Final[dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]]] = {
    Problem: _on_problem,
    RefoldError: _on_refold_error,
    RequestValidationError: _on_invalid,
    HTTPException: _on_framework,
}
HANDLED: Final = tuple(_HANDLERS)
"""What is answered as a problem and ends there; anything else is the gateway's own failure."""

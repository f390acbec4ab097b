"""Make responses: JSON, outcomes, pages, and every error as RFC 9457 `application/problem+json`.

Used by every module of the gateway. A problem's `type` ends in the stable code, which is also in `code`; `detail` is
for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import orjson
from starlette.responses import Response

from refold.core.errors import (
    DocumentAbsent,
    LogError,
    RefoldError,
    Refused,
    StoreError,
    TimedOut,
    VersionUnknown,
)
from refold.core.json_text import Json

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
PROBLEM_TYPE: Final = "urn:refold:problem:"
RETRY: Final = {"Retry-After": "1"}

_UNPARSED: Final = frozenset(
    {"bad_json", "duplicate_key", "lone_surrogate", "number_out_of_range", "bad_header", "repeated_header"}
)
_OF_FIRST: Final = ("status", "version", "sequence", "recorded_at", "created", "reason")
_ONLY_OF_FIRST: Final = frozenset({"occurred_at", "reason", "detail"})
_TOO_LARGE: Final = frozenset({"event_too_large", "headers_too_large", "state_too_large"})
_STATUS: Final[dict[type[RefoldError], int]] = {DocumentAbsent: 404, VersionUnknown: 404, TimedOut: 504}


class Problem(Exception):
    """An error response."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **facts: Json
    ) -> None:
        """`facts` are further members of the problem document."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.facts = facts

    def view(self) -> dict[str, Json]:
        """Return the members of the problem document."""
        return {
            "type": PROBLEM_TYPE + self.code,
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.facts,
        }

    def response(self) -> Response:
        """Return the response."""
        return Response(orjson.dumps(self.view()), self.status, self.headers, PROBLEM)


def problem_of(error: RefoldError | Problem) -> Problem:
    """Return the problem for an error of Refold's own."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        named: dict[str, Json] = {"field": error.field, "shape": error.shape}
        facts = {name: value for name, value in named.items() if value}
        return Problem(_status_of(error.reason), error.reason, str(error), **facts)
    status, headers = _STATUS.get(type(error)), None
    if isinstance(error, LogError | StoreError):
        status, headers = 503, RETRY
    return Problem(status or 500, error.code, error.message, headers=headers, **shown(error.facts))


def shown(facts: Mapping[str, object]) -> dict[str, Json]:
    """Return the facts of an error that a problem document may show."""
    return {name: value for name, value in facts.items() if isinstance(value, str | int | float | bool)}


def json_response(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a value."""
    return Response(orjson.dumps(value), status, headers, JSON)


def page_response(items: Sequence[bytes], following: int | str | None) -> Response:
    """Return a response with items that are JSON already, and what continues them."""
    body = b'{"items":[%b],"next":%b}' % (b",".join(items), orjson.dumps(following))
    return Response(body, 200, None, JSON)


def outcome_response(outcome: dict[str, Json]) -> Response:
    """Return the response to a write whose outcome is known; a duplicate has the status of its first outcome."""
    decisive = outcome.get("first", outcome)
    if decisive["status"] == "rejected":
        detail = outcome.get("detail") or f"the fold rejected the event: {decisive['reason']}"
        return Problem(409, "rejected", detail, reason=decisive["reason"], outcome=outcome).response()
    status = 201 if decisive["created"] else 200
    return Response(orjson.dumps(outcome), status, {"ETag": tag_of(outcome["version"])}, JSON)


def as_duplicate(outcome: dict[str, Json]) -> dict[str, Json]:
    """Show the outcome of an event that its author sends again, as the fold shows a duplicate's."""
    if outcome["status"] == "duplicate":
        return outcome
    first = {name: outcome[name] for name in _OF_FIRST if name in outcome}
    rest = {name: value for name, value in outcome.items() if name not in _ONLY_OF_FIRST}
    return {**rest, "status": "duplicate", "first": first}


def pending_response(namespace: str, document: str, sequence: int, event_id: str) -> Response:
    """Return the response to a write that is durable in the log and not folded yet."""
    headers = {"Location": f"/v1/{namespace}/{document}/outcomes/{sequence}"}
    return json_response({"status": "pending", "sequence": sequence, "id": event_id}, 202, headers)


def tag_of(version: int) -> str:
    """Return a version's entity tag."""
    return f'"{version}"'


def _status_of(reason: str) -> int:
    if reason in _UNPARSED:
        return 400
    if reason == "unsupported_media_type":
        return 415
    return 413 if reason in _TOO_LARGE else 422

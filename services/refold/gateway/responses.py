"""Make responses: JSON, outcomes, pages, and every error as RFC 9457 `application/problem+json`.

Used by every module of the gateway. A problem's `type` ends in the stable code, which is also in `code`; `detail` is
for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import orjson
from starlette.types import Receive, Scope, Send

from refold.core.errors import LogError, RefoldError, Refused, ServiceUnavailable, StoreError
from refold.core.json_text import Json
from refold.core.stream import path_segment
from refold.core.views import CONFLICT_LISTS

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
PROBLEM_TYPE: Final = "urn:refold:problem:"
RETRY: Final = {"Retry-After": "1"}

NAMES_CACHED_MAX: Final = 256
"""Names of headers and media types that are kept encoded."""

_STATUS: Final = {
    **dict.fromkeys(("bad_json", "duplicate_key", "lone_surrogate", "number_out_of_range"), 400),
    **dict.fromkeys(("bad_header", "bad_pattern", "repeated_header"), 400),
    **dict.fromkeys(("document_absent", "version_unknown"), 404),
    **dict.fromkeys(
        (
            "event_too_large",
            "headers_too_large",
            "input_too_large",
            "state_too_large",
            "transaction_too_large",
        ),
        413,
    ),
    "history_not_kept": 501,
    "history_slow": 503,
    "stamp_taken": 409,
    "unsupported_media_type": 415,
    "timed_out": 504,
}
_OF_FIRST: Final = ("status", "version", "sequence", "recorded_at", "created", "reason")
_ONLY_OF_FIRST: Final = frozenset({"occurred_at", "reason", "detail", *CONFLICT_LISTS})


class Response:
    """A response whose body is known, as an ASGI application. Starlette's takes twice as long to make (5 µs)."""

    def __init__(
        self,
        body: bytes | str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body or b""
        given = headers.items() if headers else ()
        self.raw_headers = [(_lowered(name), value.encode("latin-1")) for name, value in given]
        if status != 304:
            self.raw_headers.append((b"content-length", b"%d" % len(self.body)))
        if media_type is not None:
            self.raw_headers.append((b"content-type", _content_type(media_type)))

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


@lru_cache(NAMES_CACHED_MAX)
def _lowered(name: str) -> bytes:
    return name.lower().encode("latin-1")


@lru_cache(NAMES_CACHED_MAX)
def _content_type(media_type: str) -> bytes:
    is_bare_text = media_type.startswith("text/") and "charset=" not in media_type
    return f"{media_type}; charset=utf-8".encode() if is_bare_text else media_type.encode()


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
        return Response(orjson.dumps(self.view()), self.status, self.headers, PROBLEM)


def problem_of(error: RefoldError | Problem) -> Problem:
    """Return the problem for an error of Refold's own."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        named: dict[str, Json] = {"field": error.field, "shape": error.shape}
        facts = {name: value for name, value in named.items() if value}
        return Problem(_STATUS.get(error.reason, 422), error.reason, str(error), **facts)
    may_pass = isinstance(error, LogError | StoreError | ServiceUnavailable) and error.code not in _STATUS
    status, headers = (503, RETRY) if may_pass else (_STATUS.get(error.code, 500), None)
    return Problem(status, error.code, error.message, headers=headers, **shown(error.facts))


def contended(what: str, attempts: int) -> Problem:
    """Return the problem of a write that others overtook each time: to be sent again at once, the service is well."""
    detail = f"others wrote to the {what} each of {attempts} times; nothing was published"
    return Problem(503, "contended", detail, headers={"Retry-After": "0"})


def shown(facts: Mapping[str, object]) -> dict[str, Json]:
    """Return the facts of an error that a problem document may show."""
    return {name: value for name, value in facts.items() if isinstance(value, str | int | float | bool)}


def json_response(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, JSON)


def bare_response(headers: Mapping[str, str]) -> Response:
    """Return the response to a HEAD of JSON that was not read: without its length, which HTTP allows."""
    response = Response(None, 200, {**headers, "Vary": "Accept-Encoding"}, JSON)
    response.raw_headers = [each for each in response.raw_headers if each[0] != b"content-length"]
    return response


def page_response(items: Sequence[bytes], following: int | str | None) -> Response:
    """Return a response with items that are JSON already, and what continues them."""
    body = b'{"items":[%b],"next":%b}' % (b",".join(items), orjson.dumps(following))
    return Response(body, 200, None, JSON)


def outcome_response(outcome: dict[str, Json], conflict_hint: str = "") -> Response:
    """Return the response to a write whose outcome is known; a duplicate has the status of its first outcome."""
    decisive = outcome.get("first", outcome)
    if decisive["status"] == "rejected":
        detail = outcome.get("detail") or f"the fold rejected the event: {decisive['reason']}"
        if conflict_hint and decisive["reason"] == "conflict":
            detail = f"{detail}; {conflict_hint}"
            outcome = {**outcome, "detail": detail}
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
    headers = {"Location": f"/v1/{namespace}/{path_segment(document)}/outcomes/{sequence}"}
    return json_response({"status": "pending", "sequence": sequence, "id": event_id}, 202, headers)


def version_headers(version: int, sequence: int, recorded_at: str, occurred_at: str) -> dict[str, str]:
    """Return the headers of a document's version."""
    return {
        "ETag": tag_of(version),
        "Refold-Version": str(version),
        "Refold-Sequence": str(sequence),
        "Refold-Recorded-At": recorded_at,
        "Refold-Occurred-At": occurred_at,
    }


def tag_of(version: int) -> str:
    """Return a version's entity tag."""
    return f'"{version}"'

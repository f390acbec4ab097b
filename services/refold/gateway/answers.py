"""The answers to writes: an outcome's status, entity tag and body; and JSON put together from bytes.

Used by every route module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson
from starlette.responses import Response

from refold.core.canonical import Json
from refold.gateway.conditions import tag_of
from refold.gateway.problems import Problem

JSON: Final = "application/json"


def outcome_answer(outcome: dict[str, Json]) -> Response:
    """Answer a write whose outcome is known; a duplicate answers as its first did."""
    decisive = outcome.get("first", outcome)
    if decisive["status"] == "rejected":
        return rejection_problem(outcome, decisive).response()
    status = 201 if decisive["created"] else 200
    return Response(orjson.dumps(outcome), status, {"ETag": tag_of(outcome["version"])}, JSON)


def rejection_problem(outcome: dict[str, Json], decisive: dict[str, Json]) -> Problem:
    """Say why the fold refused an event."""
    reason = decisive["reason"]
    detail = outcome.get("detail") or f"the fold refused the event: {reason}"
    return Problem(409, "rejected", detail, reason=reason, outcome=outcome)


def pending_answer(namespace: str, document: str, sequence: int, event_id: str) -> Response:
    """Answer a write that is durable in the log and not folded yet."""
    headers = {"Location": f"/v1/{namespace}/{document}/outcomes/{sequence}"}
    return json_answer({"status": "pending", "sequence": sequence, "id": event_id}, 202, headers)


def json_answer(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a value."""
    return Response(orjson.dumps(value), status, headers, JSON)


def page_answer(items: Sequence[bytes], following: int | str | None) -> Response:
    """Answer with items that are JSON already, and what continues them."""
    body = b'{"items":[%b],"next":%b}' % (b",".join(items), orjson.dumps(following))
    return Response(body, 200, None, JSON)

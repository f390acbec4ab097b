"""The OpenAPI document's words for each route: answers, headers and bodies that the signatures do not show.

Used by the route modules and by `refold.gateway.openapi`.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from refold.core.fold import ID_CHARS_MAX, OPERATIONS_MAX
from refold.core.headers import JSON_PATCH, MERGE_PATCH
from refold.core.limits import VERSION_MAX, WAIT_SECONDS_MAX
from refold.gateway import models
from refold.gateway.patterns import RFC3339, STRATEGY, TAG, TAGS
from refold.gateway.problems import MEDIA_TYPE

Description = dict[str, Any]

_PROBLEMS: Final = {
    400: "What was sent does not parse.",
    404: "There is no such document, version, outcome or resource.",
    408: "Nothing more of the body came in time; nothing was published.",
    409: "The fold refused the event: `reason` says why, `outcome` what became of it.",
    412: "The document is not at the version asked for; nothing was published.",
    413: "Too large: `detail` names size and limit.",
    415: "Another media type is taken.",
    422: "It parses, and is wrong.",
    429: "Too many requests of this client's address wait already; nothing was begun.",
    500: "The gateway failed.",
    503: (
        "The log or the store cannot be reached or has no room, or all is busy, or the gateway has just started and "
        "the projection has not reached the log's end of that moment (`projection_behind`: `folded_sequence`, "
        "`required_sequence`); nothing is lost."
    ),
    504: "What was waited for did not come in time.",
}


def described(
    summary: str,
    operation_id: str,
    model: type[BaseModel] | None,
    *problems: int,
    extra: Description | None = None,
    also: dict[int, Description] | None = None,
) -> Description:
    """Return a route's keyword arguments: 200 with a model, problems by status, and more.

    Any route may answer 422, to a parameter that it does not have, 500 and 503.
    """
    responses: dict[int, Description] = {}
    if model is not None:
        responses[200] = {"model": model}
    responses |= also or {}
    responses |= {status: problem(status) for status in sorted({*problems, 422, 500, 503})}
    return {
        "summary": summary,
        "operation_id": operation_id,
        "response_model": None,
        "responses": responses,
        "openapi_extra": extra,
    }


def problem(status: int) -> Description:
    """Describe an answer that is a problem."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": _PROBLEMS[status], "content": content}


def header(name: str, description: str, schema: Description | None = None) -> Description:
    """Describe a request header."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema or {"type": "string"},
    }


def json_header(name: str, description: str, schema: Description) -> Description:
    """Describe a request header that holds JSON."""
    described_header = header(name, description)
    del described_header["schema"]
    return described_header | {"content": {"application/json": {"schema": schema}}}


def told(description: str, pattern: str | None = None) -> Description:
    """Describe a header of an answer."""
    schema = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return {"description": description, "required": True, "schema": schema}


def _body(schemas: dict[str, Description], *, is_required: bool = True) -> Description:
    content = {media: {"schema": schema} for media, schema in schemas.items()}
    return {"requestBody": {"required": is_required, "content": content}}


def _link(operation_id: str, description: str, **parameters: str) -> Description:
    """Describe how to go on from a write's answer, about the same document."""
    names = {name: f"$request.path.{name}" for name in ("namespace", "document")}
    return {
        "operationId": operation_id,
        "description": description,
        "parameters": {f"path.{name}": value for name, value in names.items()} | parameters,
    }


_WAIT: Final = header(
    "Refold-Wait",
    "Seconds to wait for the outcome; 0 = do not wait (202).",
    {"type": "number", "minimum": 0, "maximum": WAIT_SECONDS_MAX},
)
_WRITE_HEADERS: Final = [
    header(
        "If-Match",
        'Strict: `"N"` writes only version N + 1, else 412; `"0"` = never existed. Not with Refold-Base.',
        {"type": "string", "pattern": TAGS},
    ),
    header("If-None-Match", "`*`: only where the document is absent now, else 412.", {"const": "*"}),
    header(
        "Idempotency-Key",
        "The event's id: sent again with the same content, it changes nothing.",
        {"type": "string", "minLength": 1, "maxLength": ID_CHARS_MAX},
    ),
    header(
        "Refold-Base",
        "The version that the author saw.",
        {"type": "integer", "minimum": 0, "maximum": VERSION_MAX},
    ),
    header(
        "Refold-On-Conflict",
        "What to do where the document has moved past the base.",
        {"type": "string", "pattern": STRATEGY},
    ),
    header("Refold-Type", "A name for what happened, in the author's words."),
    header("Refold-Actor", "Who, as claimed."),
    header(
        "Refold-Occurred-At",
        "When it happened, RFC 3339; at most five minutes from now.",
        {"type": "string", "pattern": RFC3339},
    ),
    json_header("Refold-Meta", "A JSON object, kept and shown in history.", {"type": "object"}),
    header("Refold-Correlation-Id", "As event stores use it."),
    header("Refold-Causation-Id", "As event stores use it."),
    header("traceparent", "Carried on with the event (W3C)."),
    _WAIT,
]
_TAG_TOLD: Final = {"ETag": told('The version, as `"N"`.', TAG)}
_FOLDED: Final[Description] = {
    "model": models.Outcome,
    "headers": _TAG_TOLD,
    "links": {
        "outcome": _link("readOutcome", "The same again.", sequence="$response.body#/sequence"),
        "history": _link("readHistory", "The document's versions."),
        "version": _link("readDocument", "The version written.", version="$response.body#/version"),
    },
}
_WRITTEN: Final[dict[int, Description]] = {
    200: {**_FOLDED, "description": "Folded."},
    201: {**_FOLDED, "description": "Folded; the document was absent before."},
    202: {
        "model": models.Pending,
        "description": "Durable in the log, not folded in time.",
        "headers": {"Location": told("Where its outcome is going to be.")},
        "links": {"outcome": _link("readOutcome", "What became of it.", sequence="$response.body#/sequence")},
    },
}
_FAULTS: Final = (400, 408, 409, 412, 413, 415, 422, 429, 504)


def _writing(summary: str, operation_id: str, body: Description, *problems: int) -> Description:
    extra = {"parameters": _WRITE_HEADERS, **body}
    return described(summary, operation_id, None, *problems, *_FAULTS, extra=extra, also=_WRITTEN)


_EVENT_LINE: Final = {
    "type": "string",
    "description": 'A line an event: `{"doc": id, …event fields}` (schemas/event.schema.json).',
}
_OUTCOME_LINE: Final = {
    "type": "string",
    "description": (
        "A line an outcome, in the order of the events (schemas/outcome.schema.json); `pending` with its `sequence` "
        'where it is not folded in time; `{"line": N, "status": "refused", "id"?, "reason", "detail", "error": '
        "problem}` for a line that was not published."
    ),
}

_PATCH: Final = {
    "type": "array",
    "maxItems": OPERATIONS_MAX,
    "items": {"$ref": "#/components/schemas/Operation"},
}

PUTTING: Final = _writing("Write the whole state", "putDocument", _body({"application/json": {}}))
PATCHING: Final = _writing("Change by a patch", "patchDocument", _body({JSON_PATCH: _PATCH, MERGE_PATCH: {}}))
DELETING: Final = _writing("Make absent", "deleteDocument", {}, 404)
APPENDING: Final = described(
    "Append many events, in order",
    "appendEvents",
    None,
    400,
    408,
    415,
    429,
    504,
    extra={"parameters": [_WAIT], **_body({"application/x-ndjson": _EVENT_LINE}, is_required=False)},
    also={200: {"description": "Outcomes.", "content": {"application/x-ndjson": {"schema": _OUTCOME_LINE}}}},
)

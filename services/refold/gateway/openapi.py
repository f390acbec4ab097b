"""The OpenAPI document: FastAPI's, with the hot route and the shared problem put in by hand.

Used by `refold.gateway.app`; `schemas/openapi.json` is this, written out.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from refold.gateway import models
from refold.gateway.described import header, problem, told
from refold.gateway.hot import HOT_PATH
from refold.gateway.patterns import NAME, OWN_NAMESPACE, POINTER, PRINTED_TIME, TAG, TAGS, TIME
from refold.gateway.queries import ReadQuery
from refold.gateway.readiness import LAG_HEADER


def install(app: FastAPI) -> None:
    """Make `app.openapi` return the whole document, made once."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def document(app: FastAPI) -> dict[str, Any]:
    """Make the document."""
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    paths = made["paths"]
    paths[HOT_PATH] = {"get": _hot_route(), **paths.get(HOT_PATH, {})}
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    shared = models.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= shared.pop("$defs", {})
    schemas |= {"Problem": shared, "Operation": OPERATION}
    for path, resource in paths.items():
        for method, operation in resource.items():
            if method == "get" and path.startswith("/v1"):
                _mark_lag(operation)
            operation["parameters"] = [
                _precise(parameter, is_writing=method != "get")
                for parameter in operation.get("parameters", ())
            ]
    return made


def _mark_lag(operation: dict[str, Any]) -> None:
    """Say that an answer may be stale where that is allowed."""
    for status in operation["responses"].keys() & {"200", "202", "304", "404"}:
        response = operation["responses"][status]
        response["headers"] = {**response.get("headers", {}), LAG_HEADER: _LAG}


def _precise(parameter: dict[str, Any], *, is_writing: bool) -> dict[str, Any]:
    """Say of a text what it looks like; what may be left out is not null, for a query holds no null."""
    schema = dict(parameter.get("schema", {}))
    options = [option for option in schema.pop("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        schema |= options[0]
        if schema.get("default", ...) is None:
            del schema["default"]
    name = parameter["name"]
    pattern = OWN_NAMESPACE if name == "namespace" and is_writing else _PATTERNS.get(name)
    if pattern:
        schema["pattern"] = pattern
    schema.pop("title", None)
    return {**parameter, "schema": schema} if "schema" in parameter else parameter


def _hot_route() -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("namespace", "document")
    ]
    has_it = header("If-None-Match", "Tags that the reader has: 304.", {"type": "string", "pattern": TAGS})
    return {
        "tags": ["read"],
        "summary": "State of a document",
        "description": "The whole state, at the head or at any version, time or sequence.",
        "operationId": "readDocument",
        "parameters": [*named, *_parameters(), has_it],
        "responses": {
            "200": {
                "description": "The state: any JSON value.",
                "headers": _ANSWERED,
                "content": {"application/json": {"schema": {}}},
            },
            "304": {"description": "The reader has it.", "headers": _ANSWERED},
            **{str(status): problem(status) for status in (400, 404, 422, 429, 500, 503, 504)},
        },
    }


def _parameters() -> list[dict[str, Any]]:
    properties = ReadQuery.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.pop("description", ""),
            "schema": schema,
        }
        for name, schema in properties.items()
    ]


_PATTERNS: Final = {"namespace": NAME, "document": NAME, "at": TIME, "path": POINTER}
_NUMBER: Final = "^(0|[1-9][0-9]{0,18})$"
_LAG: Final = {
    "description": (
        "Only with `REFOLD_STALE_READS`, while the gateway waits for the projection after its start: how many of the "
        "log's events of that moment the projection still lacked."
    ),
    "required": False,
    "schema": {"type": "string", "pattern": _NUMBER},
}
_ANSWERED: Final = {
    "ETag": told('The version, as `"N"`.', TAG),
    "Refold-Version": told("The version.", _NUMBER),
    "Refold-Sequence": told("The sequence of the version's event.", _NUMBER),
    "Refold-Recorded-At": told("When the version was recorded.", PRINTED_TIME),
    "Refold-Occurred-At": told("When its author says that it happened.", PRINTED_TIME),
}
_POINTER: Final = {"type": "string", "pattern": POINTER}
OPERATION: Final[dict[str, Any]] = {
    "description": "One operation of an RFC 6902 patch; members that it does not define are ignored.",
    "type": "object",
    "required": ["op", "path"],
    "properties": {"path": _POINTER},
    "oneOf": [
        {"required": ["value"], "properties": {"op": {"enum": ["add", "replace", "test"]}}},
        {"required": ["from"], "properties": {"op": {"enum": ["copy", "move"]}, "from": _POINTER}},
        {"properties": {"op": {"const": "remove"}, "path": {"minLength": 1}}},
    ],
}
"""As in `schemas/event.schema.json`."""

"""The OpenAPI document: FastAPI's, with the hot route and the shared problem put in by hand.

Used by `refold.gateway.app`; `schemas/openapi.json` is this, written out.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from refold.gateway import models
from refold.gateway.described import header, problem
from refold.gateway.queries import ReadQuery

HOT_PATH: Final = "/v1/{namespace}/{document}"


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
    schemas["Problem"] = shared
    return made


def _hot_route() -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("namespace", "document")
    ]
    headers = {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in _ANSWERED.items()
    }
    return {
        "tags": ["read"],
        "summary": "State of a document",
        "description": "The whole state, at the head or at any version, time or sequence.",
        "operationId": "readDocument",
        "parameters": [*named, *_parameters(), header("If-None-Match", "Tags that the reader has: 304.")],
        "responses": {
            "200": {
                "description": "The state: any JSON value.",
                "headers": headers,
                "content": {"application/json": {"schema": {}}},
            },
            "304": {"description": "The reader has it.", "headers": headers},
            **{str(status): problem(status) for status in (400, 404, 422, 500, 503, 504)},
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


_ANSWERED: Final = {
    "ETag": 'The version, as `"N"`.',
    "Refold-Version": "The version.",
    "Refold-Sequence": "The sequence of the version's event.",
    "Refold-Recorded-At": "When the version was recorded.",
    "Refold-Occurred-At": "When its author says that it happened.",
}

"""A client of the real gateway within one namespace, and checks of its responses.

For tests on the session's system; tests/conftest.py imports the fixture `api`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import orjson
import pytest

from support.system import System

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"


class Api:
    """Requests about the documents of one namespace; headers are given as `If_Match='"1"'`."""

    def __init__(self, client: httpx.AsyncClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    async def ask(
        self, method: str, document: str = "", *, content: Any = None, query: Any = None, **headers: str
    ) -> httpx.Response:
        """Send one request; `document` may continue as a path. A POST is NDJSON, `Content_Type=""`: without a type."""
        path = f"/v1/{self.namespace}/{document}" if document else f"/v1/{self.namespace}"
        given = {"Content_Type": NDJSON} | headers if method == "POST" else headers
        named = [(name.replace("_", "-"), value.encode()) for name, value in given.items() if value]
        return await self.client.request(method, path, content=content, params=query, headers=named)

    async def put(self, document: str, state: Any, **headers: str) -> httpx.Response:
        """Put a state."""
        given = {"Content_Type": "application/json"} | headers
        return await self.ask("PUT", document, content=orjson.dumps(state), **given)

    async def patch(self, document: str, *operations: Any, **headers: str) -> httpx.Response:
        """Apply a JSON Patch."""
        given = {"Content_Type": JSON_PATCH} | headers
        return await self.ask("PATCH", document, content=orjson.dumps(operations), **given)

    async def merge(self, document: str, patch: Any, **headers: str) -> httpx.Response:
        """Apply a merge patch."""
        given = {"Content_Type": MERGE_PATCH} | headers
        return await self.ask("PATCH", document, content=orjson.dumps(patch), **given)

    async def delete(self, document: str, **headers: str) -> httpx.Response:
        """Delete."""
        return await self.ask("DELETE", document, **headers)

    async def get(self, document: str = "", **query: Any) -> httpx.Response:
        """Read a document, a resource below it, or the namespace."""
        return await self.ask("GET", document, query=query)

    async def append(self, events: Iterable[Any], **headers: str) -> list[dict[str, Any]]:
        """Append events in bulk and return the answers."""
        lines = b"".join(orjson.dumps(event) + b"\n" for event in events)
        response = await self.ask("POST", "events", content=lines, **headers)
        assert response.status_code == 200, response.text
        return [orjson.loads(line) for line in response.content.splitlines()]

    async def events(self) -> int:
        """Count the namespace's folded events."""
        for item in (await self.client.get("/v1")).json()["items"]:
            if item["namespace"] == self.namespace:
                return int(item["events"])
        return 0


@pytest.fixture
async def api(system: System) -> AsyncIterator[Api]:
    """A namespace of the test's own."""
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=60) as client:
        yield Api(client, system.namespace())


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check a problem by RFC 9457 and the contract; return its members."""
    assert response.headers["content-type"] == PROBLEM, response.text
    view: dict[str, Any] = response.json()
    assert (response.status_code, view["status"], view["code"]) == (status, status, code), view
    assert view["type"].endswith(f":{code}")
    assert view["title"]
    assert view["detail"]
    return view


def outcome(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    """Return a write's outcome."""
    assert response.status_code == status, response.text
    view: dict[str, Any] = response.json()
    assert response.headers["etag"] == f'"{view["version"]}"'
    return view

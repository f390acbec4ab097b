"""Checks responses of a gateway against `schemas/openapi.yaml`, and records which of it occurred.

`Recorder.check` is a response hook of httpx: every response must be documented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx

from support.contracts import contract, validator

DOCUMENT = contract("openapi.yaml")
NAME = "openapi.yaml"
ALWAYS = {"content-type", "content-length", "content-encoding", "vary"}
"""Headers of any response, which the contract describes once for all."""

REQUEST_ID = "refold-request-id"
"""The header of every response; the contract describes it once, under `components/headers`."""

JSON_TYPES = {
    "application/json",
    "application/json-patch+json",
    "application/problem+json",
    "application/health+json",
}


class Operation(NamedTuple):
    """An operation of the document; `parameters` by place and lower-case name."""

    id: str
    method: str
    path: str
    responses: dict[str, Any]
    parameters: dict[tuple[str, str], dict[str, Any]]


def resolved(node: Any) -> Any:
    """Follow a reference within the document."""
    while isinstance(node, dict) and "$ref" in node:
        target: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def operations() -> Iterator[Operation]:
    """Yield every operation."""
    for path, resource in DOCUMENT["paths"].items():
        shared = resource.get("parameters", [])
        for method, operation in resource.items():
            if method == "parameters":
                continue
            given = map(resolved, [*shared, *operation.get("parameters", [])])
            parameters = {(each["in"], each["name"].lower()): each for each in given}
            responses = {status: resolved(each) for status, each in operation["responses"].items()}
            yield Operation(operation["operationId"], method.upper(), path, responses, parameters)


OPERATIONS = {operation.id: operation for operation in operations()}


def operation_of(method: str, path: str) -> Operation | None:
    """Find the operation that a request is for: the one with the fewest names in its path."""
    method = "GET" if method == "HEAD" else method
    found = [
        operation
        for operation in OPERATIONS.values()
        if operation.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", operation.path), path)
    ]
    return min(found, key=lambda operation: operation.path.count("{"), default=None)


class Recorder:
    """What has occurred: statuses and parameters by operation, and headers of responses by name."""

    def __init__(self) -> None:
        self.statuses: set[tuple[str, str]] = set()
        self.parameters: set[tuple[str, str, str]] = set()
        self.headers: set[str] = set()

    async def check(self, response: httpx.Response) -> None:
        """Check a response against its operation, member by member."""
        await response.aread()
        request = response.request
        operation = operation_of(request.method, request.url.raw_path.partition(b"?")[0].decode())
        assert operation is not None, f"{request.method} {request.url.path} is not documented"
        where = f"{operation.id} {response.status_code}"
        described = operation.responses.get(str(response.status_code))
        assert described is not None, f"{where} is not documented: {response.text}"
        self.statuses.add((operation.id, str(response.status_code)))
        self._check_headers(response, described, where)
        self._check_body(response, described, where)
        # Refused because of the document, not of the request.
        if response.status_code < 400 or response.status_code in {409, 412}:
            self._record_parameters(operation, request)

    def _check_headers(self, response: httpx.Response, described: dict[str, Any], where: str) -> None:
        known = {name.lower(): resolved(each) for name, each in described.get("headers", {}).items()}
        known[REQUEST_ID] = DOCUMENT["components"]["headers"]["RequestId"]
        sent = {name.lower() for name in response.headers} - ALWAYS
        assert sent <= known.keys(), f"{where}: {sent - known.keys()} are not documented"
        required = {name for name, each in known.items() if each.get("required")}
        assert required <= sent, f"{where}: {required - sent} are missing"
        for name in sent:
            validator(_absolute(known[name]["schema"])).validate(response.headers[name])
        self.headers |= sent

    def _check_body(self, response: httpx.Response, described: dict[str, Any], where: str) -> None:
        content = described.get("content", {})
        if not content:
            assert not response.content, where
            return
        media = response.headers["content-type"].partition(";")[0]
        assert media in content, f"{where}: {media} is not documented"
        if media in JSON_TYPES:
            validator(_absolute(content[media]["schema"])).validate(response.json())

    def _record_parameters(self, operation: Operation, request: httpx.Request) -> None:
        given = {("query", name) for name in request.url.params}
        assert given <= operation.parameters.keys(), f"{operation.id}: {given} are not all documented"
        given |= {("header", name.lower()) for name in request.headers}
        self.parameters |= {
            (operation.id, *each) for each in operation.parameters if each in given or each[0] == "path"
        }


def _absolute(node: Any) -> Any:
    """Make the references within a schema of the document absolute."""
    if isinstance(node, dict):
        return {
            key: f"{NAME}{value}" if key == "$ref" and value.startswith("#") else _absolute(value)
            for key, value in node.items()
        }
    return [_absolute(item) for item in node] if isinstance(node, list) else node

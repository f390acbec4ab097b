"""The running gateway and `schemas/openapi.yaml` agree, in both directions.

What the gateway does is documented (`support.openapi` fails on anything else), and what is documented occurs here:
every operation, status, parameter and header.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest

from refold import __version__
from refold.core.envelope import _INTEGERS, _JSON, _TEXTS
from refold.core.errors import HistoryElsewhere, LogUnavailable
from refold.core.event import FIELDS
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.transactions import TRANSACTION_BYTES_MAX
from refold.gateway.agui import INPUT_BYTES_MAX
from refold.gateway.app import ROUTES
from refold.gateway.inflight import InFlightLimits
from refold.gateway.live import LiveLimits
from refold.gateway.ops import openapi_document
from refold.gateway.readiness import Readiness
from refold.telemetry.health import Check, Finding, Health
from refold.wiring import listening
from support.gateway import Twin, twin
from support.openapi import DOCUMENT, OPERATIONS, REQUEST_ID, Operation, Recorder, operation_of

PUT, PATCH, DELETE, POST = ("putDocument", "patchDocument", "deleteDocument", "appendEvents")
REVERT, TRANSACT, RUN = "revertDocument", "appendTransaction", "runAgui"
LIVE, LIVE_ALL = "watchDocument", "watch"
WRITES = (PUT, PATCH, DELETE, POST, REVERT, TRANSACT)
BLOCKED = ("readLiveness", "readMetrics")
"""They need nothing that could be away: 503 says that the event loop is blocked."""
JSON = {"Content-Type": "application/json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BODIES: dict[str, tuple[bytes | None, dict[str, str]]] = {
    PUT: (b'{"a":1}', JSON),
    PATCH: (b'[{"op":"test","path":"","value":{"a":1}}]', JSON_PATCH),
    POST: (b'{"doc":"d","put":{"a":1}}\n', {}),
    REVERT: (b'{"version":1}', JSON),
    # A response that ends.
    **dict.fromkeys((LIVE, LIVE_ALL), (None, {"Accept": "application/json"})),
    RUN: (b'{"threadId":"t","runId":"r","state":{},"forwardedProps":{"refold":{}}}', JSON),
    TRANSACT: (b'{"changes":[{"doc":"t","version":0,"put":1},{"doc":"u","version":0,"put":1}]}', JSON),
}
REQUIRED = {
    "readDiff": {"from": "0", "to": "1"},
    "readOutcomeById": {"id": "k"},
    LIVE_ALL: {"sub": '{"namespace":"n","document":"d"}'},
}
"""Query parameters that an operation cannot do without."""

RECORDED = Recorder()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refold.gateway.writes.RECOVER_SECONDS", 0.05)
    monkeypatch.setattr("refold.gateway.writes.DECIDE_SECONDS", 0.05)


@asynccontextmanager
async def recorded(**options: Any) -> AsyncIterator[Twin]:
    async with twin(**options) as gateway:
        gateway.client.event_hooks = {"response": [RECORDED.check]}
        yield gateway


async def ask(
    gateway: Twin, name: str, status: int, *, document: str = "d", **options: Any
) -> httpx.Response:
    """Send a request of one operation, and expect a status."""
    operation = OPERATIONS[name]
    path = operation.path.format(
        namespace="n", document=document, sequence=options.pop("sequence", 2), file="swagger-ui.css"
    )
    body, typed = BODIES.get(name, (None, {}))
    given = {"content": options.pop("content", body), "headers": typed | options.pop("headers", {})}
    params = REQUIRED.get(name, {}) | options.pop("params", {})
    response = await gateway.request(operation.method, path, params=params, **given, **options)
    assert response.status_code == status, (name, response.text)
    return response


async def write(gateway: Twin, status: int = 201, **options: Any) -> httpx.Response:
    return await ask(gateway, PUT, status, **options)


async def contest(gateway: Twin, document: str) -> dict[str, str]:
    """Have a stale event rejected; return the header of a decision on it."""
    stale = {"Refold-Base": "0", "Refold-On-Conflict": "custom:mine"}
    rejected = await ask(gateway, PATCH, 409, document=document, headers=stale)
    return {"Refold-Resolves": str(rejected.json()["outcome"]["sequence"])}


async def exercise_writes(gateway: Twin) -> None:
    fields = {
        "Refold-V": "1",
        "Refold-Session": "s",
        "Refold-All-Or-Nothing": "true",
        "Refold-Reverts": "1",
        "Refold-Type": "t",
        "Refold-Actor": "a",
        "Refold-Occurred-At": "2020-01-01T00:00:00Z",
        "Refold-Correlation-Id": "c",
        "Refold-Causation-Id": "c",
        "Refold-Meta": '{"a":1}',
        "Refold-Wait": "5",
        "traceparent": TRACE,
        "tracestate": "vendor=1",
    }
    await write(gateway, 201)
    fields |= await contest(gateway, "d")
    for version, name in enumerate((PUT, PATCH, DELETE), start=1):
        based = {"Refold-Base": str(version), "Refold-On-Conflict": "reject"}
        await ask(gateway, name, 200, headers=fields | based | {"Idempotency-Key": name, "Refold-Id": name})
    for name in (PUT, PATCH, DELETE):
        await write(gateway, 201, document=name)
        await ask(gateway, name, 412, document=name, headers={"If-None-Match": "*"})
        await ask(gateway, name, 202, document=name, headers={"Refold-Wait": "0"})
    for version, name in enumerate((PUT, PATCH, DELETE), start=1):
        await ask(
            gateway,
            name,
            201 if version == 1 else 200,
            document="s",
            headers={"If-Match": f'"{version - 1}"'},
        )
    await ask(gateway, PATCH, 201, document="e", content=b"{}", headers=MERGE_PATCH)
    fields |= await contest(gateway, "e")
    based = {"Refold-Base": "1", "Idempotency-Key": REVERT, "Refold-Id": REVERT}
    await ask(gateway, REVERT, 200, document="e", headers=fields | based | {"Refold-On-Conflict": "merge"})
    await ask(gateway, REVERT, 200, document="e", headers={"If-Match": '"2"'}, content=b'{"undo":2}')
    await ask(gateway, REVERT, 412, document="e", headers={"If-None-Match": "*"})
    await ask(gateway, REVERT, 202, document="e", headers={"Refold-Wait": "0"})
    await ask(gateway, REVERT, 201, document="s")
    await ask(gateway, POST, 200, headers={"Refold-Wait": "5"})
    about = {name: fields[name] for name in ("Refold-Wait", "traceparent", "tracestate")}
    await ask(gateway, TRANSACT, 200, headers=about | {"Idempotency-Key": "t"})
    later = b'{"changes":[{"doc":"v","version":0,"put":1}]}'
    await ask(gateway, TRANSACT, 202, content=later, headers={"Refold-Wait": "0"})


async def exercise_reads(gateway: Twin) -> None:
    await write(gateway, 201, document="r", headers={"Idempotency-Key": "k"})
    last = (await write(gateway, 200, document="r", headers={"Refold-Actor": "a"})).json()
    refused = await ask(gateway, PATCH, 409, document="r", content=b'[{"op":"test","path":"","value":1}]')
    sequence = refused.json()["outcome"]["sequence"]
    for params in (
        {},
        {"version": "1", "path": "/a"},
        {"at": last["recorded_at"], "clock": "recorded"},
        {"sequence": str(last["sequence"])},
        {"min_version": "1", "min_sequence": "1", "timeout": "1"},
    ):
        await ask(gateway, "readDocument", 200, document="r", params=params)
    await ask(gateway, "readDocument", 304, document="r", headers={"If-None-Match": '"2"'})
    listed = {"prefix": "", "limit": "1", "fields": "id", "absent": "true"}
    cursor = (await ask(gateway, "listDocuments", 200, params=listed)).json()["next"]
    for params in (
        {"cursor": cursor, "limit": "1", "absent": "true", "fields": "id"},
        {"at": last["recorded_at"], "clock": "recorded", "timeout": "1"},
        {"sequence": str(last["sequence"])},
    ):
        await ask(gateway, "listDocuments", 200, params=params)
    history = {"after": "1", "limit": "1", "order": "asc", "path": "/a"}
    await ask(gateway, "readHistory", 200, document="r", params=history)
    await ask(gateway, "readDiff", 200, document="r", params={"from": "0", "to": "2"})
    blamed = {"version": "1", "path": "", "limit": "1", "cursor": "1.1"}
    await ask(gateway, "readBlame", 200, document="r", params=blamed)
    await ask(gateway, "readRejections", 200, document="r", params={"after": "10000", "limit": "1"})
    of_all = {"namespace": "n", "after": "10000", "limit": "1"}
    await ask(gateway, "readAllRejections", 200, params=of_all)
    custom = {"Refold-Base": "1", "Refold-On-Conflict": "custom:n"}
    contested = (await write(gateway, 409, document="r", headers=custom)).json()["outcome"]["sequence"]
    conflicts = {"after": "0", "limit": "1", "order": "asc", "open": "true"}
    await ask(gateway, "readConflicts", 200, document="r", params=conflicts)
    await ask(gateway, "readConflict", 200, document="r", sequence=contested)
    await ask(gateway, "readOpenConflicts", 200, params={"namespace": "n", "after": "0", "limit": "1"})
    await ask(gateway, "readOutcomeById", 200, document="r", params={"timeout": "1"})
    await ask(gateway, "readOutcome", 200, document="r", sequence=sequence)
    for operation in OPERATIONS.values():
        if ("header", "refold-min-sequence") in operation.parameters:
            given = {"Refold-Min-Sequence": str(sequence)}
            at = contested if operation.id == "readConflict" else sequence
            await ask(gateway, operation.id, 200, document="r", sequence=at, headers=given)
    for operation in OPERATIONS.values():
        if not operation.path.startswith("/v1/"):
            await ask(gateway, operation.id, 200)
    await ask(gateway, "readIndex", 200, headers={"Accept": "text/html"})
    await exercise_live(gateway)
    run = {"base": "1", "stamp": "v", "clear": "true", "on_conflict": "merge"}
    about = {"Refold-Actor": "a", "Refold-Meta": "{}", "traceparent": TRACE, "tracestate": "vendor=1"}
    await ask(gateway, RUN, 200, document="r", params=run, headers=about)
    followed = {"follow": "true", "seconds": "0.01", "interval": "0"}
    await ask(gateway, RUN, 200, document="r", params=followed)


async def exercise_live(gateway: Twin) -> None:
    cursor = (await ask(gateway, LIVE, 200)).json()["cursor"]
    waited = {"wait": "0", "cursor": cursor}
    for params in (
        {"path": "/a/*", "mode": "values", "depth": "1", "interval": "50", "after": "0", "wait": "0"},
        {"mode": "patch", "ops": "native", "merge": "false", **waited},
        {"mode": "changes", "type": "order.*", "wait": "0"},
    ):
        await ask(gateway, LIVE, 200, params=params, headers={"Last-Event-ID": cursor})
    await ask(gateway, LIVE_ALL, 200, params=waited, headers={"Last-Event-ID": cursor})
    for name in (LIVE, LIVE_ALL):
        path = OPERATIONS[name].path.format(namespace="n", document="d")
        head = await gateway.request("HEAD", path, params=REQUIRED.get(name))
        assert head.headers["content-type"].startswith("text/event-stream")


async def exercise_refusals() -> None:
    async with recorded() as gateway:
        for name in OPERATIONS:
            await ask(gateway, name, 403, headers={"Origin": "https://attacker.example"})
            await ask(gateway, name, 421, headers={"Host": "attacker.example"})
            await ask(gateway, name, 422, params={"unknown": "1"})
        await write(gateway)
        for name in (PUT, PATCH, DELETE, REVERT):
            await ask(gateway, name, 409, headers={"Refold-Base": "0", "Refold-On-Conflict": "reject"})
            await ask(gateway, name, 412, headers={"If-Match": '"9"'})
            await ask(gateway, name, 400, headers={"Refold-Meta": "{"})
        absent = b'{"changes":[{"doc":"t","version":0,"delete":true}]}'
        await ask(gateway, TRANSACT, 409, content=absent)
        await ask(gateway, TRANSACT, 412, content=b'{"changes":[{"doc":"t","version":9,"put":1}]}')
        await ask(gateway, TRANSACT, 400, content=b"{")
        await ask(gateway, TRANSACT, 413, content=b'"' + b"x" * TRANSACTION_BYTES_MAX + b'"')
        for name in (PUT, PATCH, POST, REVERT, TRANSACT, RUN):
            await ask(gateway, name, 415, headers={"Content-Type": "text/plain"})
        for name in (PUT, PATCH, REVERT):
            await ask(gateway, name, 413, content=b'"' + b"x" * EVENT_BYTES_MAX + b'"')
        await ask(gateway, LIVE, 400, params={"path": "a"})
        await ask(gateway, LIVE_ALL, 400, params={"sub": "{"})
        await ask(gateway, RUN, 400, content=b"{")
        await ask(gateway, RUN, 409, params={"stamp": "a"})
        await ask(gateway, RUN, 413, content=b" " * (INPUT_BYTES_MAX + 1))
        await ask(gateway, "readDocument", 400, headers={"If-None-Match": "1"})
        await RECORDED.check(await cut_off(gateway, OPERATIONS[POST]))
        unknown = ("readDocument", DELETE, REVERT, "readHistory", "readDiff", "readBlame", "readRejections")
        for name in (*unknown, "readOutcomeById", "readConflicts", "readConflict"):
            await ask(gateway, name, 404, document="absent")
        await ask(gateway, "readOutcome", 404, sequence=999)
        found = await gateway.request("GET", "/docs/nothing.css")
        assert found.status_code == 404


async def cut_off(gateway: Twin, operation: Operation) -> httpx.Response:
    """Send a request whose client disconnects in the middle of its body."""
    headers = [(b"content-type", b"application/x-ndjson")]
    path = operation.path.format(namespace="n")
    scope = {
        "type": "http",
        "method": operation.method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
    messages: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)

    await gateway.app(scope, receive, send)  # type: ignore[arg-type]
    request = httpx.Request(operation.method, f"http://localhost{path}")
    head, body = messages
    assert head["status"] == 400
    return httpx.Response(400, headers=head["headers"], content=body["body"], request=request)


async def exercise_several_stores() -> None:
    async with recorded(is_hybrid=True) as gateway:
        await write(gateway, 201, document="r")
        for name in ("readDocument", "listDocuments", "readHistory"):
            response = await ask(gateway, name, 200, document="r")
            assert response.headers["Refold-Store"] == "first"
        for name in ("readDocument", "listDocuments"):
            response = await ask(gateway, name, 200, document="r", params={"stale": "true"})
            assert response.headers["Refold-Lag-Events"] == "0"
        stores = (await ask(gateway, "readStatus", 200)).json()["stores"]
        assert [(store["store"], store["is_projected"]) for store in stores] == [
            ("first", True),
            ("second", False),
        ]


async def exercise_limits_and_crashes() -> None:
    async with recorded(in_flight_limits=InFlightLimits(waiting_per_client_max=0)) as gateway:
        gateway.context.consistency.note_announced(("n", "d"), 10**6)
        for name, operation in OPERATIONS.items():
            if "429" in operation.responses:
                await ask(gateway, name, 429)
    async with recorded(live_limits=LiveLimits(connections_max=0)) as gateway:
        for name in (LIVE, LIVE_ALL):
            bye = await ask(gateway, name, 200, headers={"Accept": "text/event-stream"})
            assert b"event: bye" in bye.content
    async with recorded(in_flight_limits=InFlightLimits(body_seconds=0.05)) as gateway:
        for name in (PUT, PATCH, POST, REVERT, TRANSACT, RUN):
            await ask(gateway, name, 408, content=stalled())
    async with recorded() as gateway:
        gateway.app.context = None  # type: ignore[assignment]
        for name, operation in OPERATIONS.items():
            if "500" in operation.responses:
                await ask(gateway, name, 500)


async def stalled() -> AsyncIterator[bytes]:
    yield b"["
    await asyncio.Event().wait()


async def not_kept(*_: object, **__: object) -> None:
    raise HistoryElsewhere("the store keeps only what is recent")


async def no_log(_: float) -> Sequence[Finding]:
    raise LogUnavailable


async def exercise_blocked() -> None:
    """Take the answers of the thread that answers while the loop is blocked."""
    for name in (*BLOCKED, "readHealth"):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b"GET")
            listening._refuse(ours)
            answer = HTTPResponse(theirs)
            answer.begin()
            request = httpx.Request("GET", f"http://localhost{OPERATIONS[name].path}")
            content, headers = answer.read(), answer.getheaders()
        await RECORDED.check(httpx.Response(answer.status, headers=headers, content=content, request=request))


async def exercise_failures() -> None:
    failing = Health([Check("log:configuration", no_log)])
    async with recorded(wait_seconds=0.2, health=failing) as gateway:
        context = gateway.context
        behind = Readiness(gateway.log, context.consistency, required_sequence=10**6, lag_seconds_max=5.0)
        for attribute in ("required_sequence", "is_caught_up"):
            setattr(context.readiness, attribute, getattr(behind, attribute))
        gateway.log.is_down = True
        for name, operation in OPERATIONS.items():
            if "503" in operation.responses and name not in BLOCKED:
                gateway.log.faults = [LogUnavailable()]
                await ask(gateway, name, 503)
        context.readiness.allows_stale_reads, gateway.log.is_down = True, False
        await ask(gateway, "listNamespaces", 200)
    async with recorded() as gateway:
        await write(gateway)
        gateway.store.list_at = gateway.store.rejections = not_kept
        for name in ("listDocuments", "readRejections", "readAllRejections"):
            await ask(gateway, name, 501, params={"sequence": "1"} if name == "listDocuments" else {})
    async with recorded(is_projecting=False, wait_seconds=0.02) as gateway:
        gateway.context.consistency.note_announced(("n", "behind"), 10**6)
        for name in WRITES:
            gateway.log.faults = ["lost"]
            await ask(gateway, name, 504)
        await ask(gateway, "readOutcome", 202, sequence=2)
        for name, operation in OPERATIONS.items():
            if "504" in operation.responses and name not in WRITES:
                timeout = {"timeout": "0.02"} if ("query", "timeout") in operation.parameters else {}
                await ask(gateway, name, 504, document="behind", params=timeout)


async def test_the_gateway_does_everything_documented_and_nothing_else() -> None:
    async with recorded() as gateway:
        await exercise_writes(gateway)
        await exercise_reads(gateway)
    await exercise_several_stores()
    await exercise_refusals()
    await exercise_limits_and_crashes()
    await exercise_failures()
    await exercise_blocked()
    documented = {(each.id, status) for each in OPERATIONS.values() for status in each.responses}
    assert RECORDED.statuses == documented
    wanted = {(each.id, *parameter) for each in OPERATIONS.values() for parameter in each.parameters}
    # The memory adapter has no `where`; tests/integration/test_gateway_reads.py exercises it.
    assert wanted - RECORDED.parameters == {("listDocuments", "query", "where")}
    assert RECORDED.headers == {*documented_headers(), REQUEST_ID}


def documented_headers() -> Iterator[str]:
    for operation in OPERATIONS.values():
        for response in operation.responses.values():
            yield from (name.lower() for name in response.get("headers", {}))


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    routes = {(method, path) for method, path, _ in ROUTES}
    assert routes == {(each.method, each.path) for each in OPERATIONS.values()}
    assert len(ROUTES) == len(OPERATIONS)


async def test_every_accepted_query_parameter_is_documented_and_every_documented_one_accepted() -> None:
    names = {name for each in OPERATIONS.values() for place, name in each.parameters if place == "query"}
    async with twin() as gateway:
        for operation in OPERATIONS.values():
            documented = {name for place, name in operation.parameters if place == "query"}
            for name in sorted(names):
                params = REQUIRED.get(operation.id, {}) | {name: ""}
                path = operation.path.format(namespace="n", document="d", sequence=2, file="swagger-ui.css")
                body, typed = BODIES.get(operation.id, (None, {}))
                response = await gateway.request(
                    operation.method, path, params=params, content=body, headers=typed
                )
                is_json = response.headers.get("content-type", "").endswith("json")
                code = response.json().get("code") if is_json and response.status_code >= 400 else None
                assert (code != "unknown_parameter") == (name in documented), (operation.id, name)


def test_every_header_of_an_event_is_documented_for_every_write() -> None:
    fields = {**_TEXTS, **_INTEGERS, **_JSON}
    known = {
        name
        for name, field in fields.items()
        if field in FIELDS | NEWEST.fields - {"txn"} and name.startswith("refold-")
    }
    known |= {"if-match", "if-none-match", "idempotency-key", "traceparent", "tracestate", "refold-wait"}
    for name in (PUT, PATCH, DELETE, REVERT):
        assert {header for place, header in OPERATIONS[name].parameters if place == "header"} == known


def test_the_gateway_serves_the_openapi_file_with_the_version_of_the_program() -> None:
    assert openapi_document() == DOCUMENT
    assert DOCUMENT["info"]["version"] == __version__


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (418, {}, b"{}"),
        (200, {"X-Unknown": "1"}, b'{"items":[]}'),
        (200, {}, b'{"items":[],"more":1}'),
        (200, {"Content-Type": "text/plain"}, b"x"),
        (200, {"Refold-Request-Id": "1"}, b'{"items":[]}'),
    ],
)
async def test_undocumented_behaviour_is_detected(status: int, headers: dict[str, str], body: bytes) -> None:
    request = httpx.Request("GET", "http://localhost/v1")
    sent = JSON | {"Refold-Request-Id": "0" * 32} | headers
    response = httpx.Response(status, headers=sent, content=body, request=request)
    with pytest.raises(Exception, match=r"not documented|not allowed|does not match"):
        await Recorder().check(response)
    assert operation_of("GET", "/undocumented/route/of/a/gateway") is None

"""The running system sends exactly what `schemas/` describes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client

from refold.embedded.nats import NatsUser, inbox_prefix
from support.conformance import hold_to_openapi
from support.contracts import contract, validator
from support.http import Api
from support.system import System

WAIT_SECONDS = 30
ASYNCAPI = contract("asyncapi.yaml")
MERGED_KEY = "k" * 1_000
"""So long a path makes the effect of a merge patch one `replace` of the root: of 2 MB, which no notice carries."""

# Payload and headers of each kind of event that the AsyncAPI document names.
PUBLISHED: dict[str, tuple[Any, dict[str, str]]] = {
    "event": ({"put": {"a": 1}, "id": "one", "type": "made", "actor": "ada"}, {}),
    "jsonPatch": (
        [{"op": "add", "path": "/b", "value": [True]}],
        {"Content-Type": "application/json-patch+json", "Refold-Id": "two", "Refold-Base": "1"},
    ),
    "mergePatch": (
        {"a": None},
        {"Content-Type": "application/merge-patch+json; charset=utf-8", "Refold-Meta": '{"n":1}'},
    ),
    "cloudEvent": (
        {"specversion": "1.0", "id": "4", "source": "/shop", "type": "sold", "data": {"put": 4}},
        {"Content-Type": "application/cloudevents+json"},
    ),
    "binaryCloudEvent": (
        {"put": None},
        {"ce-specversion": "1.0", "ce-id": "5", "ce-source": "/shop", "ce-type": "sold"},
    ),
}

# Events of one document, one after another, and the status or the reason of their outcomes.
STORY: list[tuple[str, Any]] = [
    ("applied", {"put": {MERGED_KEY: {}}, "id": "1"}),
    ("duplicate", {"put": {MERGED_KEY: {}}, "id": "1"}),
    ("id_reused", {"put": 2, "id": "1"}),
    *[("applied", {"merge": {name: name * 700_000}}) for name in "xyz"],
    ("applied", {"merge": {MERGED_KEY: {str(n): n for n in range(3_000)}}}),
    ("test_failed", {"patch": [{"op": "test", "path": "", "value": 1, "note": "x"}], "id": "2"}),
    ("duplicate", {"patch": [{"op": "test", "path": "", "value": 1, "note": "x"}], "id": "2"}),
    ("applied", {"patch": [{"op": "add", "path": "/a", "value": 1, "note": "ignored"}], "base": 5}),
    ("conflict", {"patch": [{"op": "remove", "path": "/a"}], "base": 5, "on_conflict": "reject"}),
    ("bad_json", b"garbage\xff"),
    ("not_in_this_fold", {"put": 1, "principal": "p", "id": "3"}),
    ("bad_field", {"put": 1, "id": ""}),
    ("occurred_in_future", {"put": 1, "occurred_at": "2200-01-01T00:00:00Z"}),
    ("applied", {"merge": {"b": [1, {"c": None}]}, "type": "t", "actor": "a", "meta": {"x": 1}}),
    ("applied", {"delete": True, "occurred_at": "1999-12-31T23:59:59.5+01:00"}),
    ("document_absent", {"delete": True}),
    ("applied", {"put": None}),
    ("merged", {"put": {"a": 1}, "base": 8}),
    ("applied", {"put": {"b": 1}}),
    ("merged", {"patch": [{"op": "replace", "path": path, "value": 2} for path in ("/a", "/b")], "base": 10}),
    ("needs_resolution", {"put": 1, "base": 10, "on_conflict": "custom:mine"}),
]


@asynccontextmanager
async def connection(system: System, user: NatsUser) -> AsyncIterator[Client]:
    """Connect by nats-py, as any client may."""
    client = await nats.connect(system.nats.url(user), inbox_prefix=inbox_prefix(user).encode())
    try:
        yield client
    finally:
        await client.close()


def address(channel: str, **names: str) -> str:
    """Read a channel's address from the document, and fill in its parameters."""
    address: str = ASYNCAPI["channels"][channel]["address"]
    return address.format(**names)


def hold(message: str, payload: Any, headers: dict[str, str] | None = None) -> None:
    """Validate a message by its schemas, resolved from the document."""
    described = ASYNCAPI["components"]["messages"][message]
    place = f"asyncapi.yaml#/components/messages/{message}"
    payload_place = f"{place}/payload" + ("/schema" if "schema" in described["payload"] else "")
    validator({"$ref": payload_place}).validate(payload)
    if "headers" in described:
        validator({"$ref": f"{place}/headers"}).validate(headers or {})


async def publish(client: Client, subject: str, event: Any, headers: dict[str, str]) -> dict[str, Any]:
    """Publish with a reply subject, and return the outcome that arrives there."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, max_msgs=1)
    body = event if isinstance(event, bytes) else orjson.dumps(event)
    await client.publish(subject, body, headers={**headers, "Refold-Reply": inbox})
    notice: dict[str, Any] = orjson.loads((await subscription.next_msg(WAIT_SECONDS)).data)
    return notice


async def test_every_channel_of_the_asyncapi_document_carries_real_messages(system: System) -> None:
    names = {"namespace": system.namespace(), "document": "node%2Ejs"}
    async with connection(system, "author") as author:
        changes = await author.subscribe(address("change", **names))
        conflicts = await author.subscribe(address("conflict", **names))
        await author.flush()
        for version, (message, (payload, headers)) in enumerate(PUBLISHED.items(), 1):
            hold(message, payload, headers)
            outcome = await publish(author, address("state", **names), payload, headers)
            hold("outcome", outcome)
            assert (outcome["status"], outcome["version"]) == ("applied", version), message
            assert outcome["document"] == "node.js"
            change = orjson.loads((await changes.next_msg(WAIT_SECONDS)).data)
            hold("change", change)
            assert (change["version"], change["sequence"]) == (version, outcome["sequence"]), message
        contested = {"put": 1, "base": 1, "on_conflict": "custom:mine"}
        outcome = await publish(author, address("state", **names), contested, {})
        hold("conflict", conflict := orjson.loads((await conflicts.next_msg(WAIT_SECONDS)).data))
        assert (conflict["sequence"], conflict["states"]["incoming"]) == (outcome["sequence"], 1)
    assert PUBLISHED.keys() == ASYNCAPI["channels"]["state"]["messages"].keys()
    async with connection(system, "gateway") as gateway:
        subscription = await gateway.subscribe(address("progress"))
        hold("progress", orjson.loads((await subscription.next_msg(WAIT_SECONDS)).data))
        answer = await gateway.request(address("projector.control"), b"", timeout=WAIT_SECONDS)
        told = {"service", "instance", "version", "store", "shard", "stage", "sequence", "error", "problem"}
        assert orjson.loads(answer.data).keys() == told | {"commit_age_seconds", "log_check_age_seconds"}
        answer = await gateway.request(address("gatewayStatus"), b"", timeout=WAIT_SECONDS)
        assert orjson.loads(answer.data).keys() == {"service", "instance", "version"}


async def test_every_outcome_and_change_matches_its_schema_over_nats_and_http(
    system: System, api: Api
) -> None:
    is_outcome = validator(contract("outcome.schema.json"))
    is_change = validator(contract("change.schema.json"))
    changes: list[dict[str, Any]] = []
    async with connection(system, "author") as author:
        subscription = await author.subscribe(f"change.{api.namespace}.*")
        await author.flush()
        for expected, event in STORY:
            outcome = await publish(author, f"state.{api.namespace}.d", event, {})
            is_outcome.validate(outcome)
            assert expected in {outcome["status"], outcome.get("reason")}, outcome
            answered = await api.get(f"d/outcomes/{outcome['sequence']}")
            assert answered.json() == outcome
            if outcome["status"] in {"applied", "merged"}:
                changes.append(orjson.loads((await subscription.next_msg(WAIT_SECONDS)).data))
                is_change.validate(changes[-1])
        for subject, reason in [
            (f"state.{api.namespace}.no!name", "bad_name"),
            (f"state.{api.namespace}.node%2ejs", "bad_name"),
            ("state._mine.d", "reserved_namespace"),
        ]:
            refused = await publish(author, subject, {"put": 1}, {})
            is_outcome.validate(refused)
            assert (refused["document"], refused["reason"]) == ("", reason)
    assert [change["version"] for change in changes] == list(range(1, 13))
    assert [change["version"] for change in changes if change["patch"] is None] == [5]
    assert [change["meta"] for change in changes if "meta" in change] == [{"x": 1}]


async def test_every_outcome_of_a_write_over_http_matches_its_schema(api: Api) -> None:
    is_outcome = validator(contract("outcome.schema.json"))
    for response in (
        await api.put("d", {"a": 1}, Idempotency_Key="k"),
        await api.put("d", {"a": 1}, Idempotency_Key="k"),
        await api.merge("d", {"a": None}, If_Match='"1"'),
        await api.delete("d"),
        await api.get("d/outcomes", id="k"),
    ):
        is_outcome.validate(response.json())
    refused = await api.patch("d", {"op": "remove", "path": "/a"})
    is_outcome.validate(refused.json()["outcome"])
    for line in await api.append(
        [{"doc": "e", "put": 1}, {"doc": "e", "patch": [{"op": "remove", "path": "/x"}]}]
    ):
        is_outcome.validate(line)


@pytest.mark.parametrize(
    ("schema", "member"), [("outcome.schema.json", "patch"), ("change.schema.json", "status")]
)
def test_a_member_missing_from_the_schemas_is_detected(schema: str, member: str) -> None:
    assert member not in contract(schema)["properties"]
    messages = [error.message for error in validator(contract(schema)).iter_errors({member: 1})]
    assert any("Additional properties are not allowed" in message for message in messages)


def test_every_response_of_the_gateway_matches_the_openapi_document(system: System) -> None:
    found = hold_to_openapi(system.url, examples=2, seed=1)
    assert (found.exit_code, found.failures, found.errors) == (0, 0, 0), found.said
    # schemathesis skips the document that it has read; tests/contract/schemas tests that one.
    resources = [
        resource for path, resource in contract("openapi.yaml")["paths"].items() if path != "/openapi.json"
    ]
    assert found.operations == sum(len(resource.keys() - {"parameters"}) for resource in resources)
    assert found.accepted > found.operations

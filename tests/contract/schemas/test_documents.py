"""The OpenAPI and AsyncAPI documents are complete, and agree with the core, the log and FastStream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from faststream.nats import NatsBroker
from faststream.specification.asyncapi import AsyncAPI
from jsonschema import Draft202012Validator
from starlette.requests import Request

from refold import __version__
from refold.core.envelope import _INTEGERS, _JSON, _TEXTS
from refold.core.errors import Refused
from refold.core.event import FIELDS
from refold.core.fold import NEWEST
from refold.core.pointer import parse
from refold.core.stream import SYSTEM_NAMESPACE, check_document, check_name, check_namespace
from refold.core.timestamp import format_time, parse_rfc3339, parse_time
from refold.gateway.conditions import write_condition
from refold.gateway.responses import Problem
from refold.log import (
    COMMIT_SUBJECT,
    COMMITTED_SUBJECT,
    CONTROL_SUBJECT,
    GATEWAY_SUBJECT,
    PROGRESS_SUBJECT,
    profile_subject,
)
from refold.wiring.projector import answer_control
from support.contracts import contract

ASYNCAPI = contract("asyncapi.yaml")
SCHEMAS = contract("openapi.yaml")["components"]["schemas"]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def at(document: Any, pointer: str) -> Any:
    for token in parse(pointer):
        document = document[token]
    return document


@pytest.mark.parametrize("name", ["openapi.yaml", "asyncapi.yaml"])
def test_every_reference_resolves(name: str) -> None:
    document = contract(name)
    references = [node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)]
    assert references
    for reference in references:
        file, _, pointer = reference.partition("#")
        assert at(contract(file) if file else document, pointer) is not None, reference


def test_the_asyncapi_document_is_valid() -> None:
    """Checked by the rules of the specification; its meta-schema and its own parser have also accepted it."""
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= ASYNCAPI["info"].keys()
    for server in ASYNCAPI["servers"].values():
        assert {"host", "protocol"} <= server.keys()
    for kind in ASYNCAPI["components"].values():
        assert all(re.fullmatch(r"[\w.-]+", name) for name in kind)
    for name, channel in ASYNCAPI["channels"].items():
        named = re.findall(r"{(\w+)}", channel["address"] or "")
        assert sorted(channel.get("parameters", {})) == sorted(named), name
        assert channel["messages"], name
        for message in channel["messages"].values():
            assert "payload" in at(ASYNCAPI, message["$ref"][1:]), name
    for name, operation in ASYNCAPI["operations"].items():
        assert operation["action"] in {"send", "receive"}, name
        assert operation["channel"]["$ref"].startswith("#/channels/"), name
    for schema in ASYNCAPI["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_channel_is_in_the_asyncapi_document() -> None:
    addresses = [channel["address"] for channel in ASYNCAPI["channels"].values()]
    assert addresses == [
        "state.{namespace}.{document}",
        None,
        "change.{namespace}.{document}",
        "conflict.{namespace}.{document}",
        PROGRESS_SUBJECT,
        COMMITTED_SUBJECT,
        COMMIT_SUBJECT,
        CONTROL_SUBJECT,
        GATEWAY_SUBJECT,
        profile_subject("{service}"),
    ]
    assert ASYNCAPI["info"]["version"] == __version__


def test_the_control_channel_is_described_as_faststream_describes_it() -> None:
    broker = NatsBroker(f"nats://{ASYNCAPI['servers']['development']['host']}", logger=None)
    answer_control(broker, dict)
    made = orjson.dumps(AsyncAPI(broker, schema_version="3.0.0").to_specification().to_jsonable())
    # Component names must not contain a colon, but those of FastStream do.
    made = made.replace(b":SubscribeMessage", b".SubscribeMessage").replace(
        b',"bindingVersion":"custom"', b""
    )
    theirs = orjson.loads(made)
    for kind in ("channels", "operations"):
        assert theirs[kind].items() <= ASYNCAPI[kind].items()
    for kind in ("messages", "schemas"):
        assert theirs["components"][kind].items() <= ASYNCAPI["components"][kind].items()


def test_every_header_of_an_event_is_described() -> None:
    fields = {**_TEXTS, **_INTEGERS, **_JSON}
    # A member of a transaction says so in its body.
    known = {name for name, field in fields.items() if field in FIELDS | NEWEST.fields - {"txn"}}
    described = ASYNCAPI["components"]["schemas"]["Fields"]["properties"]
    assert {name.lower() for name in described} == known | {"refold-reply", "traceparent", "tracestate"}


def test_openapi_and_json_schemas_agree_on_outcomes_and_operations() -> None:
    outcome, operation = contract("outcome.schema.json"), contract("event.schema.json")["$defs"]
    described, first = SCHEMAS["Outcome"], SCHEMAS["First"]
    assert described["properties"].keys() == outcome["properties"].keys()
    assert first["properties"].keys() == outcome["properties"]["first"]["properties"].keys()
    assert set(described["required"]) == set(outcome["required"])
    plain = json.loads(
        json.dumps(operation["operation"]).replace('"$ref": "#/$defs/pointer"', '"pointer": 1')
    )
    pointer = '"$ref": "#/components/schemas/Pointer"'
    ours = json.loads(json.dumps(SCHEMAS["Operation"]).replace(pointer, '"pointer": 1'))
    for node in [*nodes(plain), *nodes(ours)]:
        for name, item in list(node.items()):
            if item == {"pointer": 1}:
                node[name] = "pointer"
        node.pop("$comment", None)
    assert ours == plain


def with_header(name: bytes, value: str) -> Request:
    return Request({"type": "http", "headers": [(name, value.encode("latin-1", "replace"))]})


TEXTS = [
    *("..", ".", "...", "a.b", "\x00", "50%", "\u00a0", "𝄞"),
    *("", "a", "A-Z_0:=@+~", "_mine", SYSTEM_NAMESPACE, "a b", "é", "a/b", "x" * 128, "x" * 129, "n\n", "*"),
    *("/", "/a~1b", "/~2", "/~", "//", "a/", "/a\n"),
    *('"1"', 'W/"1"', '"1", "2"', '"1" "2"', '"', '""', "1", '"a b"', '"1",'),
    *(
        "2024-02-28",
        "2024-02-28T00:00:00",
        "2024-02-28T00:00:00Z",
        "1700000000",
        "-1.5",
        "1.",
        "1.0000000001",
    ),
    *(
        "2024-02-28T00:00:00.123456789+01:30",
        "2024-02-28t00:00:00z",
        "2024-02-28T24:00:00Z",
        "24-02-28",
        "1e3",
    ),
    *("2024-02-28T23:59:60Z", "2024-13-01", "2024-02-28 00:00:00Z"),
]
CHECKS = [
    ("Name", lambda text: check_name(text, "name")),
    ("DocumentId", lambda text: check_document(text, "document")),
    ("AuthorNamespace", check_namespace),
    ("Pointer", parse),
    ("Tags", lambda text: write_condition(with_header(b"if-match", text))),
    ("Rfc3339", parse_rfc3339),
    ("Time", parse_time),
]


@pytest.mark.parametrize(("schema", "check"), CHECKS)
def test_a_pattern_accepts_what_the_code_accepts(schema: str, check: Any) -> None:
    pattern = SCHEMAS[schema]["pattern"]

    def is_accepted(text: str) -> bool:
        try:
            check(text)
        except (Refused, Problem):
            return False
        return True

    longest = SCHEMAS[schema].get("maxLength", 10_000)
    fitting = [text for text in TEXTS if len(text) <= longest]
    matched = [text for text in fitting if re.search(pattern.removesuffix("$") + r"\Z", text)]
    assert matched == [text for text in TEXTS if is_accepted(text)]
    assert matched


def test_a_time_is_printed_as_described() -> None:
    assert re.search(SCHEMAS["PrintedTime"]["pattern"], format_time(-1))
    assert contract("outcome.schema.json")["$defs"]["time"]["pattern"] == SCHEMAS["PrintedTime"]["pattern"]

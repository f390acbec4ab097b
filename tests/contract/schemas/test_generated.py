"""The generated documents are what the code makes, whole, and say what the core and the log say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from refold.core.envelope import _INTEGER_FIELDS, _JSON_FIELDS, _TEXT_FIELDS
from refold.core.errors import Refused
from refold.core.event import FIELDS
from refold.core.pointer import parse
from refold.core.record import SYSTEM_NAMESPACE, check_name, check_namespace
from refold.core.timestamp import format_time, parse_rfc3339, parse_time
from refold.gateway import patterns
from refold.gateway.conditions import write_condition
from refold.gateway.models import First, Outcome
from refold.gateway.openapi import OPERATION
from refold.gateway.problems import Problem
from refold.log import CONTROL_SUBJECT, PROGRESS_SUBJECT
from refold.wiring.schemas import main
from support.contracts import FOLDER, contract

ASYNCAPI = contract("asyncapi.json")


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


def test_the_command_writes_the_generated_documents_as_they_stand_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["schemas", str(tmp_path)])
    main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asyncapi.json", "openapi.json"]
    for made in tmp_path.iterdir():
        differs = made.read_bytes() != (FOLDER / made.name).read_bytes()
        assert not differs, f"{made.name}: run `python -m refold.wiring.schemas`"


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
def test_every_reference_leads_somewhere(name: str) -> None:
    document = contract(name)
    references = [node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)]
    assert references
    for reference in references:
        file, _, pointer = reference.partition("#")
        assert at(contract(file) if file else document, pointer) is not None, reference


def test_the_asyncapi_document_is_one() -> None:
    """By the specification's rules; its meta-schema and its own parser have also taken it."""
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


def test_every_channel_is_in_the_asyncapi_document_faststreams_own_included() -> None:
    addresses = [channel["address"] for channel in ASYNCAPI["channels"].values()]
    assert addresses == [
        "state.{namespace}.{document}",
        None,
        "change.{namespace}.{document}",
        PROGRESS_SUBJECT,
        CONTROL_SUBJECT,
    ]


def test_every_header_of_an_event_is_described() -> None:
    fields = {**_TEXT_FIELDS, **_INTEGER_FIELDS, **_JSON_FIELDS}
    known = {name for name, field in fields.items() if field in FIELDS}
    described = ASYNCAPI["components"]["schemas"]["Headers"]["properties"]
    assert {name.lower() for name in described} == known | {"refold-reply", "content-type", "traceparent"}


def test_the_openapi_document_says_of_an_outcome_and_of_an_operation_what_the_json_schemas_say() -> None:
    outcome, operation = contract("outcome.schema.json"), contract("event.schema.json")["$defs"]
    assert Outcome.model_fields.keys() == outcome["properties"].keys()
    assert First.model_fields.keys() == outcome["properties"]["first"]["properties"].keys()
    required = {name for name, field in Outcome.model_fields.items() if field.is_required()}
    assert required == set(outcome["required"])
    plain = json.loads(
        json.dumps(operation["operation"]).replace('"$ref": "#/$defs/pointer"', '"pointer": 1')
    )
    ours = json.loads(json.dumps(OPERATION))
    for node in [*nodes(plain), *nodes(ours)]:
        for name, item in list(node.items()):
            if item in ({"pointer": 1}, {"type": "string", "pattern": patterns.POINTER}):
                node[name] = "pointer"
        node.pop("$comment", None)
    assert ours == plain


TEXTS = [
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
    (patterns.NAME, lambda text: check_name(text, "name")),
    (patterns.OWN_NAMESPACE, check_namespace),
    (patterns.POINTER, parse),
    (patterns.TAGS, lambda text: write_condition(text, None)),
    (patterns.RFC3339, parse_rfc3339),
    (patterns.TIME, parse_time),
]


@pytest.mark.parametrize(("pattern", "check"), CHECKS)
def test_a_pattern_takes_what_the_check_behind_it_takes(pattern: str, check: Any) -> None:
    def is_taken(text: str) -> bool:
        try:
            check(text)
        except (Refused, Problem):
            return False
        return True

    matched = [text for text in TEXTS if re.search(pattern.removesuffix("$") + r"\Z", text)]
    assert matched == [text for text in TEXTS if is_taken(text)]
    assert matched


def test_a_time_is_printed_as_described() -> None:
    assert re.search(patterns.PRINTED_TIME, format_time(-1))
    assert contract("outcome.schema.json")["$defs"]["time"]["pattern"] == patterns.PRINTED_TIME

"""The JSON Schemas and the core agree on valid events, reasons and bounds."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from refold.core.document import Status
from refold.core.envelope import open_envelope
from refold.core.errors import Refused
from refold.core.event import FIELDS, LATER_FIELDS, STRATEGIES, VERSION_MAX, check_event
from refold.core.extensions import EXTENSIONS
from refold.core.fold import NEWEST
from refold.core.fold.v1 import DETAIL_CHARS_MAX
from refold.core.fold.view import DEPENDS_ON_REJECTED, TARGET_GONE
from refold.core.json_text import INTEGER_MAX, TEXT_DEPTH_MAX, dumps
from support.contracts import contract, validator
from support.events import EVENTS
from support.sources import is_within, modules

EVENT = contract("event.schema.json")
IS_EVENT = validator(EVENT)
LIMITS = NEWEST.limits

UNSAID = (
    "v: the envelope's version is 1 (got number)",
    "base: must be a version: an integer from 0 (got number)",
    "must be an integer from 1 (got number)",
    "occurred_at: a time must be on a day that the calendar has",
    "occurred_at: a time must be within int64 nanoseconds",
    "a value cannot move into itself",
    "pos: str_ins needs a pos that is an integer from 0 (got number)",
)
"""The rules that only the schema's `$comment` states, as code."""

# Values that are valid for one field are invalid for the others.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 1.0, -1, 2**63 - 1, 2**63, 0.5, "", "x", [], {}, {"a": 1}, [1]),
    *("x" * 128, "x" * 129, "𝄞" * 128, "reject", "merge", "custom:", "custom:\n", "custom", "merge\n"),
    *("2024-02-29T00:00:00Z", "2023-02-29T00:00:00Z", "2024-01-01t23:59:59.123456789+23:59"),
    *("2024-01-01T00:00:60Z", "2024-01-01T00:00:00", "1600-01-01T00:00:00Z", "2024-01-01T24:00:00Z"),
    *("2024-01-01T00:00:00.1234567890Z", "2024-01-01T00:00:00Z\n", "2024-13-01T00:00:00Z"),
    *("\uff12024-01-01T00:00:00Z", "2024-01-32T00:00:00-00:00"),
    *([{"op": "remove", "path": ""}], [{"op": "remove", "path": "/a", "from": 1}], [{"op": "add"}]),
    *([{"op": "copy", "path": "/a", "from": "b"}], [{"op": "add", "path": "/a"}]),
    *([{"op": "inc", "path": "/a", "value": 1}], [{"op": "add", "path": "/~2", "value": 1}], [None]),
    *([{"op": "inc", "path": "/a", "inc": by}] for by in (1, -0.5, True, "1")),
    *([{"op": "str_ins", "path": "/a", "pos": at, "str": "x"}] for at in (0, 2**63, -1, 1.0, True)),
    *([{"op": "str_ins", "path": "", "pos": 0}], [{"op": "str_ins", "path": "", "pos": 0, "str": 1}]),
    *([{"op": "str_del", "path": "/a", "pos": 0, **what}] for what in ({"len": 1}, {"str": "x"}, {})),
    *([{"op": "str_del", "path": "/a", "pos": 0, **what}] for what in ({"len": -1}, {"str": 1, "len": 1})),
    *(
        [{"op": "str_del", "path": "/a", "str": "x"}],
        [{"op": "str_del", "path": "", "str": "x", "len": "", "pos": 0}],
    ),
    *([{"op": "push", "path": "/a", "value": None, "max": most}] for most in (1, 10_000, 10_001, 0, "1")),
    [{"op": "push", "path": "/a", "max": 1}],
    *([{"op": "move", "from": "/a", "path": "/a/b"}], [{"op": "move", "from": "", "path": ""}]),
    *([{"op": "copy", "path": "/a"}], [{"op": "copy", "path": "/a\n/", "from": "/~0"}]),
    *([{"op": "test", "path": "a", "value": 1}], [{"path": "/a", "value": 1}], [{"op": 1, "path": ""}]),
    [{"op": "test", "path": "/", "value": None}] * 3,
]
NAMES = sorted(FIELDS | LATER_FIELDS | {"PATCH", "doc", ""})


def mutated(event: dict[str, Any], lost: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """Remove a member, and set others."""
    kept = dict(list(event.items())[1:]) if lost else event
    return {**kept, **changes}


MUTATED = st.builds(
    mutated,
    EVENTS,
    st.sampled_from([False, False, False, True]),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=2),
)


def refusal_of(event: Any) -> Refused | None:
    try:
        envelope = open_envelope(b"", dumps(event), LIMITS)
        check_event(envelope, LIMITS, NEWEST.operations, NEWEST.fields)
    except Refused as refused:
        return refused
    return None


def agree(event: Any) -> bool:
    """Return whether schema and core agree, except for rules that the schema cannot express."""
    refused = refusal_of(event)
    if not IS_EVENT.is_valid(event):
        return refused is not None
    return refused is None or any(rule in str(refused) for rule in UNSAID)


@pytest.mark.parametrize("name", NAMES)
def test_schema_and_core_accept_the_same_field_values(name: str) -> None:
    wrong = [value for value in VALUES if not agree({"put": 1, name: value}) or not agree({name: value})]
    assert wrong == []


@settings(max_examples=150)
@given(MUTATED)
def test_schema_and_core_accept_the_same_events(event: Any) -> None:
    assert agree(event)


@pytest.mark.parametrize("value", [None, 1, "x", [], True])
def test_an_event_is_an_object(value: Any) -> None:
    assert refusal_of(value) is not None
    assert not IS_EVENT.is_valid(value)


def test_an_event_at_a_bound_is_accepted_and_beyond_it_refused() -> None:
    for event, past in [
        ({"put": 1, "id": "x" * LIMITS.id_chars}, {"put": 1, "id": "x" * (LIMITS.id_chars + 1)}),
        ({"put": 1, "base": VERSION_MAX}, {"put": 1, "base": VERSION_MAX + 1}),
    ]:
        assert refusal_of(event) is None
        assert IS_EVENT.is_valid(event)
        assert refusal_of(past) is not None
        assert not IS_EVENT.is_valid(past)
    assert EVENT["properties"]["patch"]["maxItems"] == LIMITS.operations


def test_every_field_strategy_and_operation_is_in_the_schema() -> None:
    assert EVENT["properties"].keys() == FIELDS | NEWEST.fields
    for strategy in [*STRATEGIES, "custom:mine"]:
        assert IS_EVENT.is_valid({"put": 1, "on_conflict": strategy})
    named = EVENT["$defs"]["operation"]["oneOf"]
    kinds = [kind for branch in named for kind in _kinds(branch["properties"]["op"])]
    assert sorted(kinds) == sorted(NEWEST.operations)
    for name in LATER_FIELDS | EXTENSIONS.keys():
        assert name in EVENT["$comment"]


def test_rules_in_comments_name_the_bounds_of_the_core() -> None:
    said = EVENT["$comment"]
    for bound in (
        *(LIMITS.event_bytes, TEXT_DEPTH_MAX, LIMITS.depth, LIMITS.state_bytes),
        f"2^{INTEGER_MAX.bit_length()}-1",
    ):
        assert str(bound) in said, bound


def test_every_rejection_reason_is_in_the_outcome_schema() -> None:
    schema = contract("outcome.schema.json")
    assert schema["$defs"]["reason"]["enum"] == sorted(_reasons())
    assert schema["properties"]["status"]["enum"] == [status.name for status in Status]
    assert schema["properties"]["detail"]["maxLength"] == DETAIL_CHARS_MAX


@pytest.mark.parametrize("name", ["event", "outcome", "change"])
def test_a_schema_is_valid_and_agrees_with_the_others(name: str) -> None:
    schema = contract(f"{name}.schema.json")
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:refold:schema:{name}:{NEWEST.number}"
    assert schema["additionalProperties"] is False
    for shared in schema["$defs"].keys() & {"pointer", "time"}:
        for other in ("event", "outcome", "change"):
            defined = contract(f"{other}.schema.json")["$defs"]
            assert defined.get(shared, schema["$defs"][shared]) == schema["$defs"][shared]


def _kinds(op: dict[str, Any]) -> list[str]:
    return [op["const"]] if "const" in op else op["enum"]


def _reasons() -> set[str]:
    """Find every reason in the core's sources: of an error, of an unroutable subject, of a reused id."""
    found = {
        node.args[0].value
        for module in modules()
        if is_within(module.name, "refold.core")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"Refused", "Gone", "_too_large", "_unfit"}
        and isinstance(node.args[0], ast.Constant)
    }
    # The name of a shard is no part of an event; what is wrong in a namespace's schema is a bad system event.
    return found - {"bad_shard", "bad_regex", "bad_schema"} | {"id_reused", TARGET_GONE, DEPENDS_ON_REJECTED}

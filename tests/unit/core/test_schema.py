"""JSON Schemas of a namespace: by the vectors, and their bounds."""

from __future__ import annotations

from typing import Any

import pytest

from refold.core import schema
from refold.core.errors import Refused
from refold.core.schema import Schema
from support.vectors import vectors


def refusal(source: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        Schema(source)
    return caught.value


@pytest.mark.parametrize("vector", vectors("fold2/schema.json"))
def test_every_vector_has_its_expected_result(vector):
    if "error" in vector:
        refused = refusal(vector["schema"])
        assert (refused.reason, refused.field) == (vector["error"], vector["pointer"])
        return
    compiled = Schema(vector["schema"])
    assert [state for state in vector["valid"] if compiled.violation(state) is not None] == []
    for row in vector["invalid"]:
        assert compiled.violation(row["state"]) == (row["pointer"], row["keyword"])


def test_a_refusal_says_what_is_allowed():
    assert "the keywords are $defs, $ref, additionalProperties, " in str(refusal({"items": {"allOf": []}}))
    assert str(refusal({"pattern": "a("})).startswith(
        "/pattern: pattern is a regular expression: at character 2: "
    )
    assert str(refusal({"$ref": "#/x"})) == "/$ref: a $ref names a subschema of this schema (got '/x')"


def test_a_schema_has_a_bounded_number_of_subschemas():
    many = {"properties": {str(number): True for number in range(999)}}
    assert Schema(many).violation({"5": 1}) is None
    many["properties"]["one more"] = True
    assert refusal(many).field == "/properties/one more"


def test_the_work_to_check_a_state_is_bounded(monkeypatch):
    monkeypatch.setattr(schema, "CHECKS_MAX", 10)
    compiled = Schema({"items": {"type": "integer"}})
    assert compiled.violation([0] * 10) is None
    assert compiled.violation([0] * 11) == ("/10", "the work to check it")


def test_references_that_double_at_each_level_cost_no_more_than_their_number():
    # Each subschema applies both to what is inside: without each applying once, 2^100 checks.
    both = {"additionalProperties": {"$ref": "#/$defs/b"}}
    source = {"$defs": {"a": both, "b": {"$ref": "#/$defs/a", **both}}, "$ref": "#/$defs/b"}
    state: Any = {}
    for _ in range(100):
        state = {"x": state}
    assert Schema(source).violation(state) is None


def test_a_state_as_deep_as_a_fold_allows_can_be_checked():
    compiled = Schema(
        {"additionalProperties": {"$ref": "#"}, "items": {"$ref": "#"}, "type": ["object", "array"]}
    )
    state: Any = []
    for _ in range(127):
        state = {"x": state}
    assert compiled.violation(state) is None
    state["y"] = 1
    assert compiled.violation(state) == ("/y", "type")

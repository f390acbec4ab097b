"""JSON Schemas of the subset, against the jsonschema library."""

from __future__ import annotations

from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from refold.core.pointer import parse, resolve
from refold.core.schema import Schema
from support.json_values import FLOATS, INTEGERS

KEYS = st.sampled_from(["a", "b", "a/b", "é"])
TEXTS = st.sampled_from(["", "a", "ab", "\U0001f600", "é1", "abc"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), INTEGERS, st.sampled_from([1.0, 1.5]), FLOATS, TEXTS
)
STATES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
COUNTS = st.one_of(st.integers(0, 3), st.just(1.0))
NUMBERS = st.one_of(st.integers(-2, 3), INTEGERS, st.sampled_from([0.5, 1.0]), FLOATS)
REFERENCES = st.sampled_from(["#", "#/$defs/x", "#/$defs/y%20z", "#/$defs/x/items"])
OWN = {
    "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
    "enum": st.lists(STATES, max_size=4),
    "const": STATES,
    "minimum": NUMBERS,
    "maximum": NUMBERS,
    "minLength": COUNTS,
    "maxLength": COUNTS,
    "minItems": COUNTS,
    "maxItems": COUNTS,
    "pattern": st.sampled_from(["", "a", "^a", "b$", "^[ab]+$", "^.$", "1|c"]),
    "required": st.lists(KEYS, max_size=2, unique=True),
}


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return schemas of one or two keywords, which many states satisfy."""
    applied = {
        "properties": st.dictionaries(KEYS, inner, max_size=3),
        "additionalProperties": inner,
        "items": inner,
        "$ref": REFERENCES,
    }
    return st.one_of(st.booleans(), *(_of(keywords) for keywords in ({**OWN}, applied, {**OWN, **applied})))


def _of(keywords: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    names = st.lists(st.sampled_from(sorted(keywords)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: keywords[name] for name in chosen}))


SCHEMAS = st.recursive(_of(OWN), schemas, max_leaves=6)


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Return a whole schema: the references that it may have all name something and end somewhere."""
    root = draw(SCHEMAS.filter(lambda schema: isinstance(schema, dict) and "$ref" not in schema))
    x = {**draw(_of(OWN)), "items": draw(SCHEMAS.filter(_has_no_reference))}
    return {**root, "$defs": {"x": x, "y z": draw(SCHEMAS.filter(_has_no_reference))}}


def _has_no_reference(schema: Any) -> bool:
    return not isinstance(schema, dict) or "$ref" not in schema


@settings(max_examples=600)
@given(documents(), STATES)
def test_a_state_is_valid_where_jsonschema_finds_it_valid(source, state):
    Draft202012Validator.check_schema(source)
    errors = list(Draft202012Validator(source).iter_errors(state))
    violation = Schema(source).violation(state)
    event("valid" if violation is None else violation.keyword)
    assert (violation is None) == (not errors)
    if violation is not None:
        # The library names the array or object of what may not be there, Refold the element or member.
        places = {tuple(map(str, error.absolute_path)) for error in errors}
        tokens = parse(violation.pointer)
        is_inside = violation.keyword in {"additionalProperties", "false"} and tokens[:-1] in places
        assert tokens in places or is_inside
        resolve(state, tokens)

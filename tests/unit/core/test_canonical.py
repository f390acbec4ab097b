"""Parsing: what is refused, and the canonical bytes of each value."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import pytest

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.json_text import TEXT_DEPTH_MAX
from support.vectors import vectors


def nested(levels: int) -> Any:
    value: Any = None
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


def refusal(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        json_text.loads(data)
    return caught.value


def text_of(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["hex"]) if "hex" in vector else vector["text"].encode()


@pytest.mark.parametrize("vector", vectors("canonical.json"))
def test_every_vector_yields_its_canonical_bytes_or_error(vector):
    data = text_of(vector)
    if "error" in vector:
        assert refusal(data).reason == vector["error"]
    else:
        assert json_text.dumps(json_text.loads(data)) == vector["canonical"].encode()


@pytest.mark.parametrize("vector", vectors("canonical.json"))
def test_white_space_around_a_text_changes_nothing(vector):
    data = b" " + text_of(vector) + b"\n"
    if "error" in vector:
        assert refusal(data).reason == vector["error"]
    else:
        assert json_text.dumps(json_text.loads(data)) == vector["canonical"].encode()


@pytest.mark.parametrize("vector", [row for row in vectors("canonical.json") if "error" in row.values[0]])
def test_an_error_is_found_at_any_position_of_a_text(vector):
    around = b'{"k":[%s,0]}' % text_of(vector)
    assert refusal(around).reason == vector["error"]


def test_a_negative_zero_is_normalised_among_other_numbers():
    value = json_text.loads(b'{"a":[-0.0,-0.05,0.0,"-0.0"],"b":-0.0}')
    assert json_text.dumps(value) == b'{"a":[0.0,-0.05,0.0,"-0.0"],"b":0.0}'


def test_an_integer_of_a_million_digits_is_refused_at_once():
    assert refusal(b"[" + b"1" * 1_000_000 + b"]").reason == "number_out_of_range"


def test_a_million_escaped_quotes_in_an_unclosed_string_are_refused_at_once():
    assert refusal(b"[" * 200 + b'"' + b'\\"' * 500_000).reason == "too_deep"


def test_a_deep_text_is_refused_without_using_the_stack():
    assert refusal(b"[" * 1_000_000).reason == "too_deep"
    limit = sys.getrecursionlimit()
    assert refusal(b'{"a":' * limit + b"1" + b"}" * limit).reason == "too_deep"


def test_many_brackets_side_by_side_are_not_deep():
    data = b"[" + b",".join([b'{"a":[]}'] * 1000) + b"]"
    assert json_text.dumps(json_text.loads(data)) == data
    assert json_text.loads(data.replace(b":", b": ")) == json_text.loads(data)


def test_an_error_names_the_rule_and_the_shape_but_not_the_value():
    secret = "x" * 1000
    error = refusal(b'{"%s":1,"%s":2}' % (secret.encode(), secret.encode()))
    assert error.reason == "duplicate_key"
    assert error.shape == "object of 1 member"
    assert secret not in str(error)
    assert "1000 characters" in error.message
    assert refusal(b"nope").message.startswith("not JSON")


def test_a_syntax_error_names_the_position_but_not_the_size_of_the_text():
    assert str(refusal(b"nope")).endswith("line 1 column 1 (char 0)")
    assert str(refusal(b'"\xff"')) == "not UTF-8 at byte 1"


def test_orjson_writes_exactly_254_levels():
    orjson.dumps(nested(254))
    with pytest.raises(TypeError):
        orjson.dumps(nested(255))


@pytest.mark.parametrize("levels", [1, 2, 3, 127, 128])
def test_a_size_is_returned_only_within_the_requested_depth(levels):
    value = nested(levels)
    assert json_text.size_within(value, levels) == json_text.size(value) == len(json_text.dumps(value))
    with pytest.raises(Refused) as caught:
        json_text.size_within(value, levels - 1)
    assert caught.value.reason == "too_deep"


def test_a_wide_value_and_one_with_brackets_in_its_strings_are_not_deep():
    wide = [[] for _ in range(500)]
    assert json_text.size_within(wide, 2) == len(json_text.dumps(wide))
    assert json_text.size_within("[" * 500, 0) == 502


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (0, 0.0),
        ([1, {"a": 2.0}], [1.0, {"a": 2}]),
        ({"a": 1, "b": True}, {"b": True, "a": 1.0}),
        (2**63, float(2**63)),
        (-(2**63), float(-(2**63))),
        (None, None),
        ([], []),
        ({"x": [True, 1]}, {"x": [True, 1.0]}),
    ],
)
def test_equal_values_are_equal_both_ways(a, b):
    assert json_text.equal(a, b)
    assert json_text.equal(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (0, False),
        (1.0, True),
        ([1], [True]),
        ({"a": [{"b": 0}]}, {"a": [{"b": False}]}),
        ([True, 1.0], [1, True]),
        (2**53 + 1, float(2**53)),
        (2**64 - 1, float(2**64)),
        (1, "1"),
        (None, False),
        (None, 0),
        ([], {}),
        ("", []),
        ({"a": 1}, {"a": 1, "b": 2}),
        ([1, 2], [2, 1]),
    ],
)
def test_different_values_are_not_equal_either_way(a, b):
    assert not json_text.equal(a, b)
    assert not json_text.equal(b, a)


def test_identical_compares_canonical_bytes():
    assert json_text.identical({"a": [1.0], "b": {}}, {"b": {}, "a": [1.0]})
    assert not json_text.identical({"a": [1.0]}, {"a": [1]})
    assert not json_text.identical(1, 1.0)
    assert not json_text.identical([1], [True])
    assert not json_text.identical(0, False)


def test_a_text_may_be_deeper_than_a_state_up_to_the_limit_of_orjson():
    deepest = json_text.dumps(nested(TEXT_DEPTH_MAX))
    assert json_text.dumps(json_text.loads(deepest)) == deepest
    assert refusal(orjson.dumps(nested(TEXT_DEPTH_MAX + 1))).reason == "too_deep"

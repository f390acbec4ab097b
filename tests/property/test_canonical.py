"""Canonical bytes survive a round trip from any text."""

from __future__ import annotations

import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.errors import Refused
from support.json_values import depth, json_values


@given(json_values())
def test_canonical_bytes_survive_a_round_trip(value):
    data = json_text.dumps(value)
    again = json_text.loads(data)
    assert json_text.dumps(again) == data
    assert json_text.identical(again, value)
    assert json_text.size(value) == json_text.size_within(value, depth(value)) == len(data)


@given(json_values(), st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans())
def test_the_fast_and_the_strict_parser_return_the_same_value(value, indent, ascii_only, sort):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, sort_keys=sort)
    assert json_text.dumps(json_text.loads(text.encode())) == json_text.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_its_bits_in_any_notation(number):
    for text in (repr(number), f"{number:.17e}", f"{number:.20E}", orjson.dumps(number).decode()):
        read = json_text.loads(text.encode())
        assert read == number
        assert isinstance(read, float)
        assert math.copysign(1.0, read) == 1.0 or number < 0


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_a_number_token_is_parsed_as_python_parses_it_or_refused(text):
    expected = float(text) if set(text) & set(".eE") else int(text)
    within = math.isfinite(expected) if isinstance(expected, float) else -(2**63) <= expected < 2**64
    if within:
        read = json_text.loads(text.encode())
        assert (read, type(read)) == (expected, type(expected))
        return
    with pytest.raises(Refused) as caught:
        json_text.loads(text.encode())
    assert caught.value.reason == "number_out_of_range"


@given(st.binary(max_size=40) | st.text('[]{}",:\\ue0123456789.-+ntf ').map(str.encode))
def test_any_bytes_are_parsed_as_json_or_refused(data):
    try:
        value = json_text.loads(data)
    except Refused:
        return
    assert json.loads(data) == value
    assert json_text.loads(json_text.dumps(value)) == value


@given(json_values(), json_values())
def test_numbers_compare_by_value_and_never_equal_booleans(a, b):
    def named(value):
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        if isinstance(value, list):
            return [named(item) for item in value]
        return str(value) if isinstance(value, bool) else (value,)

    for left, right in ((a, b), (a, a)):
        assert json_text.equal(left, right) == (named(left) == named(right))

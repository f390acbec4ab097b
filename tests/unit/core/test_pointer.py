"""JSON Pointer, by the vectors of RFC 6901 and by hand."""

from __future__ import annotations

import pytest

from refold.core import pointer
from refold.core.errors import Refused
from support.vectors import vectors


@pytest.mark.parametrize("vector", vectors("rfc6901.json"))
def test_every_vector_resolves_to_its_value_or_error(vector):
    if "error" in vector:
        with pytest.raises(Refused) as caught:
            pointer.resolve(vector["doc"], pointer.parse(vector["pointer"]))
        assert caught.value.reason == vector["error"]
        return
    tokens = pointer.parse(vector["pointer"])
    assert list(tokens) == vector["tokens"]
    assert pointer.resolve(vector["doc"], tokens) == vector["expected"]


@pytest.mark.parametrize("tokens", [(), ("",), ("", ""), ("a", "0"), ("~", "/", "~1", "~0", "/~"), ("é",)])
def test_a_rendered_pointer_parses_back(tokens):
    assert pointer.parse(pointer.render(tokens)) == tokens


def test_the_root_is_the_empty_pointer_and_slash_is_the_empty_key():
    assert pointer.render(()) == ""
    assert pointer.render(("",)) == "/"
    assert pointer.resolve({"": 1}, ()) == {"": 1}
    assert pointer.resolve({"": 1}, ("",)) == 1


def test_an_index_of_a_million_digits_is_refused_at_once():
    with pytest.raises(Refused):
        pointer.index("1" * 1_000_000, 10)


def test_an_error_names_the_missing_member_and_its_container():
    with pytest.raises(Refused) as caught:
        pointer.resolve({"a": {"b": 1}}, ("a", "c"))
    assert caught.value.message == "there is no member 'c'"
    assert caught.value.shape == "object of 1 member"


def test_the_parent_of_a_missing_member_is_found():
    state = {"a": [{"b": 1}]}
    assert pointer.resolve_parent(state, ("a", "0", "c")) is state["a"][0]
    assert pointer.resolve_parent(state, ("z",)) is state
    with pytest.raises(Refused):
        pointer.resolve_parent(state, ("a", "0", "b", "c"))


@pytest.mark.parametrize(("state", "rule"), [([1], "the index must be below 1"), ([], "the array is empty")])
def test_an_index_past_the_end_is_refused_with_its_bound(state, rule):
    with pytest.raises(Refused) as caught:
        pointer.resolve(state, ("1",))
    assert str(caught.value) == f"{rule} (got index 1)"

"""JSON Merge Patch: by the vectors, its effect and its bounds."""

from __future__ import annotations

from typing import Any

import pytest

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.fold import EVENT_BYTES_MAX, OPERATIONS_MAX, STATE_BYTES_MAX
from support.fold1 import apply_merge, apply_patch, compile_patch
from support.json_values import copied
from support.vectors import vectors


def merged(doc: Any, merge: Any) -> tuple[Any, list[Any]]:
    before = copied(doc)
    root, size, effect = apply_merge(doc, merge, size=json_text.size(doc))
    assert size == len(json_text.dumps(root))
    replayed, _ = apply_patch(before, compile_patch(copied(effect)), size=json_text.size(before))
    assert json_text.identical(replayed, root)
    return root, effect


def refused(doc: Any, merge: Any) -> Refused:
    before = json_text.dumps(doc)
    with pytest.raises(Refused) as caught:
        apply_merge(doc, merge, size=len(before))
    assert json_text.dumps(doc) == before
    return caught.value


@pytest.mark.parametrize("vector", vectors("rfc7396.json"))
def test_every_vector_has_its_expected_result(vector):
    doc = copied(vector["doc"])
    if "error" in vector:
        assert refused(doc, vector["patch"]).reason == vector["error"]
    else:
        assert json_text.identical(merged(doc, copied(vector["patch"]))[0], vector["expected"])


def test_the_effect_is_ordered_by_code_point():
    _, effect = merged({"a": 1, "b": {"c": 1, "d": 2}}, {"z": {"y": None}, "b": {"d": 3, "c": None}, "a": 2})
    assert effect == [
        {"op": "replace", "path": "/a", "value": 2},
        {"op": "remove", "path": "/b/c"},
        {"op": "replace", "path": "/b/d", "value": 3},
        {"op": "add", "path": "/z", "value": {}},
    ]


def test_an_unchanged_member_makes_no_operation():
    state = {"a": 1, "b": {"c": [1, {"d": None}]}, "e": {"f": {}}}
    assert merged(copied(state), {"x": None, "e": {"f": {}, "g": None}, **copied(state)})[1] == []
    assert merged({"a": 1}, {"a": 1.0})[1] == [{"op": "replace", "path": "/a", "value": 1.0}]
    assert merged({"a": 1}, {"a": True})[1] == [{"op": "replace", "path": "/a", "value": True}]
    assert merged(None, None)[1] == []


@pytest.mark.parametrize("merge", [None, "bar", 7, True, [None, {"a": None}]])
def test_a_merge_that_is_no_object_replaces_the_root(merge):
    assert merged({"a": 1}, merge)[1] == [{"op": "replace", "path": "", "value": merge}]


def test_an_object_replaces_a_root_that_is_no_object():
    assert merged([1], {"a": {"b": None}})[1] == [{"op": "replace", "path": "", "value": {"a": {}}}]


def test_the_effect_shares_nothing_with_the_state():
    state, effect = merged({}, {"a": {"b": [1]}})
    state["a"]["b"].append(2)
    assert effect == [{"op": "add", "path": "/a", "value": {"b": [1]}}]


def test_an_effect_with_too_many_operations_is_one_replace():
    many = {str(number): number for number in range(OPERATIONS_MAX + 1)}
    state, effect = merged({"x": 1}, many)
    assert effect == [{"op": "replace", "path": "", "value": {"x": 1, **many}}]
    assert effect[0]["value"] is not state
    assert len(merged({}, dict(list(many.items())[1:]))[1]) == OPERATIONS_MAX


def test_a_long_key_with_many_members_does_not_make_a_huge_effect():
    key = "k" * (EVENT_BYTES_MAX // 4)
    _, effect = merged({key: {}}, {key: {str(number): number for number in range(9_000)}})
    assert [operation["path"] for operation in effect] == [""]


def test_a_merge_that_makes_the_state_too_large_changes_nothing():
    error = refused({"b": "x" * (STATE_BYTES_MAX - 100)}, {"a": 1, "c": {"d": "y" * 100}})
    assert (error.reason, error.field) == ("state_too_large", "merge/c")


def test_a_merge_that_makes_the_state_too_deep_changes_nothing():
    deep: Any = {}
    for _ in range(128):
        deep = [deep]
    error = refused({"a": 1, "b": {}}, {"a": None, "b": {"c/d": deep}})
    assert (error.reason, error.field) == ("too_deep", "merge/b/c~1d")

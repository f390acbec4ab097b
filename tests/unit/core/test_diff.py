"""The diff: small where little changed, and never larger than the replacement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from refold.core import diff as diff_module
from refold.core import json_text
from refold.core.diff import diff
from refold.core.fold import OPERATIONS_MAX, STATE_BYTES_MAX
from support.fold1 import LIMITS, apply_patch, compile_patch
from support.json_values import copied


def checked(a: Any, b: Any) -> list[Any]:
    before = json_text.dumps(a), json_text.dumps(b)
    patch = diff(a, b)
    assert (json_text.dumps(a), json_text.dumps(b)) == before
    state = json_text.loads(before[0])
    root, _ = apply_patch(state, compile_patch(copied(patch)), size=len(before[0]))
    assert json_text.dumps(root) == before[1]
    return patch


def things(count: int) -> list[Any]:
    return [
        {
            "id": f"thing-{number}",
            "price": number * 7,
            "tags": ["a", "b", str(number)],
            "text": "some words " * 5,
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("value", [None, 1, "a", [], {}, {"a": [1, {"b": 2.5}]}])
def test_equal_states_have_an_empty_diff(value):
    assert checked(value, copied(value)) == []


def test_the_order_of_members_does_not_matter():
    assert checked({"a": {"x": 1, "y": 2}, "b": 3}, {"b": 3, "a": {"y": 2, "x": 1}}) == []


@pytest.mark.parametrize(("a", "b"), [(1, 1.0), (1, True), (0, False), (1.0, True), (None, False), ([], {})])
def test_values_that_only_python_considers_equal_differ_at_any_depth(a, b):
    assert checked(a, b) == [{"op": "replace", "path": "", "value": b}]
    long = "unchanged " * 10
    assert checked({"k": a, "l": long}, {"k": b, "l": long}) == [{"op": "replace", "path": "/k", "value": b}]
    assert checked([long, a, long], [long, b, long]) == [{"op": "replace", "path": "/1", "value": b}]
    assert checked([long, [a], {"m": [long, a]}], [long, [a], {"m": [long, b]}])[0]["path"] == "/2/m/1"


def test_members_are_added_removed_and_replaced():
    filler = "f" * 99
    assert checked({"a": 1, "b/c": 2, "f": filler}, {"b/c": 3, "~": None, "f": filler}) == [
        {"op": "remove", "path": "/a"},
        {"op": "replace", "path": "/b~1c", "value": 3},
        {"op": "add", "path": "/~0", "value": None},
    ]


def test_a_subtree_is_replaced_where_its_patch_would_be_larger():
    a = {"small": {"a": 1, "b": 2, "c": 3}, "rest": "r" * 200}
    b = {"small": {"d": 1, "e": 2, "f": 3}, "rest": "r" * 200}
    assert checked(a, b) == [{"op": "replace", "path": "/small", "value": {"d": 1, "e": 2, "f": 3}}]


def test_one_edit_in_a_long_array_is_one_operation_both_ways():
    a, b = things(300), things(300)
    b[150]["price"] = 0
    assert checked(a, b) == [{"op": "replace", "path": "/150/price", "value": 0}]
    assert checked(b, a) == [{"op": "replace", "path": "/150/price", "value": 1050}]


def test_one_insertion_and_one_removal_are_one_operation_each():
    a, b = things(300), things(300)
    b.insert(100, {"id": "new"})
    assert checked(a, b) == [{"op": "add", "path": "/100", "value": {"id": "new"}}]
    assert checked(b, a) == [{"op": "remove", "path": "/100"}]


@pytest.mark.parametrize(("source", "target"), [(0, 299), (299, 0), (10, 200), (200, 10), (5, 6)])
def test_one_element_moved_is_one_move(source, target):
    a, b = things(300), things(300)
    b.insert(target, b.pop(source))
    [operation] = checked(a, b)
    assert operation["op"] == "move"


def test_an_element_moved_and_edited_is_a_move_and_an_edit():
    a, b = things(300), things(300)
    b[200]["price"] = 0
    b.insert(10, b.pop(200))
    assert checked(a, b) == [
        {"op": "move", "from": "/200", "path": "/10"},
        {"op": "replace", "path": "/10/price", "value": 0},
    ]


def test_several_changes_at_once_stay_few_operations():
    a, b = things(300), things(300)
    del b[250]
    b[30]["tags"].append("new")
    b.insert(20, {"id": "new"})
    b.insert(0, b.pop(99))
    assert len(checked(a, b)) == 4
    assert len(checked(b, a)) == 4


def test_an_edit_in_a_reversed_array_remains_one_operation():
    a, b = things(300), things(300)
    b.reverse()
    moves = checked(a, b)
    assert {operation["op"] for operation in moves} == {"move"}
    assert len(json_text.dumps(moves)) < len(json_text.dumps(b)) // 2
    b[70]["price"] = 0
    assert len(checked(a, b)) == len(moves) + 1


def test_a_reversed_array_of_small_values_is_replaced():
    assert [operation["op"] for operation in checked(list(range(300)), list(range(300, 0, -1)))] == [
        "replace"
    ]


def test_objects_without_an_identifying_member_are_paired_by_position():
    a = [{"x": number, "text": "some words " * 9} for number in range(50)]
    b = copied(a)
    b[20]["x"] = b[21]["x"] = -1
    assert [operation["path"] for operation in checked(a, b)] == ["/20/x", "/21/x"]


def test_repeated_elements_are_aligned_by_the_longest_common_subsequence():
    a = ["left", "right"] * 40
    b = [*a[:30], "middle", *a[30:41], *a[42:]]
    assert checked(a, b) == [{"op": "remove", "path": "/41"}, {"op": "add", "path": "/30", "value": "middle"}]


def test_long_arrays_of_few_values_are_still_compared():
    a, b = ["x", "y", "z"] * 3000, ["z", "z", "x", "y", "y"] * 1800
    assert checked(a, b)


def test_nested_arrays_are_compared_recursively():
    grid = [[row * 100 + column for column in range(30)] for row in range(30)]
    other = copied(grid)
    other[7][9] = "changed"
    del other[20][3]
    assert checked(grid, other) == [
        {"op": "replace", "path": "/7/9", "value": "changed"},
        {"op": "remove", "path": "/20/3"},
    ]


def test_a_diff_that_is_no_valid_patch_replaces_the_root():
    a = {str(number): "a long enough value to be kept" for number in range(OPERATIONS_MAX * 2)}
    b = {key: value if int(key) % 2 else 0 for key, value in a.items()}
    del b["0"], b["2"]
    assert len(checked(a, b)) == OPERATIONS_MAX
    b["1"] = 0
    assert checked(a, b) == [{"op": "replace", "path": "", "value": b}]


def test_a_diff_that_would_shift_too_much_replaces_the_root(monkeypatch):
    a, b = things(300), things(300)
    del b[10]
    assert len(checked(a, b)) == 1
    monkeypatch.setattr(diff_module, "_LIMITS", replace(LIMITS, shifts=100))
    assert checked(a, b)[0]["path"] == ""


def test_a_diff_whose_steps_would_pass_the_size_limit_replaces_the_root():
    text = "x" * (STATE_BYTES_MAX // 2)
    patch = checked({"b": text}, {"a": text})
    assert patch == [{"op": "replace", "path": "", "value": {"a": text}}]


def test_a_long_key_with_many_changes_does_not_make_a_huge_patch():
    key = "k" * (STATE_BYTES_MAX // 8)
    a = {key: {str(number): number for number in range(100)}}
    b = {key: {str(number): -1 for number in range(100)}, "rest": "r" * 5000}
    assert [operation["path"] for operation in checked(a, b)] == [""]


def test_a_single_differing_element_is_compared_without_serialising_it():
    a: Any = {"value": 1, "filler": "f" * 99}
    b: Any = {"value": 2, "filler": "f" * 99}
    for _ in range(100):
        a, b = [a], [b]
    assert checked(a, b) == [{"op": "replace", "path": "/0" * 100 + "/value", "value": 2}]

"""JSON Patch: by the vectors, and its bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from refold.core import json_text, patch
from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.fold import OPERATIONS_MAX, STATE_BYTES_MAX
from support.fold1 import LIMITS, apply_patch, compile_patch
from support.json_values import copied, refusal
from support.vectors import vectors


def applied(doc: Any, raw: Any, limits: Limits = LIMITS) -> Any:
    root, size = apply_patch(doc, compile_patch(raw), size=json_text.size(doc), limits=limits)
    assert size == len(json_text.dumps(root))
    return root


def refused(doc: Any, raw: Any, limits: Limits = LIMITS) -> Refused:
    return refusal(doc, lambda: applied(doc, raw, limits))


@pytest.mark.parametrize("vector", vectors("rfc6902.json"))
def test_every_vector_has_its_expected_result(vector):
    doc = copied(vector["doc"])
    if "patch_text" in vector:
        with pytest.raises(Refused) as caught:
            json_text.loads(vector["patch_text"].encode())
        assert caught.value.reason == vector["error"]
    elif "error" in vector:
        assert refused(doc, vector["patch"]).reason == vector["error"]
    else:
        assert json_text.identical(applied(doc, vector["patch"]), vector["expected"])


@pytest.mark.parametrize(
    ("raw", "field", "shape"),
    [
        ({"op": "add"}, "patch", "object of 1 member"),
        ([{"op": "test", "path": "", "value": {}}, 7], "patch/1/op", "integer"),
        ([{"op": "spam", "path": ""}], "patch/0/op", "string of 4 characters"),
        ([{"path": ""}], "patch/0/op", "nothing"),
        ([{"op": "remove", "path": "secret"}], "patch/0/path", "string of 6 characters"),
        ([{"op": "remove"}], "patch/0/path", "nothing"),
        ([{"op": "copy", "path": "", "from": None}], "patch/0/from", "null"),
        ([{"op": "add", "path": ""}], "patch/0/value", "nothing"),
        ([{"op": "add", "path": "/a", "value": 1}, {"op": "inc", "path": "/a"}], "patch/1/op", None),
        ([{"op": "add", "path": "/a", "value": 1}, {"op": "remove", "path": "/b"}], "patch/1/path", None),
        ([{"op": "copy", "path": "/a", "from": "/b"}], "patch/0/from", "object of 0 members"),
        ([{"op": "test", "path": "", "value": 1}], "patch/0/value", "object of 0 members"),
    ],
)
def test_an_error_names_the_operation_its_member_and_the_shape(raw, field, shape):
    error = refused({}, raw)
    assert error.field == field
    assert shape is None or error.shape == shape
    assert "secret" not in str(error)


def test_a_patch_of_too_many_operations_is_refused():
    test = {"op": "test", "path": "", "value": {}}
    assert applied({}, [test] * OPERATIONS_MAX) == {}
    assert refused({}, [test] * (OPERATIONS_MAX + 1)).reason == "too_many_operations"


def test_replacing_the_root_does_not_change_the_given_state():
    state = {"a": [1]}
    root = applied(state, [{"op": "move", "from": "/a", "path": ""}, {"op": "add", "path": "/-", "value": 2}])
    assert root == [1, 2]


def test_a_failure_after_the_root_was_moved_restores_everything():
    refused(
        {"a": {"b": [1, 2, 3]}, "c": 1},
        [
            {"op": "move", "from": "/a/b", "path": ""},
            {"op": "remove", "path": "/1"},
            {"op": "add", "path": "/0", "value": 0},
            {"op": "test", "path": "/0", "value": "no"},
        ],
    )


def test_the_size_is_checked_after_every_operation():
    half = "x" * (STATE_BYTES_MAX // 2)
    error = refused(
        {"a": half},
        [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "remove", "path": "/a"}],
    )
    assert (error.reason, error.field) == ("state_too_large", "patch/0/path")


def test_a_state_may_be_exactly_as_large_as_the_limit():
    value = "x" * (STATE_BYTES_MAX - len('{"a":""}'))
    assert applied({}, [{"op": "add", "path": "/a", "value": value}])
    assert refused({}, [{"op": "add", "path": "/a", "value": value + "x"}]).reason == "state_too_large"


def test_a_copy_bomb_is_refused():
    bomb = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(60)]
    assert refused({"x": ["x" * 100_000]}, bomb).reason == "state_too_large"


@pytest.mark.parametrize("kind", ["copy", "move"])
def test_the_bytes_that_one_event_copies_are_bounded(kind):
    limits = replace(LIMITS, copy_bytes=1000)
    state = {"a": "x" * 98, "b": {}}
    there = {"op": kind, "from": "/a", "path": "/b/c"}
    back = {"op": "move", "from": "/b/c", "path": "/a"}
    assert applied(copied(state), [there, back] * 5, limits)
    error = refused(state, [*[there, back] * 5, there], limits)
    assert (error.reason, error.field) == ("copy_too_large", "patch/10/path")


def test_the_elements_that_one_event_shifts_are_bounded():
    limits = replace(LIMITS, shifts=100)
    state = list(range(50))
    add, remove = {"op": "add", "path": "/0", "value": 0}, {"op": "remove", "path": "/0"}
    assert refused(state, [add, add], limits).reason == "too_many_shifts"
    assert refused(state, [remove, remove, remove], limits).reason == "too_many_shifts"
    assert len(applied(state, [{"op": "add", "path": "/-", "value": 0}] * 200, limits)) == 250


def test_a_move_to_a_deeper_place_respects_the_depth_limit():
    deep: Any = {}
    for _ in range(120):
        deep = {"d": deep}
    state = {"big": deep, "in": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {}}}}}}}}}
    assert applied(copied(state), [{"op": "move", "from": "/big", "path": "/in/a/b/c/d/e/x"}])
    error = refused(state, [{"op": "move", "from": "/big", "path": "/in/a/b/c/d/e/f/x"}])
    assert error.reason == "too_deep"


def test_a_missing_path_is_reported_before_the_depth_of_its_value():
    deep = [[]] * 200
    assert refused({}, [{"op": "add", "path": "/a" * 300, "value": deep}]).reason == "target_missing"


def test_a_copied_value_is_not_shared():
    state = applied({"a": {"b": []}}, [{"op": "copy", "from": "/a", "path": "/c"}])
    applied(state, [{"op": "add", "path": "/c/b/-", "value": 1}])
    assert state == {"a": {"b": []}, "c": {"b": [1]}}


def test_an_operation_of_a_later_fold_is_distinguished_from_an_unknown_one():
    assert refused({"a": 1}, [{"op": "inc", "path": "/a", "inc": 1}]).reason == "not_in_this_fold"
    assert refused({"a": 1}, [{"op": "incr", "path": "/a"}]).reason == "bad_patch"


def test_a_compiled_operation_has_kind_and_pointers():
    [operation] = compile_patch([{"op": "move", "from": "/a~1b/0", "path": "/c"}])
    assert operation == patch.Operation(patch.RFC_6902["move"].apply, ("c",), None, ("a/b", "0"))
    assert operation.source == ("a/b", "0")


def test_a_failed_test_operation_reports_a_different_value():
    error = refused({"a": 5}, [{"op": "test", "path": "/a", "value": "x"}])
    assert error.reason == "test_failed"
    assert str(error).endswith("the test failed: the document has another value at the path (got integer)")
